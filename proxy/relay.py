"""One client connection and its server connection: bytes go on as they came, then the tap sees them.

Enters: a client's transport. Leaves: every byte, to the other side. Nothing is decoded but the packets before a session
(SSLRequest, GSSENCRequest, CancelRequest, StartupMessage). While one side does not take its bytes, the other is not
read, so memory is bounded; an end of stream is passed on by itself, so that a half-closed client still gets its answer.
Source: PostgreSQL, "Message Flow: Start-up, Canceling Requests in Progress, Termination, SSL Session Encryption".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from pgtattle.proxy.errors import ProtocolViolation, UpstreamUnreachable
from pgtattle.proxy.tap import Line
from pgtattle.proxy.wire.startup import Opening, error_response, first_packet

LOGIN_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 10.0
LINGER_SECONDS: Final = 10.0
BUFFER_LIMIT: Final = 256 * 1024

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[None]]
"""Opens a connection to the upstream for a protocol; raises UpstreamUnreachable with words for people."""


class Traffic:
    """Bytes forwarded, of all connections together."""

    __slots__ = ("to_client", "to_server")

    def __init__(self) -> None:
        self.to_client = 0
        self.to_server = 0


class Relay:
    """A client and its server. `ended` is called once, when both are gone, with a word for who ended it.

    A `refusal` is an ErrorResponse that the client gets instead of a session, once it has said who it is; a cancel is
    let through all the same.
    """

    __slots__ = (
        "_buffer",
        "_cancel",
        "_client_eof",
        "_connect",
        "_ended",
        "_loop",
        "_peer",
        "_reason",
        "_refusal",
        "_refused",
        "_server_eof",
        "_stalled_at",
        "_tapped",
        "_task",
        "_timer",
        "client",
        "line",
        "server",
        "traffic",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Connect,
        traffic: Traffic,
        tapped: Callable[[str], Line | None],
        ended: Callable[[Relay, str], None],
        refusal: bytes = b"",
    ) -> None:
        self._refusal = refusal
        self.traffic = traffic
        self.client: asyncio.Transport | None = None
        self.server: asyncio.Transport | None = None
        self.line: Line | None = None
        self._tapped = tapped
        self._loop = loop
        self._connect = connect
        self._ended: Callable[[Relay, str], None] | None = ended
        self._buffer = bytearray()
        self._refused: set[Opening] = set()
        self._cancel = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._client_eof = self._server_eof = False
        self._stalled_at = 0
        self._reason = ""
        self._peer = ""

    @property
    def idle(self) -> bool:
        """True when closing now interrupts neither an exchange nor a transaction, as far as the tap can tell."""
        line = self.line
        if line is None:
            return self.server is None
        return line.observed and line.idle

    # -- before the session ------------------------------------------------------------------------------------------

    def arrived(self, transport: asyncio.Transport) -> None:
        """A client connected."""
        self.client = transport
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        self._timer = self._loop.call_later(LOGIN_SECONDS, self.abort, "login_timeout")

    def opening(self, data: bytes) -> None:
        """Bytes of the client before the session: up to a whole StartupMessage or CancelRequest."""
        client = cast(asyncio.Transport, self.client)
        if self._server_eof:
            return
        self._buffer += data
        if self._task is not None:
            return
        while True:
            try:
                packet = first_packet(self._buffer)
            except ProtocolViolation:
                self.abort("bad_startup")
                return
            if packet is None:
                return
            opening, size = packet
            if opening in (Opening.SSL, Opening.GSSENC):
                if opening in self._refused:
                    self.abort("bad_startup")
                    return
                self._refused.add(opening)
                del self._buffer[:size]
                client.write(b"N")
                continue
            self._cancel = opening is Opening.CANCEL
            if self._refusal and not self._cancel:
                client.write(self._refusal)
                self._close("refused")
                return
            if not self._cancel:
                self.line = self._tapped(self._peer)
                if self.line is not None:
                    self.line.startup(bytes(self._buffer[:size]))
            client.pause_reading()
            self._task = self._loop.create_task(self._open_server())
            return

    async def _open_server(self) -> None:
        try:
            await self._connect(lambda: ServerLeg(self))
        except UpstreamUnreachable as error:
            if self.client is not None and not self._cancel:
                hint = "pgtattle could not reach PostgreSQL; start it or correct --upstream."
                self.client.write(error_response("FATAL", "57P03", str(error), hint))
            self._close("upstream")
            return
        if self.client is None and self.server is not None:
            self.server.abort()

    def connected(self, transport: asyncio.Transport) -> None:
        """The server took the connection: pass on what the client has sent so far."""
        self.server = transport
        if self.client is None:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=BUFFER_LIMIT)
        self._set_timer(CANCEL_SECONDS if self._cancel else None, "cancel_timeout")
        data, self._buffer = bytes(self._buffer), bytearray()
        size = int.from_bytes(data[:4], "big")
        transport.write(data)
        self.traffic.to_server += len(data)
        if self.line is not None and len(data) > size:
            self.line.frontend(data[size:])
        if self._client_eof:
            transport.write_eof()
        else:
            self.client.resume_reading()

    # -- the ends ----------------------------------------------------------------------------------------------------

    def client_eof(self) -> None:
        """The client sends nothing more; it may still read."""
        self._client_eof = True
        self._reason = self._reason or "client"
        if self._server_eof or self._task is None:
            self._close("client")
        elif self.server is not None:
            self.server.write_eof()

    def server_eof(self) -> None:
        """The server ended: flush, tell the client, and let it go before its socket is closed under unread bytes."""
        self._server_eof = True
        self._reason = self._reason or "server"
        if self.client is None or self._client_eof:
            self._close("server")
            return
        if self.server is not None:
            self.server.close()
        self.client.write_eof()
        self.client.resume_reading()
        self._set_timer(LINGER_SECONDS, "server")

    def client_lost(self, error: Exception | None) -> None:
        """The client's socket is gone."""
        self.client = None
        if self.server is None:
            self._end("client")
        elif error is not None and not self._client_eof:
            self.server.abort()
        else:
            self.server.close()

    def server_lost(self) -> None:
        """The server's socket is gone."""
        self.server = None
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

    def abort(self, reason: str) -> None:
        """End both sides at once."""
        self._reason = self._reason or reason
        if self.server is not None:
            self.server.abort()
        if self.client is not None:
            self.client.abort()

    def _close(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self.server is not None:
            self.server.close()
        if self.client is not None:
            self.client.close()

    def drain(self) -> None:
        """End an idle connection as a server that shuts down would: flush and close."""
        self._close("drain")

    def _set_timer(self, seconds: float | None, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self.abort, reason)

    def _end(self, reason: str) -> None:
        self._set_timer(None, "")
        ended, self._ended = self._ended, None
        if ended is not None:
            reason = self._reason or reason
            if self.line is not None:
                self.line.close(reason)
            ended(self, reason)


class ClientLeg(asyncio.Protocol):
    """The client's socket."""

    __slots__ = ("_relay",)

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._relay.arrived(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        server = relay.server
        if server is None:
            relay.opening(data)
            return
        server.write(data)
        relay.traffic.to_server += len(data)
        if relay.line is not None:
            relay.line.frontend(data)

    def eof_received(self) -> bool:
        self._relay.client_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.client_lost(exc)

    def pause_writing(self) -> None:
        self._relay.client_stalls()

    def resume_writing(self) -> None:
        self._relay.client_reads()


class ServerLeg(asyncio.Protocol):
    """The server's socket."""

    __slots__ = ("_relay",)

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._relay.connected(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        client = relay.client
        if client is None:
            return
        client.write(data)
        relay.traffic.to_client += len(data)
        if relay.line is not None:
            relay.line.backend(data)

    def eof_received(self) -> bool:
        self._relay.server_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.server_lost()

    def pause_writing(self) -> None:
        client = self._relay.client
        if client is not None and not client.is_closing():
            client.pause_reading()

    def resume_writing(self) -> None:
        client = self._relay.client
        if client is not None and not client.is_closing():
            client.resume_reading()
