"""TLS on either side of the relay: who is believed, what is shown, and the one thing that is ever changed in the bytes.

Channel binding is why TLS and SCRAM need care between two parties: the client hashes the certificate that it saw. So
the server's certificate must reach it unchanged (the same certificate and key on both legs, or TLS passed through), or
else `SCRAM-SHA-256-PLUS` must not be offered to a client that speaks plain; a client that speaks TLS takes a missing
offer for an attack.
Source: RFC 5929 (`tls-server-end-point`), RFC 5802; PostgreSQL, "SASL Authentication", "SSL Session Encryption", and
"SSL Support" of libpq.
"""

from __future__ import annotations

import hashlib
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import OWN_ROOT, Address, SslMode, UpstreamTls

ALPN: Final = "postgresql"
HANDSHAKE: Final = b"\x16"
SYSTEM: Final = "system"
PLUS: Final = b"SCRAM-SHA-256-PLUS\0"
MAX_OFFER: Final = 10_000


class ServerCertificate:
    """What clients are shown; `reload` takes new files for connections to come."""

    def __init__(self, cert: str, key: str) -> None:
        self._cert, self._key = cert, key
        self.context, self.fingerprint = self._load()

    def differs_from(self, certificate: str) -> bool:
        """True for the fingerprint of another certificate; none (no TLS) is no other."""
        return certificate not in ("", self.fingerprint)

    def reload(self) -> None:
        """Read the files again. Raises UsageError and keeps what it had if they cannot be used."""
        self.context, self.fingerprint = self._load()

    def _load(self) -> tuple[ssl.SSLContext, str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([ALPN])
        try:
            # A callback, so that a key with a passphrase is an error and not a question on the terminal.
            context.load_cert_chain(self._cert, self._key or None, password=lambda: "")
            pem = Path(self._cert).read_text(encoding="ascii")
            end = "-----END CERTIFICATE-----"
            first = pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index(end) + len(end)]
            return context, fingerprint(ssl.PEM_cert_to_DER_cert(first))
        except OSError as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else error.reason or str(error)
            raise UsageError(
                f"--tls-cert {self._cert} --tls-key {self._key or self._cert}: {reason}; "
                "both must be PEM files that belong together, the key without a passphrase"
            ) from error
        except ValueError as error:
            raise UsageError(f"--tls-cert {self._cert}: no PEM certificate in it") from error


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(certificate).hexdigest()


def mode_for(tls: UpstreamTls, address: Address) -> SslMode:
    """The sslmode for one address: never TLS on a unix socket, plain on this machine, else verify-full, unless said."""
    if address.path:
        return "disable"
    if tls.mode:
        return tls.mode
    return "disable" if address.is_local else "verify-full"


def needed(tls: UpstreamTls, address: Address) -> SslMode:
    """`mode_for` where it is TLS, else empty."""
    mode = mode_for(tls, address)
    return "" if mode == "disable" else mode


@lru_cache(16)
def client_context(tls: UpstreamTls, mode: SslMode) -> ssl.SSLContext:
    """How the server is verified: as libpq does for this sslmode. Raises UsageError for files that cannot be used.

    The authorities of a system are many, and take tens of milliseconds to read: a context serves all connections, until
    `client_context.cache_clear()`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    own = Path(OWN_ROOT).expanduser()
    root = tls.root_cert or (str(own) if own.exists() else "")
    # With a root certificate at hand, libpq's `require` verifies the chain too.
    verify = mode in ("verify-ca", "verify-full") or (mode == "require" and root not in ("", SYSTEM))
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    try:
        if verify and root in ("", SYSTEM):
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        elif verify:
            context.load_verify_locations(root)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key or None, password=lambda: tls.key_password)
    except OSError as error:
        what = f"sslrootcert={root} sslcert={tls.cert} sslkey={tls.key}"
        raise UsageError(f"{what}: {error.strerror or error}") from error
    return context


def words(error: BaseException) -> str:
    """What went wrong in a handshake, for people."""
    return str(getattr(error, "reason", None) or error or "the client left")


class SaslOffer:
    """Takes SCRAM-SHA-256-PLUS out of AuthenticationSASL, for a client that sees no certificate.

    `filter` is given what the server sends up to its first answer to the login; `done` says that the rest can go
    unread.
    """

    def __init__(self) -> None:
        self.done = False
        self._buffer = b""

    def filter(self, chunk: bytes) -> bytes:
        """What to send on in place of `chunk`."""
        buffer = self._buffer + chunk
        out = bytearray()
        position = 0
        while not self.done and len(buffer) - position >= 5:
            size = 1 + int.from_bytes(buffer[position + 1 : position + 5], "big")
            kind = buffer[position : position + 1]
            # NegotiateProtocolVersion and notices may come first; anything else ends the wait.
            if kind not in b"RvN" or not 5 <= size <= MAX_OFFER:
                self.done = True
            elif len(buffer) - position < size:
                break
            else:
                frame = buffer[position : position + size]
                position += size
                self.done = kind == b"R"
                out += _without_plus(frame) if self.done else frame
        self._buffer = buffer[position:]
        return bytes(out + self.rest() if self.done else out)

    def rest(self) -> bytes:
        """The beginning of a frame whose end did not come."""
        rest, self._buffer = self._buffer, b""
        return rest


def _without_plus(frame: bytes) -> bytes:
    if frame[5:9] != (10).to_bytes(4, "big"):
        return frame
    body = b"".join(name + b"\0" for name in frame[9:-2].split(b"\0") if name + b"\0" != PLUS)
    if not body:
        return frame
    return b"R" + (4 + 4 + len(body) + 1).to_bytes(4, "big") + frame[5:9] + body + b"\0"
