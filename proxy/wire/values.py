"""Parameter values as PostgreSQL's text form, from text or binary, by type OID.

A binary value of a type that is not known here becomes `\\x…`, and its bytes are kept; so does text whose encoding is
not known.
Source: the send functions in `src/backend/utils/adt`, OIDs from `pg_type.dat`.
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from ipaddress import ip_address
from typing import Final

from pgtattle.proxy.events import Parameter
from pgtattle.proxy.wire.encodings import UTF8, Codec

MAX_VALUE: Final = 1_000
"""Longer values are cut to so many characters."""

_Decode = Callable[[bytes, Codec], str]

_I2 = struct.Struct("!h")
_I4 = struct.Struct("!i")
_U4 = struct.Struct("!I")
_I8 = struct.Struct("!q")
_F4 = struct.Struct("!f")
_F8 = struct.Struct("!d")
_ARRAY = struct.Struct("!iiI")
_INTERVAL = struct.Struct("!qii")
_NUMERIC = struct.Struct("!HhHH")
_EPOCH: Final = date(2000, 1, 1)
_DAY_US: Final = 86_400_000_000


def parameter(oid: int, binary: bool, raw: bytes | None, codec: Codec = UTF8) -> Parameter:
    """One bound parameter; `raw` None is NULL. Binary text is in the client's encoding, too."""
    if raw is None:
        return Parameter(oid, None)
    if not binary or oid in _TEXTUAL:
        kept = len(raw) <= MAX_VALUE * 4
        text = codec.decode(raw if kept else raw[: MAX_VALUE * 4], kept)
        if text is not None:
            return Parameter(oid, text) if len(raw) <= MAX_VALUE else _cut(oid, text, not kept)
    else:
        decode = _BINARY.get(oid)
        if decode is not None:
            try:
                return _cut(oid, decode(raw, codec))
            except (struct.error, ValueError, IndexError, OverflowError):
                pass
    return Parameter(oid, "\\x" + raw[: MAX_VALUE // 2].hex(), raw[: MAX_VALUE // 2], len(raw) > MAX_VALUE // 2)


def _cut(oid: int, text: str, truncated: bool = False) -> Parameter:
    if len(text) > MAX_VALUE:
        return Parameter(oid, text[:MAX_VALUE], None, True)
    return Parameter(oid, text, None, truncated)


def _text(raw: bytes, codec: Codec) -> str:
    text = codec.decode(raw)
    if text is None:
        raise ValueError("unknown encoding")
    return text


def _bool(raw: bytes, codec: Codec) -> str:
    return "t" if raw == b"\1" else "f"


def _number(layout: struct.Struct) -> _Decode:
    return lambda raw, codec: str(layout.unpack(raw)[0])


def _float(layout: struct.Struct, digits: int, fixed: int) -> _Decode:
    """`digits` are enough to tell all such floats apart; from 10^`fixed` on they are printed with an exponent."""

    def decode(raw: bytes, codec: Codec) -> str:
        value = layout.unpack(raw)[0]
        if not math.isfinite(value):
            return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        if value == 0:
            return "-0" if math.copysign(1, value) < 0 else "0"
        return _shortest(next(t for n in range(digits) if _same(layout, t := f"{value:.{n}e}", raw)), fixed)

    return decode


def _same(layout: struct.Struct, text: str, raw: bytes) -> bool:
    try:
        return layout.pack(float(text)) == raw
    except OverflowError:
        return False


def _shortest(scientific: str, fixed: int) -> str:
    """`d.ddde+xx` as float8out prints it: with an exponent only where the number is very small or large."""
    mantissa, exponent = scientific.split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = int(exponent)
    if not -5 < power < fixed:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02}"
    digits = len(mantissa.replace("-", "").replace(".", ""))
    return f"{float(scientific):.{max(0, digits - 1 - power)}f}"


def _bytea(raw: bytes, codec: Codec) -> str:
    return "\\x" + raw[:MAX_VALUE].hex()


def _uuid(raw: bytes, codec: Codec) -> str:
    return str(uuid.UUID(bytes=raw))


def _date(raw: bytes, codec: Codec) -> str:
    days = _I4.unpack(raw)[0]
    if abs(days) == 0x7FFFFFFF or days == -0x80000000:
        return "infinity" if days > 0 else "-infinity"
    return (_EPOCH + timedelta(days=days)).isoformat()


def _clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def _time(raw: bytes, codec: Codec) -> str:
    return _clock(_I8.unpack(raw)[0])


def _timetz(raw: bytes, codec: Codec) -> str:
    west = _I4.unpack_from(raw, 8)[0]
    return _clock(_I8.unpack_from(raw)[0]) + _offset(-west)


def _offset(seconds: int) -> str:
    sign, seconds = ("-", -seconds) if seconds < 0 else ("+", seconds)
    text = f"{sign}{seconds // 3600:02}"
    if seconds % 3600:
        text += f":{seconds // 60 % 60:02}"
    if seconds % 60:
        text += f":{seconds % 60:02}"
    return text


def _timestamp(raw: bytes, codec: Codec) -> str:
    microseconds = _I8.unpack(raw)[0]
    if microseconds in (0x7FFFFFFFFFFFFFFF, -0x8000000000000000):
        return "infinity" if microseconds > 0 else "-infinity"
    days, rest = divmod(microseconds, _DAY_US)
    return f"{(_EPOCH + timedelta(days=days)).isoformat()} {_clock(rest)}"


def _timestamptz(raw: bytes, codec: Codec) -> str:
    text = _timestamp(raw, codec)
    return text if text.endswith("infinity") else text + "+00"


def _interval(raw: bytes, codec: Codec) -> str:
    microseconds, days, months = _INTERVAL.unpack(raw)
    years, months = int(months / 12), months - int(months / 12) * 12
    words = [f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in ((years, "year"), (months, "mon"), (days, "day")) if n]
    if microseconds or not words:
        words.append(("-" if microseconds < 0 else "") + _clock(abs(microseconds)))
    return " ".join(words)


def _numeric(raw: bytes, codec: Codec) -> str:
    count, weight, sign, scale = _NUMERIC.unpack_from(raw)
    if sign in (0xC000, 0xD000, 0xF000):
        return {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign]
    digits = struct.unpack_from(f"!{count}H", raw, 8)
    whole = "".join(f"{digits[n] if n < count else 0:04}" for n in range(weight + 1)).lstrip("0") or "0"
    places = -(-scale // 4)
    first = weight + 1
    fraction = "".join(f"{digits[n] if 0 <= n < count else 0:04}" for n in range(first, first + places))[:scale]
    return ("-" if sign == 0x4000 else "") + whole + (f".{fraction}" if scale else "")


def _money(raw: bytes, codec: Codec) -> str:
    cents = _I8.unpack(raw)[0]
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"


def _jsonb(raw: bytes, codec: Codec) -> str:
    if raw[:1] != b"\1":
        raise ValueError("unknown jsonb version")
    return _text(raw[1:], codec)


def _inet(raw: bytes, codec: Codec) -> str:
    family, bits, is_cidr, size = raw[0], raw[1], raw[2], raw[3]
    address = ip_address(raw[4 : 4 + size])
    full = 32 if family == 2 else 128
    return f"{address}/{bits}" if is_cidr or bits != full else str(address)


def _macaddr(raw: bytes, codec: Codec) -> str:
    return ":".join(f"{byte:02x}" for byte in raw)


def _array(raw: bytes, codec: Codec) -> str:
    dimensions, _, element = _ARRAY.unpack_from(raw)
    if dimensions == 0:
        return "{}"
    decode = _BINARY.get(element)
    if decode is None:
        raise ValueError("unknown element type")
    sizes = [_I4.unpack_from(raw, 12 + 8 * n)[0] for n in range(dimensions)]
    position = 12 + 8 * dimensions

    def read(depth: int) -> str:
        nonlocal position
        parts = []
        for _ in range(sizes[depth]):
            if depth + 1 < dimensions:
                parts.append(read(depth + 1))
                continue
            size = _I4.unpack_from(raw, position)[0]
            position += 4
            if size < 0:
                parts.append("NULL")
            else:
                parts.append(_element(decode(raw[position : position + size], codec)))
                position += size
        return "{" + ",".join(parts) + "}"

    return read(0)


def _element(text: str) -> str:
    """An array element as array_out quotes it."""
    plain = text and text.upper() != "NULL" and not any(char in '{},"\\' or char.isspace() for char in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_TEXTUAL: Final = frozenset((18, 19, 25, 114, 1042, 1043))
_BINARY: Final[dict[int, _Decode]] = {
    16: _bool,
    17: _bytea,
    18: _text,
    19: _text,
    20: _number(_I8),
    21: _number(_I2),
    23: _number(_I4),
    25: _text,
    26: _number(_U4),
    114: _text,
    650: _inet,
    700: _float(_F4, 9, 6),
    701: _float(_F8, 17, 15),
    790: _money,
    829: _macaddr,
    869: _inet,
    1042: _text,
    1043: _text,
    1082: _date,
    1083: _time,
    1114: _timestamp,
    1184: _timestamptz,
    1186: _interval,
    1266: _timetz,
    1700: _numeric,
    2950: _uuid,
    3802: _jsonb,
}

for _oid in (
    *(1000, 1001, 1002, 1003, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1028, 1040, 1041, 1115, 1182, 1183, 1185),
    *(1187, 1231, 1270, 199, 651, 791, 2951, 3807),
):
    _BINARY[_oid] = _array
