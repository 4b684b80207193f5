"""A secret in every place of SQL: none is in a normal form, whatever the server's settings are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pgparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.sql.comments import tags
from pgtattle.analyzers.sql.standard_strings import standard
from pgtattle.analyzers.sql.texts import Texts, unreadable
from pgtattle.analyzers.sql.tokens import closed, tokenize, value
from pgtattle.proxy.events import Text

SECRET = "zq7secret"


def read(sql: str, escapes: bool = False) -> tuple[Text, ...]:
    return Texts().read(sql, escapes=escapes)


def forms(sql: str, escapes: bool = False) -> list[str]:
    return [text.statement.sql for text in read(sql, escapes)]


# Constructs that mean the same whatever standard_conforming_strings is; @ is the secret.
ALWAYS = [
    ("SELECT '@'", "SELECT $1"),
    ("SELECT 'it''s @'", "SELECT $1"),
    (r"SELECT E'a\'@'", "SELECT $1"),
    (r"SELECT e'\\', '@'", "SELECT $1, $2"),
    ("SELECT $$a ' @$$", "SELECT $1"),
    ("SELECT $t$ a $$ @ $t$", "SELECT $1"),
    ("SELECT B'@', x'@'", "SELECT $1, $2"),
    ("SELECT 'a'\n'@'", "SELECT $1"),
    ("SELECT 'a' -- it's\n  -- @\n '@' , 1", "SELECT $1, $2"),
    ("SELECT E'a'\n'b\\'@'", "SELECT $1"),
    ("SELECT B'1'\n'@'", "SELECT $1"),
    ("SELECT 1 /* @ /* ' */ @ */ + 2", "SELECT $1 + $2"),
    ("SELECT 1 -- '@\n + 2", "SELECT $1 + $2"),
    ("DO $$ BEGIN PERFORM '@'; END $$", "DO $1"),
    ("DO $$ BEGIN END $$LANGUAGE plpgsql", "DO $1 language plpgsql"),
    ("COMMENT ON TABLE t IS '@'", "comment ON TABLE t IS $1"),
    ("NOTIFY c, '@'", "NOTIFY c, $1"),
    ("COPY t TO PROGRAM 'echo @'", "COPY t TO program $1"),
    ("CREATE FUNCTION f() RETURNS text LANGUAGE sql SET a.b = @ AS $$ SELECT '@' $$", None),
    ("CREATE USER MAPPING FOR a SERVER b OPTIONS (password '@')", None),
    ("SET my.secret = @", "SET my.secret = $1"),
    ("SET LOCAL my.secret TO @", "SET local my.secret TO $1"),
    ("SET my.secret = @.@-@, \"@\"", None),
    ("SET search_path TO DEFAULT", "SET search_path TO DEFAULT"),
    ("ALTER ROLE a IN DATABASE b SET my.x = @", "ALTER role a IN database b SET my.x = $1"),
    ("ALTER SYSTEM SET x TO @", "ALTER system SET x TO $1"),
    ("password=@", "(not a statement, 18 bytes)"),
    ("@ SELECT", "(not a statement, 16 bytes)"),
    ("selec '@'", "(not a statement, 17 bytes)"),
    ("'@'", "(not a statement, 11 bytes)"),
    ("SELECT 1; @; SELECT 2", None),
    # Broken quotes: the server refuses the text, and what is a literal of it is anybody's guess.
    ("SELECT '@", "SELECT $1"),
    ("SELECT \"@", "SELECT …"),
    ("SELECT $$@", "SELECT $1"),
    ("SELECT 1 /* @", "SELECT $1"),
    ("SELECT * FROM t WHERE a = 'O'@' AND b = 'x'", "SELECT * FROM t WHERE a = $1 …"),
    ("SELECT * FROM t WHERE a = 'it's @' AND b = 'x'", "SELECT * FROM t WHERE a = $1 …"),
    ("INSERT INTO t VALUES ('a', 'b ' @; SELECT @'); SELECT '@", "INSERT INTO t VALUES ($1 …"),
]  # fmt: skip
# With standard_conforming_strings on, then off.
STRINGS = [
    (r"SELECT 'a\', 'b'", "SELECT $1, $2", "SELECT $1 …"),
    (r"SELECT 'a\'@ x'", "SELECT $1 …", "SELECT $1"),
    (r"SELECT 'a\', 'b\' , @ '", "SELECT $1 …", "SELECT $1 …"),
    (r"SELECT 'a\\', '@'", "SELECT $1, $2", "SELECT $1, $2"),
    ("SELECT 'a'\n'b\\'@'", "SELECT $1 …", "SELECT $1"),
    (r"SELECT N'a\'@'", "SELECT $1 …", "SELECT $1"),
    (r"SELECT x WHERE a='b\'@'AND c='d'", "SELECT x WHERE a = $1 …", "SELECT x WHERE a = $1 AND c = $2"),
    (r"SELECT U&'a', '@'", "SELECT $1, $2", None),
    (r"SELECT U&'\0061\', '@'", "SELECT $1, $2", "SELECT $1"),
    (r"SELECT $$a\$$, '@'", "SELECT $1, $2", "SELECT $1, $2"),
    (r"""SELECT "a\", '@'""", r'SELECT "a\", $1', r'SELECT "a\", $1'),
    (r"SELECT B'\', '@'", "SELECT $1, $2", "SELECT $1, $2"),
    ("SELECT 1 -- \\'\n, '@'", "SELECT $1, $2", "SELECT $1, $2"),
]  # fmt: skip


@pytest.mark.parametrize("escapes", [False, True])
@pytest.mark.parametrize(("sql", "form"), ALWAYS)
def test_no_secret_is_in_a_normal_form(sql: str, form: str | None, escapes: bool) -> None:
    found = forms(sql.replace("@", SECRET), escapes)
    assert SECRET not in " ".join(found)
    assert form is None or found == [form]


@pytest.mark.parametrize(("sql", "on", "off"), STRINGS)
def test_strings_as_the_setting_says(sql: str, on: str, off: str | None) -> None:
    sql = sql.replace("@", SECRET)
    assert forms(sql) == [on]
    assert off is None or forms(sql, escapes=True) == [off]
    assert SECRET not in " ".join([*forms(sql), *forms(sql, escapes=True)])


def test_a_known_text_is_another_one_under_the_other_setting() -> None:
    texts = Texts()
    for _ in range(3):
        assert texts.read(r"SELECT 'a\'' , 'b'")[0].statement.sql == "SELECT $1 …"
        (text,) = texts.read(r"SELECT 'a\'' , 'b'", escapes=True)
        assert (text.statement.sql, text.sql) == ("SELECT $1, $2", r"SELECT E'a\'' , 'b'")
        assert [slot.value for slot in text.slots] == ["a'", "b"]


PIECES = [
    "'",
    "''",
    "\\",
    "\\'",
    "\n",
    "a",
    " ",
    "E'",
    "n'",
    "b'",
    "$$",
    "$t$",
    '"',
    "--",
    "/*",
    "*/",
    ";",
    "1",
    ",",
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(SOUP)
def test_standard_strings_mean_what_the_escaped_ones_meant(sql: str) -> None:
    escaped, plain = tokenize(sql, escapes=True), tokenize(standard(sql))
    assert [token.kind for token in escaped] == [token.kind for token in plain]
    for one, other in zip(escaped, plain, strict=True):
        assert one.text.lstrip("nNeE") == other.text.lstrip("nNeE")


LITERALS = ["'a'", "'it''s'", "'b\\'", "E'c\\'d'", "e'e\\\\'", "$$f'$$", "$t$g$$h$t$", "''", "n'i'", "E'\\\\''\\'k'"]
GAPS = [", ", "\n", " -- it's\n", ",/* ' /* -- */ ' */", " \t\r\n -- x\n\n", ","]


@given(st.lists(st.tuples(st.sampled_from(LITERALS), st.sampled_from(GAPS)), min_size=1, max_size=6))
def test_literals_are_those_of_the_servers_own_scanner(pieces: list[tuple[str, str]]) -> None:
    """libpg_query is PostgreSQL's scanner and grammar."""
    sql = "SELECT " + "".join(literal + gap for literal, gap in pieces) + "1"
    try:
        tree = pgparse.parse(sql)
    except pgparse.PGQueryError:
        return
    assert all(closed(token) for token in tokenize(sql))
    assert [value(token) for token in tokenize(sql) if token.kind == "string"] == list(constants(tree))


def constants(tree: Any) -> Iterator[str]:
    """The string constants of a parse tree."""
    for name, below in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if name == "A_Const" and "sval" in below:
            yield below["sval"]["sval"]
        else:
            yield from constants(below)


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("'a'\n'b'", "ab"),
        ("'a' -- it's\n\t'b'\r\n'c'", "abc"),
        (r"E'a\'' " + "\n" + r"'b\\'", "a'b\\"),
        ("'a''\n''b'", "a'\n'b"),
        ("'a", "a"),
        ("'", ""),
        ("U&'a'\n'b'", "ab"),
    ],
)
def test_values_of_literals_in_parts(literal: str, expected: str) -> None:
    (token,) = tokenize(literal)
    assert value(token) == expected


def test_a_text_that_is_not_read_says_its_command_and_size() -> None:
    text = unreadable(b" select '\x95\\' ", "in an unknown encoding")
    assert text.sql == text.statement.sql == "SELECT (text in an unknown encoding, 13 bytes)"
    assert (text.statement.command, text.statement.kind, text.slots) == ("SELECT", "utility", ())
    assert unreadable(b"COMMIT\x95", "").statement.command == "OTHER"
    assert unreadable(b"COMMIT /* \x95 */", "").statement.kind == "transaction"
    assert re.fullmatch(r"\(text x, 8 bytes\)", unreadable(b"password", "x").sql)


def test_tags_that_are_named_as_secrets_are_none() -> None:
    assert tags(["/* route=/a, db_password=b, api_token='c', secret: d */"]) == {"route": "/a"}
