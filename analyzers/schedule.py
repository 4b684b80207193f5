"""When a question about a statement is asked again: no answer of the planner is final.

Enters: executions of the statement, answers, and changes of the schema. Leaves: whether it is time to ask. A question
is asked again when the schema changed, when the statement has become much faster or slower, and now and then while its
traffic continues. Durations decide when to ask, never what is said. Time is that of the traffic.
"""

from __future__ import annotations

from typing import Final

SECOND: Final = 1_000_000_000
LEAST_NS: Final = SECOND
"""Between two questions about one statement, whatever happens."""
UNANSWERED_NS: Final = 60 * SECOND
"""After which a question without an answer is taken for dropped."""
STANDING_NS: Final = (3 * SECOND, 6 * SECOND)
"""First and longest wait for a finding that stands: an index that was made past the proxy is seen in ten seconds."""
SILENT_NS: Final = (10 * SECOND, 600 * SECOND)
"""First and longest wait where there was nothing to say, or no answer."""
FASTER: Final = 2
SLOWER: Final = 4
NOISE_NS: Final = 300_000
"""A shorter duration says nothing about the plan: a busy moment would have every quick statement asked about again."""
ENOUGH: Final = 8
"""Executions from which their moving mean is known."""


class Schedule:
    """The questions about one statement. `recent_ns` is a moving mean of durations."""

    __slots__ = ("_asked_ns", "_executions", "_mean_ns", "_pending", "_stale", "_wait_ns", "asked", "recent_ns")

    def __init__(self) -> None:
        self.asked = False
        self.recent_ns = 0
        self._mean_ns = 0
        self._asked_ns = 0
        self._wait_ns = 0
        self._executions = 0
        self._pending = False
        self._stale = False

    def executed(self, duration_ns: int) -> None:
        """The statement ran."""
        self._executions += 1
        self.recent_ns += (duration_ns - self.recent_ns) // min(self._executions, ENOUGH)

    def is_due(self, now_ns: int) -> bool:
        """True where it is time to ask, for the first time or again."""
        if not self.asked:
            return True
        since_ns = now_ns - self._asked_ns
        if since_ns < LEAST_NS or (self._pending and since_ns < UNANSWERED_NS):
            return False
        return self._stale or since_ns >= self._wait_ns or self._is_another()

    def ask(self, now_ns: int) -> None:
        """The question is asked."""
        self.asked = self._pending = True
        self._stale = False
        self._asked_ns = now_ns
        self._mean_ns, self._executions = self.recent_ns, 0

    def expire(self) -> None:
        """The schema changed: what was answered counts no more."""
        self._stale = self.asked

    def answered(self, waits_ns: tuple[int, int]) -> None:
        """There is an answer: wait for the first of these times, then twice as long, up to the last of them.

        The wait starts anew when the kind of answer changes.
        """
        first_ns, last_ns = waits_ns
        self._pending = False
        within = first_ns <= self._wait_ns <= last_ns
        self._wait_ns = min(2 * self._wait_ns, last_ns) if within else first_ns

    def _is_another(self) -> bool:
        """True where the statement has become much faster or slower since it was asked about."""
        if self._executions < ENOUGH:
            return False
        before, now = max(self._mean_ns, NOISE_NS), max(self.recent_ns, NOISE_NS)
        return FASTER * now < before or now > SLOWER * before


class Allowance:
    """So many questions a second of traffic, with some saved up."""

    def __init__(self, per_second: float, most: float) -> None:
        self._per_ns = per_second / SECOND
        self._most = most
        self._saved = most
        self._at_ns = 0

    def take(self, now_ns: int) -> bool:
        """True where one more may be asked now."""
        if now_ns > self._at_ns:
            self._saved = min(self._most, self._saved + (now_ns - self._at_ns) * self._per_ns)
            self._at_ns = now_ns
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
