"""With CI=true a skip fails, whatever way it was made; without it, or for an allowed reason, it stays a skip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="no such tool")
def test_marked():
    pass

def test_called():
    pytest.skip("no such tool")

def test_allowed():
    pytest.skip("needs root")

@pytest.mark.xfail(strict=True)
def test_expected():
    raise ValueError
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    def run(ci: str, *options: str) -> pytest.RunResult:
        monkeypatch.setenv("CI", ci)
        return pytester.runpytest_subprocess("-p", "xdist", "-p", "tests.skips", "-p", "no:cacheprovider", *options)

    # Other plugins take seconds to load and have no part in this.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    pytester.makepyfile(TESTS)
    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skips_fail_in_ci(run: Callable[..., pytest.RunResult], workers: str) -> None:
    result = run("true", "-n", workers)
    result.assert_outcomes(failed=1, errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*test_skips_fail_in_ci.py:*: skipped in CI: no such tool (*"])


def test_skips_are_skips_elsewhere(run: Callable[..., pytest.RunResult]) -> None:
    run("").assert_outcomes(skipped=3, xfailed=1)


def test_a_skipped_module_fails_in_ci(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(test_module="import pytest\npytest.importorskip('no_such_module')\n")
    result = run("true", "-n", "2")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_module.py:*: skipped in CI: could not import 'no_such_module'*"])
