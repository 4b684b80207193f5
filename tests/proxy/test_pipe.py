"""The pipe and its compiled twin over real sockets: the same bytes in the same order, whoever is slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from pgtattle.proxy.pipe import PurePipe
from tests.waiting import PATIENCE

try:
    from pgtattle.proxy._pipe import Pipe as CompiledPipe
except ImportError:
    CompiledPipe = None

TWINS = [
    pytest.param(PurePipe, id="pure"),
    pytest.param(CompiledPipe, id="compiled", marks=pytest.mark.skipif(CompiledPipe is None, reason="not compiled")),
]
LIMIT = 64 * 1024

Twin = Callable[..., Any]


async def opened(other: socket.socket | None = None) -> tuple[asyncio.Transport, socket.socket]:
    """A transport of the loop, and the blocking socket on its other side."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    transport.set_write_buffer_limits(high=LIMIT)
    return transport, theirs


def read(theirs: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += theirs.recv(65_536)
    return bytes(found)


@pytest.mark.parametrize("twin", TWINS)
def test_chunks_arrive_and_are_looked_at(twin: Twin) -> None:
    async def run() -> None:
        transport, theirs = await opened()
        looked: list[bytes] = []
        pipe = twin(transport, looked.append)
        for chunk in (b"one", b"two", b"x" * 1000):
            assert pipe(chunk) is None
        assert (pipe.bytes, looked) == (1006, [b"one", b"two", b"x" * 1000])
        assert await asyncio.to_thread(read, theirs, 1006) == b"onetwo" + b"x" * 1000
        transport.close()

    uvloop.run(run())


@pytest.mark.skipif(CompiledPipe is None, reason="not compiled")
def test_a_chunk_is_sent_before_it_is_looked_at() -> None:
    async def run() -> None:
        transport, theirs = await opened()
        seen: list[bytes] = []
        CompiledPipe(transport, lambda chunk: seen.append(theirs.recv(10, socket.MSG_DONTWAIT)))(b"first")
        assert seen == [b"first"]
        transport.close()

    uvloop.run(run())


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("plain", [True, False], ids=["bytes", "other buffers"])
def test_the_order_holds_when_the_other_side_is_slow(twin: Twin, plain: bool) -> None:
    """What the socket does not take waits, and what comes after it waits behind it."""

    async def run() -> None:
        transport, theirs = await opened()
        pipe = twin(transport, None)
        chunks = [bytes([number % 251]) * (7_919 * (number % 13 + 1)) for number in range(200)]
        whole = b"".join(chunks)
        waited = 0
        reader = None
        for number, chunk in enumerate(chunks):
            pipe(chunk if plain else bytearray(chunk))
            waited = max(waited, transport.get_write_buffer_size())
            if number == 100:
                reader = asyncio.create_task(asyncio.to_thread(read, theirs, len(whole)))
            if number > 100:
                await asyncio.sleep(0.001)
        assert reader is not None
        assert await reader == whole
        assert waited > LIMIT
        assert pipe.bytes == len(whole)
        transport.close()

    uvloop.run(run())


@pytest.mark.parametrize("twin", TWINS)
def test_a_closing_transport_gets_nothing(twin: Twin) -> None:
    """Its descriptor may be another connection's by then."""

    async def run() -> None:
        transport, theirs = await opened()
        pipe = twin(transport, None)
        transport.abort()
        await asyncio.sleep(0)
        another, beyond = await opened()
        with contextlib.suppress(RuntimeError):  # uvloop's word for it
            pipe(b"too late")
        await asyncio.sleep(0.01)
        assert theirs.recv(10) == b""
        beyond.setblocking(False)
        with pytest.raises(BlockingIOError):
            beyond.recv(10)
        another.close()

    uvloop.run(run())


@pytest.mark.parametrize("twin", TWINS)
def test_a_peer_that_is_gone_is_told_by_the_transport(twin: Twin) -> None:
    async def run() -> None:
        lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        class Told(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.set_result(exc)

        transport, theirs = await opened()
        transport.set_protocol(Told())
        theirs.close()
        pipe = twin(transport, None)
        pipe(b"nobody there")
        pipe(b"still nobody")
        await asyncio.wait_for(lost, PATIENCE)

    uvloop.run(run())


@pytest.mark.parametrize("twin", TWINS)
def test_an_exception_of_who_looks_comes_through(twin: Twin) -> None:
    async def run() -> None:
        transport, theirs = await opened()

        def look(chunk: bytes) -> None:
            raise LookupError(chunk)

        with pytest.raises(LookupError):
            twin(transport, look)(b"sent")
        assert await asyncio.to_thread(read, theirs, 4) == b"sent"
        transport.close()

    uvloop.run(run())
