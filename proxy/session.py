"""The decoder: one connection's trimmed frames in, executions out. A sans-I/O state machine.

Requests wait in a queue (`asked`) until their answers come, so that pipelines, errors that skip up to a Sync, suspended
portals and COPY are paired as the server does it. A name (statement, portal) is resolved when the server answers, not
when the client asks: only then is it sure that an earlier Parse or Bind of the pipeline took effect. The executions of
an exchange are given out at its ReadyForQuery, because only it says the transaction status.
Source: PostgreSQL, "Message Flow". Out of scope: units of work, and what a statement means.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.copies import copied_columns
from pgtattle.analyzers.sql.texts import unreadable
from pgtattle.proxy.asked import Asked, Request
from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.events import Connection, Parameter, Text
from pgtattle.proxy.exchange import UNSEEN, Done, Exchanges, Portal, Prepared, Running
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.indirect import INDIRECT, Indirect
from pgtattle.proxy.named import MAX_STATEMENTS, Named
from pgtattle.proxy.reading import ENCODING, NOT_TEXT, Read
from pgtattle.proxy.wire import messages
from pgtattle.proxy.wire.batch import COUNTED, COUNTED_BODY, PREFIX, PREFIX_HEAD, word
from pgtattle.proxy.wire.rows import MAX_DESCRIPTION, MAX_ROWS, Sample, copied, sample
from pgtattle.proxy.wire.startup import startup_parameters

MAX_TAG: Final = 100


class Session:
    """One connection. `read` lexes SQL, `number` gives out execution ids, `samples` are those of their results."""

    def __init__(self, connection: Connection, read: Read, number: Callable[[], int], samples: Samples) -> None:
        self.connection = connection
        self.authenticated = False
        self.challenged = False
        self._asked = Asked(read)
        self._running = Running()
        self._free_at = 0
        self._samples = samples
        self._exchanges = Exchanges(number, samples)
        self._named = Named(self._exchanges)
        self._indirect = Indirect(self._named, self._asked)

    @property
    def busy(self) -> bool:
        """True while a request is unanswered."""
        return len(self._asked.pending) > 0

    def startup(self, packet: bytes, at_ns: int) -> None:
        """The StartupMessage."""
        given = startup_parameters(packet)
        user = given.get("user", "")
        if "client_encoding" in given:
            self._asked.reading.reported(ENCODING, given["client_encoding"])
        self.connection = self.connection.changed(
            user=user,
            database=given.get("database") or user,
            application=given.get("application_name", ""),
        )

    def frontend(self, frames: bytes, at_ns: int) -> None:
        """Frames of the client. Raises ProtocolViolation where they cannot be."""
        self._asked.frames(frames, at_ns)

    def backend(self, frames: bytes, at_ns: int) -> list[Execution]:
        """Frames of the server: the executions of the exchanges that ended. Raises ProtocolViolation."""
        executions: list[Execution] = []
        position: i64 = 0
        end: i64 = len(frames)
        try:
            while position < end:
                kind: int = frames[position]
                size = word(frames, position + 1) + 1
                start = position + 5
                position += size
                if kind == COUNTED:
                    self._counted(frames, start, at_ns)
                    continue
                if kind == PREFIX:
                    kind, length = PREFIX_HEAD.unpack_from(frames, start)
                    start += PREFIX_HEAD.size
                    size = length + 1
                if kind == messages.READY:
                    executions += self._end_exchange(chr(frames[start]))
                else:
                    self._answer(kind, frames, start, position, size, at_ns)
        except (struct.error, IndexError, ValueError) as error:
            raise ProtocolViolation("bad_message", str(error)) from error
        return executions

    def stalled(self, duration_ns: int, at_ns: int) -> None:
        """The client did not read for so long, up to `at_ns`; what was answered in full is no longer waited for."""
        if self.busy:
            self._current().stalled_ns += duration_ns

    def statement(self, frame: bytes) -> None:
        """A named statement that is live: its Parse frame."""
        name, sql, types = messages.parse(frame[5:], True)
        self._named.statements[name] = self._asked.prepare(name, sql, types, True, 0, UNSEEN)

    def resync(self, status: str, at_ns: int) -> None:
        """In sync and quiescent from here on, after a gap; what was open before it is forgotten."""
        self.authenticated = True
        self._asked.restart()
        self._named.portals.clear()
        self._named.cursors.clear()
        self._running = Running()
        self._exchanges.restart(status)
        self._free_at = at_ns

    def close(self, at_ns: int) -> list[Execution]:
        """The connection ended: what was complete but for its ReadyForQuery."""
        self._named.end_transaction()
        return self._exchanges.end("?", self.connection)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, kind: int, frames: bytes, start: i64, end: i64, size: i64, at_ns: int) -> None:
        """A frame of the server: its body is from `start` to `end`, its size that on the wire. Frequent ones first."""
        if kind == messages.COMPLETE:
            self._complete(frames[start : min(end, start + MAX_TAG)], size, at_ns)
        elif kind == messages.ROW:
            self._row(frames[start:end], size, at_ns)
        elif kind == messages.ROWS:
            self._described(frames[start : min(end, start + MAX_DESCRIPTION)], size)
        elif kind == messages.NO_DATA:
            self._described(b"", size)
        elif kind == messages.BOUND:
            self._bound()
        elif kind == messages.PARSED:
            self._parsed()
        elif kind == messages.EMPTY:
            self._complete(b"", size, at_ns)
        elif kind == messages.ERROR:
            self._error(frames[start:end], size, at_ns)
        elif kind == messages.TYPES:
            self._typed(frames[start:end])
        elif kind == messages.CLOSED:
            self._closed()
        elif kind == messages.SUSPENDED:
            self._suspended(at_ns)
        elif kind == messages.COPY_DATA:
            self._row(frames[start:end], size, at_ns)
        elif kind == messages.COPY_OUT:
            self._current().copied = frames[start:end]
        elif kind == messages.COPY_IN:
            self._asked.copy_in()
        elif kind == messages.STATUS:
            self._reported(frames[start:end])
        elif kind == messages.AUTHENTICATION:
            self.challenged = self.challenged or frames[start : start + 4] != b"\0\0\0\0"
        elif kind == messages.KEY:
            self.connection = self.connection.changed(backend_pid=word(frames, start))

    def _described(self, description: bytes, size: int) -> None:
        """RowDescription or NoData; the rows of a simple query come undescribed by a request."""
        head = self._asked.head()
        if head is None or head.kind != messages.DESCRIBE:
            self._running.description = description
        else:
            self._asked.pending.pop()
            name = head.body[1:-1]
            if head.body[:1] == b"S":
                prepared = self._named.statements.get(name)
            else:
                portal = self._named.portals.get(name)
                prepared = None if portal is None else portal.prepared
            if prepared is not None:
                prepared.description = description
        self._running.received += size

    def _parsed(self) -> None:
        request = self._asked.expect(messages.PARSE)
        self._asked.pending.pop()
        self._named.keep(request.name, self._asked.prepared(request))
        self._running.sent += request.size

    def _closed(self) -> None:
        request = self._asked.expect(messages.CLOSE)
        self._asked.pending.pop()
        self._named.close(request.body)

    def _typed(self, body: bytes) -> None:
        request = self._asked.expect(messages.DESCRIBE)
        prepared = self._named.statements.get(request.body[1:-1])
        if prepared is not None:
            prepared.types = messages.parameter_types(body)

    def _reported(self, body: bytes) -> None:
        name, value = body[:-1].split(b"\0", 1)
        self._status_changed(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))

    def _counted(self, frames: bytes, start: i64, at_ns: int) -> None:
        _, count, size = COUNTED_BODY.unpack_from(frames, start)
        self._came(count, size, at_ns)

    def _came(self, rows: int, size: int, at_ns: int) -> Running:
        """Rows of the execution that the server is at."""
        running = self._current()
        running.received += size
        running.rows += rows
        if rows and not running.first_row_ns:
            running.first_row_ns = at_ns
        return running

    def _row(self, row: bytes, size: int, at_ns: int) -> None:
        running = self._came(1, size, at_ns)
        if len(row) + 5 < size:
            running.cut = True
        if running.sampled is None:
            running.sampled = [row]
        elif len(running.sampled) < MAX_ROWS:
            running.sampled.append(row)

    def _sample(self, running: Running, text: Text, description: bytes, formats: tuple[int, ...]) -> Sample | None:
        """The sample of a result, which may drive a loop."""
        rows, codec = running.sampled, self._asked.reading.codec
        if rows is None or not self._samples.affords(running.rows, running.first_row_ns):
            return None
        if running.copied:
            names, plain = copied_columns(text.sql)
            binary = running.copied[0] == 1
            return copied(names, binary, rows, running.rows, codec) if binary or plain else None
        return sample(description, formats, rows, running.rows, running.cut, codec) if description else None

    def _current(self) -> Running:
        """The execution that the server is at: a portal's own, or that of the simple query."""
        head = self._asked.head()
        if head is not None and head.kind == messages.EXECUTE:
            portal = self._named.portals.get(head.name)
            if portal is not None:
                return self._started(head, portal.running)
        return self._running

    def _started(self, request: Request, running: Running) -> Running:
        """An execution starts when it was asked for, or when the one before it ended. So does the next fetch of a
        portal; until then it was the client that took no rows.
        """
        if running.paused or not running.started_ns:
            free_at = self._free_at
            at_ns = request.at_ns if request.at_ns > free_at else free_at
            if running.paused:
                running.paused = False
                running.stalled_ns += at_ns - running.ended_ns
            else:
                running.started_ns = at_ns
        return running

    def _bound(self) -> None:
        request = self._asked.expect(messages.BIND)
        self._asked.pending.pop()
        name, statement, position = messages.bind_names(request.body)
        prepared = self._named.statements.get(statement) or self._unknown(statement)
        parameters, position = messages.bind_parameters(
            request.body, position, prepared.types, self._asked.reading.codec
        )
        formats = messages.result_formats(request.body, position)
        self._named.end_portal(name)
        if len(self._named.portals) >= MAX_STATEMENTS:
            raise ProtocolViolation("state_cap", "too many portals")
        self._named.portals[name] = Portal(
            prepared, parameters, formats, Running(sent=request.size + self._running.sent)
        )
        self._running = Running()

    def _unknown(self, name: bytes) -> Prepared:
        """A statement made before anyone looked."""
        return self._asked.prepare(name, b"", (), True, 0, UNSEEN)

    def _complete(self, tag_body: bytes, size: int, at_ns: int) -> None:
        """CommandComplete, or with no body EmptyQueryResponse."""
        request = self._asked.expect(messages.QUERY, messages.EXECUTE)
        found: Sample | None = None
        tag, rows = messages.command_tag(tag_body)
        if request.kind == messages.QUERY:
            running, self._running = self._started(request, self._running), Running()
            text, parameters, prepared = self._what(request)
            running.sent += request.size if not request.done else 0
            request.done += 1
            found = self._sample(running, text, running.description, ())
        else:
            self._asked.pending.pop()
            portal = self._named.portals.get(request.name)
            if portal is None:
                running, self._running = self._started(request, self._running), Running()
                text, parameters, prepared = self._what(request)
            else:
                running, portal.running = self._started(request, portal.running), Running()
                parameters, prepared = portal.parameters, portal.prepared
                text = prepared.text
                found = self._sample(running, text, prepared.description, portal.formats)
            running.sent += request.size
        running.received += size
        self._finish(Done(text, parameters, prepared, running, tag, None, at_ns, rows, found))

    def _what(self, request: Request) -> tuple[Text, tuple[Parameter, ...], Prepared | None]:
        """Text and parameters of the execution that a request is at."""
        if request.kind == messages.QUERY:
            texts = self._asked.texts(request)
            return texts[min(request.done, len(texts) - 1)], (), None
        if request.kind == messages.PARSE:
            prepared = self._asked.prepared(request)
            return prepared.text, (), prepared
        if request.kind == messages.BIND:
            _, statement, position = messages.bind_names(request.body)
            prepared = self._named.statements.get(statement) or self._unknown(statement)
            parameters, _ = messages.bind_parameters(request.body, position, prepared.types, self._asked.reading.codec)
            return prepared.text, parameters, prepared
        portal = self._named.portals.get(request.name)
        if portal is None:
            prepared = self._unknown(b"")
            return prepared.text, (), prepared
        return portal.prepared.text, portal.parameters, portal.prepared

    def _finish(self, done: Done) -> None:
        self._free_at = done.ended_ns
        if done.text.statement.command in INDIRECT:
            self._indirect.finish(done, self._exchanges.number)
        self._exchanges.add(done)

    def _suspended(self, at_ns: int) -> None:
        request = self._asked.expect(messages.EXECUTE)
        self._asked.pending.pop()
        portal = self._named.portals.get(request.name)
        running = self._running if portal is None else self._started(request, portal.running)
        running.suspended = running.paused = True
        running.sent += request.size
        running.ended_ns = self._free_at = at_ns

    def _error(self, body: bytes, size: int, at_ns: int) -> None:
        request = self._asked.head()
        if request is None or not self.authenticated:
            return
        sqlstate = messages.sqlstate(body)
        self._asked.copying = False
        if request.kind in (messages.QUERY, messages.EXECUTE, messages.PARSE, messages.BIND):
            text, parameters, prepared = self._what(request)
            if sqlstate in NOT_TEXT and not text.sql.isascii() and self._asked.reading.codec.mixed:
                text = unreadable(text.sql.encode("utf-8", "replace"), "that the server could not decode")
            running = self._current() if request.kind in (messages.QUERY, messages.EXECUTE) else self._running
            self._started(request, running)
            running.sent += request.size
            running.received += size
            self._running = Running()
            if request.kind == messages.EXECUTE:
                self._named.portals.pop(request.name, None)
            self._finish(Done(text, parameters, prepared, running, "", sqlstate, at_ns))
        if request.kind == messages.QUERY:
            request.done += 1
        elif request.kind not in (messages.FUNCTION, messages.SYNC):
            self._asked.skip_to_sync()

    def _status_changed(self, name: str, value: str) -> None:
        if self._asked.reading.changes(name, value):
            # Reported at the end of an exchange, and in force since anywhere in it.
            self._exchanges.doubt()
            self._named.doubt(self._exchanges.number)
            self._asked.reported(name, value)
        elif name == "application_name":
            if not self.authenticated:
                self.connection = self.connection.changed(application=value)
            self._exchanges.tags.application(value, self.connection.application)

    # -- the end of an exchange --------------------------------------------------------------------------------------

    def _end_exchange(self, status: str) -> list[Execution]:
        if not self.authenticated:
            # That of the login, whatever the client did not wait for it to ask.
            self.authenticated = True
            return []
        request = self._asked.head()
        if request is None:
            raise ProtocolViolation("impossible_answer", "ReadyForQuery with nothing asked")
        if request.kind not in (messages.QUERY, messages.SYNC, messages.FUNCTION):
            raise ProtocolViolation("impossible_answer", "ReadyForQuery before its Sync")
        self._asked.pending.pop()
        if request.kind == messages.QUERY:
            # A simple query destroys the unnamed statement and portal.
            self._named.statements.pop(b"", None)
            self._named.end_portal(b"")
        if status == "I" and (self._named.portals or self._named.cursors):
            self._named.end_transaction()
        self._running = Running()
        return self._exchanges.end(status, self.connection)
