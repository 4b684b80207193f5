"""What a client asked, and its server has not answered: the requests that wait, in order.

Enters: the client's frames. Leaves: the request that the server is at. What the server will discard (after an error up
to the Sync, the Syncs inside a COPY) is not waited for.
Source: PostgreSQL, "Message Flow"; `src/backend/tcop/postgres.c` (ignore_till_sync), `copyfromparse.c` (Sync in COPY
IN).
"""

from __future__ import annotations

import struct
from typing import Final

from mypy_extensions import i64, mypyc_attr

from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.events import Text
from pgtattle.proxy.exchange import NOT_YET, Prepared
from pgtattle.proxy.reading import Read, Reading, doubtful
from pgtattle.proxy.wire import messages
from pgtattle.proxy.wire.batch import PREFIX, PREFIX_HEAD, word
from pgtattle.proxy.wire.frames import MAX_PENDING

_FEW: Final = 64


@mypyc_attr(acyclic=True)
class Request:
    """A message that waits for its answer.

    `body` is that of a Bind, Describe or Close, and the SQL of a Query or Parse, which is cut unless `whole`; `name` an
    Execute's portal or a Parse's statement, `types` those that the Parse gives. Of a Query, `done` statements are
    executed. `texts` and `prepared` are made when the server comes to them.
    """

    __slots__ = ("at_ns", "body", "done", "exchange", "kind", "name", "prepared", "size", "texts", "types", "whole")

    def __init__(
        self,
        kind: int,
        at_ns: int,
        size: int,
        exchange: int = 0,
        body: bytes = b"",
        name: bytes = b"",
        whole: bool = True,
        types: tuple[int, ...] = (),
    ) -> None:
        self.kind = kind
        self.at_ns = at_ns
        self.size = size
        self.exchange = exchange
        self.body = body
        self.name = name
        self.whole = whole
        self.types = types
        self.texts: tuple[Text, ...] = ()
        self.prepared: Prepared | None = None
        self.done = 0


class Requests:
    """The requests that wait, in order."""

    __slots__ = ("_first", "_requests")

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._first = 0

    def __len__(self) -> int:
        return len(self._requests) - self._first

    @property
    def head(self) -> Request | None:
        """The oldest one."""
        return self._requests[self._first] if self._first < len(self._requests) else None

    def push(self, request: Request) -> None:
        """Ask one more."""
        self._requests.append(request)

    def pop(self) -> None:
        """The oldest one is answered."""
        self._first += 1
        if self._first == len(self._requests):
            self.replace([])
        elif self._first >= _FEW and 2 * self._first >= len(self._requests):
            self.replace(self._requests[self._first :])

    def rest(self) -> list[Request]:
        """All but the oldest."""
        return self._requests[self._first + 1 :]

    def replace(self, requests: list[Request]) -> None:
        """These instead."""
        self._requests = requests
        self._first = 0


class Asked:
    """The requests of one connection; `read` lexes SQL. `copying`: the server reads a COPY whose end was not sent."""

    def __init__(self, read: Read) -> None:
        self.reading = Reading(read)
        self.pending = Requests()
        self.copying = False
        self._skipping = False
        self._exchange = 1

    def frames(self, frames: bytes, at_ns: int) -> None:
        """Frames of the client. Raises ProtocolViolation where they cannot be."""
        position: i64 = 0
        end: i64 = len(frames)
        try:
            while position < end:
                kind: int = frames[position]
                size = word(frames, position + 1)
                body = frames[position + 5 : position + 1 + size]
                position += 1 + size
                if kind == PREFIX:
                    kind, length = PREFIX_HEAD.unpack_from(body)
                    self._request(kind, body[PREFIX_HEAD.size :], 1 + length, False, at_ns)
                else:
                    self._request(kind, body, 1 + size, True, at_ns)
        except (struct.error, IndexError, ValueError) as error:
            raise ProtocolViolation("bad_message", str(error)) from error

    def prepare(
        self,
        name: bytes,
        sql: bytes,
        types: tuple[int, ...],
        whole: bool,
        exchange: int,
        executed: int = NOT_YET,
    ) -> Prepared:
        """The statement of a Parse that was sent in an exchange."""
        text = self.reading.texts(sql, whole)[0]
        return Prepared(name.decode("utf-8", "replace"), text, types, exchange, executed)

    def texts(self, request: Request) -> tuple[Text, ...]:
        """The statements of a Query that the server is at; so it read them by the settings that it reported last."""
        if not request.texts:
            request.texts = self.reading.texts(request.body, request.whole)
        return request.texts

    def prepared(self, request: Request) -> Prepared:
        """The statement of a Parse that the server is at."""
        if request.prepared is None:
            request.prepared = self.prepare(request.name, request.body, request.types, request.whole, request.exchange)
        return request.prepared

    def reported(self, name: str, value: str) -> None:
        """The server reported a setting; what it is at was read before."""
        head = self.head()
        if head is not None and head.kind == messages.QUERY:
            self.texts(head)
            head.texts = tuple([doubtful(text) for text in head.texts])
        elif head is not None and head.kind == messages.PARSE:
            prepared = self.prepared(head)
            prepared.text = doubtful(prepared.text)
        self.reading.reported(name, value)

    def restart(self) -> None:
        """Nothing is waited for any more."""
        self.pending.replace([])
        self._skipping = self.copying = False

    def head(self) -> Request | None:
        """The request that the server is at; the end of a COPY has no answer of its own."""
        head = self.pending.head
        while head is not None and (head.kind == messages.COPY_DONE or head.kind == messages.COPY_FAIL):
            self.pending.pop()
            head = self.pending.head
        return head

    def expect(self, kind: int, other: int = 0) -> Request:
        """The request that the server is at, which must be of a kind. Raises ProtocolViolation."""
        head = self.head()
        if head is None or (head.kind != kind and head.kind != other):
            raise ProtocolViolation("impossible_answer")
        return head

    def skip_to_sync(self) -> None:
        """After an error the server discards everything up to the Sync."""
        pending = self.pending
        head = pending.head
        while head is not None and head.kind != messages.SYNC:
            pending.pop()
            head = pending.head
        self._skipping = head is None

    def copy_in(self) -> None:
        """The server ignores the Syncs that it reads before the end of the copy."""
        request = self.expect(messages.QUERY, messages.EXECUTE)
        rest = self.pending.rest()
        end = next((n for n, one in enumerate(rest) if one.kind in (messages.COPY_DONE, messages.COPY_FAIL)), len(rest))
        self.copying = end == len(rest)
        kept = [one for n, one in enumerate(rest) if n > end or one.kind != messages.SYNC]
        self.pending.replace([request, *kept])

    def _request(self, kind: int, body: bytes, size: int, whole: bool, at_ns: int) -> None:
        if self._skipping:
            # The server discards everything up to the Sync after an error.
            if kind != messages.SYNC:
                return
            self._skipping = False
        asked = self._exchange
        if kind == messages.EXECUTE:
            request = Request(kind, at_ns, size, asked, b"", body[: body.index(0)])
        elif kind == messages.BIND or kind == messages.DESCRIBE or kind == messages.CLOSE:
            request = Request(kind, at_ns, size, asked, body)
        elif kind == messages.SYNC or kind == messages.FUNCTION:
            if kind == messages.SYNC and self.copying:
                return
            request = Request(kind, at_ns, size, asked)
            self._exchange = asked + 1
        elif kind == messages.QUERY:
            end = body.find(0)
            request = Request(kind, at_ns, size, asked, body if end < 0 else body[:end], b"", whole)
            self._exchange = asked + 1
        elif kind == messages.PARSE:
            name, sql, types = messages.parse(body, whole)
            request = Request(kind, at_ns, size, asked, sql, name, whole, types)
        elif kind == messages.COPY_DONE or kind == messages.COPY_FAIL:
            self.copying = False
            request = Request(kind, at_ns, size)
        else:
            return
        pending = self.pending
        if len(pending) >= MAX_PENDING:
            raise ProtocolViolation("state_cap", "too many unanswered requests")
        pending.push(request)
