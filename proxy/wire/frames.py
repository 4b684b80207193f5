"""The frame scanner, in Python: chunks of one direction in, one record of trimmed frames out (the format is `batch`'s).

It finds exact frame boundaries, whatever the chunks. Small frames pass whole, long ones keep a prefix; of a result, or
of a COPY TO, the first rows pass, long ones with their short values only, and the others are counted, as what a client
copies is; passwords are dropped. It decodes nothing else, but pairs
requests with their answers, so that the executions of each exchange are counted the moment its ReadyForQuery passes,
whether or not anyone looks at them.
`_frames.c` is its compiled twin: same names, same records, one set of tests. Import `State` from `scan`.
Source: PostgreSQL, "Message Formats" and "Message Flow"; the length limits are the server's
(`src/include/libpq/libpq.h`, `src/backend/tcop/postgres.c`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from pgtattle.proxy.wire.batch import BACKEND, COUNTED, COUNTED_BODY, FRONTEND, HEADER, PREFIX, PREFIX_HEAD
from pgtattle.proxy.wire.long_rows import Side

FLUSH_BYTES: Final = 256 * 1024
KEPT: Final = 65_536
"""A frame of up to this many bytes passes whole; of a longer one this many are kept."""
SQL: Final = 262_144
"""The same for frames that hold SQL."""
MAX_PENDING: Final = 65_536
MAX_SUSPENDED: Final = 256
MAX_HELD: Final = 1024 * 1024
"""Bytes of Parse frames that wait for their answer. Of a statement beyond it, or one that was cut, nothing is kept."""
SAMPLED: Final = 32_768
"""Bytes of the first rows of a result that pass; the others are counted."""
ROW: Final = 1_024
"""Of a longer row its first columns pass, and of these the short values."""
COPY_HEADER: Final = 19
"""Bytes before the first row of a binary COPY."""
LARGE: Final = 0x40000000
SMALL: Final = 10_000
PASSWORD: Final = 65_535

UNKNOWN_TYPE: Final = 1
BAD_LENGTH: Final = 2
OVER_LIMIT: Final = 3
IMPOSSIBLE: Final = 4
STATE_CAP: Final = 5
BAD_MESSAGE: Final = 6
EXCEPTION: Final = 7
REASONS: Final = (
    "", "unknown_type", "bad_length", "length_over_limit", "impossible_answer", "state_cap", "bad_message", "exception",
)  # fmt: skip
"""Why a connection can no longer be looked at: what `notice` is told, negated."""

PREPARED: Final = 1
CLOSED: Final = 2
KEY: Final = 3
MISSED: Final = 4
EXCHANGE: Final = 5
STATUS: Final = 6

_DROP: Final = -1
_COUNT: Final = -2
_HEAD = struct.Struct("!BI")
_COUNTED_SIZE: Final = 5 + COUNTED_BODY.size

_Q, _P, _B, _E, _D, _C, _F, _S, _DONE, _FAIL = b"QPBEDCFScf"
_PENDING_TYPES: Final = frozenset(b"QPBEDCFScf")
_DONE_SYNC: Final = frozenset(b"QSF")
_ROWS: Final = frozenset(b"Dd")


def _table(*groups: tuple[bytes, int, int]) -> list[tuple[int, int] | None]:
    """By type byte, what to keep of a frame's body (bytes, `_COUNT` or `_DROP`) and the longest there can be."""
    table: list[tuple[int, int] | None] = [None] * 256
    for kinds, keep, limit in groups:
        for kind in kinds:
            table[kind] = (keep, limit)
    return table


_TABLES: Final = (
    _table(
        (b"QP", SQL, LARGE), (b"B", KEPT, LARGE), (b"DECSHcfX", KEPT, SMALL), (b"d", _COUNT, LARGE),
        (b"p", _DROP, PASSWORD), (b"F", 0, LARGE),
    ),
    _table((b"CIEZTtn123sGHWSNAvc", KEPT, LARGE), (b"Dd", _COUNT, LARGE), (b"RK", 4, LARGE), (b"V", 0, LARGE)),
)  # fmt: skip


class State:
    """One connection, both directions: `frontend` and `backend` take its chunks, and append their records to `out`.

    `notice` is called after a chunk with something to see to: with the number of executions that ended, or the negated
    index of one of `REASONS` when the connection cannot be looked at any longer. It is called when there are `events`,
    when `out` was empty or holds FLUSH_BYTES, and always while `blind`, when nothing is packed.

    `events` are (kind, bytes): PREPARED (the Parse frame of a named statement that was made), CLOSED (the name of one
    that was closed), KEY (the beginning of BackendKeyData), STATUS (the body of a ParameterStatus) and, while blind,
    MISSED (the command tag of an execution) and EXCHANGE (the end of one). `begun` counts executions whose exchange has
    not ended, `ended` those that were packed whole, `suspended` portals that wait to be resumed.
    """

    __slots__ = (
        "_binary", "_copying", "_held", "_lead", "_notice", "_off", "_open", "_out", "_pending", "_sampled", "_sides",
        "_skipping", "_suspended", "authenticated", "begun", "blind", "ended", "events", "number", "status",
    )  # fmt: skip

    def __init__(self, number: int, out: bytearray, notice: Callable[[int], None]) -> None:
        self.number = number
        self.events: list[tuple[int, bytes]] = []
        self.blind = False
        self.authenticated = False
        self.status = ord("I")
        self.begun = self.ended = 0
        self._out = out
        self._notice: Callable[[int], None] | None = notice
        self._off = False
        self._sides = (Side(), Side())
        self._pending: list[tuple[int, int, bytes]] = []
        self._held = self._sampled = self._lead = 0
        self._binary = False
        self._suspended: set[bytes] = set()
        self._open = self._skipping = self._copying = False

    def frontend(self, chunk: bytes) -> None:
        """A chunk of the client."""
        scan_and_pack(chunk, self, False)

    def backend(self, chunk: bytes) -> None:
        """A chunk of the server."""
        scan_and_pack(chunk, self, True)

    def close(self) -> None:
        """Look at nothing more."""
        self._off = True
        self._notice = None

    @property
    def suspended(self) -> int:
        """Suspended portals: executions that count, should the connection end now."""
        return len(self._suspended)

    @property
    def between_messages(self) -> bool:
        """True when neither side has sent a frame in part."""
        return not any(side.part or side.skip for side in self._sides)

    @property
    def quiescent(self) -> bool:
        """True when the login is over, every request was answered and no frame has begun."""
        return self.authenticated and not self._pending and not self._open and self.between_messages

    # -- requests ----------------------------------------------------------------------------------------------------

    def _request(self, kind: int, frame: bytes, whole: bool) -> int:
        if kind not in _PENDING_TYPES or (self._skipping and kind != _S):
            return 0
        self._skipping = False
        if kind == _S and self._copying:
            return 0
        if kind in (_DONE, _FAIL):
            self._copying = False
            if not self._pending:
                return 0
        event, name = 0, b""
        if kind in (_P, _B, _E):
            end = frame.find(0, 5)
            if end < 0:
                return BAD_MESSAGE
            name = frame[5:end]
            if kind == _P and name:
                # Of one that cannot be kept is known only that the one before it is gone.
                event = PREPARED if whole and self._held + len(frame) <= MAX_HELD else CLOSED
                name = frame if event == PREPARED else name
        elif kind == _C:
            if len(frame) < 7 or frame[-1]:
                return BAD_MESSAGE
            name = frame[6:-1]
            event = CLOSED if frame[5] == _S else 0
        if len(self._pending) >= MAX_PENDING:
            return STATE_CAP
        self._pending.append((kind, event, name))
        self._held += len(name) if event else 0
        if kind not in (_DONE, _FAIL):
            self._open = kind not in _DONE_SYNC
        return 0

    # -- answers -----------------------------------------------------------------------------------------------------

    def _head(self) -> int:
        """The kind of the request that the server is at; the end of a COPY has no answer of its own."""
        pending = self._pending
        while pending and pending[0][0] in (_DONE, _FAIL):
            self._drop(1)
        return pending[0][0] if pending else 0

    def _drop(self, count: int) -> None:
        self._held -= sum(len(data) for _, event, data in self._pending[:count] if event)
        del self._pending[:count]

    def _answer(self, kind: int, body: bytes) -> int:
        """Take an answer: executions finished with it, or a reason, negated."""
        head = self._head()
        match kind:
            case 0x43 | 0x49:  # CommandComplete, EmptyQueryResponse
                if head not in (_Q, _E):
                    return -IMPOSSIBLE
                if head == _E:
                    self._suspended.discard(self._pending[0][2])
                    self._drop(1)
                self._begin(body[:-1] if kind == 0x43 else b"EMPTY")
            case 0x5A:  # ReadyForQuery
                return self._ready(head, body)
            case 0x45:  # ErrorResponse
                self._error(head)
            case 0x31 | 0x32 | 0x33 | 0x73:  # ParseComplete, BindComplete, CloseComplete, PortalSuspended
                return self._completed(kind, head)
            case 0x54 | 0x6E:  # RowDescription, NoData
                if head == _D:
                    self._drop(1)
            case 0x47:  # CopyInResponse
                if head in (_E, _Q):
                    self._copy_in()
            case 0x48:  # CopyOutResponse
                self._binary = body[:1] == b"\1"
                self._lead = COPY_HEADER if self._binary else 0
            case 0x4B:  # BackendKeyData
                self.events.append((KEY, body))
            case 0x53:  # ParameterStatus
                self.events.append((STATUS, body))
        return 0

    def _begin(self, tag: bytes) -> None:
        self.begun += 1
        if self.blind:
            self.events.append((MISSED, tag))

    def _completed(self, kind: int, head: int) -> int:
        if head != {0x31: _P, 0x32: _B, 0x33: _C, 0x73: _E}[kind]:
            return -IMPOSSIBLE
        _, event, name = self._pending[0]
        if event:
            self.events.append((event, name))
        elif kind == 0x73:
            if name not in self._suspended and len(self._suspended) >= MAX_SUSPENDED:
                return -STATE_CAP
            self._suspended.add(name)
        elif kind != 0x31:
            self._end_portal(name)
        self._drop(1)
        return 0

    def _end_portal(self, name: bytes) -> None:
        """A suspended portal that goes without its end was an execution all the same."""
        if name in self._suspended:
            self._suspended.discard(name)
            self._begin(b"")

    def _error(self, head: int) -> None:
        """Everything up to the next Sync is discarded by the server, but for the simple protocol."""
        if not head or not self.authenticated:
            return
        self._copying = False
        if head in (_Q, _P, _B, _E):
            self._begin(b"ERROR")
        if head in _DONE_SYNC:
            return
        if head == _E:
            self._suspended.discard(self._pending[0][2])
        pending = self._pending
        self._drop(next((n for n, one in enumerate(pending) if one[0] == _S), len(pending)))
        self._skipping = not pending

    def _copy_in(self) -> None:
        """The server ignores the Syncs that it reads before the end of the copy."""
        pending = self._pending
        end = next((n for n, one in enumerate(pending) if one[0] in (_DONE, _FAIL)), len(pending))
        self._copying = end == len(pending)
        self._open = self._open or (self._copying and pending[0][0] == _E)
        pending[:end] = [one for one in pending[:end] if one[0] != _S]

    def _ready(self, head: int, body: bytes) -> int:
        if not body:
            return -BAD_MESSAGE
        if self.authenticated:
            if head not in _DONE_SYNC:
                return -IMPOSSIBLE
            self._drop(1)
            self._head()
        self.authenticated = True
        self.status = body[0]
        if head == _Q:
            self._end_portal(b"")
        if body[0] == 0x49:
            for name in list(self._suspended):
                self._end_portal(name)
        if self.blind:
            self.events.append((EXCHANGE, b""))
        done, self.begun = self.begun, 0
        return done


def scan_and_pack(chunk: bytes, state: State, backend: bool) -> None:
    """Append the record of the frames that are complete with `chunk`; nothing where there are none."""
    if not isinstance(chunk, bytes):
        raise TypeError("a chunk is bytes")
    if state._off:
        return
    out, start, size = state._out, len(state._out), 0
    if not state.blind:
        out += HEADER.pack(BACKEND if backend else FRONTEND, state.number, time.monotonic_ns(), 0)
    try:
        done, reason = _scan(chunk, state, out, backend)
    except Exception:
        done, reason = 0, EXCEPTION
    if not state.blind:
        size = len(out) - start - HEADER.size
        if size:
            out[start + HEADER.size - 4 : start + HEADER.size] = size.to_bytes(4, "big")
        else:
            del out[start:]
    if reason:
        state.begun += done
        state._sides[backend].forget()
    elif not state.blind:
        state.ended += done
    wake = size and (not start or len(out) >= FLUSH_BYTES)
    if (reason or state.blind or wake or state.events) and state._notice is not None:
        state._notice(-reason if reason else done)


def _scan(chunk: bytes, state: State, out: bytearray, backend: bool) -> tuple[int, int]:
    side, table = state._sides[backend], _TABLES[backend]
    part = side.part
    done = counted = position = 0
    total = len(chunk)
    while position < total:
        if side.skip:
            taken = min(side.skip, total - position)
            side.skip -= taken
            position += taken
            continue
        if len(part) < 5:
            taken = 5 - len(part)
            part += chunk[position : position + taken]
            position = min(position + taken, total)
            if len(part) < 5:
                break
        if side.want:
            position, complete = side.long_row(chunk, position)
            if not complete:
                break
            state._sampled += len(part)
            if not state.blind:
                counted = 0
                out += _kept(part)
            part.clear()
            continue
        kind, size = _HEAD.unpack_from(part)
        entry = table[kind]
        if entry is None:
            return done, UNKNOWN_TYPE
        keep, limit = entry
        if not 4 <= size <= LARGE:
            return done, BAD_LENGTH
        if size > limit:
            return done, OVER_LIMIT
        row = backend and kind in _ROWS
        if row and state._sampled + min(size, ROW) <= SAMPLED:
            if size <= ROW:
                keep = ROW
            elif not state.blind and (kind == _D or state._binary):
                side.begin_row(size, 0 if kind == _D else state._lead)
                state._lead = 0
                continue
        want = 5 + max(0, min(keep, size - 4))
        if len(part) < want:
            taken = want - len(part)
            part += chunk[position : position + taken]
            position = min(position + taken, total)
            if len(part) < want:
                break
        frame = bytes(part)
        part.clear()
        side.skip = 1 + size - want
        if backend:
            state._sampled = state._sampled + size if row else 0
            state._lead = 0 if row else state._lead
        if keep == _DROP:
            continue
        if keep == _COUNT:
            if not state.blind:
                counted = _count(out, counted, kind, 1 + size)
            continue
        whole = not side.skip
        if not state.blind:
            counted = 0
            out += _kept(frame)
        if backend:
            answered = state._answer(kind, frame[5:])
            if answered < 0:
                return done, -answered
            done += answered
        elif reason := state._request(kind, frame, whole):
            return done, reason
    return done, 0


def _kept(frame: bytes | bytearray) -> bytes | bytearray:
    """A frame as it is packed: whole, or what is kept of it."""
    kind, size = _HEAD.unpack_from(frame)
    if len(frame) == size + 1:
        return frame
    return _HEAD.pack(PREFIX, PREFIX_HEAD.size + len(frame) - 1) + PREFIX_HEAD.pack(kind, size) + frame[5:]


def _count(out: bytearray, counted: int, kind: int, size: int) -> int:
    """Count a frame with those of its type just before it; where the count stands in `out`."""
    if counted and out[counted] == kind:
        _, frames, total = COUNTED_BODY.unpack_from(out, counted)
        COUNTED_BODY.pack_into(out, counted, kind, frames + 1, total + size)
        return counted
    out += _HEAD.pack(COUNTED, 4 + COUNTED_BODY.size)
    out += COUNTED_BODY.pack(kind, 1, size)
    return len(out) - COUNTED_BODY.size
