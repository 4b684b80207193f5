"""The frame scanner: chunks of one direction in, trimmed frames out (the format is `batch`'s).

It finds exact frame boundaries, whatever the chunks. Small frames pass whole, long ones keep a prefix, rows and copy
data are counted, passwords are dropped. It decodes nothing: a `Watch` is told of the few frames that the tap must know.
Source: PostgreSQL, "Message Formats"; the length limits are those of the server (`src/include/libpq/libpq.h`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.wire.batch import COUNTED, COUNTED_BODY, PREFIX, PREFIX_HEAD

MAX_FRAME: Final = 0x40000000
KEPT: Final = 65_536
"""A frame of up to this many bytes passes whole; of a longer one this many are kept."""

_DROP: Final = -1
_COUNT: Final = -2

_LENGTH = struct.Struct("!I")
_HEAD = struct.Struct("!BI")


def _table(
    whole: bytes, count: bytes = b"", drop: bytes = b"", prefix: tuple[tuple[bytes, int], ...] = ()
) -> list[int | None]:
    """What to keep of a frame's body, by type byte: bytes, or `_COUNT`, `_DROP`; None is no known type."""
    table: list[int | None] = [None] * 256
    for kind in whole:
        table[kind] = KEPT
    for kind in count:
        table[kind] = _COUNT
    for kind in drop:
        table[kind] = _DROP
    for kinds, size in prefix:
        for kind in kinds:
            table[kind] = size
    return table


FRONTEND_TYPES: Final = _table(b"QPBDECSHcfX", count=b"d", drop=b"p", prefix=((b"F", 0),))
BACKEND_TYPES: Final = _table(b"CIEZTtn123sGHWSNAvc", count=b"Dd", prefix=((b"RK", 4), (b"V", 0)))


Watch = Callable[[int, bytes, int, int], None]
"""Called with (type, data, start, end) of a frame as it passes; its body, maybe cut, is `data[start:end]`."""


class Scanner:
    """One direction of one connection."""

    __slots__ = ("_head", "_skip", "_types", "_watch", "_watched")

    def __init__(self, types: list[int | None], watched: bytes, watch: Watch) -> None:
        self._types = types
        self._watch = watch
        self._watched = frozenset(watched)
        self._head = b""
        self._skip = 0

    def scan(self, chunk: bytes) -> bytes:
        """The trimmed frames that are complete with `chunk`. Raises ProtocolViolation where no frame can be."""
        if self._skip:
            if self._skip >= len(chunk):
                self._skip -= len(chunk)
                return b""
            chunk = chunk[self._skip :]
            self._skip = 0
        if self._head:
            chunk = self._head + chunk
            self._head = b""
        types, watched = self._types, self._watched
        unpack = _HEAD.unpack_from
        out: list[bytes] = []
        run = position = 0
        total = len(chunk)
        while total - position >= 5:
            kind, size = unpack(chunk, position)
            keep = types[kind]
            if keep is None:
                raise ProtocolViolation("unknown_type", f"frame type {kind:#04x}")
            if not 4 <= size <= MAX_FRAME:
                raise ProtocolViolation("bad_length", f"frame of {size} bytes")
            end = position + 1 + size
            if keep >= size - 4:
                if end > total:
                    break
                if kind in watched:
                    self._watch(kind, chunk, position + 5, end)
                position = end
                continue
            if keep >= 0 and total - position < 5 + keep:
                break
            if position > run:
                out.append(chunk[run:position])
            if keep == _COUNT:
                first, frames = position, 1
                while total - end >= 5 and chunk[end] == kind:
                    size = _LENGTH.unpack_from(chunk, end + 1)[0]
                    if not 4 <= size <= MAX_FRAME:
                        break
                    end += 1 + size
                    frames += 1
                out.append(_HEAD.pack(COUNTED, 4 + COUNTED_BODY.size) + COUNTED_BODY.pack(kind, frames, end - first))
            elif keep >= 0:
                body = chunk[position + 5 : position + 5 + keep]
                if kind in watched:
                    self._watch(kind, body, 0, keep)
                out.append(_HEAD.pack(PREFIX, 4 + PREFIX_HEAD.size + keep) + PREFIX_HEAD.pack(kind, size) + body)
            position = run = end
        if position > total:
            self._skip = position - total
        elif position < total:
            self._head = chunk[position:]
        if not out and run == 0 and position == total:
            return chunk
        if position > run:
            out.append(chunk[run:position])
        return b"".join(out)
