"""The suite three times, once beside load: one verdict. `make verdicts` runs it twenty times."""

from __future__ import annotations

import pytest

from benchmarks.targets import cluster
from tests.verdicts.runs import EXPECTED, SUITE, fill, run


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_verdict_is_the_same_in_every_run_also_beside_load() -> None:
    with cluster() as server:
        outcomes = []
        for loaded in (False, True, False):
            fill(server)
            outcomes.append(run(server, loaded=loaded))
    first = outcomes[0]
    assert first.code == 1, first.said
    assert {found.about for found in first.findings} == EXPECTED
    assert [(one.code, one.findings) for one in outcomes] == [(first.code, first.findings)] * 3


def test_the_suite_has_thirty_tests_and_six_of_them_are_planted_trouble() -> None:
    names = [
        line
        for path in SUITE.glob("*_cases.py")
        for line in path.read_text().splitlines()
        if line.startswith("def test_")
    ]
    assert len(names) == 30
    assert sum(name.startswith("def test_planted_") for name in names) == 6
