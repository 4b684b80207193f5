"""Resident memory of the process that forwards: with a client that stops reading, and with idle connections."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Final

import psycopg

from benchmarks.results import Memory
from benchmarks.targets import Opener, resident_kib
from pgtattle.proxy.demo.cluster import Cluster

RESULT_BYTES: Final = 1_000_000_000
ROW_BYTES: Final = 10_000
CONNECTIONS: Final = 500
STALL_SECONDS: Final = 3.0
SETTLE_SECONDS: Final = 1.0
SAMPLE_SECONDS: Final = 0.02
READ_BYTES: Final = 1 << 20


def measure(cluster: Cluster, opener: Opener, size: int = RESULT_BYTES, connections: int = CONNECTIONS) -> Memory:
    """Each figure on a process of its own that has served one session, so that nothing was there before."""
    with opener(cluster) as target:
        _warm(target.dsn)
        stalled = _stalled(target.dsn, target.relay, size)
    with opener(cluster) as target:
        _warm(target.dsn)
        idle = _idle(target.dsn, target.relay, connections)
    return Memory(target=target.name, stalled_mib=stalled / 1024, idle_kib=idle / connections, connections=connections)


def _warm(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT 1")
    time.sleep(SETTLE_SECONDS)


def _stalled(dsn: str, pid: int, size: int) -> int:
    """KiB over idle at most, from the request until the client, which paused after its first look, has read all."""
    with contextlib.closing(psycopg.connect(dsn, autocommit=True)) as connection:
        rows = size // ROW_BYTES
        idle = resident_kib(pid)
        with _peak(pid) as peak:
            connection.pgconn.send_query(f"SELECT repeat('x', {ROW_BYTES}) FROM generate_series(1, {rows})".encode())
            connection.pgconn.flush()
            received = len(_read(connection.fileno()))
            time.sleep(STALL_SECONDS)
            while received < rows * ROW_BYTES:
                received += len(_read(connection.fileno()))
        return peak[0] - idle


def _read(descriptor: int) -> bytes:
    select.select([descriptor], [], [], 60)
    found = os.read(descriptor, READ_BYTES)
    if not found:
        raise SystemExit("the connection ended before the whole result was there")
    return found


@contextlib.contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    found = [resident_kib(pid)]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            found[0] = max(found[0], resident_kib(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _idle(dsn: str, pid: int, connections: int) -> int:
    """KiB over idle while so many sessions, each after its first query, do nothing."""
    before = resident_kib(pid)
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            connection.execute("SELECT 1")
        time.sleep(SETTLE_SECONDS)
        return resident_kib(pid) - before
