"""Loops whose turns ran side by side on several connections of a pool, where no id says whose they are.

Enters: complete units, and time. Leaves: the findings of `n-plus-one` for them. An application that waits for all turns
at once (`Promise.all`, `asyncio.gather`), or takes any connection for each query, leaves units that show a turn or two
each. What joins them is the result that gave them their values, so that it takes more to be believed than in one unit:
the result came less than a second before, the first turn came at once; no more turns than it has rows, and for most of
them; and its column refers to another table by a foreign key, or holds sparse values. Requests that run at once and do
the same have more turns than rows and say nothing; nor do those for a row of a list that was shown before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.n_plus_one import NPlusOne
from pgtattle.analyzers.repetition import Repetition, Repetitions, is_tool
from pgtattle.analyzers.samples import Samples
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings

WITHIN_NS: Final = 1_000_000_000
"""From the end of a result to the start of the last turn."""
AT_ONCE_NS: Final = 50_000_000
"""From the end of a result to the start of the first turn."""
COMPLETE_NS: Final = WITHIN_NS + 600_000_000
"""After which the units of all turns are complete: the longest gap of a connection, and a tick."""
COVERED: Final = 0.8
"""So much of a column's values must be asked for."""
MAX_HELD: Final = 2_000
"""Reads of one pool in so short a time: more are many requests at once, of which nothing can be told."""
MAX_POOLS: Final = 50

Key = tuple[str, str, str, str]


class _Pool:
    """The latest reads of an application from one host; and those whose rows may drive a loop, each with its unit."""

    __slots__ = ("drivers", "reads")

    def __init__(self) -> None:
        self.reads: list[Execution] = []
        self.drivers: list[tuple[Execution, Unit]] = []

    def due(self, now_ns: int) -> list[tuple[Execution, Unit]]:
        """The drivers whose turns are all there, in the order of their ends; they are taken out."""
        due = [pair for pair in self.drivers if pair[0].ended_ns + COMPLETE_NS <= now_ns]
        if due:
            self.drivers = [pair for pair in self.drivers if pair[0].ended_ns + COMPLETE_NS > now_ns]
            due.sort(key=lambda pair: pair[0].ended_ns)
        return due

    def forget(self, before_ns: int) -> None:
        """Let go of what no driver can claim any more."""
        if self.reads and self.reads[0].started_ns < before_ns:
            self.reads = [one for one in self.reads if one.started_ns >= before_ns]


class FanOut(Analyzer):
    """Joins what one result drove on several connections."""

    rules: ClassVar[tuple[str, ...]] = NPlusOne.rules

    def __init__(self, settings: RuleSettings, loops: NPlusOne, repetitions: Repetitions, samples: Samples) -> None:
        self._least = settings.n_plus_one_min
        self._loops = loops
        self._repetitions = repetitions
        self._samples = samples
        self._pools: dict[Key, _Pool] = {}

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """Remember the reads of a unit that has no name of its own."""
        connection = unit.executions[0].connection
        if unit.confidence == "strong" or is_tool(connection.application):
            return ()
        key = (connection.client.rpartition(":")[0], connection.application, connection.user, connection.database)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= MAX_POOLS:
                del self._pools[next(iter(self._pools))]
            pool = self._pools[key] = _Pool()
        if len(pool.reads) + len(unit.executions) > MAX_HELD:
            pool.reads.clear()
            pool.drivers.clear()
            return ()
        for execution in unit.executions:
            if execution.text.statement.kind == "read" and execution.sqlstate is None:
                pool.reads.append(execution)
                if execution.rows >= self._least and self._samples.of(execution.id) is not None:
                    pool.drivers.append((execution, unit))
        return ()

    def tick(self, now_ns: int) -> Iterable[Outcome]:
        """Judge the results whose turns are all there by now."""
        found: list[Outcome] = []
        for key, pool in list(self._pools.items()):
            for driver, unit in pool.due(now_ns):
                found += self._driven(pool, driver, {execution.id for execution in unit.executions})
            pool.forget(now_ns - 2 * COMPLETE_NS)
            if not pool.reads:
                del self._pools[key]
        return found

    def _driven(self, pool: _Pool, driver: Execution, same: set[int]) -> Iterator[Outcome]:
        """The loops that a result drove, each execution being a turn of one result only; `same` are of its own unit."""
        own = driver.text.statement.fingerprint
        first_ns = driver.first_row_ns or driver.ended_ns
        by_statement: dict[str, list[Execution]] = {}
        for execution in pool.reads:
            statement = execution.text.statement.fingerprint
            if statement != own and first_ns <= execution.started_ns <= driver.ended_ns + WITHIN_NS:
                by_statement.setdefault(statement, []).append(execution)
        turns = [
            execution
            for group in by_statement.values()
            if self._least <= len(group) <= driver.rows and self._are_spread(group, driver, same)
            for execution in group
        ]
        if not turns:
            return
        unit = _joined(driver, turns)
        loops = [loop for loop in self._repetitions.of(unit) if self._is_driven(loop, driver)]
        if loops:
            yield from self._loops.of(unit, loops)
            told = {execution.id for loop in loops for execution in loop.executions}
            pool.reads = [one for one in pool.reads if one.id not in told]

    def _are_spread(self, turns: list[Execution], driver: Execution, same: set[int]) -> bool:
        """True for turns that began at once, on several connections; the driver's own unit shows no loop of them."""
        began_ns = min(execution.started_ns for execution in turns)
        return (
            len({execution.connection.id for execution in turns}) > 1
            and sum(execution.id in same for execution in turns) < self._least
            and began_ns - driver.ended_ns <= AT_ONCE_NS
        )

    def _is_driven(self, loop: Repetition, driver: Execution) -> bool:
        parent = loop.parent
        return (
            loop.shape == "loop"
            and not loop.walk
            and parent is not None
            and parent.execution.id == driver.id
            and not {"key", "sparse"}.isdisjoint(parent.evidence)
            and parent.coverage >= COVERED
            and set(loop.tables).isdisjoint(self._repetitions.tables(driver))
        )


def _joined(driver: Execution, turns: list[Execution]) -> Unit:
    executions = sorted((driver, *turns), key=lambda one: (one.started_ns, one.id))
    connections = len({execution.connection.id for execution in turns})
    return Unit(
        id=f"u{driver.id}",
        kind="burst",
        key=str(driver.connection.id),
        confidence="weak",
        signal=f"values on {connections} connections",
        executions=tuple(executions),
    )
