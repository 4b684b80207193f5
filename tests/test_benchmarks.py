"""The benchmarks, each for a moment: they run, they count every execution, and the page has a verdict for every bar."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks import large, memory, page, pipeline, relay
from benchmarks.__main__ import HERE
from benchmarks.results import Accounts, Results, Run
from benchmarks.targets import Target, cluster, direct, opaque, pgbouncer, pgtattle
from pgtattle.proxy.demo.cluster import Cluster

OPENERS = (direct, pgbouncer, pgtattle, opaque)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    for program in ("pgbench", "psql", "pgbouncer"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with cluster() as started:
        relay.prepare(Target("direct", started.port))
        yield started


@pytest.fixture(scope="module")
def results(server: Cluster) -> Results:
    """Everything once, small."""
    found = Results(machine=page.machine("18", None), rounds=1, seconds=1)
    with ExitStack() as stack:
        targets = [stack.enter_context(opener(server)) for opener in OPENERS]
        found.runs = relay.measure(targets, 1, 1, lambda: None, modes=("extended",))
        found.transfers = large.measure(targets[0], targets, 1, lambda: None, rows=1_000)
        found.rates = [pipeline.measure(targets[0], "pgbench (TPC-B), prepared", 1_000, recorded=1_400)]
    found.memory = [memory.measure(server, pgtattle, size=20_000_000, connections=20)]
    return found


def test_every_way_is_measured_in_every_part(results: Results) -> None:
    ways = {"direct", "PgBouncer", "pgtattle", "pgtattle, opaque"}
    assert {(run.target, run.clients) for run in results.runs} == {(way, clients) for way in ways for clients in (4, 1)}
    assert {(one.target, one.kind) for one in results.transfers} == {
        (w, kind) for w in ways for kind in large.STATEMENTS
    }
    assert all(run.latency_us > 0 and run.tps > 0 for run in results.runs)
    assert all(all(value > 0 for value in run.cpu_us.values()) for run in results.runs)
    assert results.rates[0].executions >= 1_000
    assert results.memory[0].connections == 20


def test_every_execution_is_accounted_for(results: Results) -> None:
    accounts = [run.accounts for run in results.runs if run.target == "pgtattle"]
    assert accounts
    assert all(one is not None and one.exact and one.sent > 0 for one in accounts)
    assert not page.failures(results)


def test_the_page_judges_what_was_measured(results: Results) -> None:
    text = page.page(results)
    assert "$" not in text
    for bar in (
        "relay CPU / PgBouncer, extended |",
        "added median latency",
        "COPY in of",
        "stops reading",
        "idle connections",
    ):
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith("|")
            and bar in line
            and "≤" in line
            and "--mode" not in line
            and "simple" not in line
            and "prepared" not in line
        ]
        assert line.endswith("met |") or "**missed** by" in line


def test_a_missing_execution_is_told() -> None:
    run = Run(
        target="pgtattle", mode="simple", clients=4, transactions=9, tps=1, latency_us=1, cpu_us={},
        accounts=Accounts(sent=11, seen=8, shed=1, lost=1),
    )  # fmt: skip
    found = Results(machine=page.machine("18", None), rounds=1, seconds=1, runs=[run])
    assert page.failures(found) == ["pgtattle, simple, 4 clients: 11 sent, 8 seen + 1 shed + 1 lost"]


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.soak"])
def test_the_commands_tell_their_options(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout
