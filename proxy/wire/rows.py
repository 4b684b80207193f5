"""Rows of a result in, keyed hashes of their values out: enough to tell whether a later value came from here.

Enters: a RowDescription and DataRows, or the CopyData of a COPY TO STDOUT, as the frame scanner let them pass. Leaves:
a `Sample`, by column, never a value. The hash is Python's own (SipHash with a key that is random for each process); the
supervisor sees to it that the key is random.
Source: PostgreSQL, "Message Formats", "COPY: File Formats"; Aumasson and Bernstein, "SipHash", 2012.
"""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from typing import Final, NamedTuple

from pgtattle.proxy.wire.encodings import UTF8, Codec
from pgtattle.proxy.wire.values import parameter

MAX_ROWS: Final = 1_000
MAX_COLUMNS: Final = 32
MAX_DESCRIPTION: Final = 4_096
"""Bytes of a RowDescription that are kept: more than its first columns take."""
MAX_LENGTH: Final = 64
"""Longer values feed no loop."""

_SKIPPED: Final = frozenset((16, 17, 114, 142, 700, 701, 790, 3802))
"""bool, bytea, json, xml, float4, float8, money, jsonb: nobody looks rows up by these."""
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_EXTENSION: Final = len(_SIGNATURE) + 4
_BY_LENGTH: Final = {2: 21, 4: 23, 8: 20, 16: 2950}
"""int2, int4, int8, uuid: how long their binary values are."""
_FIELD = struct.Struct("!IhIhih")
_u2 = struct.Struct("!H").unpack_from
_i4 = struct.Struct("!i").unpack_from


class Field(NamedTuple):
    """A column as RowDescription tells it; `table` and `attribute` are 0 for an expression."""

    name: str
    table: int
    attribute: int
    type: int
    binary: bool


class Column:
    """The hashes of one column's values, in the order of the rows; NULL and what is too long is 0."""

    __slots__ = ("_distinct", "field", "hashes")

    def __init__(self, field: Field) -> None:
        self.field = field
        self.hashes = array("q")
        self._distinct: frozenset[int] | None = None

    @property
    def distinct(self) -> frozenset[int]:
        """The different ones that stand for a value; once all are there."""
        if self._distinct is None:
            self._distinct = frozenset(self.hashes) - {0}
        return self._distinct


class Sample:
    """The first rows of a result, by column; `complete` where there were no others.

    `digest` is a keyed hash of the whole rows, 0 where anything of the result is missing.
    """

    __slots__ = ("columns", "complete", "digest", "rows")

    def __init__(self, columns: list[Column], rows: int, complete: bool, digest: int = 0) -> None:
        self.columns = columns
        self.rows = rows
        self.complete = complete
        self.digest = digest

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        return 500 + len(self.columns) * (200 + 8 * self.rows)


def hashed(value: str) -> int:
    """The hash that stands for a value; never 0."""
    try:
        return hash(value.encode("utf-8", "surrogateescape")) or 1
    except UnicodeEncodeError:
        return hash(value.encode("utf-8", "replace")) or 1


@lru_cache(1024)
def fields(description: bytes) -> tuple[Field, ...]:
    """RowDescription: its first columns, as far as they are there; it may be cut."""
    found: list[Field] = []
    position = 2
    while position < len(description) and len(found) < MAX_COLUMNS:
        end = description.find(0, position)
        if end < 0 or end + 1 + _FIELD.size > len(description):
            break
        table, attribute, type_, _, _, form = _FIELD.unpack_from(description, end + 1)
        name = description[position:end].decode("utf-8", "replace")
        found.append(Field(name, table, attribute, type_, form == 1))
        position = end + 1 + _FIELD.size
    return tuple(found)


def sample(
    description: bytes, formats: tuple[int, ...], rows: list[bytes], total: int, cut: bool, codec: Codec
) -> Sample | None:
    """The sample of `rows`, the first of so many; None where no column is described.

    A Bind may have set their formats. `cut`: long values are missing.
    """
    described = fields(description)
    binary = [
        field.binary if not formats else formats[number if len(formats) > 1 else 0] == 1
        for number, field in enumerate(described)
    ]
    columns = [None if field.type in _SKIPPED else Column(field) for field in described]
    kept = [column for column in columns if column is not None]
    if not described:
        return None
    plain = codec is UTF8
    for row in rows:
        position = 2
        for number in range(min(len(columns), _u2(row, 0)[0])):
            size: int = _i4(row, position)[0]
            position += 4
            column = columns[number]
            if size < 0 or column is None or size > MAX_LENGTH:
                found = 0
            else:
                raw = row[position : position + size]
                if binary[number] or not plain:
                    found = hashed(parameter(column.field.type, binary[number], raw, codec).value or "")
                else:
                    found = hash(raw) or 1
            if column is not None:
                column.hashes.append(found)
            position += max(0, size)
        if position > len(row):
            raise ValueError("a row ends before its values")
    complete = len(rows) == total
    return Sample(kept, len(rows), complete, hash(tuple(rows)) if complete and not cut else 0)


def copied(names: list[str], binary: bool, messages: list[bytes], total: int, codec: Codec) -> Sample | None:
    """The sample of a COPY TO STDOUT, of so many messages, one for each row; None where none came.

    A column without a name is called by its number.
    """
    rows = [_binary_row(one) if binary else _text_row(one) for one in messages]
    rows = [row for row in rows if row]
    if not rows:
        return None
    columns = [
        Column(Field((names[number : number + 1] or [""])[0] or f"column {number + 1}", 0, 0, 0, binary))
        for number in range(min(MAX_COLUMNS, len(rows[0])))
    ]
    for row in rows:
        for number, column in enumerate(columns):
            raw = row[number] if number < len(row) else None
            if raw is None or len(raw) > MAX_LENGTH:
                column.hashes.append(0)
            else:
                known = _likely_type(raw) if binary else 0
                column.hashes.append(hashed(parameter(known, known != 0, raw, codec).value or ""))
    return Sample(columns, len(rows), len(messages) == total)


def _binary_row(message: bytes) -> list[bytes | None]:
    """The first values of a row of a binary COPY; of the message that ends it none."""
    position = 0
    if message.startswith(_SIGNATURE) and len(message) >= _EXTENSION + 4:
        position = _EXTENSION + 4 + max(0, _i4(message, _EXTENSION)[0])
    if len(message) < position + 2 or message[position] & 0x80:
        return []
    count = _u2(message, position)[0]
    position += 2
    values: list[bytes | None] = []
    while len(values) < min(count, MAX_COLUMNS) and position + 4 <= len(message):
        size: int = _i4(message, position)[0]
        position += 4
        values.append(message[position : position + size] if size >= 0 else None)
        position += max(0, size)
    return values


def _likely_type(raw: bytes) -> int:
    """What a binary value is taken for where no one says its type; 0 is text."""
    try:
        if raw.decode().isprintable():
            return 0
    except UnicodeDecodeError:
        pass
    return _BY_LENGTH.get(len(raw), 0)


def _text_row(message: bytes) -> list[bytes | None]:
    """The first values of a row of a COPY in text; one with escapes feeds no loop."""
    values = message.rstrip(b"\r\n").split(b"\t", MAX_COLUMNS)[:MAX_COLUMNS]
    return [None if b"\\" in value else value for value in values]
