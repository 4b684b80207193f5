"""The demo names what is planted, once each, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pgtattle.proxy.demo.application import PLANTED
from pgtattle.proxy.schema import FindingView, RepeatEvidence, Report
from tests.waiting import PATIENCE


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user can get to, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_demo_names_each_planted_problem_once_and_nothing_healthy(folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pgtattle.proxy.cli",
            "demo",
            "--headless",
            "--seconds",
            "5",
            "--report",
            "json=out.json",
        ],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = msgspec.json.decode((folder / "out.json").read_bytes(), type=Report)
    tables = {one.fingerprint: one.tables for one in report.statements}
    found = sorted(
        (one.rule, tables[one.fingerprints[0]][0] if one.sql else "") for one in report.findings if not _across(one)
    )
    assert found == sorted(PLANTED)
    (index,) = [one for one in report.findings if one.rule == "missing-index"]
    assert "ON public.reviews USING btree (reviewer)" in index.suggestion.sql
    loops = {one.unit.route for one in report.findings if one.rule == "n-plus-one" and one.unit is not None}
    assert "/bestsellers" in loops
    assert (report.session.shed, report.session.lost, report.session.opaque_connections) == (0, 0, 0)
    for finding in report.findings:
        assert finding.title in " ".join(done.stdout.split())
    # Nothing is left behind.
    assert sorted(path.name for path in folder.iterdir()) == ["out.json"]


def _across(finding: FindingView) -> bool:
    """Of requests that read the same one after another, which is true as well, and seen when the machine is slow."""
    return isinstance(finding.evidence, RepeatEvidence) and finding.evidence.across
