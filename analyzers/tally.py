"""The running totals of a finding: one object that its rule counts in and that everyone reads.

Enters: what a rule counts. Leaves: executions, units and time so far, and whether they changed. Out of scope: the words
and the evidence, which the rule makes anew from the same state when they are read.
"""

from __future__ import annotations

from pgtattle.analyzers.sql.texts import Bounded


class Tally:
    """Executions, units of work (0 where the rule does not look at units), their time, and the moment of the last.

    `turn` changes whenever something of the finding did.
    """

    __slots__ = ("count", "last_ns", "total_ns", "turn", "units")

    def __init__(self) -> None:
        self.count = 0
        self.units = 0
        self.total_ns = 0
        self.last_ns = 0
        self.turn = 0

    def add(self, duration_ns: int, at_ns: int, executions: int = 1) -> None:
        """Count executions that took so long together and ended then."""
        self.count += executions
        self.total_ns += duration_ns
        self.last_ns = max(self.last_ns, at_ns)
        self.turn += 1

    def take_back(self, duration_ns: int) -> None:
        """An execution turned out to be no part of this."""
        self.count -= 1
        self.total_ns -= duration_ns
        self.turn += 1

    def touch(self) -> None:
        """Something else of the finding changed."""
        self.turn += 1


class Tallies:
    """The tallies of so many findings, by what tells them apart; beyond that the oldest is forgotten."""

    def __init__(self, most: int) -> None:
        self._of: Bounded[str, Tally] = Bounded(most)

    def of(self, key: str) -> Tally:
        """The tally of this one; a new one when there is none."""
        tally = self._of.get(key)
        if tally is None:
            tally = Tally()
            self._of.put(key, tally)
        return tally
