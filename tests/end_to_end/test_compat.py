"""What `make compat` runs, as far as nothing must be downloaded for it: psql, pg_dump with pg_restore, pgbench."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat.__main__ import EXPLAINED
from tests.compat.outcomes import Explanation, Outcomes, passed, read_explanations
from tests.compat.runner import compare
from tests.compat.server import Server, Way
from tests.compat.suites import SUITES
from tests.compat.workshop import Workshop

QUICK = ["psql", pytest.param("pg_dump", marks=pytest.mark.slow), pytest.param("pgbench", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", QUICK)
def test_a_suite_passes_as_without_the_proxy(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    run = compare(SUITES[name], 18, Workshop(tmp_path, {}), read_explanations(EXPLAINED), said.append)
    assert run.comparison.unexplained == [], "\n".join(said)
    assert passed(run.comparison.direct) == len(run.comparison.direct), "\n".join(said)
    assert run.accounts["executions"] > 0
    assert (run.accounts["lost"], run.accounts["opaque_connections"]) == (0, 0)


@dataclass(frozen=True)
class Scripted:
    """A suite with the outcomes of each turn and way written down."""

    turns: list[Mapping[Way, Outcomes]]
    name: str = "scripted"

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        return "1"

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        outcomes = self.turns[1 if only else 0]["through" if server.api else "direct"]
        return {name: outcome for name, outcome in outcomes.items() if not only or name in only}


@contextmanager
def nothing(way: Way, version: int, log: Path) -> Iterator[Server]:
    """No server at all, for a suite that asks none."""
    log.touch()
    yield Unserved(version, "", 0, "", log.parent, "an API" if way == "through" else None)


class Unserved(Server):
    def accounts(self) -> dict[str, int]:
        return {}


def test_differences_are_told_by_name(tmp_path: Path) -> None:
    first: Mapping[Way, Outcomes] = {
        "direct": {"same": "passed", "broken": "passed", "gone": "passed", "flaky": "failed", "known[x]": "passed"},
        "through": {"same": "passed", "broken": "failed", "flaky": "passed", "known[x]": "failed", "new": "passed"},
    }
    second: Mapping[Way, Outcomes] = {
        "direct": {**first["direct"], "flaky": "passed"},
        "through": {**first["through"], "flaky": "failed"},
    }
    known = Explanation("scripted", re.compile(r"known\[.\]"), "it cannot")
    other = Explanation("another", re.compile("broken"), "of another suite")
    run = compare(Scripted([first, second]), 18, Workshop(tmp_path, {}), [known, other], serving=nothing)
    assert {one.test: (one.direct, one.through, one.reason) for one in run.comparison.differences} == {
        "broken": ("passed", "failed", None),
        "gone": ("passed", "absent", None),
        "new": ("absent", "passed", None),
        "known[x]": ("passed", "failed", "it cannot"),
    }
    assert run.comparison.settled == ["flaky"]
    assert run.failed


def test_a_suite_without_any_test_fails(tmp_path: Path) -> None:
    empty: Mapping[Way, Outcomes] = {"direct": {}, "through": {}}
    assert compare(Scripted([empty]), 18, Workshop(tmp_path, {}), [], serving=nothing).failed


def test_a_reason_goes_with_every_explained_test() -> None:
    for one in read_explanations(EXPLAINED):
        assert one.suite in SUITES
        assert len(one.reason) > 40
