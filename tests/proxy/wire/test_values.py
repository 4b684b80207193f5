"""Binary parameters decode to what PostgreSQL itself prints."""

from __future__ import annotations

import datetime
import struct

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.wire.values import MAX_VALUE, parameter

CASES = [
    ("bool", "t"),
    ("bool", "f"),
    ("int2", "-32768"),
    ("int4", "2147483647"),
    ("int8", "-9223372036854775808"),
    ("oid", "4294967295"),
    ("float4", "0.1"),
    ("float4", "3.4028235e+38"),
    ("float4", "NaN"),
    ("float8", "0.1"),
    ("float8", "1e+300"),
    ("float8", "-Infinity"),
    ("float8", "123456789"),
    ("float8", "-0.5"),
    ("float8", "1e-07"),
    ("float8", "0"),
    ("float4", "16777216"),
    ("text", "it's ö 🐘"),
    ("text", ""),
    ("varchar", "x"),
    ("bpchar", "a "),
    ("name", "pg_class"),
    ('"char"', "x"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", "\\x00ff"),
    ("json", '{"a": 1}'),
    ("jsonb", '{"a": [1, null]}'),
    ("date", "2024-02-29"),
    ("date", "0001-01-01"),
    ("date", "infinity"),
    ("date", "-infinity"),
    ("date", "9999-12-31"),
    ("time", "23:59:59.999999"),
    ("time", "24:00:00"),
    ("timetz", "12:00:00.5+05:30"),
    ("timetz", "12:00:00-08"),
    ("timestamp", "2024-02-29 12:00:00.000001"),
    ("timestamp", "1999-12-31 23:59:59"),
    ("timestamp", "infinity"),
    ("timestamptz", "2024-02-29 12:00:00+00"),
    ("timestamptz", "-infinity"),
    ("interval", "1 year 2 mons 3 days 04:05:06.7"),
    ("interval", "-1 days"),
    ("interval", "00:00:00"),
    ("interval", "-00:00:01"),
    ("numeric", "0"),
    ("numeric", "0.00"),
    ("numeric", "-12345678901234567890.000100"),
    ("numeric", "NaN"),
    ("numeric", "1e-20"),
    ("numeric", "10000"),
    ("numeric", "0.0001"),
    ("numeric", "Infinity"),
    ("numeric", "9999.9999"),
    ("numeric", "100000000"),
    ("inet", "10.1.2.3"),
    ("inet", "10.1.2.3/8"),
    ("inet", "::1"),
    ("cidr", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("int4[]", "{1,2,NULL}"),
    ("int4[]", "{}"),
    ("text[]", '{a,"b c","d\\"e","",NULL,"NULL","\\\\"}'),
    ("int8[]", "{{1,2},{3,4}}"),
    ("uuid[]", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"),
    ("bool[]", "{t,f}"),
    ("timestamptz[]", '{"2024-02-29 12:00:00+00"}'),
]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_binary_is_what_the_server_prints(postgres18: Cluster, name: str, text: str) -> None:
    with psycopg.connect(postgres18.dsn(), options="-c timezone=UTC -c intervalstyle=postgres") as connection:
        (oid,) = connection.execute(f"SELECT '{name}'::regtype::oid").fetchone() or (0,)
        printed, binary = (
            connection.cursor(binary=binary).execute(f"SELECT %s::{name}", [text]).pgresult.get_value(0, 0)  # type: ignore[union-attr]
            for binary in (False, True)
        )
    decoded = parameter(oid, True, binary)
    assert decoded.value == (printed or b"").decode()
    assert decoded.binary is None


def test_null_is_not_the_empty_string() -> None:
    assert parameter(25, False, None).value is None
    assert parameter(25, True, None).value is None
    assert parameter(25, False, b"").value == ""
    assert parameter(25, True, b"").value == ""


def test_an_unknown_type_keeps_its_bytes() -> None:
    found = parameter(600, True, struct.pack("!dd", 1, 2))
    assert found.value == "\\x" + struct.pack("!dd", 1, 2).hex()
    assert found.binary == struct.pack("!dd", 1, 2)


def test_a_value_that_its_type_cannot_have_is_bytes() -> None:
    assert parameter(23, True, b"\1").value == "\\x01"
    assert parameter(1700, True, b"\0\1").binary == b"\0\1"


def test_long_values_are_cut() -> None:
    found = parameter(25, False, b"x" * 10_000_000)
    assert found.truncated
    assert len(found.value or "") == MAX_VALUE


@given(st.dates(min_value=datetime.date(1, 1, 1)))
def test_dates(day: datetime.date) -> None:
    raw = struct.pack("!i", (day - datetime.date(2000, 1, 1)).days)
    assert parameter(1082, True, raw).value == day.isoformat()


@given(
    st.sampled_from([16, 20, 21, 23, 25, 700, 701, 869, 1007, 1082, 1114, 1186, 1266, 1700, 2950, 3802]),
    st.binary(max_size=60),
)
def test_any_bytes_decode(oid: int, raw: bytes) -> None:
    assert isinstance(parameter(oid, True, raw).value, str)
