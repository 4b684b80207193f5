"""One client connection and its server connection: bytes go on as they came, then the tap sees them.

Enters: a client's transport. Leaves: every byte, to the other side. Nothing is decoded here: `opening` reads the
packets before a session. While one side does not take its bytes, the other is not read, so memory is bounded; an end of
stream is passed on by itself, so that a half-closed client still gets its answer. Which event does what in which phase
of a connection stands in the table of `phases`.
Source: PostgreSQL, "Message Flow: Termination, Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

from pgtattle.proxy.opening import Doorman
from pgtattle.proxy.phases import AFTER, TABLE, Event, Phase, Step
from pgtattle.proxy.pipe import Pipe
from pgtattle.proxy.tap import Line
from pgtattle.proxy.tls import SaslOffer
from pgtattle.proxy.upstream import Endpoint
from pgtattle.proxy.waiting import LINGER_SECONDS, Wait, had_its_time, unacknowledged
from pgtattle.proxy.wire.startup import TERMINATE, error_response

BUFFER_LIMIT: Final = 256 * 1024


class Relay:
    """A client and its server. `ended` is called once, when both are gone, with a word for who ended it.

    Until a session is open the `doorman` is given what the client sends.
    """

    __slots__ = (
        "_client_leg", "_doorman", "_ended", "_offer", "_opening_bytes", "_reason", "_stalled_at", "_to_client",
        "_to_server", "_wait", "admitted", "client", "endpoint", "error", "line", "number", "opened_ns", "peer",
        "phase", "server", "session", "tls",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        doorman: Doorman,
        ended: Callable[[Relay, str], None],
    ) -> None:
        self.number = number
        self.phase = Phase.OPENING
        self.client: asyncio.Transport | None = None
        self.server: asyncio.Transport | None = None
        self.endpoint: Endpoint | None = None
        self.line: Line | None = None
        self.session: dict[str, str] = {}
        self.admitted = False
        self.tls = "off"
        self.peer = ""
        self.error = ""
        self._client_leg: ClientLeg | None = None
        self._to_client: Pipe | None = None
        self._to_server: Pipe | None = None
        self._opening_bytes = 0
        self._offer = SaslOffer()
        self.opened_ns = time.monotonic_ns()
        self._wait = Wait(loop)
        self._doorman = doorman
        self._ended = ended
        self._stalled_at = 0
        self._reason = ""

    @property
    def bytes_to_client(self) -> int:
        """Bytes sent on to the client."""
        return self._to_client.bytes if self._to_client is not None else 0

    @property
    def bytes_to_server(self) -> int:
        """Bytes sent on to the server."""
        return self._opening_bytes + (self._to_server.bytes if self._to_server is not None else 0)

    @property
    def idle(self) -> bool:
        """True when neither an exchange nor a transaction nor a message is under way, as far as the tap can tell."""
        if self.server is None:
            return True
        return self.line is not None and self.line.observed and self.line.idle

    @property
    def dismissible(self) -> bool:
        """True when nothing is lost by an end now: the session is idle, or its login is not over."""
        line = self.line
        return self.idle or (line is not None and line.observed and not line.authenticated and line.between_messages)

    # -- before the session ------------------------------------------------------------------------------------------

    def arrived(self, transport: asyncio.Transport, leg: ClientLeg) -> None:
        """A client connected; it may speak TLS from its first byte on."""
        if self.phase is not Phase.OPENING:
            transport.abort()
            return
        self.client = transport
        self._client_leg = leg
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        self._doorman.arrived(self)
        if transport.get_extra_info("ssl_object") is not None:
            self.secured(transport, direct=True)

    def opening(self, data: bytes) -> None:
        """Bytes of the client before there is a server."""
        if self.phase in (Phase.OPENING, Phase.CONNECTING):
            self._doorman.take(self, data)

    def secured(self, transport: asyncio.Transport, *, direct: bool) -> None:
        """The client's TLS handshake is done; `direct`: it did not ask first."""
        self.client = transport
        self.tls = "on"
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        self._doorman.secured(self, transport.get_extra_info("ssl_object"), direct=direct)

    def connecting(self) -> None:
        """The client's session is taken, and a server is being connected."""
        self._happens(Event.SESSION)

    def cancelling(self) -> None:
        """The client's CancelRequest is being passed on, for as long as that takes."""
        self._wait.clear()
        self._happens(Event.CANCEL)

    def server_leg(self) -> ServerLeg:
        """The protocol of this relay's server, for as long as nothing is expected of it."""
        return ServerLeg(self, self._nothing_expected)

    def connected(self, transport: asyncio.Transport, opening: bytes, seen: int, *, hide_binding: bool) -> None:
        """The server took the connection: pass on what the client has sent so far, `seen` bytes of it being known.

        From here on bytes go through pipes. With `hide_binding` the login must not offer channel binding.
        """
        if self._happens(Event.CONNECTED) is not Step.OPEN:
            transport.abort()
            return
        if transport.is_closing():
            self._happens(Event.SERVER_LOST, "server")
            return
        client, leg, line = self.client, self._client_leg, self.line
        assert client is not None
        assert leg is not None
        self.server = transport
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        transport.write(opening)
        self._opening_bytes = len(opening)
        if line is not None and len(opening) > seen:
            line.frontend(opening[seen:])
        self._to_server = Pipe(transport, line.frontend if line is not None else None)
        self._to_client = Pipe(client, line.backend if line is not None else None)
        leg.data_received = self._to_server
        client.set_protocol(leg)
        transport.set_protocol(ServerLeg(self, self._without_binding if hide_binding else self._to_client))
        client.resume_reading()

    def _without_binding(self, data: bytes) -> None:
        """What the server sends up to its first answer to the login."""
        offer = self._offer
        server, to_client = self.server, self._to_client
        if server is None or to_client is None:
            return
        out = offer.filter(data)
        if out:
            to_client(out)
        if offer.done:
            server.set_protocol(ServerLeg(self, to_client))

    def _nothing_expected(self, data: bytes) -> None:
        """A server does not speak first."""
        self.error = "the server spoke before it was asked"
        self.abort("server")

    # -- the ends ----------------------------------------------------------------------------------------------------

    def refuse(self, sqlstate: str, message: str, hint: str, reason: str) -> None:
        """There is no session for this client: end with a FATAL error, which every client shows."""
        self.error = self.error or message
        self._happens(Event.REFUSE, reason, error_response("FATAL", sqlstate, message, hint))

    def dismiss(self, sqlstate: str, message: str, reason: str) -> None:
        """End a session that is `dismissible` in PostgreSQL's words, to both sides."""
        # libpq takes an error in answer to a request for encryption for an attack.
        words = b"" if self.tls == "passthrough" else error_response("FATAL", sqlstate, message)
        self._happens(Event.DISMISS, reason, words)

    def close(self, reason: str) -> None:
        """End both sides once what is under way has been written: for a connection that is idle or has no server."""
        self._happens(Event.CLOSE, reason)

    def abort(self, reason: str) -> None:
        """End both sides at once."""
        self._happens(Event.ABORT, reason)

    def client_eof(self) -> bool:
        """The client sends nothing more; True when it may still read, which no client of TLS does."""
        both_ways = self.client is not None and self.client.can_write_eof()
        self._happens(Event.CLIENT_EOF if both_ways else Event.CLOSE, "client")
        return both_ways

    def client_lost(self, error: Exception | None = None) -> None:
        """The client's socket is gone."""
        self.client = None
        if error is not None:
            self.error = self.error or str(error)
        self._happens(Event.CLIENT_LOST if error is None else Event.CLIENT_RESET, "client")

    def server_eof(self) -> bool:
        """The server ended: its socket is closed, after what waits there was flushed."""
        self._pass_rest()
        self._happens(Event.SERVER_EOF, "server")
        return False

    def server_lost(self, error: Exception | None = None) -> None:
        """The server's socket is gone."""
        self.server = None
        if error is not None:
            self.error = self.error or str(error)
        self._pass_rest()
        self._happens(Event.SERVER_LOST, "server")

    def _happens(self, event: Event, reason: str = "", fatal: bytes = b"") -> Step:
        """Take the step that the table has for an event, and give it; `fatal` is for the client, if it can be told."""
        before, step = self.phase, TABLE[self.phase, event]
        self.phase = AFTER.get(step, before)
        if self.phase is not before:
            self._reason = self._reason or reason
            if self.phase is Phase.CLOSING:
                self._wait.clear()
        if before in (Phase.CANCELLING, Phase.CONNECTING) and self.phase is Phase.CLOSING:
            self._doorman.give_up()
        match step:
            case Step.PASS_ON:
                self._half_close()
            case Step.LAST:
                self._last()
            case Step.CUT:
                _abort(self.server)
            case Step.REFUSE | Step.TERMINATE | Step.CLOSE:
                self._leave(fatal if step is not Step.CLOSE else b"", terminate=step is Step.TERMINATE)
            case Step.ABORT | Step.NEVER:
                if step is Step.NEVER:
                    self.error = f"{event.value} in phase {before.value}"
                    self._reason = "error"
                _abort(self.server, self.client)
        if self.phase is Phase.CLOSING and self.client is None and self.server is None:
            self._end()
        return step

    def client_stalls(self) -> None:
        """The client does not take its bytes."""
        self._stalled_at = time.monotonic_ns()
        if self.server is not None and not self.server.is_closing():
            self.server.pause_reading()

    def client_reads(self) -> None:
        """The client takes bytes again."""
        if self.line is not None and self._stalled_at:
            self.line.stalled(time.monotonic_ns() - self._stalled_at)
        self._stalled_at = 0
        if self.server is not None and not self.server.is_closing():
            self.server.resume_reading()

    def set_timer(self, seconds: float, reason: str) -> None:
        """End the connection in so many seconds, unless something else is waited for by then."""
        self._wait.after(seconds, lambda: self.abort(reason))

    def await_login(self, seconds: float) -> None:
        """The server has so long to take the login, or to refuse it; not where nobody can tell."""

        def expired() -> None:
            if self.line is not None and self.line.observed and not self.line.authenticated:
                self.error = self.error or "the login did not come to an end"
                self.abort("login_timeout")

        self._wait.after(seconds, expired)

    def _half_close(self) -> None:
        """Pass the client's end of stream on. TLS has no half: wait for the last answer, then close."""
        server, line = self.server, self.line
        assert server is not None
        if server.can_write_eof():
            server.write_eof()
            return

        def answered(quiet: float) -> bool:
            return line.quiescent if line is not None and line.observed else quiet >= LINGER_SECONDS

        self._wait.until(answered, lambda: self.close("client"), self._moved)

    def _pass_rest(self) -> None:
        """Give the client what the filter of the login holds: nothing more will complete it."""
        if self.phase in (Phase.OPEN, Phase.CLIENT_ENDED) and self._to_client and (rest := self._offer.rest()):
            self._to_client(rest)

    def _last(self) -> None:
        """Tell the client of the end, and let it go before its socket is closed under unread bytes."""
        client, leg = self.client, self._client_leg
        assert client is not None
        assert leg is not None
        if not client.can_write_eof():
            self.close("server")
            return
        if self.server is not None:
            self.server.close()
        # What the client still sends has nowhere to go, and must not cost it what is still to come.
        leg.data_received = _nowhere
        client.set_protocol(leg)
        client.write_eof()
        client.resume_reading()
        self._await_client()

    def _leave(self, fatal: bytes, *, terminate: bool) -> None:
        """Close both legs; what they are told before is flushed."""
        client, server = self.client, self.server
        if server is not None:
            if terminate and self.line is not None and self.line.authenticated:
                server.write(TERMINATE)
            server.close()
        if client is not None:
            if fatal:
                client.write(fatal)
            client.close()
            self._await_client()

    def _await_client(self) -> None:
        """The client is to take what is left for it, and go. One that does neither is not waited for for ever."""
        self._wait.until(
            lambda quiet: self.client is not None and had_its_time(self.client, quiet),
            lambda: self.abort("server"),
            self._moved,
        )

    def _moved(self) -> tuple[int, ...] | None:
        """Changes while bytes move towards the client; None when there is none."""
        client = self.client
        if client is None:
            return None
        return self.bytes_to_client, client.get_write_buffer_size(), unacknowledged(client) or 0

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self._wait.clear()
        if self.line is not None:
            self.line.close(self._reason)
        self._ended(self, self._reason)


class ClientLeg(asyncio.Protocol):
    """The client's socket. `data_received` is the relay's opening first, then a pipe to the server."""

    __slots__ = ("_relay", "data_received")

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.data_received: Callable[[bytes], None] = relay.opening  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._relay.arrived(cast(asyncio.Transport, transport), self)

    def eof_received(self) -> bool:
        return self._relay.client_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.client_lost(exc)

    def pause_writing(self) -> None:
        self._relay.client_stalls()

    def resume_writing(self) -> None:
        self._relay.client_reads()


class ServerLeg(asyncio.Protocol):
    """The server's socket. `data_received` is a pipe to the client, but for the login where that must be changed."""

    __slots__ = ("_relay", "data_received")

    def __init__(self, relay: Relay, data_received: Callable[[bytes], None]) -> None:
        self._relay = relay
        self.data_received: Callable[[bytes], None] = data_received  # type: ignore[assignment]

    def eof_received(self) -> bool:
        return self._relay.server_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.server_lost(exc)

    def pause_writing(self) -> None:
        client = self._relay.client
        if client is not None and not client.is_closing():
            client.pause_reading()

    def resume_writing(self) -> None:
        client = self._relay.client
        if client is not None and not client.is_closing():
            client.resume_reading()


def _abort(*legs: asyncio.Transport | None) -> None:
    for leg in legs:
        if leg is not None:
            leg.abort()


def _nowhere(data: bytes) -> None:
    """Takes what comes too late."""
