"""A pytest plugin: with `CI=true` a skipped test is a failure, unless its reason is one of those allowed here.

A machine that lacks a tool then says so, instead of passing with less tested than people believe.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

from tests.orm.languages import LANGUAGES

ALLOWED = frozenset({"needs root", "needs an unprivileged user", "no IPv6 on this machine"})
EXCUSES = tuple(excuse for language in LANGUAGES for excuse in language.excuses)
"""The project is Python's; the shops in other languages are for machines that have those."""

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def _judge(report: _Report) -> _Report:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return report
    path, line, text = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    reason = text.removeprefix("Skipped: ")
    if reason not in ALLOWED and not reason.startswith(EXCUSES):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped in CI: {reason} (the allowed reasons are in tests/skips.py)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judge((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judge((yield))
