"""What the relay and the profiler say to each other over their socketpair.

The stream is a run of messages: `size` u32 (of what follows), `kind` u8, payload. `BATCH` is a sequence number (u64), a
watermark (u64, nanoseconds of the monotonic clock) and the records of `batch`: every record whose time is before the
watermark is in this batch or in an earlier one. `CONTROL` is one of the JSON records below. Batches flow from the relay
to the profiler only. The JSON bodies of a batch's records are here too.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
from msgspec import Struct

from pgtattle.proxy.checks import Check
from pgtattle.proxy.settings import Settings

BATCH: Final = 0
CONTROL: Final = 1
MESSAGE: Final = struct.Struct("!IB")
BATCH_HEAD: Final = struct.Struct("!QQ")
"""Sequence number and watermark."""


class Opened(Struct, frozen=True):
    """A connection: the client's address and when it came (monotonic)."""

    client: str
    opened_ns: int


class ShedGap(Struct, frozen=True):
    """Body of a GAP record: exchanges and executions by command that were not looked at, and the status since then."""

    exchanges: int
    executions: dict[str, int]
    status: str


class Closed(Struct, frozen=True):
    """Body of a CLOSED record: a word for who ended it (`client`, `server`, `error`, `drain`)."""

    reason: str


class RelayCounters(Struct, frozen=True, kw_only=True):
    """What the relay counts; it outlives profilers. `executions` were acknowledged by one.

    `connections_total` is by result (`accepted`, `refused`, `failed`, `declined`) and encryption, as in `accepted/off`.
    `sessions_open` are the accepted ones that are open now; `connections_open` also counts clients that have not sent
    their startup message. `failure` says that profilers die as soon as they run, and how.
    """

    connections_open: int = 0
    sessions_open: int = 0
    connections_total: dict[str, int] = {}
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    executions: int = 0
    shed: int = 0
    lost: int = 0
    restarts: int = 0
    opaque: dict[str, int] = {}
    queue_bytes: int = 0
    failure: str = ""
    task_failures: int = 0


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """First message to a profiler. `started_unix_ns` and `started_ns` are one moment on both clocks."""

    session: str
    settings: Settings
    started_unix_ns: int
    started_ns: int
    listen: str
    api_fd: int
    metrics_fd: int = -1


class Counters(Struct, frozen=True, tag="counters"):
    """The relay's counters now; sent twice a second and before `Finish`."""

    counters: RelayCounters


class Finish(Struct, frozen=True, tag="finish"):
    """Everything was sent: finish the analysis and answer with `Finished`."""


class Flushed(Struct, frozen=True, tag="flushed"):
    """The answer to `Flush` with the same number; the batches before it hold what was read before that was received."""

    number: int


class Ready(Struct, frozen=True, tag="ready"):
    """The profiler serves its API and takes batches."""


class Checked(Struct, frozen=True, tag="checked"):
    """What the profiler found out about the server; sent once it is known, and again when it changes."""

    checks: list[Check]


class Ack(Struct, frozen=True, tag="ack"):
    """All batches up to `sequence` were analyzed; since the last one `executions` were seen."""

    sequence: int
    executions: int


class Flush(Struct, frozen=True, tag="flush"):
    """Send at once what was read so far, and then `Flushed` with this number."""

    number: int


class Opaque(Struct, frozen=True, tag="opaque"):
    """The profiler cannot follow a connection; nothing more of it needs to be sent."""

    connection: int
    reason: str


class Finished(Struct, frozen=True, tag="finished"):
    """The report, as `schema.Report` in JSON."""

    report: msgspec.Raw


ToProfiler = Hello | Counters | Finish | Flushed
ToRelay = Ready | Checked | Ack | Flush | Opaque | Finished


def batch_message(sequence: int, watermark_ns: int, records: bytes | bytearray) -> bytes:
    """A BATCH message."""
    head = MESSAGE.pack(1 + BATCH_HEAD.size + len(records), BATCH) + BATCH_HEAD.pack(sequence, watermark_ns)
    return b"".join((head, records))


def control_message(record: ToProfiler | ToRelay) -> bytes:
    """A CONTROL message."""
    payload = msgspec.json.encode(record)
    return MESSAGE.pack(1 + len(payload), CONTROL) + payload


class Splitter:
    """Cuts the stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages completed by `data`, as (kind, payload)."""
        buffer = self._buffer
        buffer += data
        messages: list[tuple[int, bytes]] = []
        position = 0
        while len(buffer) - position >= MESSAGE.size:
            size, kind = MESSAGE.unpack_from(buffer, position)
            end = position + 4 + size
            if end > len(buffer):
                break
            messages.append((kind, bytes(memoryview(buffer)[position + MESSAGE.size : end])))
            position = end
        if position:
            del buffer[:position]
        return messages
