"""The packets before a session: they have no type byte, and decide what a connection is. And the two that end one.

Source: PostgreSQL, "Message Formats" (StartupMessage, CancelRequest, SSLRequest, GSSENCRequest) and
`src/include/libpq/pqcomm.h` (MAX_STARTUP_PACKET_LENGTH).
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final

from pgtattle.proxy.errors import ProtocolViolation

MAX_STARTUP_PACKET: Final = 10_000
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
TERMINATE: Final = b"X\0\0\0\4"

_HEAD = struct.Struct("!iI")


class Opening(Enum):
    """What a client wants."""

    SESSION = "session"
    CANCEL = "cancel"
    SSL = "tls"
    GSSENC = "gss"
    DIRECT_TLS = "direct_tls"


def first_packet(data: bytes | bytearray) -> tuple[Opening, int] | None:
    """The first packet in `data` and its size in bytes (0 for TLS without a request); None while it is not complete.

    Raises ProtocolViolation for a length that PostgreSQL refuses too.
    """
    if data[:1] == b"\x16":
        return Opening.DIRECT_TLS, 0
    if len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if not 8 <= size <= MAX_STARTUP_PACKET:
            raise ProtocolViolation("bad_startup", f"a startup packet of {size} bytes")
    if len(data) < 8:
        return None
    size, code = _HEAD.unpack_from(data)
    if len(data) < size:
        return None
    match code:
        case 80877102:
            return Opening.CANCEL, size
        case 80877103:
            return Opening.SSL, size
        case 80877104:
            return Opening.GSSENC, size
        case _:
            return Opening.SESSION, size


def startup_parameters(packet: bytes) -> dict[str, str]:
    """The parameters of a StartupMessage (length word included)."""
    words = packet[8:].split(b"\0")
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in zip(words[::2], words[1::2], strict=False)
        if name
    }


def is_replication(packet: bytes) -> bool:
    """True for a StartupMessage that asks for the replication protocol."""
    return startup_parameters(packet).get("replication", "").lower() not in ("", "0", "f", "false", "n", "no", "off")


def error_response(severity: str, sqlstate: str, message: str, hint: str = "") -> bytes:
    """An ErrorResponse frame, for refusals before a session exists."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message)]
    if hint:
        fields.append(("H", hint))
    body = b"".join(code.encode() + text.encode() + b"\0" for code, text in fields) + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body
