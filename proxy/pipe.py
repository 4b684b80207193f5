"""What a socket's bytes go through on their way: written to the other side first, then looked at.

`Pipe` is the compiled one where there is one: a chunk then crosses the relay without entering the interpreter, which is
most of what a relay in Python costs, and is sent before anyone looks at it, where a transport would send it after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING


class PurePipe:
    """Writes to `transport`, counts, and calls `look` (None: nobody looks). `bytes` have gone through."""

    __slots__ = ("_look", "_write", "bytes")

    def __init__(self, transport: asyncio.Transport, look: Callable[[bytes], object] | None) -> None:
        self._write = transport.write
        self._look = look
        self.bytes = 0

    def __call__(self, chunk: bytes) -> None:
        """Take a chunk."""
        self._write(chunk)
        self.bytes += len(chunk)
        if self._look is not None:
            self._look(chunk)


if TYPE_CHECKING:
    Pipe = PurePipe
else:
    try:
        from pgtattle.proxy._pipe import Pipe
    except ImportError:
        Pipe = PurePipe
