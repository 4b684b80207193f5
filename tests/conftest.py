"""Real servers for the tests: PostgreSQL 16 and 18 of the wheel, Debian's with HypoPG, and our proxy before them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.schema import Report
from tests import debian
from tests.waiting import PATIENCE

_names = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """A database of its own, and how to reach it over TCP."""

    name: str
    host: str
    port: int
    user: str
    password: str
    cluster: Cluster = field(repr=False)

    @property
    def dsn(self) -> str:
        secret = f":{self.password}" if self.password else ""
        return f"postgresql://{self.user}{secret}@{self.host}:{self.port}/{self.name}"

    @property
    def dsn_without_password(self) -> str:
        return f"postgresql://{self.user}@{self.host}:{self.port}/{self.name}"


@dataclass
class Served:
    """A running `pgtattle serve`; `database` is the served one, seen through the proxy."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    database: Database

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"http://{self.addresses['api']}{path}", timeout=PATIENCE, **more)

    def report(self) -> Report:
        """The report, once everything that was sent so far is analyzed."""
        url = f"http://{self.addresses['api']}/api/v1/report?settle=60"
        return msgspec.json.decode(httpx.get(url, timeout=120).raise_for_status().content, type=Report)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and give its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Serve = Callable[..., Served]
GRACE = 5.0
STDERR = "stderr.txt"
"""Of what `serve` starts, in its folder."""
"""Seconds that a process is given to end by itself after its test: one with connections left would drain for longer."""


@contextlib.contextmanager
def _cluster(version: int) -> Iterator[Cluster]:
    with Cluster(version, authentication="scram-sha-256", password="secret") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres16() -> Iterator[Cluster]:
    with _cluster(16) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres18() -> Iterator[Cluster]:
    with _cluster(18) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[Cluster]:
    with debian.cluster(authentication="scram-sha-256", password="secret") as cluster:
        yield cluster


@pytest.fixture(params=[16, 18])
def postgres(request: pytest.FixtureRequest) -> Cluster:
    """Each test runs against both versions of the wheel."""
    cluster: Cluster = request.getfixturevalue(f"postgres{request.param}")
    return cluster


@contextlib.contextmanager
def fresh_database(cluster: Cluster) -> Iterator[Database]:
    name = f"test_{os.getpid()}_{next(_names)}"
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield Database(name, cluster.host, cluster.port, cluster.user, cluster.password, cluster)
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def database(postgres18: Cluster) -> Iterator[Database]:
    """A fresh database on PostgreSQL 18."""
    with fresh_database(postgres18) as made:
        yield made


@pytest.fixture
def each_database(postgres: Cluster) -> Iterator[Database]:
    """A fresh database on PostgreSQL 16, and again on 18."""
    with fresh_database(postgres) as made:
        yield made


@pytest.fixture
def debian_database(debian_postgres: Cluster) -> Iterator[Database]:
    """A fresh database on Debian's PostgreSQL."""
    with fresh_database(debian_postgres) as made:
        yield made


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Starts `pgtattle serve` in a folder, before a database, with further arguments; ended at the end.

    What it writes to stderr is added to the file STDERR there, unless it is to go elsewhere. Not to pytest's `capfd`,
    which empties its file after each reading, and with it what was written meanwhile.
    """
    started: list[subprocess.Popen[str]] = []
    log = (folder / STDERR).open("ab")

    def start(database: Database, *arguments: str, stderr: Any = None) -> Served:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", database.dsn_without_password),
                *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr or log,
            text=True,
            env={**os.environ, "PGPASSWORD": database.password},
            cwd=folder,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"pgtattle serve ended with {process.wait(PATIENCE)}"
        addresses = json.loads(line)
        host, port = addresses["listen"].rsplit(":", 1)
        return Served(process, addresses, replace(database, host=host, port=int(port)))

    try:
        yield start
    finally:
        for process in started:
            end(process)
        log.close()
        # Pytest shows it with a test that fails.
        sys.stderr.write((folder / STDERR).read_text(encoding="utf-8", errors="replace"))


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that leads its group: by SIGTERM, and by SIGKILL with all its children if that does not do."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `pgtattle serve` before a database, with further arguments; ended after the test."""
    with serving(tmp_path) as start:
        yield start
