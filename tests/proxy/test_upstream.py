"""Cancel requests to several hosts: where the session is, however the other hosts are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
import uvloop

from pgtattle.proxy import upstream
from pgtattle.proxy.demo.cluster import free_port
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.settings import Address, Upstream
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.upstream import Endpoint
from tests.waiting import PATIENCE

PACKET = struct.pack("!iIII", 16, 80877102, 7, 9)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await test

    uvloop.run(bounded())


def endpoint(port: int) -> Endpoint:
    return Endpoint(Address("127.0.0.1", port), ("127.0.0.1", port))


def several(*ports: int) -> Upstream:
    return Upstream(addresses=tuple(Address("127.0.0.1", port) for port in ports), dsn="", connect_seconds=1)


class Host:
    """A server that takes cancel requests, and closes after a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.got: list[bytes] = []
        self.closed_at = 0.0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got.append(await reader.readexactly(16))
        await asyncio.sleep(self.seconds)
        self.closed_at = asyncio.get_running_loop().time()
        writer.close()


@asynccontextmanager
async def host(seconds: float = 0.0) -> AsyncIterator[Host]:
    one = Host(seconds)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()


def test_a_cancel_goes_to_the_one_that_has_the_session_and_waits_for_it_alone() -> None:
    async def test() -> None:
        async with host() as other, host(0.2) as holder:
            await upstream.cancel(several(other.port, holder.port, free_port()), [endpoint(holder.port)], PACKET)
            assert asyncio.get_running_loop().time() >= holder.closed_at > 0
            assert (other.got, holder.got) == ([], [PACKET])

    run(test())


def test_a_cancel_that_belongs_to_no_session_of_ours_is_told_to_all() -> None:
    async def test() -> None:
        async with host() as first, host(0.2) as second:
            await upstream.cancel(several(first.port, free_port(), second.port), [], PACKET)
            assert (first.got, second.got) == ([PACKET], [PACKET])
            assert asyncio.get_running_loop().time() >= second.closed_at > 0

    run(test())


def test_a_cancel_that_reaches_nobody_says_so() -> None:
    async def test() -> None:
        port = free_port()
        for endpoints in ([], [endpoint(port)]):
            with pytest.raises(UpstreamUnreachable, match=rf"127\.0\.0\.1:{port}: Connection refused"):
                await upstream.cancel(several(port), endpoints, PACKET)

    run(test())


def test_a_host_that_takes_no_connection_is_left_for_the_next() -> None:
    async def test() -> None:
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            async with host() as living:
                leg = await upstream.connect(several(port, free_port(), living.port), asyncio.Protocol)
                assert leg.endpoint == endpoint(living.port)
                leg.transport.abort()

    run(test())


def test_a_line_knows_its_backend_once_the_server_told_it() -> None:
    async def test() -> None:
        line = Line(Tap(asyncio.get_running_loop()), 1, "")
        assert line.backend_pid == 0
        line.backend(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x28\0\1\2\3" + bytes(32) + b"Z\0\0\0\x05I")
        assert line.backend_pid == 0x10203
        line.give_up("exception")
        assert line.backend_pid == 0x10203

    run(test())
