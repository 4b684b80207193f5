"""How many executions the profiler takes in a second: batches → sessions → texts → units of work → all rules.

The batches are what the relay's tap made of real pgbench traffic. They are replayed in this process, without sockets,
each time as new connections at a later time, until so many executions went through; the first pass is warming up.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Final

import uvloop

from benchmarks.results import Rate
from benchmarks.targets import Target, resident_kib
from pgtattle.proxy.claims import Claims
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.opening import Doorman, House
from pgtattle.proxy.pipeline import Pipeline
from pgtattle.proxy.relay import ClientLeg, Relay
from pgtattle.proxy.settings import Address, Settings, Upstream
from pgtattle.proxy.store import Store
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.wire import batch
from pgtattle.proxy.wire.control import BATCH_HEAD, MESSAGE

TRAFFIC: Final = {
    "pgbench -S, simple": (1, ("-S", "-M", "simple")),
    "pgbench -S, extended": (1, ("-S", "-M", "extended")),
    "pgbench -S, prepared": (1, ("-S", "-M", "prepared")),
    "pgbench (TPC-B), prepared": (7, ("-M", "prepared")),
}
"""Statements of a transaction, and arguments of pgbench."""

CLIENTS: Final = 4
RECORDED: Final = 50_000
"""Executions of a recording."""

TICK_NS: Final = 100_000_000
"""The profiler's own tick."""


class Recorder(asyncio.WriteTransport):
    """Stands where the socket to the profiler is, and keeps the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.batches.append(bytes(data)[MESSAGE.size + BATCH_HEAD.size :])

    def get_write_buffer_size(self) -> int:
        return 0


def measure(direct: Target, traffic: str, executions: int, recorded: int = RECORDED) -> Rate:
    """The rate for one of `TRAFFIC`."""
    statements, arguments = TRAFFIC[traffic]
    batches = uvloop.run(_record(direct, arguments, recorded // statements))
    pipeline = make_pipeline()
    gc.collect()
    gc.freeze()
    passes = _passes(batches)
    _replay(pipeline, next(passes))
    each = pipeline.executions
    before, nanoseconds = resident_kib(os.getpid()), 0
    for shifted in itertools.islice(passes, max(1, -(-executions // each))):
        nanoseconds += _replay(pipeline, shifted)
        del shifted
    gc.unfreeze()
    return Rate(
        traffic=traffic,
        executions=pipeline.executions - each,
        seconds=nanoseconds / 1e9,
        grown_mib=(resident_kib(os.getpid()) - before) / 1024,
    )


async def _record(direct: Target, arguments: Iterable[str], transactions: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    recorder = Recorder()
    tap = Tap(loop)
    tap.connect(recorder)
    numbers = itertools.count(1)
    open_relays: set[Relay] = set()
    address = Address("127.0.0.1", direct.port)
    house = House(
        upstream=Upstream(addresses=(address,), dsn=""),
        line=lambda relay: Line(tap, relay.number, relay.peer),
        admit=lambda relay: "",
        failed=lambda: None,
    )

    def arrived() -> asyncio.Protocol:
        relay = Relay(loop, next(numbers), Doorman(house), lambda ended, reason: open_relays.discard(ended))
        open_relays.add(relay)
        return ClientLeg(relay)

    server = await loop.create_server(arrived, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    load = await asyncio.create_subprocess_exec(
        *("pgbench", "-n", *arguments, "-c", str(CLIENTS), "-t", str(transactions // CLIENTS)),
        env=Target("recorded", port).environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if await load.wait():
        raise SystemExit("pgbench through the recording relay failed")
    while open_relays:
        await asyncio.sleep(0.01)
    server.close()
    tap.flush()
    return recorder.batches


def make_pipeline() -> Pipeline:
    settings = Settings(upstream=Upstream(addresses=(), dsn=""), listen=(), api=Address())
    store = Store(time.time_ns(), time.monotonic_ns())
    metrics = Metrics(lambda: store.evicted, store.ledger)
    return Pipeline(settings, store, metrics, lambda question: None, _give_up, Claims())


def _give_up(connection: int, reason: str) -> None:
    raise SystemExit(f"the profiler could not follow what the relay recorded: {reason}")


def _passes(batches: list[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """The recording again and again, each time by other connections and later; with the time of each batch's end."""
    first = batch.HEADER.unpack_from(batches[0])[2]
    last = _last(batches[-1])
    highest = max(connection for one in batches for _, connection, _, _ in batch.unpack(one))
    for number in itertools.count():
        later, further = number * (last - first + TICK_NS), number * highest
        yield [(_last(one) + later, _shifted(one, further, later)) for one in batches]


def _last(records: bytes) -> int:
    return max(at_ns for _, _, at_ns, _ in batch.unpack(records))


def _shifted(records: bytes, further: int, later: int) -> bytes:
    return b"".join(
        batch.pack(kind, connection + further, at_ns + later, body)
        for kind, connection, at_ns, body in batch.unpack(records)
    )


def _replay(pipeline: Pipeline, batches: list[tuple[int, bytes]]) -> int:
    """CPU time of it, in nanoseconds."""
    began = time.process_time_ns()
    ticked = 0
    for at_ns, records in batches:
        pipeline.records(records)
        if at_ns - ticked > TICK_NS:
            pipeline.tick(at_ns)
            ticked = at_ns
    return time.process_time_ns() - began
