"""What comes before a session: who may come in, encrypted or not, and to which server.

Enters: a client's first packets. Leaves: a relay with a server, or a refusal that says what to do. The packets are
forwarded as they came; of TLS only the layer that was asked for here is answered here.
Source: PostgreSQL, "Message Flow: Start-up, SSL Session Encryption, GSSAPI Session Encryption, Canceling Requests".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from pgtattle.proxy import tls
from pgtattle.proxy.errors import ProtocolViolation, UpstreamUnreachable
from pgtattle.proxy.phases import Phase
from pgtattle.proxy.settings import Upstream
from pgtattle.proxy.tap import Line
from pgtattle.proxy.tasks import Tasks
from pgtattle.proxy.upstream import Endpoint, Leg, cancel, connect, keep_alive
from pgtattle.proxy.waiting import TLS_SHUTDOWN_SECONDS
from pgtattle.proxy.wire.startup import Opening, first_packet, startup_parameters

if TYPE_CHECKING:
    from pgtattle.proxy.relay import Relay

ENCRYPTION: Final = (Opening.SSL, Opening.GSSENC, Opening.DIRECT_TLS)
MAX_CANCELS: Final = 64
DECLINED: Final = "the client's wish for TLS was declined: give --tls-cert and --tls-key to take it"
HINT: Final = "pgtattle could not reach PostgreSQL; start it or correct --upstream."


class Refusal(Struct, frozen=True):
    """Why there is no session for a client."""

    sqlstate: str
    message: str


class House(Struct):
    """What all connections of a proxy share at the door."""

    upstream: Upstream
    tasks: Tasks
    line: Callable[[Relay], Line | None]
    """The tap for a relay's session; None in opaque mode."""
    admit: Callable[[Relay], Refusal | None]
    """Takes a session in, or says why no further one can be had."""
    failed: Callable[[], None]
    """Told when no server could be had."""
    certificate: tls.ServerCertificate | None = None
    passthrough: bool = False
    only_tls: str = ""
    """What to set in a client that comes without TLS, where such are not taken."""
    login_seconds: float = 60.0
    cancels: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CANCELS))
    """They are no sessions and count for no limit of these; more than so many at once wait."""
    differs: Callable[[], None] = lambda: None
    """Told when TLS clients see another certificate than the server's."""
    holding: Callable[[int], Collection[Endpoint]] = lambda pid: ()
    """The servers that may have the session of this backend; none when it is not one of ours."""
    connect: Callable[..., Awaitable[Leg]] = connect
    cancel: Callable[..., Awaitable[None]] = cancel


class Doorman:
    """One connection's opening. It lives until the session has a server."""

    __slots__ = ("_asked", "_buffer", "_house", "_task")

    def __init__(self, house: House) -> None:
        self._house = house
        self._buffer = bytearray()
        self._asked: set[Opening] = set()
        self._task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Nobody waits any longer for what is under way for the client."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def arrived(self, relay: Relay) -> None:
        """A client is at the door; it has so long to say what it wants."""
        relay.set_timer(self._house.login_seconds, "login_timeout")

    def secured(self, relay: Relay, encryption: ssl.SSLObject, *, direct: bool) -> None:
        """The client's TLS is up. Without a request before it, it must have said that it speaks PostgreSQL."""
        self._task = None
        self._asked |= set(ENCRYPTION)
        if direct and encryption.selected_alpn_protocol() != tls.ALPN:
            relay.error = "TLS without a request needs the ALPN protocol postgresql"
            relay.abort("tls_failed")

    def take(self, relay: Relay, data: bytes) -> None:
        """Bytes of the client: up to a whole StartupMessage or CancelRequest."""
        self._buffer += data
        if self._task is not None:
            return
        while True:
            try:
                packet = first_packet(self._buffer)
            except ProtocolViolation as violation:
                relay.error = str(violation)
                relay.abort("bad_startup")
                return
            if packet is None:
                return
            opening, size = packet
            if opening in self._asked:
                relay.error = "encryption was asked for twice"
                relay.abort("bad_startup")
                return
            if opening not in ENCRYPTION:
                self._session(relay, opening, size)
                return
            self._asked |= {opening, Opening.DIRECT_TLS}
            if self._encryption(relay, opening, size):
                return

    # -- encryption --------------------------------------------------------------------------------------------------

    def _encryption(self, relay: Relay, opening: Opening, size: int) -> bool:
        """Answer a wish for encryption; True when the rest must wait for what follows from it."""
        house, client = self._house, relay.client
        assert client is not None
        local = relay.peer == "unix"
        if house.passthrough and not local:
            relay.tls = "passthrough"
            refusal = house.admit(relay)
            if refusal is not None:
                relay.error = refusal.message
                relay.close("refused")
                return True
            relay.line = house.line(relay)
            if relay.line is not None:
                relay.line.give_up(opening.value)
            self._open(relay, raw=True, seen=0)
            return True
        if opening is Opening.DIRECT_TLS:
            relay.error = (
                "the client began with TLS; give --tls-cert and --tls-key, or set sslnegotiation=postgres there"
            )
            relay.abort("direct_tls")
            return True
        del self._buffer[:size]
        if opening is Opening.GSSENC or house.certificate is None or local:
            if opening is Opening.SSL:
                relay.error = DECLINED
            client.write(b"N")
            return False
        if self._buffer:
            # Bytes ahead of the handshake were never protected: whoever put them there is not who comes out of it.
            relay.error = "bytes ahead of the TLS handshake"
            relay.abort("bad_startup")
            return True
        client.pause_reading()
        client.write(b"S")
        self._begin(relay, "TLS handshake", self._handshake(relay, house.certificate.context))
        return True

    async def _handshake(self, relay: Relay, context: ssl.SSLContext) -> None:
        client = relay.client
        if client is None:
            return
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                client,
                client.get_protocol(),
                context,
                server_side=True,
                ssl_handshake_timeout=self._house.login_seconds,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except (OSError, EOFError) as error:
            relay.error = f"TLS handshake: {tls.words(error)}"
            relay.abort("tls_failed")
        else:
            if relay.phase is Phase.OPENING and secured is not None and not secured.is_closing():
                relay.secured(secured, direct=False)
                return
            relay.error = relay.error or "TLS handshake: the client left"
        # The transport below a handshake that failed does not tell of its end.
        relay.client_lost()

    # -- a session or a cancel ---------------------------------------------------------------------------------------

    def _session(self, relay: Relay, opening: Opening, size: int) -> None:
        house = self._house
        packet = bytes(self._buffer[:size])
        relay.error = ""
        if opening is Opening.CANCEL:
            pid = int.from_bytes(packet[8:12], "big")
            relay.session = {"cancels": str(pid)}
            relay.cancelling()
            self._begin(relay, "cancel request", self._cancel(relay, packet, pid))
            return
        relay.session = startup_parameters(packet)
        if relay.tls == "off" and house.only_tls and relay.peer != "unix":
            relay.refuse("28000", "pgtattle takes no connection without TLS here", house.only_tls, "plain_refused")
            return
        refusal = house.admit(relay)
        if refusal is not None:
            relay.refuse(refusal.sqlstate, refusal.message, "", "refused")
            return
        relay.line = house.line(relay)
        if relay.line is not None:
            relay.line.startup(packet)
        self._open(relay, raw=False, seen=size)

    def _open(self, relay: Relay, *, raw: bool, seen: int) -> None:
        """Connect a server. Until there is one the client is not read, so that its end is seen after it."""
        assert relay.client is not None
        relay.client.pause_reading()
        relay.connecting()
        self._begin(relay, "connection to the server", self._connect(relay, raw=raw, seen=seen))

    def _begin(self, relay: Relay, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Go on in a task. A mistake in it must not leave the client waiting."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                relay.error = f"{type(error).__name__}: {error}"
                relay.abort("error")
                relay.client_lost()
                raise

        self._task = self._house.tasks.start(name, guarded())

    async def _cancel(self, relay: Relay, packet: bytes, pid: int) -> None:
        if relay.client is not None:
            # Nothing is to follow.
            relay.client.pause_reading()
        try:
            async with self._house.cancels:
                await self._house.cancel(self._house.upstream, self._house.holding(pid), packet)
        except (UpstreamUnreachable, OSError) as error:
            relay.error = str(error)
        relay.close("cancel")

    async def _connect(self, relay: Relay, *, raw: bool, seen: int) -> None:
        house = self._house
        try:
            leg = await house.connect(house.upstream, relay.server_leg, raw=raw)
        except UpstreamUnreachable as error:
            house.failed()
            relay.error = str(error)
            if raw:
                # libpq takes an error in answer to a request for encryption for an attack.
                relay.close("upstream")
            else:
                relay.refuse("57P03", str(error), HINT, "upstream")
            return
        if relay.tls == "on" and house.certificate is not None and house.certificate.differs_from(leg.certificate):
            house.differs()
        keep_alive(leg.transport)
        relay.endpoint = leg.endpoint
        relay.await_login(house.login_seconds)
        hide_binding = bool(leg.certificate) and relay.tls == "off"
        relay.connected(leg.transport, bytes(self._buffer), seen, hide_binding=hide_binding)
        self._buffer.clear()
