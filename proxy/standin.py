"""Answers on the API's sockets while no profiler serves them: a client learns at once why there is nothing to read.

Enters: HTTP requests, of which only the path counts. Leaves: 503 in the API's error shape; 200 for `/livez`, since the
relay lives. The profiler accepts from the same sockets, so the relay stops as soon as one is ready; whoever is left in
the backlog is answered by the one that comes. Out of scope: tokens and hosts, because nothing is told here that the
reader of the probes may not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

import msgspec

from pgtattle.proxy.schema import ErrorBody, ErrorView
from pgtattle.proxy.tasks import Tasks

MAX_HEAD: Final = 16 * 1024
MAX_CLIENTS: Final = 64
ANSWER_SECONDS: Final = 1.0
ACCEPTED_AT_ONCE: Final = 16
PAUSE_SECONDS: Final = 0.1


class StandIn:
    """One listening socket, which stays its owner's; `why` says what is the matter, in words."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: Tasks, listening: socket.socket, why: Callable[[], str]
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._listening = listening
        self._why = why
        self._open = False
        self._clients: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Answer from now on."""
        self._open = True
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Accept no more; who was accepted is answered."""
        self._open = False
        self._loop.remove_reader(self._listening)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._clients) >= MAX_CLIENTS:
                self._pause()
                return
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError:
                self._pause()
                return
            accepted.setblocking(False)
            task = self._tasks.start("answer while no profiler runs", self._answer(accepted))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)

    def _pause(self) -> None:
        """Too many at once: the others wait in the backlog."""
        self._loop.remove_reader(self._listening)
        self._loop.call_later(PAUSE_SECONDS, lambda: self.open() if self._open else None)

    async def _answer(self, accepted: socket.socket) -> None:
        client = _Client(self._why)
        with contextlib.suppress(OSError):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._loop.connect_accepted_socket(lambda: client, accepted)
                    await client.gone.wait()
            except TimeoutError:
                client.abort()


class _Client(asyncio.Protocol):
    """Reads one request's head, answers, and reads on until the client has gone: a reset could overtake the answer."""

    def __init__(self, why: Callable[[], str]) -> None:
        self.gone = asyncio.Event()
        self._why = why
        self._head = b""
        self._answered = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answered or self._transport is None:
            return
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > MAX_HEAD:
            self._answered = True
            self._transport.write(answer(self._head, self._why()))
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    def abort(self) -> None:
        """End it, whatever it does."""
        if self._transport is not None:
            self._transport.abort()


def answer(head: bytes, why: str) -> bytes:
    """The whole answer to a request that begins so."""
    line = head.split(b"\r\n", 1)[0].split(b" ")
    method, path = (line[0], line[1].split(b"?", 1)[0]) if len(line) == 3 else (b"", b"")
    if not line[-1].startswith(b"HTTP/1."):
        status, kind, body = "400 Bad Request", "text/plain; charset=utf-8", b"this is not HTTP\n"
    elif path == b"/livez":
        status, kind, body = "200 OK", "text/plain; charset=utf-8", b"ok\n"
    else:
        view = ErrorView(error=ErrorBody(code="no_profiler", message=why))
        status, kind, body = "503 Service Unavailable", "application/json", msgspec.json.encode(view)
    headers = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(["Retry-After: 1"] if status.startswith("503") else []),
        "Connection: close",
    ]
    return "\r\n".join([*headers, "\r\n"]).encode() + (b"" if method == b"HEAD" else body)
