"""One run of the suite by `pgtattle run`, alone or beside load, and what has to be said of it.

The suite is thirty tests with Django, SQLAlchemy and psycopg; six are planted trouble, and of the others nothing may
be said. The load is one process a core that does nothing but compute, for as long as the run takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import psycopg

from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.schema import Report

SUITE: Final = Path(__file__).with_name("suite")
DATABASE: Final = "verdicts"
LIMIT_SECONDS: Final = 600

About = tuple[str, str, str, str]
"""Rule, severity, confidence, and the table that the statement names first."""

EXPECTED: Final[set[About]] = {
    ("n-plus-one", "high", "proven", "authors"),
    ("n-plus-one", "high", "proven", "reviews"),
    ("row-by-row-write", "medium", "likely", "books"),
    ("row-by-row-write", "info", "candidate", "jobs"),
}


class Found(NamedTuple):
    """A finding without anything that hangs on time."""

    id: str
    rule: str
    severity: str
    confidence: str
    sql: str

    @property
    def about(self) -> About:
        """What `EXPECTED` knows of it."""
        words = self.sql.replace('"', "").split()
        table = words[words.index("FROM" if "FROM" in words else "UPDATE") + 1]
        return self.rule, self.severity, self.confidence, table


class Outcome(NamedTuple):
    """The exit code and all findings of a run, sorted."""

    code: int
    findings: tuple[Found, ...]
    seconds: float
    said: str

    @property
    def digest(self) -> str:
        """The same for the same verdicts."""
        verdicts = [(one.id, one.severity, one.confidence) for one in self.findings]
        return hashlib.sha256(repr(verdicts).encode()).hexdigest()[:12]


def fill(server: Cluster) -> None:
    """The shop's tables, anew."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {DATABASE}")
    with psycopg.connect(server.dsn(DATABASE), autocommit=True) as connection:
        connection.execute((SUITE / "shop.sql").read_text())


def run(server: Cluster, *, loaded: bool) -> Outcome:
    """The suite through `pgtattle run`."""
    with tempfile.TemporaryDirectory() as folder, load(os.cpu_count() or 1 if loaded else 0):
        report = Path(folder) / "report.json"
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", server.dsn(DATABASE)),
                *("--report", f"json={report}", "--", sys.executable, "-m", "pytest", "-q", "-c", os.devnull),
                *("--rootdir", str(SUITE), "-p", "no:cacheprovider", *map(str, sorted(SUITE.glob("*_cases.py")))),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        seconds = time.monotonic() - began
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        found = msgspec.json.decode(report.read_bytes(), type=Report)
    findings = sorted(Found(one.id, one.rule, one.severity, one.confidence, one.sql) for one in found.findings)
    return Outcome(done.returncode, tuple(findings), seconds, done.stdout + done.stderr)


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that compute, and nothing else, meanwhile."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
