"""What a child says is passed on whole, its last lines are kept, and nobody waits for a reader that does not read."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from pgtattle.proxy.child_output import KEPT_LINES, WORD_LINES, ChildOutput


def said(script: str, log: Path | None = None) -> ChildOutput:
    """The output of a Python child that has ended."""

    async def run() -> ChildOutput:
        child = subprocess.Popen([sys.executable, "-X", "faulthandler", "-c", script], stdout=-1, stderr=-2, bufsize=0)
        assert child.stdout is not None
        output = ChildOutput(asyncio.get_running_loop(), child.stdout, str(log or ""))
        while child.poll() is None:
            await asyncio.sleep(0.01)
        output.close()
        return output

    return asyncio.run(run())


def test_lines_are_passed_on_and_the_last_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    count = KEPT_LINES * 100
    output = said(f"for n in range({count}): print('line', n)\nprint('the end', end='')", log)
    assert log.read_text() == "".join(f"line {n}\n" for n in range(count)) + "the end\n"
    words = [f"line {n}" for n in range(count - WORD_LINES + 1, count)]
    assert output.last_words == " | ".join([*words, "the end"])


def test_a_crash_of_the_interpreter_says_where(tmp_path: Path) -> None:
    script = "import os, signal\ndef culprit(): os.kill(os.getpid(), signal.SIGSEGV)\nprint('before')\nculprit()"
    words = said(script, tmp_path / "log").last_words
    assert words.startswith("Fatal Python error: Segmentation fault")
    assert "in culprit" in words
    assert "before" not in words


def test_what_it_says_cannot_speak_to_a_terminal(tmp_path: Path) -> None:
    assert said(r"import sys; sys.stdout.buffer.write(b'\x1b[2J \xff\n')", tmp_path / "log").last_words == "?[2J \ufffd"


def test_a_line_without_an_end_is_bounded(tmp_path: Path) -> None:
    output = said(f"print('x' * {select.PIPE_BUF * 3})", tmp_path / "log")
    assert (tmp_path / "log").stat().st_size <= select.PIPE_BUF * 3 + 8
    assert len(output.last_words) <= 600


def test_nobody_waits_for_a_full_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    with os.fdopen(writing, "w") as full, os.fdopen(reading, "rb"):
        os.write(writing, b"x" * room)
        monkeypatch.setattr(sys, "stderr", full)
        assert said("for n in range(1000): print('line', n)").last_words.endswith("line 999")
        monkeypatch.undo()
