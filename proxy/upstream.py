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
from collections.abc import Callable, Collection
from typing import Final, cast

from msgspec import Struct

from pgtattle.proxy import tls
from pgtattle.proxy.errors import UpstreamUnreachable, UsageError
from pgtattle.proxy.settings import Address, SslMode, Upstream
from pgtattle.proxy.wire.startup import SSL_REQUEST

KEEPALIVE_SECONDS: Final = 30
CANCEL_SECONDS: Final = 10.0
REQUEST: Final = (8).to_bytes(4, "big") + SSL_REQUEST.to_bytes(4, "big")

Factory = Callable[[], asyncio.Protocol]


class Endpoint(Struct, frozen=True):
    """Exactly one server: a host's `address` as it was given, and what its name meant (a path stands for itself)."""

    address: Address
    target: tuple[str, int] | str


class Leg(Struct, frozen=True):
    """A connection to the server; `certificate` is the fingerprint of the one it showed, empty without TLS."""

    transport: asyncio.Transport
    endpoint: Endpoint
    certificate: str = ""


async def connect(upstream: Upstream, factory: Factory, *, raw: bool = False) -> Leg:
    """Connect to the first address that answers. `raw`: the client speaks TLS to the server itself.

    The protocol's `connection_made` is not called. Raises UpstreamUnreachable, naming every address and its reason.
    """
    failures: list[str] = []
    for address in upstream.addresses:
        try:
            endpoints = await _resolve(address, upstream.connect_seconds)
        except (OSError, UnicodeError) as error:
            failures.append(f"{address}: {_words(error)}")
            continue
        for endpoint in endpoints:
            try:
                return await _reach(upstream, endpoint, factory, raw=raw)
            except UpstreamUnreachable as error:
                failures.append(str(error))
    raise UpstreamUnreachable(f"cannot reach PostgreSQL at {'; '.join(dict.fromkeys(failures))}")


async def cancel(upstream: Upstream, endpoints: Collection[Endpoint], packet: bytes) -> None:
    """Send a CancelRequest to where its session is, and return when the server has closed: only then the client may go
    on.

    Without `endpoints` the session is another proxy's, and all hosts are told; a server ignores a key that is not its
    own. Raises UpstreamUnreachable when nobody could be told.
    """

    async def tell(endpoint: Endpoint) -> None:
        ended = asyncio.Event()
        leg = await _reach(upstream, endpoint, lambda: _Cancel(ended))
        leg.transport.write(packet)
        try:
            await ended.wait()
        finally:
            leg.transport.abort()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            found = await asyncio.gather(*map(tell, endpoints or await _all(upstream)), return_exceptions=True)
            failures = [one for one in found if isinstance(one, Exception)]
            if failures and len(failures) == len(found):
                raise failures[0]


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Notice a peer that is gone without a word, within a minute or so."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    # A peer that was gone before it was accepted has no options any more.
    with contextlib.suppress(OSError):
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


async def _resolve(address: Address, seconds: float) -> list[Endpoint]:
    """Every server behind a host's name."""
    if address.path:
        return [Endpoint(address, address.path)]
    async with asyncio.timeout(seconds):
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [Endpoint(address, target) for target in dict.fromkeys((str(one[0]), int(one[1])) for *_, one in found)]


async def _all(upstream: Upstream) -> list[Endpoint]:
    """Every server behind every name that is known now."""
    found = await asyncio.gather(
        *(_resolve(address, upstream.connect_seconds) for address in upstream.addresses), return_exceptions=True
    )
    return [endpoint for endpoints in found if not isinstance(endpoints, BaseException) for endpoint in endpoints]


async def _reach(upstream: Upstream, endpoint: Endpoint, factory: Factory, *, raw: bool = False) -> Leg:
    """Connect to one server, encrypted as it should be. Raises UpstreamUnreachable."""
    address = endpoint.address
    mode: SslMode = "disable" if raw else tls.mode_for(upstream.tls, address)
    try:
        async with asyncio.timeout(upstream.connect_seconds):
            return await _open(upstream, endpoint, mode, factory)
    except TimeoutError:
        reason = f"no answer within {upstream.connect_seconds:.0f} s"
    except _Refused as refused:
        reason = str(refused)
    except ssl.SSLCertVerificationError as error:
        reason = (
            f"its certificate is not trusted for sslmode={mode} ({error.verify_message}); name "
            "the authority with sslrootcert=FILE in --upstream, or choose another sslmode"
        )
    except ssl.SSLError as error:
        reason = f"TLS failed ({error.reason or error})"
    except UsageError as error:
        reason = str(error)
    except OSError as error:
        reason = _words(error)
    raise UpstreamUnreachable(f"{address}: {reason}")


async def _open(upstream: Upstream, endpoint: Endpoint, mode: SslMode, factory: Factory) -> Leg:
    loop = asyncio.get_running_loop()
    if isinstance(endpoint.target, str):
        transport, _ = await loop.create_unix_connection(factory, endpoint.target)
        return Leg(transport, endpoint)
    host, port = endpoint.target
    if mode == "disable":
        transport, _ = await loop.create_connection(factory, host, port)
        return Leg(transport, endpoint)
    context = tls.client_context(upstream.tls, mode)
    name = endpoint.address.name or endpoint.address.host
    if upstream.tls.direct:
        transport, _ = await loop.create_connection(factory, host, port, ssl=context, server_hostname=name)
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != tls.ALPN:
            transport.abort()
            raise _Refused("it did not agree to PostgreSQL over direct TLS; leave sslnegotiation=direct out")
        return Leg(transport, endpoint, _shown(transport))
    plain, negotiation = await loop.create_connection(_Negotiation, host, port)
    try:
        answer = await negotiation.answer
        if answer == b"N" and mode == "prefer":
            leg = factory()
            plain.set_protocol(leg)
            plain.resume_reading()
            return Leg(plain, endpoint)
        if answer == b"N":
            raise _Refused(f"it does not speak TLS, but sslmode={mode} asks for it; sslmode=disable would do without")
        if answer != b"S":
            # Whatever came with the answer was not protected: it is neither used nor shown.
            raise _Refused("it did not answer the request for TLS as PostgreSQL does")
        leg = factory()
        secured = await loop.start_tls(plain, leg, context, server_hostname=name)
        if secured is None or secured.is_closing():
            raise ConnectionResetError("it closed the connection during the TLS handshake")
        return Leg(secured, endpoint, _shown(secured))
    except BaseException:
        plain.abort()
        raise


def _shown(transport: asyncio.Transport) -> str:
    certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return tls.fingerprint(certificate) if certificate else ""


def _words(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is no name of a host"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error) or "no answer in time"
