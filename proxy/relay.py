"""One client connection and its server connection: bytes go on as they came, then the tap sees them.

Enters: a client's transport. Leaves: every byte, to the other side. Nothing is decoded here: `opening` reads the
packets before a session. While one side does not take its bytes, the other is not read, so memory is bounded; an end of
stream is passed on by itself, so that a half-closed client still gets its answer.
Source: PostgreSQL, "Message Flow: Termination, Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

from pgtattle.proxy.opening import Doorman
from pgtattle.proxy.pipe import Pipe
from pgtattle.proxy.tap import Line
from pgtattle.proxy.tls import SaslOffer
from pgtattle.proxy.upstream import Endpoint
from pgtattle.proxy.wire.startup import TERMINATE, error_response

LINGER_SECONDS: Final = 10.0
"""For a side that was told of the end, and has nothing more to come, to go."""
STALL_SECONDS: Final = 120.0
"""For a client that takes nothing of what is still to come."""
POLL_SECONDS: Final = 0.05
BUFFER_LIMIT: Final = 256 * 1024


class Relay:
    """A client and its server. `ended` is called once, when both are gone, with a word for who ended it.

    Until a session is open the `doorman` is given what the client sends.
    """

    __slots__ = (
        "_client_eof", "_client_leg", "_doorman", "_ended", "_loop", "_offer", "_opening_bytes", "_reason",
        "_server_eof", "_stalled_at", "_timer", "_to_client", "_to_server", "admitted", "client", "endpoint", "error",
        "line", "number", "opened_ns", "peer", "server", "session", "tls",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        doorman: Doorman,
        ended: Callable[[Relay, str], None],
    ) -> None:
        self.number = number
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
        self._loop = loop
        self._doorman = doorman
        self._ended: Callable[[Relay, str], None] | None = ended
        self._timer: asyncio.TimerHandle | None = None
        self._client_eof = self._server_eof = False
        self._stalled_at = 0
        self._reason = ""

    @property
    def left(self) -> bool:
        """True when the client is gone."""
        return self.client is None

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
        """True when closing now interrupts neither an exchange nor a transaction, as far as the tap can tell."""
        if self.server is None:
            return True
        return self.line is not None and self.line.observed and self.line.idle

    # -- before the session ------------------------------------------------------------------------------------------

    def arrived(self, transport: asyncio.Transport, leg: ClientLeg) -> None:
        """A client connected; it may speak TLS from its first byte on."""
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
        if not self._server_eof:
            self._doorman.take(self, data)

    def secured(self, transport: asyncio.Transport, *, direct: bool) -> None:
        """The client's TLS handshake is done; `direct`: it did not ask first."""
        self.client = transport
        self.tls = "on"
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        self._doorman.secured(self, transport.get_extra_info("ssl_object"), direct=direct)

    def server_leg(self) -> ServerLeg:
        """The protocol of this relay's server, for as long as nothing is expected of it."""
        return ServerLeg(self, self._nothing_expected)

    def connected(self, transport: asyncio.Transport, opening: bytes, seen: int, *, hide_binding: bool) -> None:
        """The server took the connection: pass on what the client has sent so far, `seen` bytes of it being known.

        From here on bytes go through pipes. With `hide_binding` the login must not offer channel binding.
        """
        client, leg, line = self.client, self._client_leg, self.line
        if client is None or leg is None or self._server_eof:
            transport.abort()
            self._close("server" if self._server_eof else "client")
            return
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
        if self._client_eof:
            self._half_close(transport)
        else:
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

    def refuse(self, sqlstate: str, message: str, hint: str, reason: str) -> None:
        """End with a FATAL error that every client shows."""
        self.error = self.error or message
        if self.client is not None:
            self.client.write(error_response("FATAL", sqlstate, message, hint))
        self._close(reason)

    def dismiss(self, sqlstate: str, message: str, reason: str) -> None:
        """End an idle session in PostgreSQL's words, to both sides, once; what is no session, or ends, just ends."""
        client, server, line = self.client, self.server, self.line
        ends = self._server_eof or client is None or client.is_closing()
        if ends or server is None or line is None or not line.authenticated:
            self._close(reason)
        else:
            server.write(TERMINATE)
            self.refuse(sqlstate, message, "", reason)

    # -- the ends ----------------------------------------------------------------------------------------------------

    def client_eof(self) -> bool:
        """The client sends nothing more; True when it may still read, which no client of TLS does."""
        self._client_eof = True
        self._reason = self._reason or "client"
        if self._server_eof or not self._doorman.connecting(self):
            self._close("client")
        elif self.server is not None:
            self._half_close(self.server)
        return self.client is not None and self.client.can_write_eof()

    def server_eof(self) -> bool:
        """The server ended: flush, tell the client, and let it go before its socket is closed under unread bytes."""
        self._server_eof = True
        self._reason = self._reason or "server"
        if self._to_client is not None and (rest := self._offer.rest()):
            self._to_client(rest)
        if self.client is None or self._client_eof or not self.client.can_write_eof():
            self._close("server")
            return False
        if self.server is not None:
            self.server.close()
        if self._client_leg is not None:
            # What the client still sends has nowhere to go, and must not cost it what is still to come.
            self._client_leg.data_received = _nowhere
            self.client.set_protocol(self._client_leg)
        self.client.write_eof()
        self.client.resume_reading()
        self._await_client()
        return False

    def client_lost(self, error: Exception | None) -> None:
        """The client's socket is gone."""
        self.client = None
        self._reason = self._reason or "client"
        if error is not None:
            self.error = self.error or str(error)
        if self.server is None:
            if not self._doorman.connecting(self):
                self._end("client")
        elif error is not None and not self._client_eof:
            self.server.abort()
        else:
            self.server.close()

    def server_lost(self, error: Exception | None) -> None:
        """The server's socket is gone."""
        self.server = None
        self._reason = self._reason or "server"
        if error is not None:
            self.error = self.error or str(error)
        if self.client is None:
            self._end("server")
        elif not self._server_eof:
            self.server_eof()

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

    def gone_before_the_server(self) -> None:
        """No server will come, and the client has left already."""
        self._end("client")

    def abort(self, reason: str) -> None:
        """End both sides at once."""
        self._reason = self._reason or reason
        if self.server is not None:
            self.server.abort()
        if self.client is not None:
            self.client.abort()

    def close(self, reason: str) -> None:
        """End both sides once what is under way has been written: for a connection that is idle or has no server."""
        self._close(reason)

    def set_timer(self, seconds: float | None, reason: str) -> None:
        """End the connection in so many seconds; None: not any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self.abort, reason)

    def await_login(self, seconds: float) -> None:
        """The server has so long to take the login, or to refuse it; not where nobody can tell."""

        def expired() -> None:
            if self.line is not None and self.line.observed and not self.line.authenticated:
                self.error = self.error or "the login did not come to an end"
                self.abort("login_timeout")

        self.set_timer(None, "")
        self._timer = self._loop.call_later(seconds, expired)

    def _half_close(self, server: asyncio.Transport) -> None:
        """Pass the client's end of stream on. TLS has no half: wait for the last answer, then close."""
        if server.can_write_eof():
            server.write_eof()
            return
        line = self.line

        def answered(quiet: float) -> bool:
            return line.quiescent if line is not None and line.observed else quiet >= LINGER_SECONDS

        self._watch(answered, lambda: self._close("client"))

    def _await_client(self) -> None:
        """The client is to take what is left for it, and go. One that does neither is not waited for for ever."""

        def stuck(quiet: float) -> bool:
            client = self.client
            waiting = client is not None and client.get_write_buffer_size() > 0
            return quiet >= (STALL_SECONDS if waiting else LINGER_SECONDS)

        self._watch(stuck, lambda: self.abort("server"))

    def _watch(self, over: Callable[[float], bool], then: Callable[[], None]) -> None:
        """Look again and again whether it is over; `over` is told for how long nothing moved towards the client."""
        since, moved = self._loop.time(), (-1, -1)

        def look() -> None:
            nonlocal since, moved
            client, now = self.client, self._loop.time()
            at = self.bytes_to_client, client.get_write_buffer_size() if client is not None else 0
            if at != moved:
                since, moved = now, at
            if over(now - since):
                then()
            elif self._ended is not None:
                self._timer = self._loop.call_later(POLL_SECONDS, look)

        self.set_timer(None, "")
        look()

    def _close(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self.server is not None:
            self.server.close()
        if self.client is not None:
            self.client.close()
            self._await_client()

    def _end(self, reason: str) -> None:
        self.set_timer(None, "")
        ended, self._ended = self._ended, None
        if ended is not None:
            reason = self._reason or reason
            if self.line is not None:
                self.line.close(reason)
            ended(self, reason)


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


def _nowhere(data: bytes) -> None:
    """Takes what comes too late."""
