"""Which sessions the proxy ends by itself, and when: all of them in a drain, those that do nothing by the idle timeout.

Enters: the connections that live. Leaves: dismissals, in PostgreSQL's words. No session's failure is another's: each
step of each session stands alone, and a failure is counted and logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from pgtattle.proxy.phases import Phase
from pgtattle.proxy.relay import Relay
from pgtattle.proxy.tasks import Tasks

LOOK_SECONDS: Final = 0.02
SHUTDOWN: Final = "terminating connection: pgtattle is shutting down"


class Dismissals:
    """Ends sessions of `relays`, a collection that changes while it is looked at."""

    def __init__(self, loop: asyncio.AbstractEventLoop, relays: Collection[Relay], tasks: Tasks) -> None:
        self._loop = loop
        self._relays = relays
        self._tasks = tasks
        self._changed = asyncio.Event()

    def ended(self) -> None:
        """A connection ended."""
        self._changed.set()

    async def drain(self, seconds: float) -> int:
        """End each session when its exchange and its transaction end; how many are left after so many seconds.

        Connections that never asked for a session do not count, cancel requests do.
        """
        deadline = self._loop.time() + seconds
        while (left := self._held()) and self._loop.time() < deadline:
            self._each("drain", _dismiss)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue
        return left

    async def end_idle(self, seconds: float) -> None:
        """End sessions that did nothing for so many seconds, between transactions only; for ever."""
        moved: dict[Relay, tuple[int, float]] = {}
        message = f"terminating connection due to idle timeout (pgtattle --idle-timeout {seconds:g})"

        def look(relay: Relay) -> None:
            total = relay.bytes_to_client + relay.bytes_to_server
            before = moved.get(relay, (-1, now))
            seen[relay] = before if before[0] == total else (total, now)
            if now - seen[relay][1] >= seconds and relay.server is not None and relay.idle:
                relay.dismiss("57P05", message, "idle_timeout")

        while True:
            await asyncio.sleep(max(0.05, seconds / 8))
            now = self._loop.time()
            seen: dict[Relay, tuple[int, float]] = {}
            self._each("idle timeout", look)
            moved = seen

    def _held(self) -> int:
        """Connections that a drain waits for."""
        return sum(relay.admitted or relay.phase is Phase.CANCELLING for relay in self._relays)

    def _each(self, name: str, step: Callable[[Relay], None]) -> None:
        for relay in list(self._relays):
            try:
                step(relay)
            except Exception as error:
                self._tasks.failed(name, error)


def _dismiss(relay: Relay) -> None:
    if relay.dismissible:
        relay.dismiss("57P01", SHUTDOWN, "drain")
