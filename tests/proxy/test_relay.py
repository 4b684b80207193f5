"""The relay alone, between a raw client and a scripted server: ends of stream, refusals, cancels, backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop

from pgtattle.proxy.opening import Doorman, House
from pgtattle.proxy.relay import ClientLeg, Relay
from pgtattle.proxy.settings import Address, Upstream
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.tasks import Tasks
from pgtattle.proxy.wire.startup import TERMINATE, error_response
from tests.waiting import PATIENCE

STARTUP = b"\0\0\0\x10\0\3\0\0user\0a\0\0"
LOGIN = b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I"
UNREAD = b"x" * 20_000_000
"""More than the kernel holds between two sockets."""
QUERY = b"Q\0\0\0\x0dselect 1\0"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Bench:
    """A relay in front of a scripted server."""

    def __init__(self, port: int, ended: list[str], tap: Tap, house: House) -> None:
        self.port = port
        self.house = house
        self.ended = ended
        self.tap = tap
        self.relays: list[Relay] = []
        self.to_client = 0

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def settled(self) -> str:
        """Why the only connection ended."""
        async with asyncio.timeout(PATIENCE):
            while not self.ended:
                await asyncio.sleep(0.01)
        return self.ended[0]


@asynccontextmanager
async def relayed(script: Script | None) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    upstream = await asyncio.start_server(script or (lambda r, w: asyncio.sleep(0)), "127.0.0.1", 0)
    address = Address("127.0.0.1", upstream.sockets[0].getsockname()[1])
    if script is None:
        upstream.close()
        await upstream.wait_closed()
    ended: list[str] = []
    tap = Tap(loop)
    house = House(
        upstream=Upstream(addresses=(address,), dsn=""),
        tasks=Tasks(loop),
        line=lambda relay: Line(tap, 1, relay.peer),
        admit=lambda relay: None,
        failed=lambda: None,
    )

    def gone(relay: Relay, reason: str) -> None:
        bench.to_client += relay.bytes_to_client
        ended.append(reason)

    def factory() -> asyncio.Protocol:
        bench.relays.append(Relay(loop, 1, Doorman(house), gone))
        return ClientLeg(bench.relays[-1])

    bench = Bench(0, ended, tap, house)
    server = await loop.create_server(factory, "127.0.0.1", 0)
    try:
        bench.port = server.sockets[0].getsockname()[1]
        yield bench
    finally:
        server.close()
        upstream.close()


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await test

    uvloop.run(bounded())


async def packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(int.from_bytes(head, "big") - 4)


def test_encryption_is_refused_once_each_then_the_session_begins() -> None:
    got: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await packet(reader))
        writer.write(LOGIN)

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(struct.pack("!iI", 8, 80877104))
            assert await reader.readexactly(1) == b"N"
            writer.write(struct.pack("!iI", 8, 80877103))
            assert await reader.readexactly(1) == b"N"
            for byte in STARTUP:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            assert await reader.readexactly(len(LOGIN)) == LOGIN
            assert got == [STARTUP]
            writer.close()

    run(test())


def test_an_idle_session_is_dismissed_once_while_its_client_does_not_read() -> None:
    got: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(LOGIN)
        got.append(await reader.read())
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            assert await reader.readexactly(len(LOGIN)) == LOGIN
            client = bench.relays[0].client
            assert client is not None
            client.write(UNREAD)
            for _ in range(3):
                bench.relays[0].dismiss("57P01", "going", "drain")
            assert await reader.read() == UNREAD + error_response("FATAL", "57P01", "going", "")
            writer.close()
            assert await bench.settled() == "drain"
            while not got:
                await asyncio.sleep(0.01)
            assert got == [TERMINATE]

    run(test())


def test_a_startup_packet_that_cannot_be_is_closed_without_a_server() -> None:
    async def test() -> None:
        for bad in (b"\0\0\0\3xxxx", b"\x7f\xff\xff\xff\0\3\0\0", struct.pack("!iI", 8, 80877103) * 2):
            async with relayed(None) as bench:
                reader, writer = await bench.client()
                writer.write(bad)
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() in (b"", b"N")
                assert await bench.settled() == "bad_startup"
                writer.close()

    run(test())


def test_upstream_down_is_a_postgresql_error_that_says_what_to_do() -> None:
    async def test() -> None:
        async with relayed(None) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            answer = await reader.read()
            assert answer[:1] == b"E"
            assert b"C57P03\0" in answer
            assert b"Connection refused" in answer
            assert b"--upstream" in answer
            assert await bench.settled() == "upstream"
            writer.close()

    run(test())


def test_a_half_closed_client_still_gets_its_answer() -> None:
    answer = b"D" + (3_000_004).to_bytes(4, "big") + bytes(3_000_000) + b"Z\0\0\0\x05I"

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(LOGIN)
        assert await reader.read() == QUERY
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            await reader.readexactly(len(LOGIN))
            writer.write(QUERY)
            writer.write_eof()
            assert await reader.read() == answer
            await bench.settled()
            writer.close()

    run(test())


def test_what_the_server_sent_before_it_died_arrives_and_then_the_end() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(LOGIN + b"E\0\0\0\x0cC57P01\0\0")
        await writer.drain()
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            assert await reader.read() == LOGIN + b"E\0\0\0\x0cC57P01\0\0"
            writer.close()
            assert await bench.settled() == "server"

    run(test())


def test_a_client_that_vanishes_ends_the_server_side_at_once() -> None:
    gone = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(LOGIN)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        gone.set()
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            await reader.readexactly(len(LOGIN))
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), PATIENCE)
            assert await bench.settled() == "client"

    run(test())


def test_a_cancel_is_closed_to_the_client_only_after_the_server_closed() -> None:
    closed: list[float] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await packet(reader) == struct.pack("!iIII", 16, 80877102, 7, 9)
        await asyncio.sleep(0.2)
        closed.append(asyncio.get_running_loop().time())
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(struct.pack("!iIII", 16, 80877102, 7, 9))
            assert await reader.read() == b""
            assert asyncio.get_running_loop().time() >= closed[0]
            writer.close()
            await bench.settled()
            assert not bench.tap.lines

    run(test())


def test_a_client_that_does_not_read_holds_the_server_not_the_memory() -> None:
    sent = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await packet(reader)
        writer.write(LOGIN)
        writer.write(b"D" + (1 << 28).to_bytes(4, "big"))
        block = bytes(1 << 20)
        with contextlib.suppress(ConnectionError):
            for _ in range(256):
                writer.write(block)
                await writer.drain()
                sent += len(block)

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.transport.pause_reading()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            writer.write(STARTUP)
            await asyncio.sleep(1.0)
            assert sent < 64 << 20
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
            writer.transport.resume_reading()
            got = 0
            while got < 200 << 20:
                got += len(await reader.read(1 << 20))
            writer.transport.abort()
            await bench.settled()
            assert bench.to_client >= got

    run(test())


def test_a_client_that_still_sends_gets_all_that_the_server_left() -> None:
    answer = b"E" + (2_000_004).to_bytes(4, "big") + bytes(2_000_000)

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        writer.write(LOGIN + answer)
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            reader, writer = await bench.client()
            writer.write(STARTUP)
            got = len(await reader.readexactly(len(LOGIN)))
            while got < len(LOGIN + answer):
                writer.write(QUERY)
                chunk = await reader.read(40_000)
                assert chunk, f"the end after {got} bytes"
                got += len(chunk)
                await asyncio.sleep(0.005)
            assert await reader.read() == b""
            writer.close()

    run(test())


def test_what_follows_a_cancel_request_is_not_kept() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await packet(reader)
        await asyncio.sleep(1.5)
        writer.close()

    async def test() -> None:
        async with relayed(server) as bench:
            _, writer = await bench.client()
            writer.write(struct.pack("!iIII", 16, 80877102, 1, 2))
            await writer.drain()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(1):
                    for _ in range(200):
                        writer.write(bytes(1_000_000))
                        await writer.drain()
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
            writer.transport.abort()
            assert await bench.settled() in ("cancel", "client")

    run(test())


def test_a_mistake_at_the_door_ends_the_connection() -> None:
    async def test() -> None:
        async with relayed(None) as bench:
            bench.house.failed = lambda: 1 / 0  # type: ignore[assignment, return-value]
            reader, writer = await bench.client()
            writer.write(STARTUP)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert await bench.settled() == "error"
            writer.close()

    run(test())
