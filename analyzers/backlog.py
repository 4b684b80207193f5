"""The statements that nobody was asked about yet, and which of them comes first.

Enters: an execution of each, and how often each ran so far. Leaves: the execution to ask about next, of the statement
that ran most often; of equals, the one that came first. So what is asked first hangs on counts, and what was not asked
about is asked later. Out of scope: how fast questions are asked (whoever answers them says when the next one is due).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pgtattle.proxy.execution import Execution

MAX_WAITING: Final = 1_000
"""Beyond that the oldest has to wait for its next execution."""

Key = tuple[str, str]
"""Database and fingerprint."""


class Backlog:
    """Executions by statement. `ran` is how often a statement did."""

    def __init__(self, ran: Callable[[Key], int]) -> None:
        self._ran = ran
        self._waiting: dict[Key, Execution] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def add(self, key: Key, execution: Execution) -> None:
        """Have a statement wait. It is asked about with the values of its first execution, however long that takes."""
        if key in self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[key] = execution

    def take(self) -> tuple[Key, Execution] | None:
        """The statement to ask about next, which waits no longer; None where none does."""
        if not self._waiting:
            return None
        key = max(self._waiting, key=self._ran)
        return key, self._waiting.pop(key)
