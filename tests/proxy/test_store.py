"""The store: bounded, counted, merged; cursors that find what changed."""

from __future__ import annotations

import random
import statistics
from math import ceil

import msgspec
import pytest

from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.latencies import ERROR, Latencies
from pgtattle.proxy.schema import IndexEvidence, LoopEvidence, SlowEvidence
from pgtattle.proxy.store import Limits, Store
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, execution, finding, loop, parameter, session


def store(**limits: int) -> Store:
    return Store(STARTED_UNIX_NS, STARTED_NS, Limits(**limits))


def fill(target: Store, count: int) -> None:
    for number in range(1, count + 1):
        target.add_execution(execution(number), ("t",))


def test_the_ring_holds_so_many_and_counts_what_falls_out() -> None:
    one = store(executions=10)
    fill(one, 25)
    assert (one.oldest, one.newest) == (16, 25)
    assert one.evicted["executions"] == 15
    assert [each.id for each in one.executions(0, 100).executions] == list(range(16, 26))


def test_the_ring_is_bounded_by_text_too() -> None:
    one = store(text_bytes=100_000)
    for number in range(1, 101):
        one.add_execution(execution(number, parameters=(parameter("x" * 10_000),)), ())
    assert one.newest - one.oldest + 1 == 9
    assert one.evicted["executions"] == 91


def test_one_execution_over_the_bound_is_still_remembered() -> None:
    one = store(text_bytes=10)
    fill(one, 3)
    assert [each.id for each in one.executions(0, 10).executions] == [3]


def test_a_cursor_finds_what_came_after_it() -> None:
    one = store(executions=10)
    fill(one, 5)
    first = one.executions(0, 3)
    assert [each.id for each in first.executions] == [1, 2, 3]
    rest = one.executions(first.cursor, 3)
    assert [each.id for each in rest.executions] == [4, 5]
    assert one.executions(rest.cursor, 3).executions == []
    assert rest.skipped == 0


def test_a_slow_reader_is_told_how_many_it_missed() -> None:
    one = store(executions=10)
    fill(one, 25)
    changes = one.executions(5, 100)
    assert changes.skipped == 10
    assert len(changes.executions) == 10


def test_a_page_goes_on_after_its_last_match() -> None:
    one = store()
    fill(one, 20)
    even = one.executions(0, 3, lambda each, _: each.id % 2 == 0)
    assert ([each.id for each in even.executions], even.cursor) == ([2, 4, 6], 6)
    none = one.executions(0, 3, lambda each, _: False)
    assert (none.executions, none.cursor) == ([], 20)


def test_history_counts_matches() -> None:
    one = store()
    fill(one, 20)
    assert one.before(0) == 20
    assert one.before(5) == 15
    assert one.before(3, lambda each, _: each.id % 5 == 0) == 9
    assert one.before(1000) == 0


def test_totals_of_a_statement() -> None:
    one = store()
    for number, ms in enumerate((1.0, 2.0, 9.0), start=1):
        one.add_execution(execution(number, "SELECT a", ms=ms, rows=number), ("a", "b"))
    one.add_execution(execution(4, "SELECT a", ms=4.0, rows=0, sqlstate="57014"), ("a", "b"))
    view = one.statement(one.statements()[0])
    assert view is not None
    assert (view.calls, view.rows, view.errors, view.tables) == (4, 6, 1, ["a", "b"])
    assert (view.total_ms, view.mean_ms, view.max_ms) == (16.0, 4.0, 9.0)
    assert view.p50_ms == pytest.approx(2.0, rel=ERROR)
    assert view.p99_ms <= view.max_ms


def test_the_least_recently_used_statement_goes_to_other_and_totals_stay_whole() -> None:
    one = store(statements=2)
    for number, sql in enumerate(("SELECT a", "SELECT b", "SELECT a", "SELECT c", "SELECT d"), start=1):
        one.add_execution(execution(number, sql), ())
    views = one.report(session()).statements
    assert {view.sql for view in views[:-1]} == {"SELECT c", "SELECT d"}
    assert (views[-1].fingerprint, views[-1].calls) == ("other", 3)
    assert sum(view.calls for view in views) == 5
    assert one.evicted["statements"] == 2


def test_statements_sort_by_what_is_asked() -> None:
    one = store()
    for number in range(1, 4):
        one.add_execution(execution(number, "SELECT often", ms=1), ())
    one.add_execution(execution(4, "SELECT slow", ms=50, rows=0, sqlstate="57014"), ())
    one.add_execution(execution(5, "SELECT wide", ms=2, rows=100), ())

    def first(sort: str) -> str:
        view = one.statement(one.statements(sort)[0])  # type: ignore[arg-type]
        assert view is not None
        return view.sql

    names = {sort: first(sort) for sort in ("total", "calls", "mean", "p95", "max", "rows", "errors")}
    assert names == dict.fromkeys(("total", "mean", "p95", "max", "errors"), "SELECT slow") | {
        "calls": "SELECT often",
        "rows": "SELECT wide",
    }


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_quantiles_are_within_the_promised_error(q: float) -> None:
    noise = random.Random(4)
    for values in (
        [noise.randrange(2_000, 10_000_000) for _ in range(2_000)],
        [int(noise.lognormvariate(14, 2)) + 2_000 for _ in range(2_000)],
        [5_000],
    ):
        latencies = Latencies()
        for value in values:
            latencies.add(value)
        exact = sorted(values)[ceil(q * len(values)) - 1]
        assert latencies.quantile(q) == pytest.approx(exact, rel=ERROR)


def test_durations_out_of_range_are_counted() -> None:
    latencies = Latencies()
    for value in (0, 1, 10**18):
        latencies.add(value)
    assert latencies.count == 3
    assert latencies.quantile(0.5) < 2_000
    assert Latencies().quantile(0.5) == 0


def test_occurrences_of_a_finding_add_up() -> None:
    one = store()
    one.add_finding(finding(evidence=loop(10)))
    view = one.add_finding(finding(evidence=loop(30), count=30, at_ns=STARTED_NS + 9_000_000_000))
    assert (view.count, view.total_ms) == (40, 10.0)
    assert isinstance(view.evidence, LoopEvidence)
    assert (view.evidence.executions, view.evidence.units) == (30, 2)
    assert (view.first_seen, view.last_seen) == ("2023-11-14T22:13:21.000000Z", "2023-11-14T22:13:29.000000Z")
    assert one.findings() == [view]


def test_the_most_telling_occurrence_speaks() -> None:
    one = store()
    one.add_finding(finding(confidence="proven", title="with parent", evidence=loop(10, parent="p")))
    view = one.add_finding(finding(severity="high", title="longer", evidence=loop(500), fingerprints=("ff",)))
    assert (view.title, view.confidence, view.severity) == ("with parent", "proven", "high")
    assert isinstance(view.evidence, LoopEvidence)
    assert (view.evidence.parent, view.evidence.units) == ("p", 2)
    assert view.fingerprints == ["00112233aabbccdd", "ff"]


def test_a_cumulative_finding_replaces_but_keeps_the_greater_severity() -> None:
    evidence = SlowEvidence(target_ms=500, executions=5, over_target=1, p50_ms=1, max_ms=600, rows=1)
    later = msgspec.structs.replace(evidence, executions=9, over_target=2)
    one = store()
    tally = Tally()
    tally.add(600_000_000, STARTED_NS)
    one.add_finding(finding(evidence=evidence, severity="high", tally=tally))
    tally.add(300_000_000, STARTED_NS)
    view = one.add_finding(finding(evidence=later, severity="low", tally=tally))
    assert (view.count, view.total_ms, view.evidence, view.severity) == (2, 900.0, later, "high")


def test_findings_are_sorted_by_gravity() -> None:
    one = store()
    one.add_finding(finding("low", severity="low", total_ns=10**12))
    one.add_finding(finding("sure", severity="high", confidence="proven", total_ns=1))
    one.add_finding(finding("likely", severity="high", confidence="likely", total_ns=10**9))
    one.add_finding(finding("longer", severity="high", confidence="likely", total_ns=10**10))
    ids = [finding(subject).id for subject in ("sure", "longer", "likely", "low")]
    assert [view.id for view in one.findings()] == ids


def test_revisions_say_what_changed() -> None:
    one = store()
    one.add_finding(finding("a"))
    one.add_finding(finding("b"))
    seen = one.ledger.revision
    one.add_finding(finding("a"))
    one.add_finding(finding("c"))
    changed = one.ledger.since(seen)
    assert [view.id for _, view in changed] == [finding("a").id, finding("c").id]
    assert [revision for revision, _ in changed] == [3, 4]
    assert len(one.ledger.since(0)) == 3
    assert one.ledger.since(one.ledger.revision) == []


def test_findings_are_bounded() -> None:
    one = store(findings=3)
    for subject in "abcda":
        one.add_finding(finding(subject))
    assert len(one.findings()) == 3
    assert one.evicted["findings"] == 2
    assert one.finding(finding("b").id) is None


def test_hostile_text_can_always_be_encoded() -> None:
    one = store()
    one.add_execution(execution(1, "SELECT \udc80"), ("\udc81",))
    index = IndexEvidence(
        table="\udc80",
        columns=["\udc81"],
        node="Seq Scan",
        table_rows=1,
        plan_rows=1,
        cost_before=1,
        cost_after=None,
        executions=1,
        mean_ms=1,
    )
    one.add_finding(finding(evidence=index, title="\udc80"))
    report = one.report(session(notes=["\udc80"]))
    assert b"\xef\xbf\xbd" in msgspec.json.encode(report)


def test_the_report_says_what_fell_out() -> None:
    one = store(executions=1)
    fill(one, 3)
    assert one.report(session()).session.evicted == {"executions": 2, "statements": 0, "findings": 0}


def test_memory_is_flat_under_new_statements() -> None:
    one = store(executions=100, statements=50)
    for number in range(1, 1001):
        one.add_execution(execution(number, f"SELECT {number}"), ())
    assert len(one.statements()) == 51
    calls = [view.calls for view in one.report(session()).statements]
    assert sum(calls) == 1000
    assert statistics.mode(calls) == 1


def test_what_is_said_of_a_unit_that_goes_on_is_replaced_by_what_is_said_at_its_end() -> None:
    one = store()
    one.add_finding(finding(evidence=loop(10), count=10, unit_id="u1"))
    for count in (5, 20):
        one.ledger.begin_preview("u2")
        view = one.add_finding(finding(evidence=loop(count), count=count, severity="critical", unit_id="u2"))
        assert view.count == 10 + count
    one.ledger.begin_preview("u3")
    one.add_finding(finding(evidence=loop(7), count=7, unit_id="u3"))
    one.add_finding(finding(evidence=loop(1), count=1, unit_id="u4"))
    (view,) = one.findings()
    assert (view.count, view.severity) == (38, "critical")
    one.ledger.end_preview("u2")
    view = one.add_finding(finding(evidence=loop(30), count=30, unit_id="u2"))
    assert view.count == 48
    one.ledger.end_preview("u3")
    (view,) = one.findings()
    assert (view.count, view.severity) == (41, finding().severity)
    assert all(entry.settled is None for entry in one.ledger._entries.values())


def test_what_was_said_only_of_a_unit_that_went_on_otherwise_is_gone() -> None:
    one = store()
    one.ledger.begin_preview("u1")
    one.add_finding(finding(unit_id="u1"))
    assert one.findings()
    one.ledger.end_preview("u1")
    assert one.findings() == []
