"""A text read by its shape is the text that lexing it gives, whatever its literals are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.sql.shapes import shape
from pgtattle.analyzers.sql.texts import Texts

ROOT = Path(__file__).parents[3]
FRAGMENTS = (
    "SELECT", "a", "FROM", "t1", "WHERE", "b2", "=", "-", "+", "IN", "(", ")", ",", "VALUES", "INSERT INTO t", "LIMIT",
    "date", "interval", "::int", "AND", '"Odd "" \' name"', "$1", ".", "..", "e", "x", "_", "n", "U&", "/", "*", "--",
    "/*", "*/", "'", '"', "$$", "$tag$", ";", "\n", "é", "\\", "E'\\''", "UPDATE t SET a =", "DELETE FROM t", ":", "@>",
    "ARRAY[", "]", "CASE", "END", "BETWEEN", "dblink", "password=", "FETCH 5 c", "::date",
)  # fmt: skip
LITERALS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.sampled_from(["0", "1.5", ".5", "1e10", "0x1F", "1_000", "00", "1."]),
    st.text("ab'\"\\-/*$0 9é;=:@", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(["'password=x'", "'postgres://u:p@h/d'", "''"]),
)


@st.composite
def likenesses(draw: st.DrawFn) -> list[str]:
    """Texts that mostly differ in their literals only."""
    parts = draw(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.none()), max_size=14))
    gaps = draw(st.lists(st.sampled_from(["", " ", "  "]), min_size=len(parts), max_size=len(parts)))
    head, tail = draw(st.sampled_from([("", ""), ("/*a='b'*/ ", ""), ("", " /*a='b',request_id='7'*/"), ("", ";")]))
    body = "SELECT a FROM t WHERE " if draw(st.booleans()) else ""
    return [
        head
        + body
        + "".join((part if part is not None else draw(LITERALS)) + gap for part, gap in zip(parts, gaps, strict=True))
        + tail
        for _ in range(4)
    ]


@given(likenesses())
def test_reading_by_shape_is_reading(texts: list[str]) -> None:
    warm = Texts()
    for text in texts:
        assert warm.read(text) == Texts().read(text), text


@pytest.mark.parametrize("gap", ["\n", " \n ", "\r\n\t", " ", ""])
def test_strings_that_a_line_end_parts_are_one_literal_however_often(gap: str) -> None:
    texts = Texts()
    for number in range(4):
        (text,) = texts.read(f"SELECT a FROM t WHERE b = 'x{number}'{gap}'y{number}' AND c = '{number}'")
        assert text == Texts().read(text.sql)[0]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t WHERE b = {}",
        "SELECT a FROM t WHERE b = -{} AND c = 'x' AND \"d'\" = {}",
        "INSERT INTO t (a, b) VALUES ({}, 'one'), ({}, 'two'), ({}, 'three')",
        "SELECT * FROM t WHERE id IN ({}, {}, {}) LIMIT {}",
        "/*route='/a'*/ UPDATE t SET a = {} WHERE b = interval '1 day' /*request_id='{}'*/",
        "SELECT x1 FROM t1 WHERE a={}AND b>=.5",
    ],
)
def test_plain_queries_have_a_shape_and_share_their_statement(sql: str) -> None:
    one, other = sql.replace("{}", "17"), sql.replace("{}", "4.25e3")
    first, second = shape(one), shape(other)
    assert first is not None
    assert second is not None
    assert first.key == second.key
    texts = Texts()
    read = [texts.read(text)[0] for text in (one, one, other)]
    assert read[0].statement is read[1].statement is read[2].statement
    assert {slot.value.lstrip("-") for slot in read[2].slots} >= {"4.25e3"}
    assert read[2] == Texts().read(other)[0]


@pytest.mark.parametrize(
    "sql", ["SELECT 1 -- why", "SELECT /* in it */ 1", "SELECT E'\\''", "SELECT $$a$$", "SELECT 'open", 'SELECT "open']
)
def test_what_cannot_be_followed_has_no_shape(sql: str) -> None:
    assert shape(sql) is None


def test_a_secret_among_the_literals_is_masked_all_the_same() -> None:
    texts = Texts()
    for value in ("'a'", "'b'", "'postgres://u:hunter2@h/d'", "'password=hunter2'"):
        (text,) = texts.read(f"INSERT INTO t VALUES ({value})")
        assert "hunter2" not in repr(text)


def test_no_expression_needs_a_later_python() -> None:
    """Before 3.11.5 (Debian 12 has 3.11.2) possessive and atomic groups match wrongly, or raise SystemError."""
    possessive = re.compile(r"(?:\\?[\w.\"')\]}][*+?]|\})\+(?!\+)|\(\?>")
    assert all(map(possessive.search, (r"\d++", "a*+", ".?+", "(?:ab)*+", "[^x]{2}+", "(?>a)", '[^"]*+')))
    sources = [path for folder in ("proxy", "analyzers", "tui") for path in (ROOT / folder).rglob("*.py")]
    assert ROOT / "analyzers" / "sql" / "literals.py" in sources
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            # What stands for a field of an f-string is a group.
            words = [str(one.value) if isinstance(one, ast.Constant) else "(x)" for one in parts]
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                assert not possessive.search("".join(words)), (path.name, node.lineno)
