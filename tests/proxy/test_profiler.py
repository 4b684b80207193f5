"""The profiler's own loop: what fails ends it, and who asks to settle is answered when nothing is left to wait for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pgtattle.proxy.profiler import Profiler
from pgtattle.proxy.wire.control import BATCH_HEAD, Flush, Flushed
from tests.waiting import eventually

Message = bytes | Flushed | None


def heartbeat(watermark_ns: int) -> bytes:
    return BATCH_HEAD.pack(1, watermark_ns)


class Link:
    """What the relay sends, put in by hand, and what it is sent."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[object] = []

    async def next(self) -> Message:
        return await self.messages.get()

    def send(self, record: object) -> None:
        self.sent.append(record)


class Waiting:
    """A pipeline that waits until a watermark."""

    unchallenged: frozenset[str] = frozenset()
    executions = 0

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.waits = True

    def take(self, records: bytes, watermark_ns: int) -> None:
        self.waits = watermark_ns < self.until_ns


class Broken(Waiting):
    """A pipeline with a rule that fails."""

    def take(self, records: bytes, watermark_ns: int) -> None:
        raise ZeroDivisionError


def profiler_of(link: Link, pipeline: Waiting) -> Profiler:
    profiler = Profiler.__new__(Profiler)
    profiler._link = cast(Any, link)
    profiler._pipeline = cast(Any, pipeline)
    profiler._told = set()
    profiler._questions = set()
    profiler._flushes = 0
    profiler._flushed = {}
    profiler._progress = asyncio.get_running_loop().create_future()
    return profiler


def test_a_rule_that_fails_ends_the_process_which_is_started_anew() -> None:
    async def run() -> None:
        link = Link()
        link.messages.put_nowait(heartbeat(1))
        await profiler_of(link, Broken(0))._consume()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())


def test_who_asks_to_settle_waits_for_what_the_relay_had_read_and_for_the_units_that_end_by_silence() -> None:
    async def run() -> None:
        link = Link()
        profiler = profiler_of(link, Waiting(until_ns=3))
        consuming = asyncio.create_task(profiler._consume())
        settling = asyncio.create_task(profiler.settle(60))
        await asyncio.sleep(0)
        assert link.sent == [Flush(1)]
        for message in (heartbeat(1), Flushed(1), heartbeat(2)):
            link.messages.put_nowait(message)
        while not link.messages.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not settling.done()
        link.messages.put_nowait(heartbeat(3))
        await eventually(lambda: Flush(2) in link.sent)
        assert not settling.done()
        link.messages.put_nowait(Flushed(2))
        await asyncio.wait_for(settling, 60)
        link.messages.put_nowait(None)
        await consuming
        assert not profiler._flushed

    asyncio.run(run())


def test_who_asks_to_settle_waits_no_longer_than_was_said() -> None:
    async def run() -> None:
        profiler = profiler_of(Link(), Waiting(until_ns=1))
        await asyncio.wait_for(profiler.settle(0.01), 60)
        assert not profiler._flushed

    asyncio.run(run())
