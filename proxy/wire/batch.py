"""The records that the tap sends to the profiler, packed.

A batch is a run of records, each a header (`kind` u8, `connection` u32, `at_ns` u64, `size` u32, big endian) and a
body:

    OPENED      JSON `control.Opened`: a client connected, or (after a restart of the profiler) was found connected
    STARTUP     the StartupMessage as sent, length word included
    FRONTEND    trimmed frames from the client
    BACKEND     trimmed frames from the server
    STALLED     u64: nanoseconds in which the client did not read, up to `at_ns`
    STATEMENT   a Parse frame of a named statement that was live before the profiler started or before a gap
    GAP         JSON `control.ShedGap`: what was shed; the connection is quiescent and in sync from here on. It also
                says the transaction status of the last ReadyForQuery
    OPAQUE      a word: why the connection is not looked at any longer
    CLOSED      JSON `control.Closed`

Trimmed frames are whole protocol frames (type byte, u32 length that counts itself, body) with two frame types of ours:

    COUNTED     0x01: `type` u8, `frames` u32, `bytes` u64 (headers included): so many frames of that type stood here
    PREFIX      0x02: `type` u8, `length` u32 as on the wire, then the first bytes of the body: the rest was not kept

A FRONTEND or BACKEND record never ends inside a frame. `p` frames never occur; `R` keeps its code only and `K` its
process id only. Of SQL 256 KiB are kept, of others 64 KiB. CopyData of a client is always COUNTED; of a result, and of
what the server copies, the first rows pass, up to 32 KiB, and the others are COUNTED. A long DataRow, or CopyData of a
binary COPY, is a PREFIX: of its first 32 columns, with -2 in the place of the length of a value over 64 bytes, which is
left out. `at_ns` is when the chunk that ended the frames was read.
"""

from __future__ import annotations

import struct
from typing import Final

from mypy_extensions import i64

OPENED: Final = 1
STARTUP: Final = 2
FRONTEND: Final = 3
BACKEND: Final = 4
STALLED: Final = 5
STATEMENT: Final = 6
GAP: Final = 7
OPAQUE: Final = 8
CLOSED: Final = 9

COUNTED: Final = 0x01
PREFIX: Final = 0x02

HEADER: Final = struct.Struct("!BIQI")
COUNTED_BODY: Final = struct.Struct("!BIQ")
PREFIX_HEAD: Final = struct.Struct("!BI")


def pack(kind: int, connection: int, at_ns: int, body: bytes) -> bytes:
    """One record."""
    return HEADER.pack(kind, connection, at_ns, len(body)) + body


def unpack(batch: bytes) -> list[tuple[int, int, int, bytes]]:
    """The records of a batch as (kind, connection, at_ns, body)."""
    records: list[tuple[int, int, int, bytes]] = []
    position: i64 = 0
    end: i64 = len(batch)
    while position < end:
        # HEADER, field by field.
        at_ns = (word(batch, position + 5) << 32) | word(batch, position + 9)
        start = position + 17
        following = start + word(batch, position + 13)
        records.append((batch[position], word(batch, position + 1), at_ns, batch[start:following]))
        position = following
    return records


def first_ns(batch: bytes) -> int:
    """The time of the first record."""
    return int((word(batch, 5) << 32) | word(batch, 9))


def word(data: bytes, at: i64) -> i64:
    """The four bytes at a place as a number without a sign: compiled, a load where a Struct is a call."""
    high: i64 = data[at]
    second: i64 = data[at + 1]
    third: i64 = data[at + 2]
    low: i64 = data[at + 3]
    return (high << 24) | (second << 16) | (third << 8) | low
