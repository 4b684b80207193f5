"""The relay's side of the profiler process: starts it, feeds it, counts what it acknowledges, starts it again when it
dies, and says so when it cannot live.

Enters: the tap's batches. Leaves: counters for the profiler to show, and the report at the end. The profiler inherits
its sockets (socketpair, API, metrics) and exits when the socketpair closes, so it never outlives the relay. While none
serves the API, `standin` answers there.
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
from pgtattle.proxy.child_output import ChildOutput
from pgtattle.proxy.schema import Report
from pgtattle.proxy.settings import Settings
from pgtattle.proxy.standin import StandIn
from pgtattle.proxy.tap import Tap
from pgtattle.proxy.tasks import Tasks
from pgtattle.proxy.wire.control import (
    CONTROL,
    Ack,
    Checked,
    Counters,
    Finish,
    Finished,
    Flush,
    Flushed,
    Hello,
    Opaque,
    Ready,
    RelayCounters,
    Splitter,
    ToProfiler,
    ToRelay,
    control_message,
)

READY_SECONDS: Final = 20.0
START_LIMIT_SECONDS: Final = 60.0
END_SECONDS: Final = 2.0
COUNTERS_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.005
SETTLE_LIMIT_SECONDS: Final = 5.0
BACKOFF_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
STABLE_SECONDS: Final = 10.0
"""A profiler that lived so long could start."""
HANG_SECONDS: Final = 10.0
"""Without an acknowledgement, though there is something to acknowledge."""
DEATHS: Final = 3
"""So many in a row of profilers that did not live so long are a failure, not a mishap."""


class Supervisor:
    """One session's profiler processes, one after another.

    Once three in a row died within ten seconds of their start, `public_failure` says that nothing is analyzed and why;
    it is empty again when one lives.
    """

    def __init__(
        self,
        settings: Settings,
        tap: Tap,
        counters: Callable[[], RelayCounters],
        listen: str,
        api: socket.socket,
        metrics: socket.socket | None,
        tasks: Tasks,
    ) -> None:
        self.restarts = 0
        self.public_failure = ""
        self._tap = tap
        self._counters = counters
        self._api = api
        self._metrics = metrics
        self._tasks = tasks
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
        self._standins = [StandIn(self._loop, tasks, api, lambda: self._why(settings.api.is_local))]
        if metrics is not None:
            self._standins.append(StandIn(self._loop, tasks, metrics, lambda: self._why(False)))
        self._process: subprocess.Popen[bytes] | None = None
        self._output: ChildOutput | None = None
        self._ended = self._last_words = self._hung = ""
        self._link: _Link | None = None
        self._hangs_now = False
        self._stopping = False
        self._deaths = 0
        self._timer: asyncio.TimerHandle | None = None
        self._restart: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._failed = asyncio.Event()
        self._finished: asyncio.Future[Report] | None = None
        self._checks: Sequence[Check] = ()
        self._checked = asyncio.Event()

    @property
    def pid(self) -> int:
        """The profiler's process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def failure(self) -> str:
        """The failure with the profiler's last words, which may name what was queried: for who started it."""
        words = f". Its last words: {self._last_words}" if self._last_words else ""
        return f"{self.public_failure}{words}" if self.public_failure else ""

    @property
    def why_no_report(self) -> str:
        """Why `finish` gave none, in words."""
        if self._hangs_now:
            return f"the profiler has not answered for {HANG_SECONDS:g} s: traffic goes on, nothing is analyzed"
        ended = f"the profiler ended ({self._ended}) before the report was there" if self._ended else ""
        return self.failure or ended or "the analysis did not end in time"

    async def start(self) -> None:
        """Start the first profiler and wait until it serves; traffic may flow before, unobserved."""
        for standin in self._standins:
            standin.open()
        await self._spawn()
        await self._first(READY_SECONDS, self._ready, self._failed)
        self._ticker = self._tasks.start("counters for the profiler", self._tell_counters())

    async def failed(self) -> str:
        """Wait until nothing can be analyzed; says why."""
        await self._failed.wait()
        return self.failure

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
                await self._first(seconds, self._ready, self._failed)
                self._tap.finish()
                # Other connections may go on; what is sent until then is enough.
                deadline = self._loop.time() + SETTLE_LIMIT_SECONDS
                while not self.public_failure and not self._tap.settle() and self._loop.time() < deadline:
                    await asyncio.sleep(SETTLE_SECONDS)
                link = self._link
                if link is None or self.public_failure:
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
        for standin in self._standins:
            standin.close()
        for task in (self._restart, self._ticker, self._timer):
            if task is not None:
                task.cancel()
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            await self._end(self._process, 5.0)
        if self._output is not None:
            self._output.close()

    async def _first(self, seconds: float, *events: asyncio.Event) -> None:
        """Wait until one of them is set, or the time is over."""
        waiting = {self._loop.create_task(event.wait()) for event in events}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = self._process = self._launch(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        assert process.stdout is not None
        self._output = ChildOutput(self._loop, process.stdout, self._hello.settings.log_file)
        link = self._link = _Link(self._received, self._lost)
        self._set_timer(START_LIMIT_SECONDS, self._hangs)
        await self._loop.create_connection(lambda: link, sock=ours)
        link.send(self._hello)

    def _launch(self, link: socket.socket) -> subprocess.Popen[bytes]:
        descriptors = [link.fileno(), self._api.fileno()]
        if self._metrics is not None:
            descriptors.append(self._metrics.fileno())
        return subprocess.Popen(
            # A crash of the interpreter leaves a stack in its last words.
            [sys.executable, "-X", "faulthandler", "-m", "pgtattle.proxy.profiler", str(link.fileno())],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            # Values are kept as hashes (`wire.rows`): nobody may know their key.
            env={**os.environ, "PYTHONHASHSEED": "random"},
        )

    def _received(self, link: _Link, record: ToRelay) -> None:
        match record:
            case Ready():
                self._tap.connect(cast(asyncio.WriteTransport, link.transport))
                link.send(Counters(self._counters()))
                self._serves()
            case Checked(checks):
                self._checks = tuple(checks)
                self._checked.set()
            case Ack(sequence, executions):
                self._tap.acknowledge(sequence, executions)
            case Flush(number):
                self._tap.settle()
                link.send(Counters(self._counters()))
                self._tap.flush()
                link.send(Flushed(number))
            case Opaque(connection, reason):
                line = self._tap.lines.get(connection)
                if line is not None:
                    line.give_up(reason)
                else:
                    self._tap.count_opaque(connection, reason)
            case Finished(report):
                if self._finished is not None and not self._finished.done():
                    self._finished.set_result(msgspec.json.decode(report, type=Report))

    def _set_timer(self, seconds: float, act: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, act)

    def _serves(self) -> None:
        for standin in self._standins:
            standin.close()
        self._hangs_now = False
        self._ready.set()
        self._set_timer(STABLE_SECONDS, self._lives)

    def _lives(self) -> None:
        """A profiler has lived long enough."""
        if self.public_failure:
            self._log.info("a profiler runs again", restarts=self.restarts)
        self.public_failure = self._ended = ""
        self._failed.clear()
        self._deaths = 0

    def _lost(self, link: _Link) -> None:
        """The profiler closed its end: it died, or it was stopped."""
        self._link = None
        self._tap.disconnect()
        self._ready.clear()
        self._hangs_now = False
        if self._timer is not None:
            self._timer.cancel()
        if self._finished is not None and not self._finished.done():
            self._finished.set_exception(ConnectionError("the profiler ended before the report"))
        if self._stopping or self._process is None or self._output is None:
            return
        for standin in self._standins:
            standin.open()
        self._restart = self._tasks.start("restart of the profiler", self._replace(self._process, self._output))

    async def _replace(self, process: subprocess.Popen[bytes], output: ChildOutput) -> None:
        """Take note of how a profiler ended, and start another."""
        await self._end(process, END_SECONDS)
        output.close()
        self._output = None
        self._ended, self._last_words = self._hung or _ending(process.returncode), output.last_words
        self._hung = ""
        delay = BACKOFF_SECONDS[min(self._deaths, len(BACKOFF_SECONDS) - 1)]
        self._deaths += 1
        self.restarts += 1
        self._log.warning(
            "profiler ended, starting another", exit=self._ended, delay_seconds=delay, restarts=self.restarts
        )
        if self._deaths >= DEATHS:
            self._fail()
        await self._spawn_after(delay)

    def _hangs(self) -> None:
        """A profiler does not come up: end it, and do not wait for two others that do the same."""
        self._hung = f"not ready after {START_LIMIT_SECONDS:g} s"
        self._deaths = max(self._deaths, DEATHS - 1)
        if self._process is not None:
            self._process.kill()

    def _fail(self) -> None:
        """Say it once, however often it is tried again."""
        said = bool(self.public_failure)
        self.public_failure = (
            f"the profiler cannot run ({self._ended}, {self._deaths} in a row): traffic goes on, nothing is analyzed; "
            f"it is tried again every {BACKOFF_SECONDS[-1]:g} s"
        )
        self._failed.set()
        if not said:
            self._log.error(self.failure)

    def _why(self, private: bool) -> str:
        """Why no profiler answers now."""
        if self.public_failure:
            return self.failure if private else self.public_failure
        if self._hangs_now:
            return f"the profiler has not answered for {HANG_SECONDS:g} s: traffic goes on, nothing is analyzed"
        ended = f"the profiler ended ({self._ended}), " if self._ended else ""
        return f"{ended}a profiler is starting: traffic goes on, try again in a moment"

    async def _end(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Give a process the time to end by itself, so that its exit and its last words are its own; then kill it."""
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if process.poll() is None:
            process.kill()
            process.wait()

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
            if self._link is None or not self._ready.is_set():
                continue
            if not self._tap.full:
                self._tap.settle()
                self._link.send(Counters(self._counters()))
            self._look_for_hang()

    def _look_for_hang(self) -> None:
        """Answer in the place of a profiler that does not go on: whoever asks whether the relay lives must hear it."""
        hangs = self._tap.unanswered_seconds > HANG_SECONDS
        if hangs == self._hangs_now:
            return
        self._hangs_now = hangs
        for standin in self._standins:
            if hangs:
                standin.open()
            else:
                standin.close()
        if hangs:
            self._log.warning("the profiler does not answer: traffic goes on", seconds=HANG_SECONDS)
        else:
            self._log.info("the profiler answers again")


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


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

    def send(self, record: ToProfiler) -> None:
        """Queue a control record."""
        if self.transport is not None:
            self.transport.write(control_message(record))

    def close(self) -> None:
        """Close the socketpair."""
        if self.transport is not None:
            self.transport.close()
