"""The bodies of the messages that the decoder reads, as plain values.

Source: PostgreSQL, "Message Formats". Counts of parameters are unsigned 16 bit. Every function raises ValueError,
IndexError or struct.error for bytes that are no such message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from pgtattle.proxy.events import Parameter
from pgtattle.proxy.wire.encodings import Codec
from pgtattle.proxy.wire.values import parameter

_u2 = struct.Struct("!H").unpack_from
_i4 = struct.Struct("!i").unpack_from

# Requests, by their type byte.
BIND: Final = 0x42  # B
CLOSE: Final = 0x43  # C
DESCRIBE: Final = 0x44  # D
EXECUTE: Final = 0x45  # E
FUNCTION: Final = 0x46  # F
PARSE: Final = 0x50  # P
QUERY: Final = 0x51  # Q
SYNC: Final = 0x53  # S
COPY_DONE: Final = 0x63  # c
COPY_FAIL: Final = 0x66  # f

# Answers.
PARSED: Final = 0x31  # 1
BOUND: Final = 0x32  # 2
CLOSED: Final = 0x33  # 3
COMPLETE: Final = 0x43  # C
ROW: Final = 0x44  # D
ERROR: Final = 0x45  # E
COPY_IN: Final = 0x47  # G
COPY_OUT: Final = 0x48  # H
EMPTY: Final = 0x49  # I
KEY: Final = 0x4B  # K
AUTHENTICATION: Final = 0x52  # R
STATUS: Final = 0x53  # S
ROWS: Final = 0x54  # T
READY: Final = 0x5A  # Z
NO_DATA: Final = 0x6E  # n
SUSPENDED: Final = 0x73  # s
TYPES: Final = 0x74  # t
COPY_DATA: Final = 0x64  # d


def string(body: bytes, position: int) -> tuple[bytes, int]:
    """A zero-terminated string and the position behind it."""
    end = body.index(b"\0", position)
    return body[position:end], end + 1


def parse(body: bytes, whole: bool) -> tuple[bytes, bytes, tuple[int, ...]]:
    """Parse: statement name, SQL, parameter type OIDs; of a cut message what is there."""
    name, position = string(body, 0)
    if not whole and body.find(b"\0", position) < 0:
        return name, body[position:], ()
    sql, position = string(body, position)
    if len(body) < position + 2:
        return name, sql, ()
    count = _u2(body, position)[0]
    if len(body) < position + 2 + 4 * count:
        return name, sql, ()
    return name, sql, struct.unpack_from(f"!{count}I", body, position + 2)


def bind_names(body: bytes) -> tuple[bytes, bytes, int]:
    """Bind: portal, statement, and the position of the parameter formats."""
    end = body.index(b"\0")
    after = body.index(b"\0", end + 1)
    return body[:end], body[end + 1 : after], after + 1


def bind_parameters(
    body: bytes, position: int, types: tuple[int, ...], codec: Codec, decode: Callable[..., Parameter] = parameter
) -> tuple[tuple[Parameter, ...], int]:
    """Bind: the parameters that are there whole, decoded by `types` (0 where a type is not known).

    And the position of the result formats; 0 where the message was cut before them.
    """
    end = len(body)
    count = _u2(body, position)[0]
    position += 2
    if end < position + 2 * count + 2:
        return (), 0
    formats = struct.unpack_from(f"!{count}H", body, position) if count else ()
    position += 2 * count
    total = _u2(body, position)[0]
    position += 2
    known = len(types)
    found: list[Parameter] = []
    for number in range(total):
        if position + 4 > end:
            return tuple(found), 0
        size = _i4(body, position)[0]
        position += 4
        raw = None
        if size >= 0:
            if position + size > end:
                return tuple(found), 0
            raw = body[position : position + size]
            position += size
        binary = bool(formats[number] if count > 1 else formats[0]) if count else False
        found.append(decode(types[number] if number < known else 0, binary, raw, codec))
    return tuple(found), position


def result_formats(body: bytes, position: int) -> tuple[int, ...]:
    """Bind: the formats that it asks for, at `position`: one for all columns or one each; none where it was cut."""
    if not position or len(body) < position + 2:
        return ()
    count = _u2(body, position)[0]
    if len(body) < position + 2 + 2 * count:
        return ()
    return struct.unpack_from(f"!{count}H", body, position + 2) if count else (0,)


def parameter_types(body: bytes) -> tuple[int, ...]:
    """ParameterDescription: the types that are there."""
    count = min(_u2(body, 0)[0], (len(body) - 2) // 4)
    return struct.unpack_from(f"!{count}I", body, 2)


def sqlstate(body: bytes) -> str:
    """The SQLSTATE of an ErrorResponse; `XX000` where it has none."""
    for field in body.split(b"\0"):
        if field[:1] == b"C":
            return field[1:6].decode("ascii", "replace")
    return "XX000"


@lru_cache(1024)
def command_tag(body: bytes) -> tuple[str, int | None]:
    """CommandComplete: the tag, and the number of rows that it says; None where it says none."""
    tag = body[:-1].decode("utf-8", "replace")
    last = tag.rpartition(" ")[2]
    return tag, int(last) if last.isdecimal() else None
