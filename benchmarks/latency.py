"""Latency of one client in a closed loop, through every target in turn within the same second.

A target's whole run beside another's compares two moments of a shared machine. Here one client asks through one way for
some queries, then through the next, and so on: what slows the machine slows them all. libpq sends what pgbench -S does.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from psycopg import pq

from benchmarks.relay import MODES, SCALE
from benchmarks.results import Latency
from benchmarks.targets import Target, alternating

BLOCK: Final = 20
"""Queries through one way before the next one's turn; the first of them finds cold caches, on every way alike."""
ROWS: Final = 100_000 * SCALE
SELECT: Final = b"SELECT abalance FROM pgbench_accounts WHERE aid = "

Ask = Callable[[], pq.abc.PGresult]


def measure(
    targets: Sequence[Target], rounds: int, seconds: float, progress: Callable[[], None], rows: int = ROWS
) -> list[Latency]:
    """`seconds` are for each target in each round; pgbench's table has so many `rows`."""
    found = []
    for order in alternating(targets, rounds):
        for mode in MODES:
            found += _round(order, mode, seconds * len(order), rows)
            progress()
    return found


def _round(targets: Sequence[Target], mode: str, seconds: float, rows: int) -> list[Latency]:
    connections = [pq.PGconn.connect(target.dsn.encode()) for target in targets]
    try:
        ways: list[tuple[Ask, list[int]]] = [(_asker(connection, mode, rows), []) for connection in connections]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for ask, samples in ways:
                for _ in range(BLOCK):
                    started = time.perf_counter_ns()
                    result = ask()
                    samples.append(time.perf_counter_ns() - started)
                    if result.ntuples != 1:
                        raise SystemExit(f"a query failed: {result.get_error_message()}")
        return [
            Latency(target=target.name, mode=mode, queries=len(samples), median_us=statistics.median(samples) / 1e3)
            for target, (_, samples) in zip(targets, ways, strict=True)
        ]
    finally:
        for connection in connections:
            connection.finish()


def _asker(connection: pq.abc.PGconn, mode: str, rows: int) -> Ask:
    """Asks for a random row, in a mode of pgbench."""
    if connection.status != pq.ConnStatus.OK:
        raise SystemExit(f"cannot connect: {connection.error_message.decode(errors='replace')}")
    choose = random.Random(7).randrange
    if mode == "simple":
        return lambda: connection.exec_(b"%s%d;" % (SELECT, choose(1, rows)))
    if mode == "extended":
        return lambda: connection.exec_params(SELECT + b"$1;", [b"%d" % choose(1, rows)])
    connection.prepare(b"P0", SELECT + b"$1;")
    return lambda: connection.exec_prepared(b"P0", [b"%d" % choose(1, rows)])
