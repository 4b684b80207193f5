"""The filter language, as a table: which executions a text lets through, and where its mistakes are."""

from __future__ import annotations

import pytest

from pgtattle.proxy.errors import FilterError
from pgtattle.proxy.filters import MAX_LENGTH, MAX_TERMS, parse
from tests.proxy.records import execution

ONE = execution(
    1,
    "SELECT * FROM Users WHERE name = $1",
    ms=150,
    sent="SELECT * FROM Users WHERE name = 'Ann Secret'",
    rows=20,
    sqlstate="23505",
)
TABLES = ("public.Users", "orders")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "dur>100ms",
        "dur>100",
        "dur>=150ms",
        "dur<=0.15s",
        "dur<1s",
        "dur=150000us",
        "rows>10",
        "rows=20",
        "rows:20",
        "conn:7",
        "op:select",
        "OP:SELECT",
        "table:users",
        "table:public.users",
        "table:ORDERS",
        "db:shop app:web user:bob",
        'user:"bob"',
        "err",
        "err:23505",
        "err:23",
        "users",
        '"from users"',
        "-op:update",
        "-dur>1s -table:books",
        '-"delete from"',
    ],
)
def test_matches(text: str) -> None:
    assert parse(text)(ONE, TABLES)


@pytest.mark.parametrize(
    "text",
    [
        "dur>150ms",
        "dur<150ms",
        "rows<20",
        "conn:8",
        "op:insert",
        "table:user",
        "table:private.users",
        "db:sho",
        "app:we",
        "err:42",
        "-err",
        "books",
        '-"from users"',
        "op:select rows>100",
    ],
)
def test_does_not_match(text: str) -> None:
    assert not parse(text)(ONE, TABLES)


def test_a_fingerprint_is_found_by_its_prefix() -> None:
    prefix = ONE.statement.fingerprint[:4]
    assert parse(f"fp:{prefix}")(ONE, ())
    assert not parse(f"fp:{prefix}")(execution(2, "SELECT other"), ())


def test_no_error_is_not_an_error() -> None:
    assert not parse("err")(execution(), ())
    assert parse("-err")(execution(), ())


def test_text_is_looked_for_only_in_what_may_be_shown() -> None:
    assert parse('"ann secret"', "full")(ONE, TABLES)
    assert not parse('"ann secret"', "redacted")(ONE, TABLES)
    assert not parse('"ann secret"', "hidden")(ONE, TABLES)


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("foo:1", 1, "known are dur"),
        ("op:select foo:1", 11, "unknown key foo"),
        ("dur>abc", 5, "dur>100ms"),
        ("rows>5ms", 6, "rows>10"),
        ("op>select", 3, "write op:select"),
        ("op:", 4, "needs a value"),
        ("dur>", 5, "needs a value"),
        ('x "abc', 3, "quote"),
        ('user:"bob', 1, "quote"),
        ('ab"c', 1, "quote"),
        ("err -", 5, "missing"),
        ("conn:-1", 6, "not a number"),
        ("x" * (MAX_LENGTH + 1), MAX_LENGTH + 1, "at most"),
        ("a " * (MAX_TERMS + 1), 2 * MAX_TERMS + 1, "at most"),
    ],
)
def test_mistakes_say_where_and_what(text: str, column: int, says: str) -> None:
    with pytest.raises(FilterError, match=says) as caught:
        parse(text)
    assert caught.value.column == column
    assert f"(column {column})" in str(caught.value)
