"""Nothing that a terminal acts on, or a reader cannot see, gets through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.reports.harmless import harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT 'ä€😀'", "SELECT 'ä€😀'"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("a\nb\tc\r", "a␊b␉c␍"),
        ("\0\x7f\x9b31m", "␀␡\ufffd31m"),
        ("\u202eevil\u2066\u200f\ufeff\u2028", "\ufffdevil\ufffd\ufffd\ufffd\ufffd"),
        ("\udc80", "\ufffd"),
    ],
)
def test_controls_become_visible(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_line_feeds_can_stay() -> None:
    assert harmless("a\r\nb\n\tc\rd\x1b", newline=True) == "a\nb\n    c␍d␛"


@given(st.text(st.characters()), st.booleans())
def test_nothing_harmful_is_left(text: str, newline: bool) -> None:
    shown = harmless(text, newline)
    assert not {unicodedata.category(each) for each in shown if each != "\n"} & {"Cc", "Cs", "Zl", "Zp"}
    assert newline or "\n" not in shown
    shown.encode()
    assert harmless(shown, newline) == shown
