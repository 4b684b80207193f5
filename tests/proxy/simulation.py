"""A loop whose clock only waits can move, and transports that behave as those of uvloop do, without any network."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections import deque
from typing import Any, Final


class _Instant(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for what never comes"
        self.now += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps is woken at once, and the clock has moved by as much."""

    def __init__(self) -> None:
        self._instant = _Instant()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now


class Misuse(Exception):
    """The relay did what a transport does not allow, or what nobody would see."""


class SimulatedTransport(asyncio.Transport):
    """One socket of the relay. `peer_*` is what its other side does, `sent` what has reached it.

    With `tls` there is no half-close, and a close waits for the peer's answer; one that `answers` none may take all.
    """

    _idle_sockets: Final = socket.socketpair()
    """What the kernel has of it: nothing that waits."""

    def __init__(self, loop: SimulatedLoop, *, tls: bool = False) -> None:
        super().__init__()
        self.sent = bytearray()
        self.misuses: list[str] = []
        self.eof_sent = False
        self.lost = False
        self.reading = True
        self.peer_reads = self.answers = True
        self.peer_left = False
        self._loop = loop
        self._tls = tls
        self._protocol: Any = None
        self._waiting = bytearray()
        self._incoming: deque[bytes | None] = deque()
        self._closing = False
        self._paused_protocol = False

    # -- what the relay does -----------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # With a context of TLS no pipe goes past `write`.
        known = {"peername": ("192.0.2.1", 5), "socket": self._idle_sockets[0], "sslcontext": self}
        return known.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        if self.eof_sent:
            self._misuse("Cannot call write() after write_eof()")
        if self._closing and not self.peer_left:
            self._misuse("write() after close()")
        self._waiting += data
        self._flush()

    def can_write_eof(self) -> bool:
        return not self._tls

    def write_eof(self) -> None:
        if self._tls:
            raise NotImplementedError
        if self.lost:
            self._misuse("write_eof() on a closed handle")
        self.eof_sent = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self._loop.call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._end_when_flushed()

    def abort(self) -> None:
        self._closing = True
        self._waiting.clear()
        self._loop.call_soon(self._lose, None)

    # -- what the other side does ------------------------------------------------------------------------------------

    def peer_sends(self, data: bytes) -> None:
        if not self.peer_left:
            self._incoming.append(data)
            self._deliver()

    def peer_ends(self) -> None:
        """It sends nothing more, and with TLS takes nothing more."""
        if not self.peer_left:
            self.peer_left = True
            self._incoming.append(None)
            self._deliver()

    def peer_resets(self) -> None:
        self.peer_left = True
        self._closing = True
        self._loop.call_soon(self._lose, ConnectionResetError("reset by peer"))

    def peer_turns(self) -> None:
        """It stops reading, or reads again."""
        self.peer_reads = not self.peer_reads
        self._flush()
        if self._closing:
            self._end_when_flushed()

    def _deliver(self) -> None:
        while self._incoming and self.reading and not self._closing:
            data = self._incoming.popleft()
            if data:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received() or self._tls:
                self.peer_reads = self.peer_reads or self._tls
                self._flush()
                self.close()

    def _flush(self) -> None:
        if self.peer_reads and not self.lost:
            self.sent += self._waiting
            self._waiting.clear()

    def _end_when_flushed(self) -> None:
        answered = not self._tls or (self.peer_reads and self.answers)
        if not self._waiting and answered:
            self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(error)

    def _misuse(self, words: str) -> None:
        self.misuses.append(words)
        raise Misuse(words)


def frames(data: bytes | bytearray) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The whole frames of a stream, and what is left of it."""
    found, data = [], bytes(data)
    while len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5], "big")):
        found.append((data[:1], data[5 : 1 + size]))
        data = data[1 + size :]
    return found, data
