"""Load on a proxy, and what can be seen of the proxy from outside: metrics, counts, memory, descriptors."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.schema import Report
from tests.conftest import Database, Served
from tests.waiting import PATIENCE, wait_for

MIB = 1 << 20
SLEEP = "SELECT pg_sleep(600)"
"""A query that ends when it is cancelled."""


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

    def goes_on(self) -> None:
        """Wait for some more answers."""
        enough = self.executions + 100
        wait_for(lambda: self.executions >= enough, "answers to a load")

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(PATIENCE)
            assert not any(thread.is_alive() for thread in self._threads), "a client hangs"


def report(served: Served) -> Report:
    """The report as it is now."""
    return msgspec.json.decode(served.get("/api/v1/report").content, type=Report)


def counted(served: Served) -> int:
    """Executions that were counted until now, in whatever way."""
    session = report(served).session
    return session.executions + session.shed + session.lost


def settled(served: Served) -> int:
    """Executions that were counted of all that went before."""
    session = served.report().session
    return session.executions + session.shed + session.lost


def await_count(served: Served, expected: int, seconds: float = PATIENCE) -> None:
    """Wait for the count; one too high is as wrong as one too low."""
    wait_for(lambda: counted(served) == expected, lambda: f"{expected} executions, but {counted(served)}", seconds)


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


class Log:
    """What processes of a test wrote to stderr, up to now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace")

    def has(self, words: str) -> bool:
        return words in self.text()

    def lines(self) -> list[dict[str, Any]]:
        """Those in JSON."""
        # The last line may not be whole yet.
        whole = self.text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


@contextmanager
def once(condition: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """Beside what is done within: wait for a condition, then act. What fails there fails here."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: (wait_for(condition, "what is to be acted upon"), action()))
        try:
            yield
        finally:
            done.result()


def asleep(cluster: Cluster) -> bool:
    """True while a session of a server is in pg_sleep."""
    where = f"host={cluster.socket_folder} port={cluster.port} user={cluster.user} dbname=postgres"
    with psycopg.connect(where) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone()
    return row != (0,)


def cancelled(connection: psycopg.Connection, cancel: Callable[[], object], cluster: Cluster) -> None:
    """Have a query cancelled once it runs; the session must go on afterwards."""
    with pytest.raises(psycopg.errors.QueryCanceled), once(lambda: asleep(cluster), cancel):
        connection.execute(SLEEP)
    assert connection.execute("SELECT 1").fetchone() == (1,)


def refused(database: Database) -> bool:
    """True where a newcomer is told that the proxy is ending."""
    try:
        psycopg.connect(database.dsn).close()
    except psycopg.OperationalError as error:
        return "pgtattle is shutting down" in str(error)
    return False


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
