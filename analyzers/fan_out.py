"""Loops whose turns ran side by side on several connections of a pool, where no id says whose they are.

Enters: complete units, and time. Leaves: the findings of `n-plus-one` for them. An application that waits for all turns
at once (`Promise.all`, `asyncio.gather`), or takes any connection for each query, leaves units that show a turn or two
each. What joins them is the result that gave them their values; and since a pool serves many requests, that is believed
only where its application did nothing else at that time: the turns begin at once, follow each other closely, were not
asked for just before, and all that is asked for often is driven by the result. It is proven by a foreign key or by
sparse values, for most of the result's rows and never more often; a row of the same table is no turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, NamedTuple

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.n_plus_one import MANY, NPlusOne
from pgtattle.analyzers.repetition import Repetition, Repetitions, is_catalogue, is_tool
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings

WITHIN_NS: Final = 1_000_000_000
"""From the end of a result to the start of the last turn; so long before it nobody asked for the same."""
AT_ONCE_NS: Final = 30_000_000
"""From the end of the result, or of the latest turn so far, to the start of the next."""
AFTER_NS: Final = 100_000_000
"""What a connection did so long after the last turn is looked at too: turns that are each followed by a write."""
COMPLETE_NS: Final = WITHIN_NS + 600_000_000
"""After which bursts and small transactions are complete: the longest gap of a connection, and a tick."""
COVERED: Final = 0.8
"""So much of a column's values must be asked for."""
OTHERS: Final = 2
"""Other reads that may stand before the last turn."""
MAX_HELD: Final = 2_000
"""Executions of one pool in so short a time: more are many requests at once, of which nothing can be told."""
MAX_JUDGED: Final = 20
"""Results of one pool that are judged at a time."""
MAX_POOLS: Final = 50

Key = tuple[str, str, str, str]


class _Seen(NamedTuple):
    """An execution, the number of its unit, and how many turns that unit shows as a loop by itself."""

    execution: Execution
    unit: int
    shows: int


class _Pool:
    """What an application did lately from one host, and its reads whose rows may drive a loop."""

    __slots__ = ("drivers", "forgotten_ns", "muted_ns", "seen")

    def __init__(self) -> None:
        self.seen: list[_Seen] = []
        self.drivers: list[_Seen] = []
        self.muted_ns = 0
        self.forgotten_ns = 0

    def admits(self, unit: Unit) -> bool:
        """False while there is too much to tell anything apart, and for as long as a part of that would be left."""
        if len(self.seen) + len(unit.executions) > MAX_HELD:
            self.seen.clear()
            self.drivers.clear()
            self.muted_ns = unit.ended_ns + 2 * COMPLETE_NS
        return unit.started_ns >= self.muted_ns

    def due(self, now_ns: int) -> list[_Seen]:
        """The drivers whose turns are all there, in the order of their ends; they are taken out."""
        due = [one for one in self.drivers if one.execution.ended_ns + COMPLETE_NS <= now_ns]
        if due:
            self.drivers = [one for one in self.drivers if one.execution.ended_ns + COMPLETE_NS > now_ns]
            due.sort(key=lambda one: one.execution.ended_ns)
            self.seen.sort(key=_start)
        return due[:MAX_JUDGED]

    def forget(self, now_ns: int) -> None:
        """Let go of what no driver can claim any more."""
        if now_ns - self.forgotten_ns >= COMPLETE_NS:
            self.forgotten_ns = now_ns
            self.seen = [one for one in self.seen if one.execution.ended_ns >= now_ns - 2 * COMPLETE_NS]


class FanOut(Analyzer):
    """Joins what one result drove on several connections."""

    rules: ClassVar[tuple[str, ...]] = NPlusOne.rules

    def __init__(
        self, settings: RuleSettings, loops: NPlusOne, repetitions: Repetitions, facts: FactsCache, samples: Samples
    ) -> None:
        self._least = settings.n_plus_one_min
        self._loops = loops
        self._repetitions = repetitions
        self._facts = facts
        self._samples = samples
        self._pools: dict[Key, _Pool] = {}
        self._units = 0

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """Remember a unit that has no name of its own, unless its connection is a pooler's, which mixes clients."""
        connection = unit.executions[0].connection
        if unit.confidence == "strong" or unit.pooled or is_tool(connection.application):
            return ()
        key = (connection.client.rpartition(":")[0], connection.application, connection.user, connection.database)
        pool = self._pools.pop(key, None) or _Pool()
        if len(self._pools) >= MAX_POOLS:
            del self._pools[next(iter(self._pools))]
        self._pools[key] = pool
        if not pool.admits(unit):
            return ()
        self._units += 1
        shows = MANY if unit.kind == "burst" else self._least
        for execution in unit.executions:
            seen = _Seen(execution, self._units, shows)
            pool.seen.append(seen)
            if execution.rows >= self._least and self._may_drive(execution):
                pool.drivers.append(seen)
        return ()

    def tick(self, now_ns: int) -> Iterable[Outcome]:
        """Judge the results whose turns are all there by now."""
        found: list[Outcome] = []
        for key, pool in list(self._pools.items()):
            for driver in pool.due(now_ns):
                found += self._driven(pool, driver)
            pool.forget(now_ns)
            if not pool.seen and not pool.drivers and pool.muted_ns < now_ns:
                del self._pools[key]
        return found

    def _may_drive(self, execution: Execution) -> bool:
        read = execution.text.statement.kind == "read" and execution.sqlstate is None
        return read and self._samples.of(execution.id) is not None

    def _driven(self, pool: _Pool, driver: _Seen) -> Iterable[Outcome]:
        """What a result drove; an execution is a turn of one result only."""
        turns = self._turns(pool.seen, driver)
        if not turns:
            return ()
        unit = _joined(driver.execution, _around(pool.seen, driver.execution, turns))
        loops = self._loops_of(unit, driver.execution, turns)
        told = {execution.id for loop in loops for execution in loop.executions}
        pool.seen = [one for one in pool.seen if one.execution.id not in told]
        return list(self._loops.of(unit, loops, side_by_side=True)) if loops else ()

    def _turns(self, seen: Sequence[_Seen], driver: _Seen) -> list[Execution]:
        """The reads behind a result that may be turns of loops; none where anything else explains them."""
        burst = self._burst(seen, driver.execution)
        counts = Counter(one.execution.text.statement.fingerprint for one in burst)
        often = {statement for statement, count in counts.items() if count >= self._least}
        turns = [one for one in burst if one.execution.text.statement.fingerprint in often]
        if len({one.execution.connection.id for one in turns}) < 2:
            return []
        if burst.index(turns[-1]) + 1 - len(turns) > OTHERS or _asked_before(seen, driver.execution, often):
            return []
        by_unit = Counter((one.unit, one.execution.text.statement.fingerprint) for one in turns)
        shown = any(
            by_unit[one.unit, one.execution.text.statement.fingerprint]
            >= (self._least if one.unit == driver.unit else one.shows)
            for one in turns
        )
        return [] if shown else [one.execution for one in turns]

    def _burst(self, seen: Sequence[_Seen], driver: Execution) -> list[_Seen]:
        """The reads that follow a result closely, up to the first thing that no turn is."""
        burst: list[_Seen] = []
        own = driver.text.statement.fingerprint
        reach_ns = driver.ended_ns
        for number in range(_from(seen, driver.first_row_ns or driver.ended_ns), len(seen)):
            execution = seen[number].execution
            statement = execution.text.statement
            if execution.started_ns > min(reach_ns + AT_ONCE_NS, driver.ended_ns + WITHIN_NS):
                break
            if execution.id == driver.id or statement.kind in ("transaction", "session", "utility", "empty"):
                continue
            if statement.kind != "read" or execution.sqlstate or statement.fingerprint == own:
                break
            if not all(map(is_catalogue, self._tables(execution))):
                burst.append(seen[number])
                reach_ns = max(reach_ns, execution.ended_ns)
        return burst

    def _loops_of(self, unit: Unit, driver: Execution, turns: Sequence[Execution]) -> list[Repetition]:
        """The loops of the turns, where all of them are driven by the result, or by what that drove."""
        ids = {driver.id, *(execution.id for execution in turns)}
        written = {table for one in unit.executions if one.statement.kind == "write" for table in self._tables(one)}
        loops = [
            loop
            for loop in self._repetitions.of(unit)
            if self._is_driven(loop, ids) and written.isdisjoint(self._tables(loop.executions[0]))
        ]
        first = [loop for loop in loops if loop.parent is not None and loop.parent.execution.id == driver.id]
        driven = {loop.statement.fingerprint for loop in loops}
        if driven != {execution.text.statement.fingerprint for execution in turns}:
            return []
        return loops if first and all(len(loop.executions) <= driver.rows for loop in first) else []

    def _is_driven(self, loop: Repetition, ids: set[int]) -> bool:
        parent = loop.parent
        return (
            loop.shape == "loop"
            and not loop.walk
            and parent is not None
            and parent.execution.id in ids
            and not {"key", "sparse"}.isdisjoint(parent.evidence)
            and parent.coverage >= COVERED
            and set(loop.tables).isdisjoint(self._tables(parent.execution))
        )

    def _tables(self, execution: Execution) -> tuple[str, ...]:
        return self._facts.tables(execution.text)


def _start(one: _Seen) -> tuple[int, int]:
    return one.execution.started_ns, one.execution.id


def _from(seen: Sequence[_Seen], at_ns: int) -> int:
    """The index of the first that started then or later."""
    return bisect_left(seen, (at_ns, 0), key=_start)


def _asked_before(seen: Sequence[_Seen], driver: Execution, statements: set[str]) -> bool:
    """True where one of the statements ran before the result too: others ask for it all the time."""
    before = seen[_from(seen, driver.started_ns - WITHIN_NS) : _from(seen, driver.first_row_ns or driver.ended_ns)]
    return any(one.execution.text.statement.fingerprint in statements for one in before)


def _around(seen: Sequence[_Seen], driver: Execution, turns: Sequence[Execution]) -> list[Execution]:
    """All that the turns' connections did, from the result until a while after the last turn."""
    connections = {execution.connection.id for execution in turns}
    last_ns = max(execution.ended_ns for execution in turns) + AFTER_NS
    span = seen[_from(seen, driver.first_row_ns or driver.ended_ns) : _from(seen, last_ns)]
    return [
        one.execution for one in span if one.execution.connection.id in connections and one.execution.id != driver.id
    ]


def _joined(driver: Execution, executions: Sequence[Execution]) -> Unit:
    connections = len({execution.connection.id for execution in executions})
    return Unit(
        id=f"u{driver.id}",
        kind="burst",
        key=str(driver.connection.id),
        confidence="weak",
        signal=f"values on {connections} connections",
        executions=(driver, *executions),
    )
