"""One direction of the frame scanner in Python, and what it keeps of a long row: the short values of its first columns.

Enters: chunks, at the place where a row goes on. Leaves: in `part` the frame with the values that are kept, of the
others only that they were there. Nothing is held of a long value, however many chunks it comes in.
Source: PostgreSQL, "Message Formats: DataRow"; "COPY: Binary Format", whose rows look alike.
"""

from __future__ import annotations

import struct
from typing import Final

COLUMNS: Final = 32
SHORT: Final = 64
OMITTED: Final = -2
"""In the place of the length of a value that is longer: NULL is -1."""

_I2 = struct.Struct("!H")
_I4 = struct.Struct("!i")


class Side:
    """One direction: the beginning of a frame whose rest has not come, and how much of one is still to be skipped.

    In a long row `part` is what is kept of it, and to be `want` bytes; so many `columns` are still to come (-1 while
    that is not known), and `left` bytes beside those wanted or to be skipped. `want` is 0 elsewhere.
    """

    __slots__ = ("columns", "left", "part", "skip", "want")

    def __init__(self) -> None:
        self.part = bytearray()
        self.skip = self.want = self.left = self.columns = 0

    def forget(self) -> None:
        """Be between frames."""
        self.part.clear()
        self.skip = self.want = 0

    def begin_row(self, size: int, lead: int) -> None:
        """`part` is the head of a long row's frame, whose count of columns comes behind `lead` bytes."""
        self.want = 5 + lead + 2 + 4
        self.left = size + 1 - self.want
        self.columns = -1

    def long_row(self, chunk: bytes, position: int) -> tuple[int, bool]:
        """Go on with a long row: how far the chunk is read, and whether all that is kept is there."""
        part, total = self.part, len(chunk)
        while True:
            taken = min(self.skip, total - position)
            self.skip -= taken
            position += taken
            if self.skip:
                return position, False
            taken = min(self.want - len(part), total - position)
            part += chunk[position : position + taken]
            position += taken
            if len(part) < self.want:
                return position, False
            if self.columns < 0:
                self.columns = min(COLUMNS, _I2.unpack_from(part, self.want - 6)[0])
            if not self.columns:
                break
            value = max(0, _I4.unpack_from(part, self.want - 4)[0])
            if value > SHORT:
                _I4.pack_into(part, self.want - 4, OMITTED)
                self.skip = min(value, self.left)
                self.left -= self.skip
                value = 0
            self.columns -= 1
            more = value + (4 if self.columns else 0)
            if not more or more > self.left:
                break
            self.left -= more
            self.want += more
        self.skip += self.left
        self.want = 0
        return position, True
