"""Load on a proxy, and what can be seen of the proxy from outside: metrics, counts, memory, descriptors."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from pgtattle.proxy.schema import Report
from tests.conftest import Database, Served

MIB = 1 << 20


class Load:
    """Clients that query without a pause. Every error of theirs is kept; it ends them, unless they `reconnect`."""

    def __init__(self, database: Database, clients: int = 3, *, reconnect: bool = False) -> None:
        self.errors: list[Exception] = []
        self.executions = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reconnect = reconnect
        self._database = database
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._database.dsn, autocommit=True) as connection:
                    while not self._stop.is_set():
                        self._one(connection)
            except Exception as error:
                self.errors.append(error)
                if not self._reconnect:
                    return
                time.sleep(0.05)

    def _one(self, connection: psycopg.Connection) -> None:
        count = self.executions
        row = connection.execute("SELECT %s::int + 1", [count]).fetchone()
        assert row == (count + 1,)
        with self._lock:
            self.executions += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(20)
            assert not any(thread.is_alive() for thread in self._threads), "a client hangs"


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def report(served: Served) -> Report:
    """The report as it is now."""
    return msgspec.json.decode(served.get("/api/v1/report").content, type=Report)


def counted(served: Served) -> int:
    """Executions that were counted until now, in whatever way."""
    session = report(served).session
    return session.executions + session.shed + session.lost


def settled(served: Served) -> int:
    """Executions that were counted of all that went before."""
    before = -1
    while (now := counted(served)) != before:
        before = now
        time.sleep(0.3)
    return now


def await_count(served: Served, expected: int, seconds: float = 20.0) -> None:
    """Wait for the count; one too high is as wrong as one too low."""
    deadline = time.monotonic() + seconds
    while (now := counted(served)) != expected:
        assert time.monotonic() < deadline, f"{now} executions were counted, not {expected}"
        time.sleep(0.05)


def metric(served: Served, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    total = 0.0
    for line in served.get("/metrics").text.splitlines():
        sample, _, value = line.rpartition(" ")
        found, _, rest = sample.partition("{")
        if found == name and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', rest)).items():
            total += float(value)
    return total


def answers(served: Served) -> bool:
    """True while a profiler serves; the relay answers `/livez` alone."""
    try:
        return served.get("/metrics").status_code == 200
    except Exception:
        return False


def relay_pid(served: Served) -> int:
    return int(served.addresses["pid"])


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes of memory that a process has; `VmHWM` is the most that it ever had."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def backends(database: Database, application: str, state: str = "%") -> int:
    """How many sessions of an application the server has, asked past the proxy."""
    direct = Database(
        database.name, database.cluster.host, database.cluster.port, database.user, database.password, database.cluster
    )
    with psycopg.connect(direct.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND coalesce(wait_event, '') LIKE %s",
            [application, state],
        ).fetchone()
    assert row is not None
    return int(row[0])
