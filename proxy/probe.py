"""Does PostgreSQL answer? A StartupMessage of our own, and what comes back.

Enters: an `Upstream`. Leaves: nothing, or UpstreamUnreachable in words for people. A port that accepts and says nothing
is not an answer, nor is a server that starts up or shuts down. A request for a password is one: the connection is
closed there, which PostgreSQL does not log; a login without a challenge is ended by Terminate.
Source: PostgreSQL, "Message Flow" (Start-up), "Error Codes"; `auth.c` (STATUS_EOF is silent).
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from pgtattle.proxy import upstream
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.settings import Upstream
from pgtattle.proxy.wire.startup import TERMINATE

PROTOCOL: Final = 3 << 16
MAX_ANSWER: Final = 64 * 1024
_HEAD: Final = struct.Struct("!cI")
_BEFORE_READY: Final = b"RSKNv"
_NOT_READY: Final = "57P"
"""SQLSTATEs of a server that starts up or shuts down. A pooler says 08P01 of all its refusals, of logins too."""


async def answers(server: Upstream, seconds: float) -> None:
    """Return when a PostgreSQL server answers a startup. Raises UpstreamUnreachable, also after so many seconds."""
    made: list[_Startup] = []

    def factory() -> _Startup:
        made.append(_Startup())
        return made[-1]

    where = ", ".join(map(str, server.addresses))
    try:
        async with asyncio.timeout(seconds):
            leg = await upstream.connect(server, factory)
            where = str(leg.endpoint.address)
            try:
                leg.transport.write(_startup_message(server))
                if await made[-1].answer:
                    leg.transport.write(TERMINATE)
            finally:
                leg.transport.close()
    except TimeoutError:
        raise UpstreamUnreachable(f"{where}: PostgreSQL does not answer a startup within {seconds:g} s") from None
    except _NoAnswer as error:
        raise UpstreamUnreachable(f"{where}: {error}") from None


class _NoAnswer(Exception):
    """What came is not the answer of a PostgreSQL server that takes connections."""


class _Startup(asyncio.Protocol):
    """Waits for the first frames; `answer` says that the server takes connections, and whether a session began."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self.answer.done() and len(self._buffer) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._buffer)
            if not 4 <= size <= MAX_ANSWER:
                self._fail("what answers there is no PostgreSQL")
            elif len(self._buffer) < 1 + size:
                return
            else:
                body, self._buffer = self._buffer[_HEAD.size : 1 + size], self._buffer[1 + size :]
                self._frame(kind, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("it closed the connection without an answer")

    def _frame(self, kind: bytes, body: bytes) -> None:
        if kind == b"Z" or (kind == b"R" and body[:4] != b"\0\0\0\0"):
            self.answer.set_result(kind == b"Z")
        elif kind == b"E":
            fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0")}
            state = fields.get(b"C", "")
            if state.startswith(_NOT_READY):
                self._fail(f"{_printable(fields.get(b'M', ''))} (SQLSTATE {_printable(state)})")
            else:
                # Whatever it refuses this role: it answers.
                self.answer.set_result(False)
        elif kind not in _BEFORE_READY:
            self._fail("what answers there is no PostgreSQL")

    def _fail(self, words: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(_NoAnswer(words))
            # Nobody waits for it where the connection failed before.
            self.answer.exception()


def _startup_message(server: Upstream) -> bytes:
    parameters = {"user": server.user, "database": server.database, "application_name": "pgtattle"}
    words = b"".join(one.encode() + b"\0" for pair in parameters.items() if pair[1] for one in pair) + b"\0"
    return struct.pack("!II", 8 + len(words), PROTOCOL) + words


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)[:200]
