"""The relay process: listening sockets, connections, the profiler beside them, and an orderly end.

Enters: settings. Leaves: traffic to the upstream, counters, and at the end a report. It never loads the analysis: see
`supervisor` for the process that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
import uvloop
from msgspec import Struct

from pgtattle.proxy import listeners
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.relay import ClientLeg, Relay, Traffic
from pgtattle.proxy.schema import Report
from pgtattle.proxy.settings import Address, Settings
from pgtattle.proxy.supervisor import Supervisor
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.wire.control import RelayCounters
from pgtattle.proxy.wire.startup import error_response

_Result = TypeVar("_Result")

CONNECT_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 2.0


class Addresses(Struct, frozen=True, kw_only=True):
    """Where a started proxy is, for `--print-addresses`; `metrics` is empty without `--metrics`."""

    listen: str
    api: str
    metrics: str
    pid: int
    profiler_pid: int


class Proxy:
    """One session, made in a running loop: `start`, then any of `finish`, `drain`, `stop`, in this order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._log = structlog.get_logger()
        self._traffic = Traffic()
        self._relays: set[Relay] = set()
        self._accepted = self._refused = self._failed = self._numbered = 0
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._paths: list[str] = []
        self._ended = asyncio.Event()
        self._tap = Tap(asyncio.get_running_loop())
        self._supervisor: Supervisor | None = None

    @property
    def counters(self) -> RelayCounters:
        """What the relay counted so far."""
        tap = self._tap
        return RelayCounters(
            connections_open=len(self._relays),
            connections_total={"accepted": self._accepted, "refused": self._refused, "failed": self._failed},
            bytes_to_server=self._traffic.to_server,
            bytes_to_client=self._traffic.to_client,
            executions=tap.executions,
            shed=tap.shed,
            lost=tap.lost,
            restarts=self._supervisor.restarts if self._supervisor is not None else 0,
            opaque=dict(tap.opaque),
            queue_bytes=tap.queue_bytes,
        )

    async def start(self) -> Addresses:
        """Listen, start the profiler and wait until both serve. Raises UsageError for an address that cannot be had."""
        settings = self.settings
        loop = asyncio.get_running_loop()
        clients = [taken for address in settings.listen for taken in listeners.listen(address, "--listen")]
        self._sockets = list(clients)
        api = listeners.listen(settings.api, "--api", private=True)[0]
        self._sockets.append(api)
        metrics = None
        if settings.metrics is not None:
            metrics = listeners.listen(settings.metrics, "--metrics")[0]
            self._sockets.append(metrics)
        self._paths = [bound for one in self._sockets if isinstance(bound := one.getsockname(), str) and bound]
        listen = listeners.name(clients[0])
        self._supervisor = Supervisor(settings, self._tap, lambda: self.counters, listen, api, metrics)
        await self._supervisor.start()
        for listening in clients:
            if listening.family == socket.AF_UNIX:
                self._servers.append(await loop.create_unix_server(self._client, sock=listening))
            else:
                self._servers.append(await loop.create_server(self._client, sock=listening))
        self._log.info("listening", listen=listen, upstream=", ".join(map(str, settings.upstream.addresses)))
        return Addresses(
            listen=listen,
            api=listeners.name(api),
            metrics=listeners.name(metrics) if metrics is not None else "",
            pid=os.getpid(),
            profiler_pid=self._supervisor.pid,
        )

    async def probe(self) -> None:
        """Raise UpstreamUnreachable, with words for people, unless the upstream accepts a connection."""
        transports: list[asyncio.BaseTransport] = []

        class Probe(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transports.append(transport)

        await connect(self.settings.upstream.addresses, Probe)
        for transport in transports:
            transport.close()

    async def finish(self, timeout: float = 30.0) -> Report | None:
        """The report of everything so far; None when the analysis is incomplete after `timeout` seconds.

        Connections of clients that have gone get a moment to end, so that their last exchange is in the report.
        """
        deadline = time.monotonic() + QUIET_SECONDS
        while any(not relay.idle for relay in self._relays) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return await self._supervisor.finish(timeout) if self._supervisor is not None else None

    async def drain(self) -> None:
        """Stop accepting; end a connection when its exchange and transaction end, all after the drain time."""
        self._stop_listening()
        deadline = time.monotonic() + self.settings.drain_seconds
        while self._relays and time.monotonic() < deadline:
            for relay in list(self._relays):
                if relay.idle:
                    relay.drain()
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), 0.02)
            except TimeoutError:
                continue
        if self._relays:
            self._log.warning("drain time is over", connections=len(self._relays))

    async def stop(self) -> None:
        """End what is left, at once."""
        self._stop_listening()
        for relay in list(self._relays):
            relay.abort("stop")
        if self._supervisor is not None:
            await self._supervisor.stop()
        for listening in self._sockets:
            listening.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _client(self) -> asyncio.Protocol:
        limit = self.settings.max_connections
        refusal = b""
        if limit and len(self._relays) >= limit:
            self._refused += 1
            message = f"sorry, too many clients already (pgtattle --max-connections {limit})"
            refusal = error_response("FATAL", "53300", message)
        else:
            self._accepted += 1
        loop = asyncio.get_running_loop()
        relay = Relay(loop, self._connect, self._traffic, self._tapped, self._gone, refusal)
        self._relays.add(relay)
        return ClientLeg(relay)

    def _tapped(self, client: str) -> Line | None:
        self._numbered += 1
        return Line(self._tap, self._numbered, client)

    def _gone(self, relay: Relay, reason: str) -> None:
        self._relays.discard(relay)
        self._ended.set()

    async def _connect(self, factory: Callable[[], asyncio.Protocol]) -> None:
        try:
            await connect(self.settings.upstream.addresses, factory)
        except UpstreamUnreachable as error:
            self._failed += 1
            self._log.warning("upstream unreachable", error=str(error))
            raise


async def connect(addresses: tuple[Address, ...], factory: Callable[[], asyncio.Protocol]) -> None:
    """Connect to the first address that answers, names resolved anew. Raises UpstreamUnreachable, naming all."""
    loop = asyncio.get_running_loop()
    failures: list[str] = []
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.path:
                    await loop.create_unix_connection(factory, address.path)
                else:
                    await loop.create_connection(factory, address.host, address.port)
            return
        except TimeoutError:
            failures.append(f"{address}: no answer within {CONNECT_SECONDS:.0f} s")
        except OSError as error:
            failures.append(f"{address}: {os.strerror(error.errno) if error.errno and error.errno > 0 else error}")
    raise UpstreamUnreachable(f"cannot reach PostgreSQL at {'; '.join(failures)}")


def run(main: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run a coroutine on uvloop."""
    return uvloop.run(main())
