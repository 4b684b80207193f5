"""Server-sent events: what changes in the store, as it changes.

Enters: where a reader left off. Leaves: `session` every second, `executions` (a JSON array, at most 500, every 100 ms),
`finding` at each change (where only its numbers went on, every half second), `skipped` when a slow reader missed some,
`reset` when it cannot go on where it left off.
Readers hold a cursor into the store and nothing else, so a slow one costs no memory. Every event's id is
`<stream>.<execution cursor>.<finding revision>`; a stream is one session in the memory of one profiler process.
Source: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pgtattle.proxy.guard import error
from pgtattle.proxy.schema import SessionView
from pgtattle.proxy.settings import Values
from pgtattle.proxy.store import Predicate, Store
from pgtattle.proxy.views import execution_view

MAX_STREAMS: Final = 16
MAX_BATCH: Final = 500
INTERVAL_SECONDS: Final = 0.1
SESSION_SECONDS: Final = 1.0
RECOUNT_SECONDS: Final = 0.5
_POSITION: Final = re.compile(r"(.+)\.([0-9]{1,18})\.([0-9]{1,18})")


class Position(Struct, frozen=True):
    """Where a reader left off."""

    stream: str
    execution: int
    revision: int

    def is_beyond(self, newest: Position) -> bool:
        """True for a position that the stream has not come to: it is none of its own."""
        return self.execution > newest.execution or self.revision > newest.revision

    def __str__(self) -> str:
        return f"{self.stream}.{self.execution}.{self.revision}"


def position(text: str) -> Position | None:
    """The position that an event id stands for; None where it is none."""
    match = _POSITION.fullmatch(text)
    return Position(match[1], int(match[2]), int(match[3])) if match else None


class Streams:
    """All event streams of an application."""

    def __init__(self, store: Store, session: Callable[[], SessionView], values: Values, generation: str) -> None:
        self._store = store
        self._session = session
        self._values = values
        self._generation = generation
        self._open = 0
        self._recounted = 0.0

    def open(self, resume: str | None, history: int, matches: Predicate | None) -> StreamingResponse:
        """A stream that goes on after the event id `resume`.

        Without one it starts with the newest `history` executions that match; history brings all findings too.
        """
        store = self._store
        stream = f"{self._session().id}~{self._generation}"
        reset = ""
        if resume is not None:
            left_off = position(resume)
            newest = Position(stream, store.newest, store.ledger.revision)
            if left_off is None or left_off.stream != stream or left_off.is_beyond(newest):
                reset = "session"
            elif left_off.execution < store.oldest - 1:
                reset = "expired"
            else:
                return _Response(self, self._events(left_off, matches, ""))
        start = Position(stream, store.before(history, matches), 0 if history else store.ledger.revision)
        return _Response(self, self._events(start, matches, reset))

    def enter(self) -> bool:
        """Take a place; False where none is left."""
        if self._open >= MAX_STREAMS:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._open -= 1

    def _recount(self) -> None:
        """Bring the totals of findings up to date for all streams, now and then."""
        now = time.monotonic()
        if now - self._recounted >= RECOUNT_SECONDS:
            self._recounted = now
            self._store.ledger.recount()

    async def _events(self, at: Position, matches: Predicate | None, reset: str) -> AsyncIterator[bytes]:
        store = self._store
        recorded = store.newest
        session_due = 0.0
        yield b"retry: 1000\n\n"
        if reset:
            yield _event("reset", at, {"reason": reset})
        while True:
            if time.monotonic() >= session_due:
                session_due = time.monotonic() + SESSION_SECONDS
                yield _event("session", at, store.session(self._session()))
            changes = store.executions(at.execution, MAX_BATCH, matches)
            at = Position(at.stream, changes.cursor, at.revision)
            if changes.skipped:
                yield _event("skipped", at, {"executions": changes.skipped})
            if changes.executions:
                views = [execution_view(each, store.anchor, self._values) for each in changes.executions]
                yield _event("executions", at, views)
            self._recount()
            for revision, view in store.ledger.since(at.revision):
                at = Position(at.stream, at.execution, revision)
                yield _event("finding", at, view)
            await asyncio.sleep(INTERVAL_SECONDS if at.execution >= recorded else 0)


class _Response(StreamingResponse):
    """A stream that takes its place when it is sent, and gives it back however it ends."""

    def __init__(self, streams: Streams, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._streams.enter():
            message = f"{MAX_STREAMS} event streams are open already: close one"
            refusal = error(503, "too_many_streams", message, headers={"Retry-After": "5"})
            await refusal(scope, receive, send)
            return
        try:
            # At the end of the process streams are cut off: that is no error to be logged.
            with contextlib.suppress(asyncio.CancelledError):
                await super().__call__(scope, receive, send)
        finally:
            self._streams.leave()


def _event(name: str, at: Position, data: Any) -> bytes:
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), str(at).encode(), msgspec.json.encode(data))
