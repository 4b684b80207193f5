"""The tap: chunks that were already forwarded in, batches for the profiler out.

It never waits, never raises and never changes a byte. When the profiler lags or is gone, a connection is left
unobserved until no request of it is unanswered; what was missed is counted in executions, and then the profiler is told
the live named statements and goes on. An execution is credited with the ReadyForQuery of its exchange, when the decoder
emits it too, so that `executions` (acknowledged), `shed` and `lost` add up.
Out of scope: what frames mean; `wire.scan` finds and pairs them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from pgtattle.proxy.wire import batch, control
from pgtattle.proxy.wire.control import batch_message
from pgtattle.proxy.wire.frames import CLOSED, EXCHANGE, FLUSH_BYTES, KEY, MISSED, PREPARED, REASONS, STATUS
from pgtattle.proxy.wire.scan import State
from pgtattle.proxy.wire.startup import is_replication

QUEUE_LIMIT: Final = 16 * 1024 * 1024
FLUSH_SECONDS: Final = 0.02
HEARTBEAT_SECONDS: Final = 0.1
LAST_OPAQUE: Final = 100
MAX_STATEMENTS: Final = 1_000
MAX_STATEMENT_BYTES: Final = 1024 * 1024
MAX_REPORT: Final = 256

Blind = Literal["", "shed", "lost"]

_IDLE: Final = ord("I")
_APPLICATION: Final = b"application_name"
_READING: Final = (b"client_encoding", b"standard_conforming_strings")
"""What the meaning of SQL hangs on."""


class Tap:
    """The queue to the profiler, and what it lost. While it is `full`, connections are shed.

    Executions that were packed are `credited`; those that the profiler acknowledged are `executions`, and the rest of
    them is lost with the profiler.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int = QUEUE_LIMIT) -> None:
        self.full = True
        self.shed = 0
        self.lost = 0
        self.executions = 0
        self.opaque: dict[str, int] = {}
        self.lines: dict[int, Line] = {}
        self._opaque: deque[int] = deque(maxlen=LAST_OPAQUE)
        self.records = bytearray()
        self._loop = loop
        self._limit = limit
        self._transport: asyncio.WriteTransport | None = None
        self._sequence = self._acknowledged = 0
        self._progress_ns = 0
        self._of_closed = self._written_off = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None

    @property
    def queue_bytes(self) -> int:
        """Bytes that wait for the profiler to take them."""
        waiting = self._transport.get_write_buffer_size() if self._transport else 0
        return len(self.records) + waiting

    @property
    def unacknowledged(self) -> int:
        """Executions that were packed and not yet acknowledged."""
        credited = self._of_closed + sum(line.credited for line in self.lines.values())
        return credited - self._written_off - self.executions

    @property
    def unanswered_seconds(self) -> float:
        """For how long the profiler has acknowledged nothing of what it has to; 0 while there is nothing."""
        if self._sequence == self._acknowledged:
            return 0.0
        return (time.monotonic_ns() - self._progress_ns) / 1e9

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """A profiler is there: it learns of the connections that live already."""
        self._transport = transport
        self._sequence = self._acknowledged = 0
        self.full = False
        self._beat()
        for line in list(self.lines.values()):
            line.introduce()
            line.resume()

    def disconnect(self) -> None:
        """The profiler is gone, with all that it had not acknowledged."""
        self._transport = None
        self.full = True
        self._stop_waiting()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        self._write_off()
        self.records.clear()
        for line in self.lines.values():
            line.blind("lost")

    def acknowledge(self, sequence: int, executions: int) -> None:
        """The profiler analyzed the batches up to `sequence` and saw so many executions in them."""
        self._acknowledged = sequence
        self._progress_ns = time.monotonic_ns()
        self.executions += executions
        if self.full and self._transport is not None and self.queue_bytes < self._limit // 2:
            self.full = False
            for line in self.lines.values():
                line.resume()

    def settle(self) -> bool:
        """True when everything was sent and acknowledged: what the profiler could not follow is lost then, too."""
        if self._transport is None or self.records or self._sequence != self._acknowledged:
            return False
        self._write_off()
        return True

    def count_opaque(self, number: int, reason: str) -> None:
        """A connection cannot be looked at, or could not while it was there; once for each, whoever noticed."""
        if number in self._opaque:
            return
        self._opaque.append(number)
        self.opaque[reason] = self.opaque.get(reason, 0) + 1

    def credit(self, executions: int) -> None:
        """So many executions were packed of a connection that ended."""
        self._of_closed += executions

    def append(self, record: bytes) -> None:
        """Queue a record."""
        if self._transport is not None:
            self.records += record
            self.wait()

    def wait(self) -> None:
        """Records were added: flush them soon, at once if they are many."""
        if len(self.records) >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None and self.records:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Send what is queued, and that everything read up to now is sent."""
        self._stop_waiting()
        if self._transport is None:
            return
        now_ns = time.monotonic_ns()
        if self._sequence == self._acknowledged:
            self._progress_ns = now_ns
        self._sequence += 1
        self._transport.write(batch_message(self._sequence, now_ns, self.records))
        self.records.clear()
        if not self.full and self._transport.get_write_buffer_size() > self._limit:
            self.full = True
            for line in self.lines.values():
                line.blind("shed")

    def finish(self) -> None:
        """Say of every connection what was missed, and send all."""
        for line in self.lines.values():
            line.resume()
        self.flush()

    def _beat(self) -> None:
        """Tell the profiler ten times a second that time passes; that it answers says that it does not hang."""
        if self._transport is None:
            return
        self._heartbeat = self._loop.call_later(HEARTBEAT_SECONDS, self._beat)
        if not self._transport.get_write_buffer_size():
            self.flush()

    def _write_off(self) -> None:
        lost = self.unacknowledged
        self.lost += lost
        self._written_off += lost

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Line:
    """One connection of the tap. Its state is what a gap needs: open requests, live statements, transaction status,
    and the reports of the server by which the decoder reads.

    `frontend` and `backend` take the chunks that were sent on.
    """

    __slots__ = (
        "_blind", "_exchanges", "_key", "_missed", "_opened", "_reported", "_startup", "_state", "_statement_bytes",
        "_statements", "_welcome", "backend", "frontend", "number", "observed", "reason", "tap",
    )  # fmt: skip

    def __init__(self, tap: Tap, number: int, client: str) -> None:
        self.tap = tap
        self.number = number
        self.observed = True
        self.reason = ""
        self._opened = control.Opened(client, time.monotonic_ns())
        self._startup = b""
        self._key = b""
        self._state = State(number, tap.records, self._notice)
        self.frontend: Callable[[bytes], None] = self._state.frontend
        self.backend: Callable[[bytes], None] = self._state.backend
        self._statements: dict[bytes, bytes] = {}
        self._statement_bytes = 0
        self._reported: dict[bytes, bytes] = {}
        self._blind: Blind = ""
        self._exchanges = 0
        self._missed: dict[str, int] = {}
        self._welcome = False
        tap.lines[number] = self
        if tap.full:
            self.blind("shed")
        else:
            self.introduce()

    @property
    def authenticated(self) -> bool:
        """True once the server took the login."""
        return self._state.authenticated

    @property
    def backend_pid(self) -> int:
        """The process id that the server gave its session; 0 while it is not known."""
        return int.from_bytes(self._key[-4:], "big")

    @property
    def credited(self) -> int:
        """Executions that were packed."""
        return self._state.ended

    @property
    def between_messages(self) -> bool:
        """True when no message of either side has passed in part."""
        return self._state.between_messages

    @property
    def quiescent(self) -> bool:
        """True when every request was answered, and no message has passed in part."""
        return self._state.quiescent

    @property
    def idle(self) -> bool:
        """True when it is quiescent and no transaction is open."""
        return self._state.quiescent and self._state.status == _IDLE

    def startup(self, packet: bytes) -> None:
        """The client's StartupMessage."""
        self._startup = packet
        if self._welcome:
            self._append(batch.STARTUP, packet)
        if is_replication(packet):
            self.give_up("replication")

    def stalled(self, duration_ns: int) -> None:
        """The client did not read for so long, up to now."""
        if self.observed and not self._blind:
            self._append(batch.STALLED, duration_ns.to_bytes(8, "big"))

    def give_up(self, reason: str) -> None:
        """Look no longer: the connection is forwarded all the same."""
        if not self.observed:
            return
        self.observed = False
        self.reason = reason
        self.tap.count_opaque(self.number, reason)
        self._end()
        self._state.close()
        if self._welcome:
            self._append(batch.OPAQUE, reason.encode())

    def close(self, reason: str) -> None:
        """The connection ended."""
        if self.observed:
            self._end()
        self._state.close()
        if self.tap.lines.pop(self.number, None) is not None:
            self.tap.credit(self._state.ended)
        if self._welcome:
            self._append(batch.CLOSED, msgspec.json.encode(control.Closed(reason)))

    def introduce(self) -> None:
        """Tell a profiler that this connection is there."""
        self._welcome = True
        self._append(batch.OPENED, msgspec.json.encode(self._opened))
        if self._startup:
            self._append(batch.STARTUP, self._startup)
        self._report(b"")
        if not self.observed:
            self._append(batch.OPAQUE, b"earlier")

    def blind(self, why: Blind) -> None:
        """Stop looking until the connection is quiescent: what its open exchange began is missed with the rest."""
        if why == "lost":
            self._welcome = False
        if not self._blind:
            # Only what is open when the profiler dies is lost with it.
            self._blind = "shed" if self._state.quiescent else why
            self._state.blind = True
            if self._state.begun:
                self._miss("UNKNOWN", self._state.begun)

    def resume(self) -> None:
        """Look again, if nothing is unanswered and there is room."""
        state = self._state
        if not self._blind or not self.observed or not state.quiescent or state.suspended or self.tap.full:
            return
        if not self._welcome:
            self.introduce()
        if self._key:
            self._append(batch.BACKEND, self._key)
        self._report(*_READING)
        for frame in self._statements.values():
            self._append(batch.STATEMENT, frame)
        self._tell_gap()
        self._report(_APPLICATION)
        self._blind = ""
        self._state.blind = False

    def _notice(self, ended: int) -> None:
        """What the scanner cannot see to by itself. The traffic must never learn of a mistake in here."""
        try:
            if self._state.events:
                self._take(self._state.events)
            if ended < 0:
                self.give_up(REASONS[-ended])
            elif self._blind:
                if ended:
                    self._count(ended)
                self.resume()
            self.tap.wait()
        except Exception:
            self.give_up("exception")

    def _take(self, events: list[tuple[int, bytes]]) -> None:
        for kind, data in events:
            if kind == MISSED:
                self._miss(data.split(b" ", 1)[0].decode("ascii", "replace")[:32] or "UNKNOWN")
            elif kind == EXCHANGE:
                self._exchanges += 1
            elif kind == PREPARED:
                self._remember(data)
            elif kind == CLOSED:
                self._forget(data)
            elif kind == KEY:
                prefix = batch.PREFIX_HEAD.pack(ord("K"), 4 + len(data)) + data
                self._key = bytes((batch.PREFIX,)) + (4 + len(prefix)).to_bytes(4, "big") + prefix
            elif kind == STATUS and len(data) <= MAX_REPORT:
                self._reports(data)
        events.clear()

    def _count(self, executions: int) -> None:
        """Executions ended."""
        if not self._blind:
            self._state.ended += executions
        elif self._blind == "lost":
            self.tap.lost += executions
            self._blind = "shed"
        else:
            self.tap.shed += executions

    def _end(self) -> None:
        """Nothing more is looked at: what was begun counts now."""
        self._count(self._state.begun + self._state.suspended)
        self._state.begun = 0
        if self._blind:
            self._tell_gap()

    def _tell_gap(self) -> None:
        gap = control.ShedGap(self._exchanges, self._missed, chr(self._state.status))
        if self._welcome:
            self._append(batch.GAP, msgspec.json.encode(gap))
        self._exchanges = 0
        self._missed = {}

    def _append(self, kind: int, body: bytes) -> None:
        self.tap.append(batch.pack(kind, self.number, time.monotonic_ns(), body))

    def _miss(self, command: str, executions: int = 1) -> None:
        self._missed[command] = self._missed.get(command, 0) + executions

    def _reports(self, body: bytes) -> None:
        """The server reports a setting. The application's name at login is kept under no name, as the connection's."""
        frame = b"S" + (4 + len(body)).to_bytes(4, "big") + body
        if body.startswith(_APPLICATION + b"\0"):
            self._reported.setdefault(b"", frame)
            self._reported[_APPLICATION] = frame
            return
        for name in _READING:
            if body.startswith(name + b"\0") and self._reported.get(name) != frame:
                if name in self._reported:
                    self._forget_ambiguous()
                self._reported[name] = frame

    def _forget_ambiguous(self) -> None:
        """Nobody will know by which settings a statement was read that depends on them."""
        for name, frame in list(self._statements.items()):
            sql = frame[5:].split(b"\0", 2)[1]
            if b"\\" in sql or not sql.isascii():
                self._forget(name)

    def _report(self, *names: bytes) -> None:
        """Repeat what the server reported last."""
        frames = b"".join([self._reported[name] for name in names if name in self._reported])
        if frames:
            self._append(batch.BACKEND, frames)

    def _remember(self, frame: bytes) -> None:
        name = frame[5 : frame.index(b"\0", 5)]
        self._forget(name)
        if len(frame) > MAX_STATEMENT_BYTES:
            return
        self._statements[name] = frame
        self._statement_bytes += len(frame)
        while len(self._statements) > MAX_STATEMENTS or self._statement_bytes > MAX_STATEMENT_BYTES:
            self._forget(next(iter(self._statements)))

    def _forget(self, name: bytes) -> None:
        frame = self._statements.pop(name, None)
        if frame is not None:
            self._statement_bytes -= len(frame)
