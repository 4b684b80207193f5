"""Loops whose turns ran side by side on several connections of a pool, where no id says whose they are.

Enters: executions, complete units, and time. Leaves: the findings of `n-plus-one` for them. An application that waits
for all turns at once (`Promise.all`, `asyncio.gather`), or takes any connection for each query, leaves units that show
a turn or two each. What joins them is the result that gave them their values: proven by a foreign key or by sparse
values, for most of its rows and never more often. Since a client host, an application and a user stand for many
requests and for many processes, more than that is asked for: see `_turns`. A row of the same table is no turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.n_plus_one import NPlusOne
from pgtattle.analyzers.pools import Pool, Pools
from pgtattle.analyzers.repetition import Repetition, Repetitions, is_catalogue
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.values import MOST
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings

WITHIN_NS: Final = 1_000_000_000
"""From the end of a result to the start of the last turn; so long before it nobody asked for the same."""
FIRST_NS: Final = 5_000_000
"""From the result to the first turn: what takes longer came by way of browsers, or of other processes."""
NEXT_NS: Final = 30_000_000
"""From the end of the latest turn so far to the start of the next."""
COMPLETE_NS: Final = WITHIN_NS + 600_000_000
"""After which bursts and small transactions are complete: the longest gap of a connection, and a tick."""
HOLD_NS: Final = 2 * COMPLETE_NS
COVERED: Final = 0.8
"""So much of a column's values must be asked for."""
OTHERS: Final = 2
"""Other reads that may stand before the last turn."""
ON_PURPOSE_NS: Final = 100_000_000
"""Turns that take longer than this, most of them, are work that was split up."""
MAX_JUDGED: Final = 20
"""Results of one pool that are judged at a time."""

_ASIDE: Final = frozenset(("transaction", "session", "utility", "empty"))


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
        self._pools = Pools(HOLD_NS)

    @property
    def waits(self) -> bool:
        """True while a result's time to be followed by its turns is not over."""
        return any(pool.drivers for pool in self._pools.all())

    def execution(self, execution: Execution) -> Iterable[Outcome]:
        """Remember it: whatever its unit is, it is evidence."""
        self._pools.of(execution.connection).add(execution)
        return ()

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """Turns and their drivers have no name of their own, and no pooler mixes their connection's clients.

        A connection's first unit may have been seen before, as it stood.
        """
        pool = self._pools.of(unit.executions[0].connection)
        if unit.confidence == "strong" or unit.pooled or pool.ignored:
            return ()
        for execution in unit.executions:
            if execution.started_ns >= pool.muted_ns and not pool.is_nameless(execution):
                pool.nameless(execution)
                if execution.rows >= self._least and self._may_drive(execution):
                    pool.drivers.append(execution)
        return ()

    def preview(self, unit: Unit) -> Iterable[Outcome]:
        """What is silent and has no name will get none, but for a transaction's."""
        return self.unit(unit) if not unit.executions[-1].transaction else ()

    def tick(self, now_ns: int) -> Iterable[Outcome]:
        """Judge the results whose turns are all there by now."""
        found: list[Outcome] = []
        for pool in self._pools.all():
            if not pool.drivers:
                continue
            due = [driver for driver in pool.drivers if driver.ended_ns + COMPLETE_NS <= now_ns]
            if due:
                pool.drivers = [driver for driver in pool.drivers if driver.ended_ns + COMPLETE_NS > now_ns]
                due.sort(key=_end)
                for driver in due[:MAX_JUDGED]:
                    found += self._driven(pool, driver)
        self._pools.forget(now_ns)
        return found

    def _may_drive(self, execution: Execution) -> bool:
        read = execution.text.statement.kind == "read" and execution.sqlstate is None
        return read and self._samples.of(execution.id) is not None

    def _driven(self, pool: Pool, driver: Execution) -> Iterable[Outcome]:
        """What a result drove; an execution is a turn of one result only."""
        turns = self._turns(pool, driver)
        if not turns:
            return ()
        unit = _joined(driver, turns, pool)
        loops = self._loops_of(unit, driver, turns)
        if not loops:
            return ()
        return list(self._loops.of(unit, loops, side_by_side=True)) if pool.explain(turns) else ()

    def _turns(self, pool: Pool, driver: Execution) -> list[Execution]:
        """The reads behind a result that may be turns of loops; none where anything else explains them.

        All that the application asks for often at that time is asked for by them: not before, not after, not on the
        side. They follow the result, and each other, at once. They ran on connections that the result's own is one of,
        so that one process may have asked; what they show by themselves is told of that connection at most. They do not
        each go before a write, as the tasks of workers do, and are quick: not work that was split up.
        """
        if driver.started_ns < pool.muted_ns + WITHIN_NS * (pool.muted_ns > 0):
            return []
        burst = self._burst(pool, driver)
        counts = Counter(execution.text.statement.fingerprint for execution in burst)
        often = {statement for statement, count in counts.items() if count >= self._least}
        turns = self._chained(pool, driver, often)
        if _statements(turns) != often or not all(map(pool.is_nameless, turns)):
            return []
        connections = {execution.connection.id for execution in turns}
        if len(connections) < 2 or not _is_shared(pool, driver, turns, connections):
            return []
        last_ns = turns[-1].started_ns
        others = sum(execution.started_ns < last_ns for execution in burst) + 1 - len(turns)
        if others > OTHERS or _asked_before(pool, driver, often) or _asked_after(pool, driver, turns, often):
            return []
        told = {execution.connection.id for execution in turns if self._loops.told(execution)}
        if not told <= {driver.connection.id}:
            return []
        slow = sum(execution.duration_ns > ON_PURPOSE_NS for execution in turns)
        return [] if slow > len(turns) / 2 or _written(pool, turns) >= MOST * len(turns) else turns

    def _burst(self, pool: Pool, driver: Execution) -> list[Execution]:
        """The reads that follow a result, up to the first thing that no turn is."""
        burst: list[Execution] = []
        own = driver.text.statement.fingerprint
        for execution in pool.since(driver.first_row_ns or driver.ended_ns, driver.ended_ns + WITHIN_NS):
            statement = execution.text.statement
            if execution.id == driver.id or self._is_aside(execution):
                continue
            if statement.kind != "read" or execution.sqlstate or statement.fingerprint == own:
                break
            burst.append(execution)
        return burst

    def _chained(self, pool: Pool, driver: Execution, often: set[str]) -> list[Execution]:
        """The executions of what is asked for often that follow the result, and each other, at once."""
        turns: list[Execution] = []
        reach_ns = driver.first_row_ns or driver.ended_ns
        for execution in pool.since(reach_ns, driver.ended_ns + WITHIN_NS):
            if execution.started_ns >= driver.ended_ns:
                reach_ns = max(reach_ns, driver.ended_ns)
            if execution.started_ns > reach_ns + (NEXT_NS if turns else FIRST_NS):
                break
            if execution.text.statement.fingerprint in often:
                turns.append(execution)
            elif not self._is_aside(execution):
                continue
            reach_ns = max(reach_ns, execution.ended_ns)
        return turns

    def _is_aside(self, execution: Execution) -> bool:
        """True for what only serves: transactions, settings, the catalogue, what a pool asks before it lends."""
        kind = execution.text.statement.kind
        return kind in _ASIDE or (kind == "read" and all(map(is_catalogue, self._facts.tables(execution.text))))

    def _loops_of(self, unit: Unit, driver: Execution, turns: Sequence[Execution]) -> list[Repetition]:
        """The loops of the turns, where all of them are driven by the result, or by what that drove."""
        ids = {driver.id, *(execution.id for execution in turns)}
        loops = [loop for loop in self._repetitions.of(unit) if self._is_driven(loop, ids)]
        first = [loop for loop in loops if loop.parent is not None and loop.parent.execution.id == driver.id]
        if {loop.statement.fingerprint for loop in loops} != _statements(turns):
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
            and set(loop.tables).isdisjoint(self._facts.tables(parent.execution.text))
        )


def _end(execution: Execution) -> int:
    return execution.ended_ns


def _statements(executions: Iterable[Execution]) -> set[str]:
    return {execution.text.statement.fingerprint for execution in executions}


def _is_shared(pool: Pool, driver: Execution, turns: Sequence[Execution], connections: set[int]) -> bool:
    """True where the result's connection took a turn, or was held by its transaction meanwhile."""
    if driver.connection.id in connections:
        return True
    if not driver.transaction:
        return False
    meanwhile = pool.since(driver.started_ns, turns[-1].started_ns)
    return all(one.id == driver.id or one.connection.id != driver.connection.id for one in meanwhile)


def _asked_before(pool: Pool, driver: Execution, often: set[str]) -> bool:
    """True where one of the statements ran before the result too: others ask for it all the time."""
    before = pool.since(driver.started_ns - WITHIN_NS, (driver.first_row_ns or driver.ended_ns) - 1)
    return not _statements(before).isdisjoint(often)


def _asked_after(pool: Pool, driver: Execution, turns: Sequence[Execution], often: set[str]) -> bool:
    """True where one of the statements ran later too, and the result's was not asked for again before."""
    ids = {execution.id for execution in turns}
    for execution in pool.since(turns[-1].started_ns, driver.ended_ns + COMPLETE_NS):
        statement = execution.text.statement.fingerprint
        if statement == driver.text.statement.fingerprint and execution.id != driver.id:
            return False
        if statement in often and execution.id not in ids:
            return True
    return False


def _written(pool: Pool, turns: Sequence[Execution]) -> int:
    """The connections of turns whose next deed is a write."""
    latest = {execution.connection.id: execution for execution in turns}
    written: dict[int, bool] = {}
    for execution in pool.since(turns[0].started_ns, turns[-1].started_ns + COMPLETE_NS):
        turn = latest.get(execution.connection.id)
        if turn is None or turn.connection.id in written or execution.text.statement.kind in _ASIDE:
            continue
        if (execution.started_ns, execution.id) > (turn.started_ns, turn.id):
            written[turn.connection.id] = execution.text.statement.kind in ("write", "copy")
    return sum(written[execution.connection.id] for execution in turns if execution.connection.id in written)


def _joined(driver: Execution, turns: Sequence[Execution], pool: Pool) -> Unit:
    """The result and its turns as a unit, with what their sessions were set to meanwhile."""
    connections = {execution.connection.id for execution in turns}
    settings = [
        execution
        for execution in pool.since(driver.started_ns, turns[-1].started_ns)
        if execution.text.statement.kind == "session" and execution.connection.id in connections
    ]
    executions = sorted((driver, *turns, *settings), key=lambda one: (one.started_ns, one.id))
    return Unit(
        id=f"f{driver.id}",
        kind="burst",
        key=str(driver.connection.id),
        confidence="weak",
        signal=f"values on {len(connections)} connections",
        executions=tuple(executions),
    )
