"""The benchmarks, each for a moment: they run, they count every execution, and the page has a verdict for every bar."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks import large, latency, memory, page, pipeline, relay
from benchmarks.__main__ import HERE
from benchmarks.results import Accounts, Results, Run
from benchmarks.targets import Target, cluster, direct, opaque, pgbouncer, pgtattle
from pgtattle.proxy.demo.cluster import Cluster


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    for program in ("pgbench", "psql", "pgbouncer"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with cluster() as started:
        relay.prepare(Target("direct", started.port), scale=1)
        yield started


@pytest.fixture(scope="module")
def results(server: Cluster) -> Results:
    """Everything once, small."""
    found = Results(machine=page.machine("18", None), rounds=1, seconds=1)
    with direct(server) as around, pgbouncer(server) as bouncer, pgtattle(server) as ours:
        found.runs = relay.measure([around, ours], 1, 1, lambda: None, modes=("extended",))
        found.latencies = latency.measure([around, bouncer, ours], 1, 0.1, lambda: None, rows=100_000)
        found.transfers = large.measure(around, [around, bouncer, ours], 1, lambda: None, rows=1_000)
        found.rates = [pipeline.measure(around, "pgbench (TPC-B), prepared", 1_000, recorded=1_400)]
    found.memory = [memory.measure(server, opaque, size=20_000_000, connections=20, stall_seconds=0.2)]
    return found


def test_a_way_is_measured(server: Cluster) -> None:
    with direct(server) as around:
        found = latency.measure([around], 1, 0.1, lambda: None, rows=1_000)
    assert {one.mode for one in found} == set(relay.MODES)
    assert all(one.queries > 0 and one.median_us > 0 for one in found)


@pytest.mark.slow
def test_every_way_is_measured(results: Results) -> None:
    assert {(run.target, run.clients) for run in results.runs} == {("direct", 4), ("pgtattle", 4)}
    assert {(one.target, one.mode) for one in results.latencies} == {
        (way, mode) for way in ("direct", "PgBouncer", "pgtattle") for mode in relay.MODES
    }
    assert all(one.queries > 0 and one.median_us > 0 for one in results.latencies)
    assert {(one.target, one.kind) for one in results.transfers} == {
        (way, kind) for way in ("direct", "PgBouncer", "pgtattle") for kind in large.STATEMENTS
    }
    assert all(run.tps > 0 for run in results.runs)
    assert [set(run.cpu_us) for run in results.runs if run.target == "pgtattle"] == [{"relay", "profiler"}]
    assert all(value > 0 for run in results.runs for value in run.cpu_us.values())
    assert results.rates[0].executions >= 1_000
    assert results.memory[0].target == "pgtattle, opaque"


@pytest.mark.slow
def test_every_execution_is_accounted_for(results: Results) -> None:
    accounts = [run.accounts for run in results.runs if run.target == "pgtattle"]
    assert accounts
    assert all(one is not None and one.exact and one.sent > 0 for one in accounts)
    assert not page.failures(results)


@pytest.mark.slow
def test_the_page_judges_what_was_measured(results: Results) -> None:
    text = page.page(results)
    assert "$" not in text
    verdicts = {one.measure: one.line for one in page.verdicts(results)}
    assert all(line in text for line in verdicts.values())
    assert verdicts["relay CPU / PgBouncer, extended"].endswith("not measured |")
    assert verdicts["executions shed in these runs"].endswith("| 0.00 | met |")
    slower = page.Verdict("time", 1.15, 1.38).line
    assert slower == "| time | ≤ 1.15 | 1.38 | **missed** by 0.23 (20.0%) |"
    assert page.Verdict("rate", 50_000, 40_000, least=True).line.endswith("**missed** by 10,000 (20.0%) |")


def test_a_missing_execution_is_told() -> None:
    run = Run(
        target="pgtattle", mode="simple", clients=4, transactions=9, tps=1, cpu_us={},
        accounts=Accounts(sent=11, seen=8, shed=1, lost=1),
    )  # fmt: skip
    found = Results(machine=page.machine("18", None), rounds=1, seconds=1, runs=[run])
    assert page.failures(found) == ["pgtattle, simple, 4 clients: 11 sent, 8 seen + 1 shed + 1 lost"]


@pytest.mark.slow
def test_the_page_is_drawn_again_from_what_was_kept(results: Results, tmp_path: Path) -> None:
    kept, drawn = tmp_path / "results.json", tmp_path / "page.md"
    kept.write_bytes(msgspec.json.encode(results))
    command = [sys.executable, "-m", "benchmarks", "--redraw", "--results", str(kept), "--output", str(drawn)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert drawn.read_text() == page.page(results)


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.soak"])
def test_the_commands_tell_their_options(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout
