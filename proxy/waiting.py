"""For how long a connection waits: one timer, and when a client has had its last bytes.

Enters: a loop and what is waited for. Leaves: a call when that is over, or takes too long.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from collections.abc import Callable
from sys import byteorder
from typing import Final

LINGER_SECONDS: Final = 10.0
"""For a side that was told of the end, and has nothing more to come, to go."""
STALL_SECONDS: Final = 120.0
"""For a client that takes nothing of what is still to come."""
POLL_SECONDS: Final = 0.05
TLS_SHUTDOWN_SECONDS: Final = 3600.0
"""The loop's own bound for the end of a client's TLS; ours comes first, and knows whether the client still reads."""


class Wait:
    """What a connection waits for: one thing at a time, a new one takes the place of the one before."""

    __slots__ = ("_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def clear(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in so many seconds."""
        self.clear()
        self._timer = self._loop.call_later(seconds, then)

    def until(
        self, over: Callable[[float], bool], then: Callable[[], None], moved: Callable[[], tuple[int, ...] | None]
    ) -> None:
        """Look again and again whether it is `over`, which is given the seconds for which nothing `moved`.

        It ends without a call when `moved` gives None.
        """
        since, before = self._loop.time(), moved()

        def look() -> None:
            nonlocal since, before
            now, at = self._loop.time(), moved()
            if at is None:
                return
            if at != before:
                since, before = now, at
            if over(now - since):
                then()
            else:
                self._timer = self._loop.call_later(POLL_SECONDS, look)

        self.clear()
        look()


def had_its_time(client: asyncio.Transport, quiet: float) -> bool:
    """True when a client that was told of the end need not be waited for: nothing moved for `quiet` seconds.

    A client of TLS that does not read does not answer the end either, so that it is waited for only until its kernel
    has everything.
    """
    waiting = client.get_write_buffer_size() > 0
    if quiet and not waiting and not client.can_write_eof():
        left = unacknowledged(client)
        if left == 0:
            return True
        waiting = left is not None
    return quiet >= (STALL_SECONDS if waiting else LINGER_SECONDS)


def unacknowledged(transport: asyncio.Transport) -> int | None:
    """Bytes that were given to the socket and that the peer's kernel has not; None where nobody can tell."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), byteorder)
    except (AttributeError, OSError, ValueError):
        return None
