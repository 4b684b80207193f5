"""Connections to PostgreSQL: hosts in order, names resolved anew, TLS as `sslmode` says, and cancel requests.

Enters: an `Upstream`. Leaves: a transport whose protocol is the caller's, or UpstreamUnreachable in words for people.
Source: PostgreSQL, "SSL Session Encryption"; libpq's `connect_timeout`, `sslmode`, `sslnegotiation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

from msgspec import Struct

from pgtattle.proxy import tls
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.settings import Address, SslMode, Upstream
from pgtattle.proxy.wire.startup import SSL_REQUEST

KEEPALIVE_SECONDS: Final = 30
CANCEL_SECONDS: Final = 10.0
REQUEST: Final = (8).to_bytes(4, "big") + SSL_REQUEST.to_bytes(4, "big")

Factory = Callable[[], asyncio.Protocol]


class Leg(Struct, frozen=True):
    """A connection to the server; `certificate` is the fingerprint of the one it showed, empty without TLS."""

    transport: asyncio.Transport
    address: Address
    certificate: str = ""


async def connect(upstream: Upstream, factory: Factory, *, raw: bool = False) -> Leg:
    """Connect to the first address that answers. `raw`: the client speaks TLS to the server itself.

    The protocol's `connection_made` is not called. Raises UpstreamUnreachable, naming every address and its reason.
    """
    failures: list[str] = []
    for address in upstream.addresses:
        mode: SslMode = "disable" if raw else tls.mode_for(upstream.tls, address)
        try:
            for target in await _resolve(address, upstream.connect_seconds):
                try:
                    async with asyncio.timeout(upstream.connect_seconds):
                        return await _open(upstream, address, target, mode, factory)
                except TimeoutError:
                    failures.append(f"{address}: no answer within {upstream.connect_seconds:.0f} s")
                except _Refused as refused:
                    failures.append(f"{address}: {refused}")
                except ssl.SSLCertVerificationError as error:
                    failures.append(
                        f"{address}: its certificate is not trusted for sslmode={mode} ({error.verify_message}); name "
                        "the authority with sslrootcert=FILE in --upstream, or choose another sslmode"
                    )
                except ssl.SSLError as error:
                    failures.append(f"{address}: TLS failed ({error.reason or error})")
                except OSError as error:
                    failures.append(f"{address}: {_words(error)}")
        except OSError as error:
            failures.append(f"{address}: {_words(error)}")
    raise UpstreamUnreachable(f"cannot reach PostgreSQL at {'; '.join(dict.fromkeys(failures))}")


async def cancel(upstream: Upstream, packet: bytes) -> None:
    """Send a CancelRequest, and return when the server has closed: only then the client may go on.

    With several hosts nobody knows which has the session, so all are told; a server ignores a key that is not its own.
    """

    async def tell(address: Address) -> None:
        ended = asyncio.Event()
        leg = await connect(_only(upstream, address), lambda: _Cancel(ended))
        leg.transport.write(packet)
        try:
            await ended.wait()
        finally:
            leg.transport.abort()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            found = await asyncio.gather(*map(tell, upstream.addresses), return_exceptions=True)
            failures = [one for one in found if isinstance(one, Exception)]
            if len(failures) == len(found):
                raise failures[0]


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Notice a peer that is gone without a word, within a minute or so."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", KEEPALIVE_SECONDS), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Refused(Exception):
    """The server does not do what sslmode asks for."""


class _Cancel(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


class _Negotiation(asyncio.Protocol):
    """Waits for the one byte that answers an SSLRequest."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("it closed the connection at the request for TLS"))


def _only(upstream: Upstream, address: Address) -> Upstream:
    return Upstream(addresses=(address,), dsn=upstream.dsn, tls=upstream.tls, connect_seconds=upstream.connect_seconds)


async def _resolve(address: Address, seconds: float) -> list[tuple[str, int] | str]:
    """Every address of a host; a path stands for itself."""
    if address.path:
        return [address.path]
    async with asyncio.timeout(seconds):
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(target[0]), int(target[1])) for _, _, _, _, target in found))


async def _open(
    upstream: Upstream, address: Address, target: tuple[str, int] | str, mode: SslMode, factory: Factory
) -> Leg:
    loop = asyncio.get_running_loop()
    if isinstance(target, str):
        transport, _ = await loop.create_unix_connection(factory, target)
        return Leg(transport, address)
    host, port = target
    if mode == "disable":
        transport, _ = await loop.create_connection(factory, host, port)
        return Leg(transport, address)
    context = tls.client_context(upstream.tls, mode)
    name = address.host
    if upstream.tls.direct:
        transport, _ = await loop.create_connection(factory, host, port, ssl=context, server_hostname=name)
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != tls.ALPN:
            transport.abort()
            raise _Refused("it did not agree to PostgreSQL over direct TLS; leave sslnegotiation=direct out")
        return Leg(transport, address, _shown(transport))
    plain, negotiation = await loop.create_connection(_Negotiation, host, port)
    try:
        answer = await negotiation.answer
        if answer == b"N" and mode == "prefer":
            leg = factory()
            plain.set_protocol(leg)
            plain.resume_reading()
            return Leg(plain, address)
        if answer == b"N":
            raise _Refused(f"it does not speak TLS, but sslmode={mode} asks for it; sslmode=disable would do without")
        if answer != b"S":
            # Whatever came with the answer was not protected: it is neither used nor shown.
            raise _Refused("it did not answer the request for TLS as PostgreSQL does")
        leg = factory()
        secured = await loop.start_tls(plain, leg, context, server_hostname=name)
        if secured is None:
            raise ConnectionResetError("it closed the connection during the TLS handshake")
        return Leg(secured, address, _shown(secured))
    except BaseException:
        plain.abort()
        raise


def _shown(transport: asyncio.Transport) -> str:
    certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return tls.fingerprint(certificate) if certificate else ""


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error) or "no answer in time"
