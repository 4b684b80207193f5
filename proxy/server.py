"""The relay process: listening sockets, connections, the profiler beside them, and an orderly end.

Enters: settings. Leaves: traffic to the upstream, counters, one log line for each connection that ended, and at the end
a report. It never loads the analysis: see `supervisor` for the process that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import structlog
import uvloop
from msgspec import Struct

from pgtattle.proxy import listeners, probe, tls, upstream
from pgtattle.proxy.checks import Check
from pgtattle.proxy.dismissals import Dismissals
from pgtattle.proxy.errors import UpstreamUnreachable, UsageError
from pgtattle.proxy.log import Limiter
from pgtattle.proxy.opening import DECLINED, Doorman, House, Refusal
from pgtattle.proxy.relay import ClientLeg, Relay
from pgtattle.proxy.schema import Report
from pgtattle.proxy.settings import Settings
from pgtattle.proxy.supervisor import Supervisor
from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.tasks import Tasks
from pgtattle.proxy.waiting import TLS_SHUTDOWN_SECONDS
from pgtattle.proxy.wire.control import RelayCounters

_Result = TypeVar("_Result")

QUIET_SECONDS: Final = 2.0
UNEXPECTED: Final = frozenset(
    ("bad_startup", "direct_tls", "error", "login_timeout", "plain_refused", "refused", "tls_failed", "upstream")
)
"""Reasons of connections that came to nothing: a storm of them is told in few lines."""
CURE: Final = (
    "clients of libpq refuse their login: they see another certificate than the server's, and SCRAM binds the "
    "login to it. Set sslmode=require and channel_binding=disable in the client, or give --tls-cert and --tls-key the "
    "server's own files."
)


class Addresses(Struct, frozen=True, kw_only=True):
    """Where a started proxy is, for `--print-addresses`; `metrics` is empty without `--metrics`."""

    listen: str
    api: str
    metrics: str
    pid: int
    profiler_pid: int


class Proxy:
    """One session, made in a running loop: `start`, then any of `finish`, `drain`, `stop`, in this order.

    Raises UsageError for a certificate that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._log = structlog.get_logger()
        self._limiter = Limiter()
        self._loop = asyncio.get_running_loop()
        self._relays: set[Relay] = set()
        self._total: dict[str, int] = {}
        self._bytes_to_client = self._bytes_to_server = 0
        self._numbered = self._sessions = 0
        self._doors: list[listeners.Door] = []
        self._sockets: list[socket.socket] = []
        self._paths: list[str] = []
        self._tasks = Tasks(self._loop)
        self._tasks.watch_callbacks()
        self._dismissals = Dismissals(self._loop, self._relays, self._tasks)
        self._draining = False
        self._tap = Tap(self._loop)
        self._supervisor: Supervisor | None = None
        self._certificate = tls.ServerCertificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        for address in settings.upstream.addresses:
            if mode := tls.needed(settings.upstream.tls, address):
                tls.client_context(settings.upstream.tls, mode)
        open_to_plain = settings.allow_plain or all(one.is_local for one in settings.listen)
        self._only_tls = "" if open_to_plain else "Set sslmode=require in the client."
        self._house = House(
            upstream=settings.upstream,
            tasks=self._tasks,
            line=self._line,
            admit=self._take_in,
            failed=lambda: self._count("failed"),
            certificate=self._certificate,
            passthrough=settings.tls_passthrough,
            only_tls=self._only_tls,
            login_seconds=settings.login_seconds,
            differs=self._warn_of_binding,
            holding=self._holding,
        )

    @property
    def counters(self) -> RelayCounters:
        """What the relay counted so far."""
        tap = self._tap
        return RelayCounters(
            connections_open=len(self._relays),
            sessions_open=self._sessions,
            connections_total=dict(self._total),
            bytes_to_server=self._bytes_to_server + sum(one.bytes_to_server for one in self._relays),
            bytes_to_client=self._bytes_to_client + sum(one.bytes_to_client for one in self._relays),
            executions=tap.executions,
            shed=tap.shed,
            lost=tap.lost,
            restarts=self._supervisor.restarts if self._supervisor is not None else 0,
            opaque=dict(tap.opaque),
            queue_bytes=tap.queue_bytes,
            failure=self._supervisor.public_failure if self._supervisor is not None else "",
            task_failures=self._tasks.failures,
        )

    @property
    def failure(self) -> str:
        """Why nothing is analyzed, in words for who started it; empty while a profiler can run."""
        return self._supervisor.failure if self._supervisor is not None else ""

    @property
    def why_no_report(self) -> str:
        """Why `finish` gave none, in words."""
        return self._supervisor.why_no_report if self._supervisor is not None else "it was not started"

    async def failed(self) -> str:
        """Wait until nothing can be analyzed; says why. For a proxy that was started."""
        assert self._supervisor is not None
        return await self._supervisor.failed()

    async def start(self) -> Addresses:
        """Listen, start the profiler and wait until both serve. Raises UsageError for an address that cannot be had."""
        settings = self.settings
        listeners.raise_descriptor_limit(settings.max_connections)
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
        self._supervisor = Supervisor(settings, self._tap, lambda: self.counters, listen, api, metrics, self._tasks)
        await self._supervisor.start()
        self._doors = [listeners.Door(self._loop, one, self._admit, self._crowded) for one in clients]
        if settings.idle_seconds:
            self._tasks.start("idle timeout", self._dismissals.end_idle(settings.idle_seconds))
        if self._certificate is not None:
            self._tasks.start("comparison of certificates", self._compare_certificates())
        self._log.info("listening", listen=listen, upstream=", ".join(map(str, settings.upstream.addresses)))
        return Addresses(
            listen=listen,
            api=listeners.name(api),
            metrics=listeners.name(metrics) if metrics is not None else "",
            pid=os.getpid(),
            profiler_pid=self._supervisor.pid,
        )

    async def probe(self) -> None:
        """Raise UpstreamUnreachable, with words for people, unless the upstream answers a startup."""
        await probe.answers(self.settings.upstream, self.settings.upstream.connect_seconds)

    async def checks(self, seen: Sequence[Check] = ()) -> Sequence[Check]:
        """What is known about the server, as soon as it is not what was `seen` already; only after `start`."""
        assert self._supervisor is not None
        return await self._supervisor.checks(seen)

    def reload(self) -> None:
        """Take the certificate's files again, for connections to come; a bad one is told and not taken."""
        if self._certificate is None:
            return
        try:
            self._certificate.reload()
        except UsageError as error:
            self._log.error("the certificate was not taken; the one before it stays", error=str(error))
        else:
            tls.client_context.cache_clear()
            self._tasks.start("comparison of certificates", self._compare_certificates())
            self._log.info("certificate taken", fingerprint=self._certificate.fingerprint[:16])

    async def finish(self, timeout: float = 30.0) -> Report | None:
        """The report of everything so far; None when the analysis is incomplete after `timeout` seconds.

        Connections of clients that have gone get a moment to end, so that their last exchange is in the report.
        """
        deadline = time.monotonic() + QUIET_SECONDS
        while any(not relay.idle for relay in self._relays) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return await self._supervisor.finish(timeout) if self._supervisor is not None else None

    async def drain(self) -> None:
        """Refuse new sessions; end each one when its exchange and transaction end, all after the drain time.

        Connections are accepted all the same: the cancel of a query that runs must go through, and whoever wants a
        session gets SQLSTATE 57P03, at which libpq tries its next host as it does when the kernel refuses.
        """
        self._draining = True
        if left := await self._dismissals.drain(self.settings.drain_seconds):
            self._log.warning("drain time is over", connections=left)

    async def stop(self) -> None:
        """End what is left, at once."""
        for door in self._doors:
            door.close()
        self._doors.clear()
        for relay in list(self._relays):
            relay.abort("stop")
        # The legs report their end in the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0)
        if self._supervisor is not None:
            await self._supervisor.stop()
        await self._tasks.stop()
        for listening in self._sockets:
            listening.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    # -- connections -------------------------------------------------------------------------------------------------

    def _admit(self, accepted: socket.socket) -> None:
        self._tasks.start("admission of a client", self._welcome(accepted))

    async def _welcome(self, accepted: socket.socket) -> None:
        self._numbered += 1
        relay = Relay(self._loop, self._numbered, Doorman(self._house), self._gone)
        context, seconds = None, self.settings.login_seconds
        if self._certificate is not None and accepted.family != socket.AF_UNIX:
            try:
                first = await listeners.first_byte(self._loop, accepted, seconds)
            except BaseException:
                accepted.close()
                raise
            if first is None:
                accepted.close()
                relay.abort("login_timeout")
                return
            context = self._certificate.context if first == tls.HANDSHAKE else None
        self._relays.add(relay)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: ClientLeg(relay),
                accepted,
                ssl=context,
                ssl_handshake_timeout=seconds if context else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS if context else None,
            )
        except OSError as error:
            relay.error = f"TLS handshake: {tls.words(error)}"
            relay.abort("tls_failed" if context else "client")
        else:
            upstream.keep_alive(transport)

    def _take_in(self, relay: Relay) -> Refusal | None:
        limit = self.settings.max_connections
        refusal = None
        if self._draining:
            refusal = Refusal("57P03", "pgtattle is shutting down")
        elif limit and self._sessions >= limit:
            refusal = Refusal("53300", f"sorry, too many clients already (pgtattle --max-connections {limit})")
        if refusal is not None:
            self._count("refused", relay.tls)
            return refusal
        relay.admitted = True
        self._sessions += 1
        self._count("accepted", relay.tls)
        return None

    def _holding(self, pid: int) -> set[upstream.Endpoint]:
        """Where the session of this backend is; sessions that nobody looks at may be it."""
        sessions = [
            (relay.endpoint, relay.line.backend_pid if relay.line is not None else 0)
            for relay in self._relays
            if relay.endpoint is not None
        ]
        known = {endpoint for endpoint, backend in sessions if backend == pid}
        return known or {endpoint for endpoint, backend in sessions if not backend}

    def _line(self, relay: Relay) -> Line | None:
        return Line(self._tap, relay.number, relay.peer) if self.settings.mode == "profile" else None

    def _count(self, result: str, encryption: str = "off") -> None:
        key = f"{result}/{encryption}"
        self._total[key] = self._total.get(key, 0) + 1

    def _gone(self, relay: Relay, reason: str) -> None:
        self._relays.discard(relay)
        if relay.error == DECLINED:
            self._count("declined")
        self._sessions -= relay.admitted
        self._bytes_to_client += relay.bytes_to_client
        self._bytes_to_server += relay.bytes_to_server
        self._dismissals.ended()
        level = "warning" if reason in UNEXPECTED else "info"
        if reason in UNEXPECTED and not self._limiter.lets(reason, time.monotonic()):
            return
        session = relay.session
        getattr(self._log, level)(
            "connection closed",
            connection=relay.number,
            user=session.get("user", ""),
            database=session.get("database") or session.get("user", ""),
            client=relay.peer,
            **{key: session[key] for key in ("cancels",) if key in session},
            reason=reason,
            error=relay.error,
            **self._limiter.skipped(reason),
            **({"opaque": relay.line.reason} if relay.line is not None and relay.line.reason else {}),
            tls=relay.tls,
            seconds=round((time.monotonic_ns() - relay.opened_ns) / 1e9, 3),
            bytes_to_server=relay.bytes_to_server,
            bytes_to_client=relay.bytes_to_client,
        )

    def _crowded(self, error: OSError) -> None:
        if self._limiter.lets("accept", time.monotonic()):
            self._log.error("cannot accept: raise ulimit -n, or set --max-connections", error=error.strerror)

    # -- certificates ------------------------------------------------------------------------------------------------

    async def _compare_certificates(self) -> None:
        """Warn at the start where logins will fail for the certificate's sake."""
        with contextlib.suppress(UpstreamUnreachable):
            leg = await upstream.connect(self.settings.upstream, asyncio.Protocol)
            leg.transport.abort()
            if self._certificate is not None and self._certificate.differs_from(leg.certificate):
                self._warn_of_binding()
            else:
                self._house.only_tls = self._only_tls

    def _warn_of_binding(self) -> None:
        """From here on plain is refused: libpq's `prefer` would turn to it without a word when its TLS login fails."""
        if self._house.only_tls != CURE:
            self._house.only_tls = CURE
            self._log.warning(CURE)


def run(main: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run a coroutine on uvloop."""
    return uvloop.run(main())
