"""The tap: chunks that were already forwarded in, batches for the profiler out.

It never waits, never raises and never changes a byte. When the profiler lags or is gone, a connection is left
unobserved until no request of it is unanswered; what was missed is counted in executions, and then the profiler is told
the live named statements and goes on. An execution is credited with the ReadyForQuery of its exchange, when the decoder
emits it too, so that
`executions` (acknowledged), `shed` and `lost` add up.
Out of scope: what frames mean beyond that.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Literal

import msgspec

from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.wire import batch
from pgtattle.proxy.wire.control import batch_message
from pgtattle.proxy.wire.frames import BACKEND_TYPES, FRONTEND_TYPES, Scanner
from pgtattle.proxy.wire.startup import is_replication

QUEUE_LIMIT: Final = 16 * 1024 * 1024
FLUSH_SECONDS: Final = 0.005
FLUSH_BYTES: Final = 256 * 1024
MAX_STATEMENTS: Final = 1_000
MAX_STATEMENT_BYTES: Final = 1024 * 1024

Blind = Literal["", "shed", "lost"]

_BIND, _CLOSE, _DESCRIBE, _EXECUTE, _FUNCTION, _FLUSH, _PARSE, _QUERY, _SYNC = b"BCDEFHPQS"
_COMPLETE, _EMPTY, _ERROR, _READY, _COPY_IN, _KEY = b"CIEZGK"
_IDLE = ord("I")


class Tap:
    """The queue to the profiler, and what it lost. `full` says that connections must be shed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int = QUEUE_LIMIT) -> None:
        self.full = True
        self.shed = 0
        self.lost = 0
        self.executions = 0
        self.opaque: dict[str, int] = {}
        self.lines: dict[int, Line] = {}
        self._loop = loop
        self._limit = limit
        self._transport: asyncio.WriteTransport | None = None
        self._records: list[bytes] = []
        self._size = 0
        self._credit = 0
        self._sequence = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queue_bytes(self) -> int:
        """Bytes that wait for the profiler to take them."""
        waiting = self._transport.get_write_buffer_size() if self._transport else 0
        return self._size + waiting

    @property
    def acknowledged(self) -> bool:
        """True when the profiler has analyzed all that was sent."""
        return not self._unacknowledged and not self._records

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """A profiler is there: it learns of the connections that live already."""
        self._transport = transport
        self.full = False
        for line in list(self.lines.values()):
            line.introduce()
            line.resume()

    def disconnect(self) -> None:
        """The profiler is gone, with all that it had not acknowledged."""
        self._transport = None
        self.full = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.lost += self._credit + sum(executions for _, executions in self._unacknowledged)
        self._unacknowledged.clear()
        self._records.clear()
        self._size = self._credit = 0
        for line in self.lines.values():
            line.blind("lost")

    def acknowledge(self, sequence: int) -> None:
        """The profiler analyzed the batches up to `sequence`."""
        unacknowledged = self._unacknowledged
        while unacknowledged and unacknowledged[0][0] <= sequence:
            self.executions += unacknowledged.popleft()[1]
        if self.full and self._transport is not None and self.queue_bytes < self._limit // 2:
            self.full = False

    def credit(self, executions: int) -> None:
        """So many executions are in the batch that is being filled."""
        self._credit += executions

    def append(self, record: bytes) -> None:
        """Queue a record."""
        if self._transport is None:
            return
        self._records.append(record)
        self._size += len(record)
        if self._size >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Send what is queued."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is None or not self._records:
            return
        self._sequence += 1
        self._unacknowledged.append((self._sequence, self._credit))
        self._transport.write(batch_message(self._sequence, b"".join(self._records)))
        self._records.clear()
        self._size = self._credit = 0
        self.full = self._transport.get_write_buffer_size() > self._limit

    def finish(self) -> None:
        """Say of every connection what was missed, and send all."""
        for line in self.lines.values():
            line.resume()
        self.flush()


class Line:
    """One connection of the tap. Its state is what a gap needs: open requests, live statements, transaction status."""

    __slots__ = (
        "_backend",
        "_begun",
        "_blind",
        "_exchanges",
        "_frontend",
        "_key",
        "_last",
        "_missed",
        "_opened",
        "_outstanding",
        "_startup",
        "_statement_bytes",
        "_statements",
        "_unsynced",
        "_welcome",
        "authenticated",
        "number",
        "observed",
        "status",
        "tap",
    )

    def __init__(self, tap: Tap, number: int, client: str) -> None:
        self.tap = tap
        self.number = number
        self.observed = True
        self.authenticated = False
        self.status = _IDLE
        self._opened = batch.Opened(client, time.monotonic_ns())
        self._startup = b""
        self._key = b""
        self._frontend = Scanner(FRONTEND_TYPES, b"BCDEFHPQS", self._request)
        self._backend = Scanner(BACKEND_TYPES, b"CIEZGK", self._answer)
        self._statements: dict[bytes, bytes] = {}
        self._statement_bytes = 0
        self._outstanding = 0
        self._unsynced = False
        self._last = 0
        self._begun = 0
        self._blind: Blind = ""
        self._exchanges = 0
        self._missed: dict[str, int] = {}
        self._welcome = False
        tap.lines[number] = self
        if tap.full:
            self._blind = "shed"
        else:
            self.introduce()

    @property
    def quiescent(self) -> bool:
        """True when the login is over and every request was answered."""
        return self.authenticated and not self._outstanding and not self._unsynced

    def startup(self, packet: bytes) -> None:
        """The client's StartupMessage."""
        self._startup = packet
        if self._welcome:
            self._append(batch.STARTUP, packet)
        if is_replication(packet):
            self.give_up("replication")

    def frontend(self, chunk: bytes) -> None:
        """Look at bytes that were sent on to the server."""
        if not self.observed:
            return
        if self.tap.full:
            self.blind("shed")
        elif self._blind:
            self.resume()
        self._look(batch.FRONTEND, self._frontend, chunk)

    def backend(self, chunk: bytes) -> None:
        """Look at bytes that were sent on to the client."""
        if not self.observed:
            return
        if self.tap.full:
            self.blind("shed")
        self._look(batch.BACKEND, self._backend, chunk)

    def stalled(self, duration_ns: int) -> None:
        """The client did not read for so long, up to now."""
        if self.observed and not self._blind:
            self._append(batch.STALLED, duration_ns.to_bytes(8, "big"))

    def give_up(self, reason: str) -> None:
        """Look no longer: the connection is forwarded all the same."""
        if not self.observed:
            return
        self.observed = False
        self.tap.opaque[reason] = self.tap.opaque.get(reason, 0) + 1
        if self._welcome:
            self._append(batch.OPAQUE, reason.encode())

    def close(self, reason: str) -> None:
        """The connection ended."""
        self.tap.lines.pop(self.number, None)
        if self._blind:
            self._count(self._begun)
            self._tell_gap()
        else:
            self.tap.credit(self._begun)
        self._begun = 0
        if self._welcome:
            self._append(batch.CLOSED, msgspec.json.encode(batch.Closed(reason)))

    def introduce(self) -> None:
        """Tell a profiler that this connection is there."""
        self._welcome = True
        self._append(batch.OPENED, msgspec.json.encode(self._opened))
        if self._startup:
            self._append(batch.STARTUP, self._startup)
        if not self.observed:
            self._append(batch.OPAQUE, b"earlier")

    def blind(self, why: Blind) -> None:
        """Stop looking until the connection is quiescent: what its open exchange began is missed with the rest."""
        if why == "lost":
            self._welcome = False
        if not self._blind:
            self._blind = why
            if self._begun:
                self._miss("UNKNOWN", self._begun)

    def resume(self) -> None:
        """Look again, if nothing is unanswered and there is room."""
        if not self._blind or not self.observed or not self.quiescent or self.tap.full:
            return
        if not self._welcome:
            self.introduce()
        if self._key:
            self._append(batch.BACKEND, self._key)
        for frame in self._statements.values():
            self._append(batch.STATEMENT, frame)
        self._tell_gap()
        self._blind = ""

    def _tell_gap(self) -> None:
        gap = batch.ShedGap(self._exchanges, self._missed, chr(self.status))
        if self._welcome:
            self._append(batch.GAP, msgspec.json.encode(gap))
        self._exchanges = 0
        self._missed = {}

    def _append(self, kind: int, body: bytes) -> None:
        self.tap.append(batch.pack(kind, self.number, time.monotonic_ns(), body))

    def _look(self, kind: int, scanner: Scanner, chunk: bytes) -> None:
        try:
            frames = scanner.scan(chunk)
        except ProtocolViolation as violation:
            self.give_up(violation.reason)
            return
        except Exception:
            self.give_up("exception")
            return
        if frames and not self._blind:
            self._append(kind, frames)

    def _request(self, kind: int, data: bytes, start: int, end: int) -> None:
        self._last = kind
        if kind == _SYNC:
            self._outstanding += 1
            self._unsynced = False
        elif kind == _QUERY or kind == _FUNCTION:
            self._outstanding += 1
        else:
            self._unsynced = True
            if kind == _PARSE and data[start]:
                self._remember(data, start, end)
            elif kind == _CLOSE and data[start : start + 1] == b"S":
                self._forget(data[start + 1 : end - 1])

    def _answer(self, kind: int, data: bytes, start: int, end: int) -> None:
        if kind == _COMPLETE:
            self._begun += 1
            if self._blind:
                self._miss(data[start : end - 1].split(b" ", 1)[0].decode("ascii", "replace")[:32])
        elif kind == _READY:
            self.authenticated = True
            self.status = data[start]
            if self._outstanding:
                self._outstanding -= 1
            if self._blind:
                self._exchanges += 1
                self._count(self._begun)
            else:
                self.tap.credit(self._begun)
            self._begun = 0
        elif kind == _ERROR:
            if (self._outstanding or self._unsynced) and self._last not in (_FUNCTION, _DESCRIBE, _CLOSE):
                self._begun += 1
                if self._blind:
                    self._miss("ERROR")
        elif kind == _EMPTY:
            self._begun += 1
            if self._blind:
                self._miss("EMPTY")
        elif kind == _COPY_IN:
            # The server ignores the Sync that follows in COPY IN mode; the client sends another after CopyDone.
            if self._last != _QUERY:
                self._outstanding = 0
                self._unsynced = True
        elif kind == _KEY and not self._key:
            body = data[start : start + 4]
            prefix = batch.PREFIX_HEAD.pack(_KEY, end - start + 4) + body
            self._key = bytes((batch.PREFIX,)) + (4 + len(prefix)).to_bytes(4, "big") + prefix

    def _miss(self, command: str, executions: int = 1) -> None:
        self._missed[command] = self._missed.get(command, 0) + executions

    def _count(self, executions: int) -> None:
        if self._blind == "lost":
            self.tap.lost += executions
            self._blind = "shed"
        else:
            self.tap.shed += executions

    def _remember(self, data: bytes, start: int, end: int) -> None:
        name = data[start : data.index(b"\0", start)]
        frame = data[start - 5 : end] if start >= 5 else b""
        self._forget(name)
        if not frame or len(frame) > MAX_STATEMENT_BYTES:
            return
        self._statements[name] = frame
        self._statement_bytes += len(frame)
        while len(self._statements) > MAX_STATEMENTS or self._statement_bytes > MAX_STATEMENT_BYTES:
            self._forget(next(iter(self._statements)))

    def _forget(self, name: bytes) -> None:
        frame = self._statements.pop(name, None)
        if frame is not None:
            self._statement_bytes -= len(frame)
