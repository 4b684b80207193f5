"""The second process: takes the relay's batches, runs the pipeline, asks the planner, serves the API and the metrics.

Started by `supervisor` with the number of its end of the socketpair; everything else comes in `Hello`. It exits when
the relay closes the socketpair, so it cannot outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final, cast

import msgspec
import structlog
import uvicorn
import uvloop

from pgtattle.analyzers.questions import Question
from pgtattle.proxy import checks, log, probe, server_checks
from pgtattle.proxy.api import application, metrics_application
from pgtattle.proxy.checks import Check
from pgtattle.proxy.database import Planner
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.pipeline import Pipeline
from pgtattle.proxy.schema import ExplainView, Report, SessionView
from pgtattle.proxy.store import Store
from pgtattle.proxy.wire.control import (
    BATCH,
    BATCH_HEAD,
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

QUEUE_BYTES: Final = 4 * 1024 * 1024
EXPLAIN_SECONDS: Final = 25.0
AGAIN_SECONDS: Final = 30.0
SOON_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
PROBE_SECONDS: Final = 2.0
MAX_QUESTIONS: Final = 1_000
GC_THRESHOLD: Final = 20_000
_OFF: Final = ExplainView(state="off", reason="--mode opaque looks at nothing")


class Profiler:
    """One profiler process, from `Hello` to the end of the socketpair."""

    def __init__(self, hello: Hello, link: _Link) -> None:
        settings = hello.settings
        self._hello = hello
        self._settings = settings
        self._link = link
        self._log = structlog.get_logger()
        self._counters = RelayCounters()
        self._earlier: int | None = None
        # Another role brings a password of its own, in its string or in libpq's places.
        own = settings.analyze_dsn
        self._planner = Planner(own) if own else Planner(settings.upstream.dsn, settings.upstream.password)
        self._tried = asyncio.Event()
        self._sent: list[Check] = []
        self._questions: set[asyncio.Task[None]] = set()
        self._readiness: tuple[float, str | None] = (-PROBE_SECONDS, None)
        self._probing = asyncio.Lock()
        self._told: set[str] = set()
        self._store = Store(hello.started_unix_ns, hello.started_ns, hidden=settings.values == "hidden")
        self._metrics = Metrics(lambda: self._store.evicted, self._store.ledger)
        self._pipeline = Pipeline(settings, self._store, self._metrics, self._ask, self._give_up, self._planner.claims)
        self._flushes = 0
        self._flushed: dict[int, asyncio.Future[None]] = {}
        self._progress: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until the relay is gone."""
        hello = self._hello
        api = application(
            store=self._store,
            session=self.session,
            ready=self.ready,
            metrics=self._metrics,
            settings=self._settings,
            settle=self.settle,
            scopes=self._pipeline.scopes,
            connections=self._pipeline.open_connections,
        )
        servers = [_serve(api, hello.api_fd)]
        if hello.metrics_fd >= 0:
            servers.append(_serve(metrics_application(metrics=self._metrics, ready=self.ready), hello.metrics_fd))
        tasks = [asyncio.create_task(each) for each in (*servers, self._watch_server())]
        for task in tasks:
            task.add_done_callback(self._ended)
        gc.freeze()
        # What flows is made of records without cycles: looking for some at every few hundred of them finds nothing.
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        self._link.send(Ready())
        try:
            await self._consume()
        finally:
            for task in [*tasks, *self._questions]:
                task.cancel()

    def session(self) -> SessionView:
        """The session as it stands."""
        counters = self._counters
        explain = self._explain()
        notes = [f"started again; up to then {counters.failure}"] if counters.failure else []
        if explain.reason:
            notes.append(f"EXPLAIN is not available: {explain.reason}" + (f"; {explain.cure}" if explain.cure else ""))
        if self._pipeline.unchallenged:
            users = ", ".join(sorted(self._pipeline.unchallenged)[:5])
            notes.append(f"the server asked no password of {users}: whoever reaches the proxy has that role")
        return SessionView(
            id=self._hello.session,
            started_at=_iso(self._hello.started_unix_ns),
            seconds=round((time.monotonic_ns() - self._hello.started_ns) / 1e9, 3),
            server_version=self._planner.server_version,
            executions=(self._earlier or 0) + self._pipeline.executions,
            connections=counters.sessions_open,
            connections_total=_of_result(counters, "accepted"),
            shed=counters.shed,
            lost=counters.lost,
            restarts=counters.restarts,
            opaque_connections=sum(counters.opaque.values()),
            tls_declined=_of_result(counters, "declined"),
            listen=self._hello.listen,
            upstream=checks.places(self._settings.upstream),
            database_url=checks.database_url(self._settings, self._hello.listen),
            checks=self._checks(),
            notes=notes,
            explain=explain,
        )

    async def ready(self) -> tuple[bool, str]:
        """True while PostgreSQL answers a startup; else why not, in words. What EXPLAIN lacks is a detail."""
        if self._counters.failure:
            return False, self._counters.failure
        async with self._probing:
            checked, failure = self._readiness
            if time.monotonic() - checked > PROBE_SECONDS:
                failure = ""
                try:
                    await probe.answers(self._settings.upstream, PROBE_SECONDS)
                except UpstreamUnreachable as error:
                    failure = str(error)
                self._readiness = (time.monotonic(), failure)
        explain = self._explain()
        detail = f"; {explain.cure}" if explain.cure else ""
        return not failure, failure or f"ready\nexplain: {explain.state}{detail}"

    async def settle(self, seconds: float) -> None:
        """Wait, so long at most, until all that was forwarded up to now is analyzed and nothing is left to be said.

        That is: no unit ends by silence any more, no question to the planner is under way, and the relay's counters
        are those of that moment.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._flush()
                while self._questions or self._pipeline.waits:
                    await asyncio.shield(self._progress)
                # What could not be followed is counted by the relay once it knows what was seen.
                await self._flush()

    async def _flush(self) -> None:
        """Have all that the relay holds sent and taken; its counters come before."""
        self._flushes += 1
        number = self._flushes
        flushed = self._flushed[number] = asyncio.get_running_loop().create_future()
        self._link.send(Flush(number))
        try:
            await flushed
        finally:
            del self._flushed[number]

    def _progressed(self) -> None:
        self._progress.set_result(None)
        self._progress = asyncio.get_running_loop().create_future()

    async def _consume(self) -> None:
        """Take what the relay sends; what is raised here ends the process, which is started anew."""
        while True:
            message = await self._link.next()
            if message is None:
                return
            if isinstance(message, bytes):
                before = self._pipeline.executions
                sequence, watermark_ns = BATCH_HEAD.unpack_from(message)
                self._pipeline.take(message[BATCH_HEAD.size :], watermark_ns)
                self._tell_unchallenged()
                self._link.send(Ack(sequence, self._pipeline.executions - before))
                self._progressed()
                await asyncio.sleep(0)
                continue
            match message:
                case Counters(counters):
                    self._counters = counters
                    if self._earlier is None:
                        self._earlier = counters.executions
                    self._metrics.relay(counters)
                    self._metrics.parse_fallbacks(self._pipeline.parse_fallbacks)
                case Flushed(number):
                    flushed = self._flushed.get(number)
                    # Who waits for it may have given up in this very turn of the loop.
                    if flushed is not None and not flushed.done():
                        flushed.set_result(None)
                case Finish():
                    self._link.send(Finished(msgspec.Raw(msgspec.json.encode(await self._finish()))))
                case Hello():
                    raise AssertionError("a second Hello")

    def _tell_unchallenged(self) -> None:
        for user in self._pipeline.unchallenged - self._told:
            self._told.add(user)
            self._log.warning("the server asked for no password: whoever reaches the proxy has this role", user=user)

    async def _finish(self) -> Report:
        self._pipeline.flush()
        self._planner.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPLAIN_SECONDS):
                await self._tried.wait()
                # What is answered may raise the next question.
                while self._questions:
                    await asyncio.wait(self._questions, return_when=asyncio.FIRST_COMPLETED)
        return self._store.report(self.session())

    # -- the side connection -----------------------------------------------------------------------------------------

    def _explain(self) -> ExplainView:
        return _OFF if self._settings.mode == "opaque" else self._planner.explain

    def _checks(self) -> list[Check]:
        upstream, planner = self._settings.upstream, self._planner
        return server_checks.of_server(upstream, self._readiness[1], planner.server_version, self._explain())

    async def _watch_server(self) -> None:
        """Look at the server and try the side connection at the start, and again while one of them fails."""
        soon = iter(SOON_SECONDS)
        while True:
            if self._readiness[1] != "":
                await self.ready()
            if self._explain().state not in ("ok", "no_rights", "off"):
                await self._planner.check()
            self._tried.set()
            self._tell_checks()
            await asyncio.sleep(next(soon, AGAIN_SECONDS) if self._readiness[1] else AGAIN_SECONDS)

    def _tell_checks(self) -> None:
        if not self._tried.is_set():
            # A question may be answered before anybody looked for the version and for HypoPG.
            return
        self._metrics.explain(self._explain().state == "ok")
        found = self._checks()
        if found != self._sent:
            self._sent = found
            self._link.send(Checked(found))

    def _ask(self, question: Question) -> None:
        if len(self._questions) < MAX_QUESTIONS:
            task = asyncio.create_task(self._answer(question))
            self._questions.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._questions.discard(task)
        self._ended(task)
        self._progressed()

    async def _answer(self, question: Question) -> None:
        answer = await self._planner.ask(question)
        self._tell_checks()
        self._pipeline.answer(answer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What fails in the background is not lost; the words of an error may hold values."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.task_failures += 1
            self._log.error("background task failed", task=task.get_name(), error=type(error).__name__)

    def _give_up(self, connection: int, reason: str) -> None:
        self._log.warning(
            "cannot follow a connection; it is forwarded unobserved", connection=connection, reason=reason
        )
        self._link.send(Opaque(connection, reason))


class _Link(asyncio.Protocol):
    """The profiler's end of the socketpair. Not reading is what tells the relay to shed."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._splitter = Splitter()
        self._messages: deque[bytes | ToProfiler | None] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._decoder = msgspec.json.Decoder(ToProfiler)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._splitter.feed(data):
            self._messages.append(payload if kind == BATCH else self._decoder.decode(payload))
            self._waiting += len(payload)
        if self._waiting > QUEUE_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._messages.append(None)
        self._arrived.set()

    async def next(self) -> bytes | ToProfiler | None:
        """The next message, the payload of a batch as bytes; None at the end."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        if isinstance(message, bytes):
            self._waiting -= len(message)
            if self._waiting < QUEUE_BYTES // 2 and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return message

    def send(self, record: ToRelay) -> None:
        """Send a control record to the relay."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(control_message(record))


async def _serve(asgi: object, descriptor: int) -> None:
    config = uvicorn.Config(
        asgi,  # type: ignore[arg-type]
        lifespan="off",
        log_level="error",  # what a client does wrong is answered to it, not logged
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who counts as the client is who connected
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = uvicorn.Server(config)
    await server.serve(sockets=[socket.socket(fileno=os.dup(descriptor))])


def _of_result(counters: RelayCounters, result: str) -> int:
    """Connections with this result, with and without encryption."""
    return sum(count for kind, count in counters.connections_total.items() if kind.startswith(f"{result}/"))


def _iso(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _main(descriptor: int) -> None:
    link = _Link()
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: link, sock=end)
    hello = await link.next()
    if not isinstance(hello, Hello):
        return
    log.configure(hello.settings.log_format)
    await Profiler(hello, link).run()


def main() -> None:
    """Entry point: `python -m pgtattle.proxy.profiler FD`."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("this is started by `pgtattle serve`; it takes the number of a socket that it inherits")
    if hasattr(os, "sched_setscheduler"):
        # Traffic comes first: waking up must not take the processor from whoever is at it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        uvloop.run(_main(int(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    main()
