"""Nothing from the wire can speak to a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from functools import partial

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.tui.harmless import block, line
from pgtattle.tui.sql import pretty
from tests.conftest import Database, Serve, end
from tests.waiting import PATIENCE, wait_for

# What Textual itself sends: colours and cursor positions, modes and questions about them, keyboard, pointer shape.
OURS = re.compile(
    "\x1b\\[[0-9;]*[mH]|\x1b\\[\\?[0-9]+(?:[hl]|\\$p)|\x1b\\[[<>][0-9]*u|\x1b\\]22;[a-z]*(?:\x07|\x1b\\\\)"
)
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@given(st.text(max_size=300))
def test_a_line_is_safe_and_as_long(text: str) -> None:
    assert not UNSAFE.search(line(text))
    assert len(line(text)) == len(text)


@given(st.text(max_size=300))
def test_a_block_keeps_newlines_only(text: str) -> None:
    assert not UNSAFE.search(block(text).replace("\n", ""))


def test_long_text_is_cut() -> None:
    assert len(line("x" * 1_000_000)) == 2_000
    assert block("x" * 1_000_000).endswith("x … 980,000 more characters")


def test_symbols_are_visible() -> None:
    assert line("a\x1b[2J\tb\n\x00\x7f\x9b") == "a␛[2J␉b␊␀␡\ufffd"


@given(st.text(alphabet="select from where '$x\"--/*$ab\n", max_size=80))
def test_pretty_changes_white_space_only(sql: str) -> None:
    assert "".join("".join(words for words, _ in pretty(sql)).split()) == "".join(sql.split())


def test_pretty_breaks_lines_at_clauses_outside_of_quotes() -> None:
    sql = "SELECT 'a FROM b', \"c WHERE d\", $x$ LIMIT $x$ /* SET */ FROM t LEFT JOIN u ON u.id = $1 WHERE z"
    assert "".join(words for words, _ in pretty(sql)).splitlines() == [
        "SELECT 'a FROM b', \"c WHERE d\", $x$ LIMIT $x$ /* SET */",
        "FROM t",
        "LEFT JOIN u ON u.id = $1",
        "WHERE z",
    ]
    assert ("'a FROM b'", "green") in list(pretty(sql))
    assert "".join(words for words, _ in pretty("SELECT 1\nFROM t WHERE x")) == "SELECT 1\nFROM t WHERE x"


@pytest.mark.parametrize("piece", ["'", '"', "$a$", "/*", "--", "LEFT ", "FROM ", "$1 ", "\u202e"])
def test_pretty_is_quick_with_anything(piece: str) -> None:
    begin = time.process_time()
    assert sum(1 for _ in pretty(piece * (20_000 // len(piece)))) > 0
    # A tenth of a second where it is linear, and minutes where it is not.
    assert time.process_time() - begin < 10


def test_a_real_terminal_sees_no_foreign_escape(database: Database, serve: Serve) -> None:
    served = serve(database, "--values", "full")
    with psycopg.connect(
        served.database.dsn, autocommit=True, application_name="\x1b]0;owned-app\x07[/b]"
    ) as connection:
        for _ in range(5):
            connection.execute("SELECT '\x1b]0;owned\x07 \x1b]52;c;b3du\x07 \x1b[2Jcleared \u202e [/b] x[1] [red]'")
    main, worker = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pgtattle.tui", f"http://{served.addresses['api']}"],
        stdin=worker,
        stdout=worker,
        stderr=worker,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "36"},
        start_new_session=True,
    )
    os.close(worker)
    output = b""

    def more() -> bool:
        """Take what is shown; false at the end."""
        nonlocal output
        if select.select([main], [], [], 0.1)[0]:
            try:
                output += os.read(main, 65536)
            except OSError:
                return False
        return True

    def shows(words: bytes) -> bool:
        return words in output or not more()

    try:
        for keys, words in ((b"", b"cleared"), (b"\r", b"autocommit"), (b"2", b"p95")):
            os.write(main, keys)
            wait_for(partial(shows, words), lambda: output[-2000:])
            assert words in output
        os.write(main, b"q")
        wait_for(lambda: not more(), lambda: output[-2000:])
        assert process.wait(PATIENCE) == 0
    finally:
        end(process)
        os.close(main)
    text = OURS.sub("", output.decode("utf-8"))
    assert "\x1b" not in text, sorted(set(re.findall("\x1b.{0,12}", text)))
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
    assert "owned-app" in text
