"""The report as text and as JSON."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from pgtattle.analyzers.reports import FORMATS, text
from pgtattle.analyzers.reports.json_schema import PATH, render
from pgtattle.proxy.schema import (
    Evidence,
    IndexEvidence,
    PastedEvidence,
    RepeatEvidence,
    Report,
    SlowEvidence,
    Suggestion,
)
from pgtattle.proxy.store import Store
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, execution, finding, loop, session

INDEX = IndexEvidence(
    table="reviews",
    columns=["reviewer"],
    node="Seq Scan",
    table_rows=200_000,
    plan_rows=12,
    cost_before=4321.0,
    cost_after=8.5,
    executions=30,
    mean_ms=18.25,
    note="estimated with a hypothetical index",
)
PASTED = PastedEvidence(
    application="web",
    executions=40,
    texts=40,
    slots=["where $1"],
    values=40,
    bound_share=0.93,
    statements=1,
    examples=["<string 12>"],
)
REPEAT = RepeatEvidence(executions=12, distinct=1, units=3, database_ms=6.0, signal="transaction")
SLOW = SlowEvidence(target_ms=500, executions=9, over_target=2, p50_ms=120, max_ms=12_000, rows=9)

WORDS: list[tuple[Evidence, str]] = [
    (
        loop(10, 3, parent="aa", parent_sql="SELECT * FROM authors"),
        "10 executions with 10 different values in one unit of work, seen in 3 units; 5.0 ms in the database and "
        "2.0 ms between the queries; told apart by comment tag request_id; driven by SELECT * FROM authors",
    ),
    (
        REPEAT,
        "12 executions with 1 set of values, seen in 3 units; 6.0 ms in the database; told apart by transaction",
    ),
    (
        PASTED,
        "40 different texts in 40 executions; literals in where $1 took 40 values, such as <string 12>; "
        "web binds 93% of its executions",
    ),
    (
        msgspec.structs.replace(PASTED, slots=[], texts=0, values=0, examples=[], statements=3, bound_share=0.0),
        "40 executions of 3 statements with values in the text; web binds 0% of its executions",
    ),
    (
        INDEX,
        "Seq Scan on reviews (200,000 rows) for 12 rows, filtered by reviewer; planner's cost 4,321, 8 with the index; "
        "30 executions, 18.2 ms each; estimated with a hypothetical index",
    ),
    (SLOW, "2 of 9 executions took over 500.0 ms; half of all up to 120.0 ms, the worst 12.0 s; 9 rows"),
]


def report(*evidence: Evidence, executions: int = 3, **changes: object) -> Report:
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    for number in range(1, executions + 1):
        store.add_execution(execution(number, f"SELECT {number} FROM books", ms=number), ("books",))
    for number, each in enumerate(evidence):
        store.add_finding(finding(str(number), each, rule=each.__struct_config__.tag))
    return store.report(session(**({"executions": executions, "connections_total": 2} | changes)))


@pytest.mark.parametrize(("evidence", "words"), WORDS)
def test_evidence_is_put_into_words(evidence: Evidence, words: str) -> None:
    assert text.evidence_in_words(evidence) == words


def test_a_finding_is_told_whole() -> None:
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    suggestion = Suggestion(
        text="Create the index.", sql="CREATE INDEX CONCURRENTLY ON reviews (reviewer);", status="verified"
    )
    store.add_finding(
        finding(
            evidence=INDEX,
            rule="missing-index",
            severity="high",
            confidence="proven",
            title="reviews is read whole for a few rows",
            sql="SELECT id FROM reviews LEFT JOIN books ON books.id = book_id WHERE reviewer = $1 ORDER BY id LIMIT $2",
            suggestion=suggestion,
        )
    )
    lines = text.render(store.report(session(executions=10, connections=1, connections_total=2))).splitlines()
    assert lines == [
        "pgtattle: 10 executions in 12.5 s over 2 connections (1 open), PostgreSQL 18.4",
        "",
        "1 finding, the gravest first",
        "",
        f"1. HIGH  missing-index (proven)  {store.findings()[0].id}",
        "    reviews is read whole for a few rows",
        "        SELECT id",
        "        FROM reviews",
        "        LEFT JOIN books ON books.id = book_id",
        "        WHERE reviewer = $1",
        "        ORDER BY id",
        "        LIMIT $2",
        "    Evidence: Seq Scan on reviews (200,000 rows) for 12 rows, filtered by reviewer; planner's cost",
        "      4,321, 8 with the index; 30 executions, 18.2 ms each; estimated with a hypothetical index",
        "    Seen: 10 executions in 1 unit, 5.0 ms in all; the worst in request r1 of /authors",
        "    Fix (verified: the planner takes it): Create the index.",
        "        CREATE INDEX CONCURRENTLY ON reviews (reviewer);",
    ]


def test_no_findings_says_what_was_looked_at() -> None:
    shown = text.render(report())
    assert "No findings. Looked at 3 executions of 3 statements over 2 connections" in shown


def test_no_traffic_says_what_to_do() -> None:
    shown = " ".join(text.render(report(executions=0, connections_total=0)).split())
    assert "nothing was looked at" in shown
    assert "Point the application at the proxy" in shown


def test_what_is_missing_is_said() -> None:
    everything = report(shed=1, lost=20, opaque_connections=3, notes=["no EXPLAIN: no permission"])
    shown = " ".join(text.render(everything).split())
    assert "not analyzed: 1 execution shed under load, 20 executions lost with a profiler that died" in shown
    assert "a profiler that died, 3 connections not followed" in shown
    assert "note: no EXPLAIN: no permission" in shown
    assert "not analyzed" not in text.render(report())


def test_statements_are_a_table_by_total_time() -> None:
    rows = text.render(report(executions=20)).split("Statements by total time")[1].splitlines()
    assert rows[0] == " (15 of 20)"
    assert " ".join(rows[2].split()) == "20.0 1 20.00 20.00 1 0 SELECT 20 FROM books"
    assert len(rows) == 2 + 15


def test_the_text_fits_a_hundred_columns() -> None:
    shown = text.render(report(*(evidence for evidence, _ in WORDS), notes=["word " * 60]))
    assert max(len(line) for line in shown.splitlines()) <= text.WIDTH


def test_long_sql_is_cut_and_says_so() -> None:
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    store.add_finding(finding(sql="SELECT " + ", ".join(f"column_{number}" for number in range(300))))
    assert "more lines" in text.render(store.report(session()))


def test_colour_only_where_it_is_asked_for() -> None:
    one = report(SLOW)
    assert "\x1b[" not in text.render(one)
    assert "\x1b[33mMEDIUM\x1b[0m" in text.render(one, colour=True)


def test_text_from_the_wire_is_harmless() -> None:
    hostile = "\x1b]0;x\x07\x9b31m\u202e\udc80\r"
    index = msgspec.structs.replace(INDEX, table=hostile, columns=[hostile], note=hostile)
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    store.add_execution(execution(1, f"SELECT '{hostile}'"), (hostile,))
    store.add_finding(
        finding(
            evidence=index,
            title=hostile,
            sql=f"SELECT {hostile} FROM t",
            suggestion=Suggestion(text=hostile, sql=f"CREATE INDEX {hostile}\nON t"),
        )
    )
    shown = text.render(store.report(session(notes=[hostile], server_version=hostile)))
    assert not [each for each in shown if each in "\x1b\x07\x9b\u202e\udc80\r"]
    shown.encode()


def test_the_shipped_schema_is_current() -> None:
    made = "made by: python -m pgtattle.analyzers.reports.json_schema"
    assert PATH.read_text(encoding="utf-8") == render(), made


def test_reports_validate_against_the_shipped_schema() -> None:
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    full = json.loads(FORMATS["json"](report(*(evidence for evidence, _ in WORDS))))
    validator.validate(full)
    validator.validate(json.loads(FORMATS["json"](report(executions=0))))
    full["findings"][0]["severity"] = "warning"
    assert not validator.is_valid(full)


def test_json_reads_back_as_it_was() -> None:
    one = report(*(evidence for evidence, _ in WORDS))
    assert msgspec.json.decode(FORMATS["json"](one), type=Report) == one


def test_the_contracts_fields_are_there() -> None:
    shown = json.loads(FORMATS["json"](report(INDEX)))
    assert set(shown) == {"version", "session", "findings", "statements"}
    assert shown["version"] == 1
    assert set(shown["findings"][0]) == {
        *("id", "rule", "severity", "confidence", "title", "fingerprints", "sql", "count", "total_ms", "unit"),
        *("evidence", "suggestion", "first_seen", "last_seen", "units", "state", "before", "after"),
    }
    assert set(shown["statements"][0]) == {
        *("fingerprint", "sql", "kind", "tables", "calls", "rows", "total_ms", "mean_ms", "p50_ms", "p95_ms"),
        *("p99_ms", "max_ms", "errors"),
    }
