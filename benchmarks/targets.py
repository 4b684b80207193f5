"""Ways to PostgreSQL, each with the processes between, and what those use: CPU time and resident memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec

from benchmarks.results import Accounts
from pgtattle.proxy.demo.cluster import Cluster, free_port
from pgtattle.proxy.schema import SessionView

LOOK_SECONDS: Final = 0.2
QUIET_SHARE: Final = 0.03
QUIET_LIMIT_SECONDS: Final = 120.0
TOLD_SECONDS: Final = 2.0
"""The relay tells the profiler its counters twice a second."""

MANY_CONNECTIONS: Final = 700

Opener = Callable[[Cluster], AbstractContextManager["Target"]]


@dataclass(frozen=True)
class Target:
    """A port of this machine that speaks PostgreSQL; `processes` are those between, the one that forwards first."""

    name: str
    port: int
    processes: dict[str, int] = field(default_factory=dict)
    api: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """For clients of libpq."""
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        return {**os.environ, **where, "PGSSLMODE": "disable"}

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres sslmode=disable"

    @property
    def relay(self) -> int:
        """The process that forwards."""
        return next(iter(self.processes.values()))

    def cpu_ns(self) -> dict[str, int]:
        """CPU time of each process, once they have nothing left to do: what a load left behind belongs to it."""
        before, since = self._clocks(), time.monotonic_ns()
        deadline = time.monotonic() + QUIET_LIMIT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            now, at = self._clocks(), time.monotonic_ns()
            if all(now[name] - before[name] < QUIET_SHARE * (at - since) for name in now):
                return now
            before, since = now, at
        raise SystemExit(f"{self.name} does not come to rest")

    def session(self) -> SessionView:
        answer = httpx.get(f"http://{self.api}/api/v1/session", timeout=60)
        return msgspec.json.decode(answer.content, type=SessionView)

    def accounts(self, before: SessionView, sent: int) -> Accounts:
        """Where the executions are that were sent since `before`."""
        deadline = time.monotonic() + TOLD_SECONDS
        while True:
            now = self.session()
            found = Accounts(
                sent=sent,
                seen=now.executions - before.executions,
                shed=now.shed - before.shed,
                lost=now.lost - before.lost,
            )
            if found.exact or time.monotonic() > deadline:
                return found
            time.sleep(LOOK_SECONDS)

    def _clocks(self) -> dict[str, int]:
        return {name: _cpu_ns(pid) for name, pid in self.processes.items()}


def _cpu_ns(pid: int) -> int:
    """User and system time of all threads that a process ever had; its clock's id as in Linux' posix-timers.h."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def cluster() -> Cluster:
    """A server for everything that is measured here."""
    return Cluster(18, settings={"max_connections": str(MANY_CONNECTIONS)})


@contextlib.contextmanager
def direct(cluster: Cluster) -> Iterator[Target]:
    yield Target("direct", cluster.port)


@contextlib.contextmanager
def pgbouncer(cluster: Cluster, pool_mode: str = "session", upstream: int = 0) -> Iterator[Target]:
    """Session pooling is the mode in which it changes as little as we do. `upstream` is a port before the server's."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = user={cluster.user} host=127.0.0.1 port={upstream or cluster.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"auth_type = any\npool_mode = {pool_mode}\n"
            f"max_client_conn = {MANY_CONNECTIONS}\ndefault_pool_size = {MANY_CONNECTIONS}\n"
            f"unix_socket_dir =\nlogfile = {folder}/pgbouncer.log\nlog_connections = 0\nlog_disconnections = 0\n"
        )
        folder.chmod(0o777)
        as_user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        with _running(["pgbouncer", "-q", str(config)], **as_user) as process:
            _wait_for(port)
            yield Target("PgBouncer", port, {"PgBouncer": process.pid})


@contextlib.contextmanager
def pgtattle(cluster: Cluster, mode: str = "profile") -> Iterator[Target]:
    command = [
        *(sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", cluster.dsn(), "--mode", mode),
        *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses"),
    ]
    with _running(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        port = int(addresses["listen"].rsplit(":", 1)[1])
        processes = {"relay": addresses["pid"], "profiler": addresses["profiler_pid"]}
        name = "pgtattle" if mode == "profile" else f"pgtattle, {mode}"
        yield Target(name, port, processes, addresses["api"] if mode == "profile" else "")


def opaque(cluster: Cluster) -> AbstractContextManager[Target]:
    return pgtattle(cluster, "opaque")


def sql_tap(program: Path) -> Opener:
    """The program `sql-tapd`, which whoever runs this has built."""

    @contextlib.contextmanager
    def opened(cluster: Cluster) -> Iterator[Target]:
        port = free_port()
        command = [
            *(str(program), "-driver", "postgres", "-listen", f"127.0.0.1:{port}"),
            *("-upstream", f"127.0.0.1:{cluster.port}", "-grpc", f"127.0.0.1:{free_port()}", "-dsn-env", "NONE"),
        ]
        with _running(command) as process:
            _wait_for(port)
            yield Target("sql-tap", port, {"sql-tap": process.pid})

    return opened


def openers(sql_tap_program: Path | None) -> list[Opener]:
    """The ways that can be had here."""
    found: list[Opener] = [direct]
    if shutil.which("pgbouncer") is not None:
        found.append(pgbouncer)
    found += [pgtattle, opaque]
    if sql_tap_program is not None:
        found.append(sql_tap(sql_tap_program))
    return found


def alternating(targets: Sequence[Target], rounds: int) -> Iterator[Sequence[Target]]:
    """The order of each round: what follows what must not matter."""
    for turn in range(rounds):
        yield targets if turn % 2 == 0 else targets[::-1]


@contextlib.contextmanager
def _running(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")
