"""The relay's side of the profiler process: starts it, feeds it, counts what it acknowledges, starts it again when it
dies.

Enters: the tap's batches. Leaves: counters for the profiler to show, and the report at the end. The profiler inherits
its sockets (socketpair, API, metrics) and exits when the socketpair closes, so it never outlives the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import structlog

from pgtattle.proxy.checks import Check
from pgtattle.proxy.schema import Report
from pgtattle.proxy.settings import Settings
from pgtattle.proxy.tap import Tap
from pgtattle.proxy.wire.control import (
    CONTROL,
    Ack,
    Checked,
    Counters,
    Finish,
    Finished,
    Hello,
    Opaque,
    Ready,
    RelayCounters,
    Splitter,
    ToRelay,
    control_message,
)

READY_SECONDS: Final = 20.0
COUNTERS_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.005
SETTLE_LIMIT_SECONDS: Final = 5.0
BACKOFF_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
STABLE_SECONDS: Final = 30.0


class Supervisor:
    """One session's profiler processes, one after another."""

    def __init__(
        self,
        settings: Settings,
        tap: Tap,
        counters: Callable[[], RelayCounters],
        listen: str,
        api: socket.socket,
        metrics: socket.socket | None,
    ) -> None:
        self.restarts = 0
        self._tap = tap
        self._counters = counters
        self._api = api
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()
        self._hello = Hello(
            session=uuid.uuid4().hex[:12],
            settings=settings,
            started_unix_ns=time.time_ns(),
            started_ns=time.monotonic_ns(),
            listen=listen,
            api_fd=api.fileno(),
            metrics_fd=metrics.fileno() if metrics is not None else -1,
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._link: _Link | None = None
        self._stopping = False
        self._failures = 0
        self._started_at = 0.0
        self._restart: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._finished: asyncio.Future[Report] | None = None
        self._checks: Sequence[Check] = ()
        self._checked = asyncio.Event()

    @property
    def pid(self) -> int:
        """The profiler's process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the first profiler and wait until it serves; traffic may flow before, unobserved."""
        await self._spawn()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._ready), READY_SECONDS)
        self._ticker = self._loop.create_task(self._tell_counters())

    async def checks(self, seen: Sequence[Check] = ()) -> Sequence[Check]:
        """What the profiler found out about the server, as soon as it is not what was `seen` already."""
        while not self._checks or self._checks == seen:
            self._checked.clear()
            await self._checked.wait()
        return self._checks

    async def finish(self, seconds: float) -> Report | None:
        """Ask for the report of all that was sent; None when no profiler could give it in time."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._ready)
                self._tap.finish()
                # Other connections may go on; what is sent until then is enough.
                deadline = self._loop.time() + SETTLE_LIMIT_SECONDS
                while not self._tap.settle() and self._loop.time() < deadline:
                    await asyncio.sleep(SETTLE_SECONDS)
                link = self._link
                if link is None:
                    return None
                self._finished = self._loop.create_future()
                link.send(Counters(self._counters()))
                link.send(Finish())
                return await self._finished
        except (TimeoutError, ConnectionError):
            return None

    async def stop(self) -> None:
        """End the profiler: it exits when the socketpair closes; after five seconds it is killed."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._link is not None:
            self._link.close()
        process = self._process
        if process is None:
            return
        deadline = time.monotonic() + 5.0
        while process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if process.poll() is None:
            process.kill()
            process.wait()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            self._process = self._launch(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._started_at = time.monotonic()
        link = _Link(self._received, self._lost)
        await self._loop.create_connection(lambda: link, sock=ours)
        link.send(self._hello)
        self._link = link

    def _launch(self, link: socket.socket) -> subprocess.Popen[bytes]:
        descriptors = [link.fileno(), self._api.fileno()]
        if self._metrics is not None:
            descriptors.append(self._metrics.fileno())
        log_file = self._hello.settings.log_file
        with open(log_file, "ab") if log_file else contextlib.nullcontext(sys.stderr) as output:
            return subprocess.Popen(
                [sys.executable, "-m", "pgtattle.proxy.profiler", str(link.fileno())],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # Values are kept as hashes (`wire.rows`): nobody may know their key.
                env={**os.environ, "PYTHONHASHSEED": "random"},
            )

    def _received(self, link: _Link, record: ToRelay) -> None:
        match record:
            case Ready():
                self._tap.connect(cast(asyncio.WriteTransport, link.transport))
                link.send(Counters(self._counters()))
                if not self._ready.done():
                    self._ready.set_result(None)
            case Checked(checks):
                self._checks = tuple(checks)
                self._checked.set()
            case Ack(sequence, executions):
                self._tap.acknowledge(sequence, executions)
            case Opaque(connection, reason):
                line = self._tap.lines.get(connection)
                if line is not None:
                    line.give_up(reason)
                else:
                    self._tap.count_opaque(connection, reason)
            case Finished(report):
                if self._finished is not None and not self._finished.done():
                    self._finished.set_result(msgspec.json.decode(report, type=Report))

    def _lost(self, link: _Link) -> None:
        """The profiler closed its end: it died, or it was stopped."""
        self._link = None
        self._tap.disconnect()
        if self._ready.done():
            self._ready = self._loop.create_future()
        if self._finished is not None and not self._finished.done():
            self._finished.set_exception(ConnectionError("the profiler ended before the report"))
        if self._stopping:
            return
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        code = process.wait() if process is not None else 0
        if time.monotonic() - self._started_at > STABLE_SECONDS:
            self._failures = 0
        delay = BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS) - 1)]
        self._failures += 1
        self.restarts += 1
        self._log.warning("profiler ended, starting another", code=code, delay_seconds=delay, restarts=self.restarts)
        self._restart = self._loop.create_task(self._spawn_after(delay))

    async def _spawn_after(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._spawn()
            except OSError as error:
                seconds = BACKOFF_SECONDS[-1]
                self._log.error("cannot start a profiler, trying again", error=str(error), delay_seconds=seconds)
            else:
                return

    async def _tell_counters(self) -> None:
        while True:
            await asyncio.sleep(COUNTERS_SECONDS)
            if self._link is not None and self._ready.done() and not self._tap.full:
                self._tap.settle()
                self._link.send(Counters(self._counters()))


class _Link(asyncio.Protocol):
    """The relay's end of the socketpair."""

    def __init__(self, received: Callable[[_Link, ToRelay], None], lost: Callable[[_Link], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self._received = received
        self._lost = lost
        self._splitter = Splitter()
        self._decoder = msgspec.json.Decoder(ToRelay)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._splitter.feed(data):
            if kind == CONTROL:
                self._received(self, self._decoder.decode(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)

    def send(self, record: Hello | Counters | Finish) -> None:
        """Queue a control record."""
        if self.transport is not None:
            self.transport.write(control_message(record))

    def close(self) -> None:
        """Close the socketpair."""
        if self.transport is not None:
            self.transport.close()
