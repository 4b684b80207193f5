"""A pytest plugin for the interpreter of a foreign suite: tells each test's outcome, and runs only what is asked for.

COMPAT_OUTCOMES names a file that gets a line of JSON for each phase of a test: its name and outcome. COMPAT_ONLY, when
set, names a JSON file with the names to run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def outcome(report: Any) -> str | None:
    expected = hasattr(report, "wasxfail")
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if report.skipped:
        return "xfailed" if expected else "skipped"
    if report.when == "call":
        return "xpassed" if expected else "passed"
    return None


def tell(name: str, found: str) -> None:
    with open(os.environ["COMPAT_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps([name, found]) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    found = outcome(report)
    if found is not None:
        tell(report.nodeid, found)


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        tell(report.nodeid, "error")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    only = os.environ.get("COMPAT_ONLY")
    if only:
        names = set(json.loads(Path(only).read_text(encoding="utf-8")))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in names])
        items[:] = [item for item in items if item.nodeid in names]
