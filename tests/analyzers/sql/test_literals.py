"""Literals and their compiled twin: both take the same out of any text, and put back it is the text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from itertools import zip_longest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgtattle.analyzers.sql.literals import take_out_pure

TakeOut = Callable[[str], tuple[str, list[str]] | None]
TWINS: dict[str, TakeOut] = {"pure": take_out_pure}
with contextlib.suppress(ImportError):
    from pgtattle.analyzers.sql._literals import take_out

    TWINS["compiled"] = take_out

MARKS = ["'", '"', "$", "$1", ".", "-", "--", "/", "/*", "*/", "0", "1", "0x", "0b1", "0o", "9_", "e", "E+", "x", "n'"]
PARTS = [*MARKS, "a", "_", " ", ",", "é", "\u0145", "\U0001f600", "''", '""', "t1", "b'", "\n", "..", "1.", ".5", "e-1"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=16).map("".join), st.text("0123'\"$.-/*exbo_ aé", max_size=20)
)


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> TakeOut:
    return TWINS[request.param]


@given(TEXTS)
@example("0xfg")
@example("0b12")
@example("1e")
@example("1.e5")
@example("1..5")
@example("'é' \U0001f600 'é'")
def test_the_twins_agree_and_nothing_is_lost(sql: str) -> None:
    found = take_out_pure(sql)
    assert all(twin(sql) == found for twin in TWINS.values())
    if found is not None:
        befores = found[0].split("\0")
        assert len(befores) == len(found[1]) + 1
        pieces = zip_longest((one.removesuffix("'") for one in befores), found[1], fillvalue="")
        assert "".join(map("".join, pieces)) == sql


@pytest.mark.parametrize(
    ("sql", "literals"),
    [
        ("SELECT 1, -2.5e-3, .5, 0xFF, 1_000, 'it''s', ''", ["1", "2.5e-3", ".5", "0xFF", "1_000", "'it''s'", "''"]),
        ('SELECT t1.a$1, "5 ""6\'", $12 FROM t2', []),
        ("a=5AND b>=6", ["5", "6"]),
        ("'x'5'y'", ["'x'", "5", "'y'"]),
        ("1..2", ["1", ".2"]),
        ("", []),
    ],
)
def test_what_is_a_literal(twin: TakeOut, sql: str, literals: list[str]) -> None:
    found = twin(sql)
    assert found is not None
    assert found[1] == literals


@pytest.mark.parametrize(
    "sql",
    [
        "a -- b",
        "a /* b */",
        "E'\\''",
        "n'a'",
        "U&'a'",
        "'a",
        '"a',
        '"a""',
        "'a''",
        "$$a$$",
        "$a$",
        "$1$",
        "a.5",
        "t1.5",
    ],
)
def test_what_the_walk_cannot_follow(twin: TakeOut, sql: str) -> None:
    assert twin(sql) is None


def test_texts_whose_literals_are_wide_share_the_key_of_narrow_ones(twin: TakeOut) -> None:
    wide, narrow = twin("SELECT 'é\U0001f600'"), twin("SELECT 'e'")
    assert wide is not None
    assert narrow is not None
    assert wide[0] == narrow[0]
    assert {wide[0]: 1}[narrow[0]] == 1
    assert re.fullmatch("SELECT '\0", wide[0])


@pytest.mark.parametrize("part", ["a.", "a1", '"a""', "a$1 ", "$1$", "1,", "/ ", "- ", "'a''", "e'", "1 "])
@pytest.mark.parametrize("end", ["'", '"', "$$", "/*", ""])
def test_failing_takes_no_longer_than_matching(twin: TakeOut, part: str, end: str) -> None:
    """Each place has one reading: a second one would double the work with every part, and this would never end."""
    for head in ("", "'", '"'):
        twin(head + part * 400 + end)


def test_it_takes_text_only(twin: TakeOut) -> None:
    with pytest.raises(TypeError):
        twin(b"SELECT 1")  # type: ignore[arg-type]
