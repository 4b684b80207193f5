"""What kind of repetition a query of one unit is: a loop over values, the same read again, or neither.

Enters: a unit of work. Leaves: its repetitions, each with the shape that decides which rule may speak of it: a `loop`
or a `repeat`, never both; and with a loop's parent, where one is found. Out of scope: severity and words, which are the
rules'.

The order of the questions is the point: batches, retries, pages, lists and check-then-write all look like loops and are
none. What cannot be told for sure (values that were cut or not seen) is no repetition.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from pgtattle.analyzers.feeds import Results
from pgtattle.analyzers.frameworks import application_of
from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.parents import LEAST, Loop, Parent, Parents
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.calls import answers_vary
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.unchanged import Unchanged
from pgtattle.analyzers.values import (
    MOST,
    NO_FINDER,
    Finder,
    Key,
    are_known,
    finder_of,
    is_listed,
    is_paged,
    keys_of,
    varying_places,
    without_clock,
)
from pgtattle.analyzers.walks import walked
from pgtattle.proxy.events import Statement, Text, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings

# Below this share of different values it is a cache that is missing, not a join.
FEW_VALUES: Final = 0.2
# A weak unit that lasts longer is a busy pooled connection, not one piece of work.
WEAK_SPAN_NS: Final = 5_000_000_000
LOOK_BACK: Final = 100
MAX_GROUPS: Final = 50
BURST_PAUSE_NS: Final = 50_000_000
"""Between two executions in a burst; where it is usually longer, it may be one request after another."""
# Of a loop whose parent is proven so much less is enough: three instead of five.
PROVEN: Final = 0.6

_RETRYABLE: Final = frozenset(("40001", "40P01", "55P03", "57014"))
_LOCKS: Final = re.compile(r"\bfor\s+(?:no\s+key\s+)?(?:update|share|key\s+share)\b", re.IGNORECASE)
_TOOLS: Final = re.compile(
    r"(?:psql|pg_dump|pg_restore|pgadmin|dbeaver|datagrip|tableplus|pgcli|navicat|pgbench|flyway|liquibase|alembic"
    r"|dbmate|sqitch|golang-migrate|pgtattle)\b",
    re.IGNORECASE,
)


class Source(NamedTuple):
    """A query whose rows may have held the values of a loop; `table` names its tables."""

    statement: Statement
    rows: int
    table: str


class Repetition:
    """The executions of one statement in a unit that count. Both shapes have at least the smaller of the thresholds.

    `distinct` counts different values. `keys` are the placeholders that a loop varies; none where their number does.
    `finder` has their columns. `parent` gave a loop its values, surely or likely; or it is a
    `walk`, and that column of its own results did. `read_before` is the last read before the first of them that is
    itself not repeated: where the values may come from. `compared`: the answers of a repeat are known to be the same.
    """

    __slots__ = (
        "compared",
        "distinct",
        "executions",
        "finder",
        "keys",
        "parent",
        "read_before",
        "shape",
        "statement",
        "tables",
        "walk",
    )

    def __init__(
        self,
        shape: Literal["loop", "repeat"],
        executions: Sequence[Execution],
        distinct: int,
        tables: tuple[str, ...],
        read_before: Source | None,
        parent: Parent | None = None,
        keys: Sequence[Key] = (),
        finder: Finder = NO_FINDER,
        walk: str = "",
        compared: bool = False,
    ) -> None:
        self.compared = compared
        self.parent = parent
        self.walk = walk
        self.keys = keys
        self.finder = finder
        self.shape = shape
        self.executions = executions
        self.statement: Statement = executions[0].statement
        self.distinct = distinct
        self.tables = tables
        self.read_before = read_before

    @property
    def proven(self) -> bool:
        """True where a result is known to have given the values."""
        return bool(self.walk) or (self.parent is not None and self.parent.proven)

    @property
    def in_transaction(self) -> bool:
        """True where one transaction of one connection holds all executions."""
        first = self.executions[0]
        return first.transaction != 0 and all(
            one.transaction == first.transaction and one.connection.id == first.connection.id for one in self.executions
        )

    @property
    def total_ns(self) -> int:
        """Server time of all executions."""
        return sum(execution.duration_ns for execution in self.executions)

    @property
    def span_ns(self) -> int:
        """Time from the first start to the last end."""
        return max(execution.ended_ns for execution in self.executions) - self.executions[0].started_ns

    @property
    def gap_ns(self) -> int:
        """The part of `span_ns` that the server did not work: the client and the network."""
        return max(0, self.span_ns - self.total_ns)

    @property
    def table(self) -> str:
        """The table's name, or the names of the first three."""
        return ", ".join(self.tables[:3])


class Repetitions:
    """Finds a unit's repetitions once for all rules that ask."""

    def __init__(self, settings: RuleSettings, facts: FactsCache, samples: Samples, keys: Keys) -> None:
        self._loop_min = settings.n_plus_one_min
        self._repeat_min = settings.repeated_read_min
        self._proven_min = max(2, round(PROVEN * self._loop_min))
        self._facts = facts
        self._samples = samples
        self._keys = keys
        self._parents = Parents(keys)
        self._unchanged = Unchanged(facts, samples)
        self._unit: Unit | None = None
        self._found: list[Repetition] = []

    def of(self, unit: Unit) -> list[Repetition]:
        """The repetitions of a unit, in the order of their first executions."""
        if unit is not self._unit:
            self._unit = unit
            self._found = self._find(unit)
        return self._found

    def _find(self, unit: Unit) -> list[Repetition]:
        proven_min = self._loop_min if unit.confidence == "weak" else self._proven_min
        least = min(proven_min, self._repeat_min)
        executions = unit.executions
        if len(executions) < least:
            return []
        if unit.confidence != "strong" and is_tool(application_of(executions[0])):
            return []
        groups: dict[tuple[str, str, str, str], list[int]] = {}
        paths: dict[int, str] = {}
        for index, execution in enumerate(executions):
            statement = execution.text.statement
            if statement.kind == "read":
                connection = execution.connection
                key = (
                    statement.fingerprint,
                    connection.database,
                    connection.user,
                    paths.get(connection.id, "") if paths else "",
                )
                group = groups.get(key)
                if group is None:
                    groups[key] = [index]
                else:
                    group.append(index)
            elif statement.command == "SET" and "search_path" in statement.sql.lower():
                # The same text means other tables from here on.
                paths[execution.connection.id] = execution.text.sql
        repeated = [group for group in groups.values() if len(group) >= least]
        if not repeated:
            return []
        # A unit of very many loops is told by its greatest ones; each costs a look at the statement and the rows.
        repeated = sorted(sorted(repeated, key=len, reverse=True)[:MAX_GROUPS])
        results = Results(executions, self._samples)
        members = {index for group in repeated for index in group}
        retried = {
            (execution.connection.id, execution.transaction)
            for execution in executions
            if execution.sqlstate and execution.transaction and is_retryable(execution.sqlstate)
        }
        found = [self._judge(executions, group, members, retried, proven_min, results) for group in repeated]
        # Only what a result gave its values to is sure to be one piece of work there.
        mixed = unit.confidence == "weak" and unit.ended_ns - unit.started_ns > WEAK_SPAN_NS
        return [one for one in found if one is not None and (one.proven or not mixed)]

    def _judge(
        self,
        all_: Sequence[Execution],
        group: list[int],
        members: set[int],
        retried: set[tuple[int, int]],
        proven_min: int,
        results: Results,
    ) -> Repetition | None:
        text = all_[group[0]].text
        tables = subject_of(text, self._facts)
        if not tables:
            return None
        group = [
            index
            for index in group
            if all_[index].sqlstate is None and (all_[index].connection.id, all_[index].transaction) not in retried
        ]
        least = min(proven_min, self._repeat_min)
        if len(group) < least or batched(all_, group):
            return None
        executions = [all_[index] for index in group]
        if not all(map(are_known, executions)):
            return None
        rows = [execution.values for execution in executions]
        values = without_clock(rows, executions)
        distinct = Counter(values)
        before = self._read_before(all_, group[0], members)
        varying = varying_places(executions[0], rows)
        compared = self._facts.of(text).compared
        keys = keys_of(executions[0], rows, varying, compared) if varying else []
        parent: Parent | None = None
        walk = ""
        if len(distinct) >= LEAST and len(group) >= proven_min and keys:
            loop = Loop(executions, [key for key in keys if key.asks], tables)
            parent = self._parents.of(loop, results, group, proven_min, self.tables)
            if parent is not None and parent.first:
                return self._judge(all_, group[parent.first :], members, retried, proven_min, results)
            if parent is None or not parent.proven:
                walk = walked(loop, self._samples, self._keys)
        proven = bool(walk) or (parent is not None and parent.proven)
        if proven or (len(distinct) >= self._loop_min and len(distinct) > FEW_VALUES * len(group)):
            if is_paged(executions[0], varying) or is_listed(executions, rows, varying):
                return None
            if self._checks(all_, group, tables):
                return None
            finder = finder_of(keys, compared)
            return Repetition("loop", executions, len(distinct), tables, before, parent, keys, finder, walk)
        if answers_vary(text.statement.sql):
            return None
        again = self._unchanged.of(all_, group, values, tables)
        if len(again.executions) < self._repeat_min:
            return None
        return Repetition("repeat", again.executions, len(distinct), tables, before, compared=again.compared)

    def tables(self, execution: Execution) -> tuple[str, ...]:
        """The tables of an execution's statement."""
        return self._facts.of(execution.text).tables

    def _read_before(self, all_: Sequence[Execution], first: int, members: set[int]) -> Source | None:
        for index in range(first - 1, max(-1, first - 1 - LOOK_BACK), -1):
            execution = all_[index]
            if execution.statement.kind == "read" and index not in members and execution.sqlstate is None:
                tables = self._facts.of(execution.text).tables
                if tables:
                    return Source(execution.statement, execution.rows, ", ".join(tables[:3]))
        return None

    def _checks(self, all_: Sequence[Execution], group: list[int], tables: tuple[str, ...]) -> bool:
        """True where each read is followed by a write of the same table: a look before a leap, not a loop of reads."""
        followed = 0
        for index in group:
            connection = all_[index].connection.id
            for execution in all_[index + 1 : index + 8]:
                if execution.connection.id != connection or execution.statement.kind in ("transaction", "session"):
                    continue
                followed += execution.statement.kind == "write" and not set(tables).isdisjoint(
                    self._facts.of(execution.text).tables
                )
                break
        return followed >= MOST * len(group)


def subject_of(text: Text, facts: FactsCache) -> tuple[str, ...]:
    """The tables of a plain SELECT over the user's tables; nothing for what no join or cache would replace."""
    if text.statement.command not in ("SELECT", "TABLE") or text.truncated:
        return ()
    found = facts.of(text)
    if found.locks or _LOCKS.search(text.statement.sql):
        return ()
    tables = tuple(found.tables)
    return () if all(map(is_catalogue, tables)) else tables


def is_tool(application: str) -> bool:
    """True for interactive clients, dumps and migrations, by their application name: they are not the application."""
    return _TOOLS.match(application) is not None


def is_catalogue(table: str) -> bool:
    """True for a table of the system's own."""
    name = table.replace('"', "").lower()
    return name.startswith(("pg_", "information_schema."))


def is_retryable(sqlstate: str) -> bool:
    """True for the errors after which clients try again."""
    return sqlstate in _RETRYABLE or sqlstate.startswith("08")


def usual_pause_ns(executions: Sequence[Execution]) -> int:
    """The lower quartile of the pauses between executions: a busy machine makes pauses longer, never shorter."""
    pauses = sorted(after.started_ns - before.ended_ns for before, after in pairwise(executions))
    return pauses[len(pauses) // 4] if pauses else 0


def batched(all_: Sequence[Execution], group: list[int]) -> bool:
    """True where most were sent without waiting for the answer before: in one exchange, or down a pipeline."""
    exchanges = Counter((all_[index].connection.id, all_[index].exchange) for index in group)
    together = 0
    for index in group:
        execution = all_[index]
        if exchanges[execution.connection.id, execution.exchange] > 1:
            together += 1
            continue
        start = execution.started_ns
        for before in reversed(all_[max(0, index - 8) : index]):
            if before.connection.id != execution.connection.id:
                continue
            if before.exchange == execution.exchange:
                start = before.started_ns
                continue
            # The decoder starts a pipelined execution at the end of the one before it.
            together += before.text.statement.kind in ("read", "write") and before.ended_ns == start
            break
    return together >= MOST * len(group)
