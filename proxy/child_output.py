"""What a child process writes: passed on line by line, and the last lines kept to say why it died.

Enters: the reading end of the child's stdout and stderr. Leaves: the same lines on this process's stderr or in the log
file. It never waits: a line that the terminal, pipe or disk does not take at once is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections import deque
from typing import IO, Final

KEPT_LINES: Final = 60
WORD_LINES: Final = 6
WORD_CHARACTERS: Final = 600
LAST_CHUNKS: Final = 64
CRASH: Final = "Fatal Python error"
"""How faulthandler begins; the innermost frames follow it, and the names of extension modules end it."""


class ChildOutput:
    """Reads the pipe while the loop runs, until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: IO[bytes], log_file: str) -> None:
        self._loop = loop
        self._pipe = pipe
        self._target = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if log_file else -1
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        os.set_blocking(pipe.fileno(), False)
        loop.add_reader(pipe.fileno(), self._read)

    @property
    def last_words(self) -> str:
        """Its last lines, as one; those of a crash where the interpreter could tell it."""
        lines = [text for line in self._lines if (text := line.decode("utf-8", "replace").strip())]
        crash = next((number for number, line in enumerate(lines) if line.startswith(CRASH)), None)
        lines = lines[-WORD_LINES:] if crash is None else lines[crash : crash + WORD_LINES]
        text = " | ".join(lines)[-WORD_CHARACTERS:]
        return "".join(one if one.isprintable() else "?" for one in text)

    def close(self) -> None:
        """Take what the ended child left in the pipe."""
        for _ in range(LAST_CHUNKS):
            if not self._read():
                break
        self._take(b"\n" if self._rest else b"")
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        if self._target >= 0:
            os.close(self._target)

    def _read(self) -> bool:
        try:
            data = os.read(self._pipe.fileno(), select.PIPE_BUF)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._pipe.fileno())
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= select.PIPE_BUF:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._lines.append(line)
            self._pass_on(line[: select.PIPE_BUF - 1] + b"\n")

    def _pass_on(self, line: bytes) -> None:
        # A pipe that polls as writable takes PIPE_BUF bytes without waiting (pipe(7)).
        with contextlib.suppress(OSError, ValueError):
            target = self._target if self._target >= 0 else sys.stderr.fileno()
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            if any(event & select.POLLOUT for _, event in poll.poll(0)):
                os.write(target, line)
