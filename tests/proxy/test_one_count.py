"""A finding has one count: the same in the API, the report, the event stream, the metrics, and beside its statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from pgtattle.proxy.schema import FindingView
from tests.proxy.traffic import Traffic

TOTALS = (1, 2, 3, 5, 7, 21, 51, 240, 403)
"""Executions after which everybody is asked; units are more than one each."""
BY_UNIT = ("n-plus-one", "repeated-read", "row-by-row-write", "chatty-unit")

Step = Callable[[Traffic, int, int], None]


def slow(traffic: Traffic, connection: int, number: int) -> None:
    traffic.execute(connection, "SELECT * FROM orders WHERE id = $1", str(number), ms=600 if number % 3 else 1)


def unindexed(traffic: Traffic, connection: int, number: int) -> None:
    traffic.execute(connection, "SELECT * FROM people WHERE mail = $1", f"p{number}", ms=30)
    traffic.answer(table="people", indexed=False)


def pasted(traffic: Traffic, connection: int, number: int) -> None:
    traffic.execute(connection, "SELECT 1 FROM users WHERE id = $1", "1")
    traffic.query(connection, f"SELECT * FROM users WHERE name = 'name {number}'")


def never_bound(traffic: Traffic, connection: int, number: int) -> None:
    for table in ("users", "books", "orders"):
        traffic.query(connection, f"SELECT * FROM {table} WHERE name = 'name {number}'")


def lists(traffic: Traffic, connection: int, number: int) -> None:
    length = number % 50 + 1
    places = ", ".join(f"${place}" for place in range(1, length + 1))
    traffic.execute(connection, f"SELECT * FROM tags WHERE id IN ({places})", *["1"] * length)


def churned(traffic: Traffic, connection: int, number: int) -> None:
    sql = f"SELECT * FROM tags WHERE id = $1 /* call {number} */"
    traffic.execute(connection, sql, "1", name=f"s{number}")


def injected(traffic: Traffic, connection: int, number: int) -> None:
    if number == 1:
        for normal in range(60):
            traffic.query(connection, f"SELECT * FROM users WHERE name = 'name {normal}'")
    traffic.query(connection, "SELECT * FROM users WHERE name = 'a' OR 1 = 1 --'")


def looped(traffic: Traffic, connection: int, number: int) -> None:
    tag = f"/*request_id='r{number}',route='/authors'*/"
    traffic.query(connection, f"{tag} SELECT id FROM authors", rows=6)
    for author in range(6 + number % 5):
        traffic.query(connection, f"{tag} SELECT * FROM books WHERE author_id = {author}")
    traffic.pause(1_000)


def repeated(traffic: Traffic, connection: int, number: int) -> None:
    for _ in range(6 + number % 5):
        traffic.query(connection, f"/*request_id='r{number}',route='/s'*/ SELECT * FROM settings WHERE id = 1")
    traffic.pause(1_000)


def written(traffic: Traffic, connection: int, number: int) -> None:
    for row in range(12 + number % 5):
        sql = f"/*request_id='r{number}',route='/import'*/ INSERT INTO lines (a, b) VALUES ({row}, {number})"
        traffic.query(connection, sql)
    traffic.pause(1_000)


def chatty(traffic: Traffic, connection: int, number: int) -> None:
    for table in range(8 + number % 5):
        traffic.query(connection, f"/*request_id='r{number}',route='/home'*/ SELECT count(*) FROM t{table}")
    traffic.pause(1_000)


def cacheable(traffic: Traffic, connection: int, number: int) -> None:
    sql = f"SELECT id FROM settings WHERE key = $1 /*request_id='r{number}',route='/c'*/"
    traffic.execute(connection, sql, "x", rows=3, table=77)
    # What is kept across units is counted when a unit is over: with the next id.
    traffic.query(connection, f"/*request_id='e{number}',route='/c'*/ SELECT now()")
    traffic.pause(1_000)


RULES: dict[str, tuple[str, Step]] = {
    "slow-query": ("slow-query", slow),
    "missing-index": ("missing-index", unindexed),
    "unparameterized": ("unparameterized", pasted),
    "never bound": ("unparameterized", never_bound),
    "lists": ("unparameterized", lists),
    "statement-cache-churn": ("statement-cache-churn", churned),
    "injection-signal": ("injection-signal", injected),
    "n-plus-one": ("n-plus-one", looped),
    "repeated-read": ("repeated-read", repeated),
    "row-by-row-write": ("row-by-row-write", written),
    "chatty-unit": ("chatty-unit", chatty),
    "cacheable": ("repeated-read", cacheable),
}


def seen_by_everybody(traffic: Traffic) -> list[FindingView]:
    """The findings, which all readers show alike."""
    report = msgspec.json.decode(traffic.report())["findings"]
    page = traffic.get("findings")["items"]
    assert page == report
    assert [traffic.get(f"findings/{one['id']}") for one in page] == page
    findings = msgspec.convert(page, list[FindingView])
    streamed = {one.id: one for _, one in traffic.store.ledger.since(0)}
    assert streamed == {one.id: one for one in findings}
    active = {place[1:]: value for place, value in traffic.samples().items() if place[0] == "pgtattle_findings_active"}
    assert {place: value for place, value in active.items() if value} == Counter(
        (one.rule, one.severity) for one in findings if one.stands
    )
    text = " ".join(traffic.report("text").split())
    for one in findings:
        assert one.title in text
        assert f"Seen: {one.count:,} execution" in text
    return findings


@pytest.mark.parametrize("name", RULES)
def test_everybody_shows_the_same_count(name: str) -> None:
    rule, step = RULES[name]
    traffic = Traffic(chatty_unit_queries=5) if name == "chatty-unit" else Traffic()
    connection = traffic.connect()
    done, found = 0, []
    for total in TOTALS[:6] if name in BY_UNIT else TOTALS:
        for number in range(done + 1, total + 1):
            step(traffic, connection, number)
        done = total
        found = [one for one in seen_by_everybody(traffic) if one.rule == rule]
        for one in found:
            beside_its_statement(traffic, name, one, total)
    assert found


def beside_its_statement(traffic: Traffic, name: str, one: FindingView, total: int) -> None:
    """What is counted is what ran: after so many steps, each of known executions."""
    statement = traffic.statement(one.fingerprints[0]) if one.fingerprints else None
    evidence = msgspec.to_builtins(one.evidence)
    match name:
        case "missing-index" | "unparameterized" | "lists":
            assert statement is not None
            assert (one.count, one.total_ms) == (statement.calls, statement.total_ms)
            assert evidence["executions"] == one.count == total
        case "slow-query":
            assert statement is not None
            assert one.count == evidence["over_target"] == sum(number % 3 > 0 for number in range(1, total + 1))
            assert evidence["executions"] == statement.calls == total
            assert one.title.endswith(f"{one.count} of {statement.calls} executions over 500 ms")
        case "never bound":
            assert one.count == evidence["executions"] == 3 * total
        case "statement-cache-churn":
            assert one.count == evidence["texts"] == total
        case "injection-signal":
            assert statement is not None
            assert one.count == total
        case "n-plus-one" | "repeated-read":
            assert statement is not None
            assert (one.count, one.units) == (statement.calls, total)
            assert one.count == sum(6 + number % 5 for number in range(1, total + 1))
            assert one.total_ms == statement.total_ms
        case "row-by-row-write":
            assert statement is not None
            assert (one.count, one.units, one.total_ms) == (statement.calls, total, statement.total_ms)
        case "chatty-unit":
            assert one.count == sum(8 + number % 5 for number in range(1, total + 1))
            assert one.units == total
        case "cacheable":
            assert statement is not None
            assert one.count == one.units == statement.calls == total
        case _:
            raise AssertionError(name)


def test_a_read_of_several_values_counts_each_unit_once() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for number in range(60):
        sql = f"SELECT id FROM settings WHERE key = $1 /*request_id='r{number}'*/"
        for value in ("x", "y", "z"):
            traffic.execute(connection, sql, value, rows=3, table=77)
        traffic.query(connection, f"/*request_id='e{number}'*/ SELECT now()")
        traffic.pause(1_000)
    (found,) = seen_by_everybody(traffic)
    assert (found.rule, found.count, found.units) == ("repeated-read", 180, 60)


def test_an_index_that_several_statements_want_counts_all_of_them() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for number in range(1, 24):
        traffic.execute(connection, "SELECT * FROM people WHERE mail = $1", f"p{number}", ms=30)
        if number % 2:
            traffic.execute(connection, "SELECT id FROM people WHERE mail = $1", f"p{number}", ms=20)
        traffic.answer(table="people", indexed=False)
    (found,) = seen_by_everybody(traffic)
    statements = [traffic.statement(one) for one in found.fingerprints]
    assert len(statements) == 2
    assert found.count == sum(one.calls for one in statements) == 35
    assert found.total_ms == sum(one.total_ms for one in statements)


def test_failed_executions_are_counted_as_those_of_their_statement() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for number in range(9):
        error = "57014" if number == 4 else ""
        traffic.query(connection, f"SELECT * FROM people WHERE mail = 'p{number}'", ms=30, error=error)
        traffic.answer(table="people", indexed=False)
    found = traffic.finding("missing-index")
    assert found.count == traffic.statement(found.fingerprints[0]).calls == 9


@pytest.mark.parametrize("longest", [8, 25])
def test_the_evidence_is_of_one_unit(longest: int) -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for number, turns in enumerate((7, longest, 7), start=1):
        tag = f"/*request_id='r{number}',route='/authors'*/"
        traffic.query(connection, f"{tag} SELECT id FROM authors", rows=turns)
        for author in range(turns):
            traffic.query(connection, f"{tag} SELECT * FROM books WHERE author_id = {author}")
        traffic.pause(1_000)
        traffic.take_rewrites(all_cost=10.0 + turns, one_cost=8.29)
    found = traffic.finding("n-plus-one")
    evidence = msgspec.to_builtins(found.evidence)
    assert (found.count, found.units) == (14 + longest, 3)
    assert found.unit is not None
    assert (found.unit.key, evidence["executions"], evidence["distinct"]) == ("r2", longest, longest)
    assert found.title.startswith(f"{longest} executions")
    assert f"Load all {longest} values" in found.suggestion.text
    asked = "17.00 for 7 of them" if longest == 8 else "35.00 for all 25"
    assert f"The planner expects {asked} at once, and 8.29 for one alone." in found.suggestion.text
