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
from benchmarks.targets import Opener, Target, resident_kib
from pgtattle.proxy.demo.cluster import Cluster

RESULT_BYTES: Final = 1_000_000_000
ROW_BYTES: Final = 10_000
CONNECTIONS: Final = 500
STALL_SECONDS: Final = 3.0
SAMPLE_SECONDS: Final = 0.02
READ_BYTES: Final = 1 << 20


def measure(
    cluster: Cluster,
    opener: Opener,
    size: int = RESULT_BYTES,
    connections: int = CONNECTIONS,
    stall_seconds: float = STALL_SECONDS,
) -> Memory:
    """Each figure on a process of its own that has served one session, so that nothing was there before."""
    with opener(cluster) as target:
        _warm(target)
        stalled = _stalled(target, size, stall_seconds)
    with opener(cluster) as target:
        _warm(target)
        idle = _idle(target, connections)
    return Memory(target=target.name, stalled_mib=stalled / 1024, idle_kib=idle / connections, connections=connections)


def _warm(target: Target) -> None:
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        connection.execute("SELECT 1")
    target.cpu_ns()


def _stalled(target: Target, size: int, seconds: float) -> int:
    """KiB over idle at most, from the request until the client, which paused after its first look, has read all."""
    with contextlib.closing(psycopg.connect(target.dsn, autocommit=True)) as connection:
        rows = size // ROW_BYTES
        idle = resident_kib(target.relay)
        with _peak(target.relay) as peak:
            connection.pgconn.send_query(f"SELECT repeat('x', {ROW_BYTES}) FROM generate_series(1, {rows})".encode())
            connection.pgconn.flush()
            received = len(_read(connection.fileno()))
            time.sleep(seconds)
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


def _idle(target: Target, connections: int) -> int:
    """KiB over idle while so many sessions, each after its first query, do nothing."""
    before = resident_kib(target.relay)
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(psycopg.connect(target.dsn, autocommit=True))
            connection.execute("SELECT 1")
        target.cpu_ns()
        return resident_kib(target.relay) - before
