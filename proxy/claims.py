"""Databases that a statement of the application needs without any other session: DROP DATABASE and its kind.

Enters: which databases a statement claims while it runs, and how it ended. Leaves: whether the side connection may go
there. Such a statement waits five seconds for sessions to end before it fails with 55006
(`src/backend/storage/ipc/procarray.c`, CountOtherDBBackends); a claim whose end is not seen lasts longer than that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

CLAIM_SECONDS: Final = 10.0
RELEASE_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 30.0
MAX_CLAIMS: Final = 1_000


class Claims:
    """What is claimed now. Written by the event loop, `holds` is for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._dropped_at: dict[str, float] = {}

    def claim(self, database: str) -> None:
        """A statement was sent that needs the database to itself."""
        self._bound()
        self._until[database] = self._clock() + CLAIM_SECONDS

    def release(self, database: str, *, gone: bool) -> None:
        """It ended; `gone`: there is no such database any more, or it is another one."""
        self._bound()
        self._until[database] = self._clock() + RELEASE_SECONDS
        if gone:
            self._dropped_at[database] = self._clock()

    def holds(self, database: str) -> bool:
        """True while nobody else may connect to the database."""
        return self._until.get(database, 0.0) > self._clock()

    async def wait(self, database: str, since: float) -> str:
        """Wait until the database is free. Says why not where it is claimed on and on, or was dropped after `since`."""
        while True:
            if self._dropped_at.get(database, 0.0) > since:
                return "the database was dropped"
            left = self._until.get(database, 0.0) - self._clock()
            if left <= 0:
                return ""
            if self._clock() - since > WAIT_SECONDS:
                return "statements that need the database to themselves keep coming"
            await asyncio.sleep(min(left, RELEASE_SECONDS))

    def _bound(self) -> None:
        if len(self._until) >= MAX_CLAIMS:
            now = self._clock()
            self._until = {name: until for name, until in self._until.items() if until > now}
            self._dropped_at = {name: at for name, at in self._dropped_at.items() if at > now - WAIT_SECONDS}
