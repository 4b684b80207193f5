"""Which reads of a unit asked for what was known already: the same question with the same answer, and no reason between
them to ask again.

Enters: the executions of one statement in a unit, and the samples of their results. Leaves: the longest row of them
that was not needed, and whether their answers were compared. Out of scope: what to say of it.

A reason to ask again is a write of the query's tables, of a table whose writes changed the answer in this unit before
(a trigger, a view, a cascade), or something that may do anything: a function of the user's, CALL, DO, DDL, a lock. Who
reads until the answer changes waits for someone else's write. The question is the query, its values, and the settings
that row policies see.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.calls import calls_unknown, modifies, waits
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.values import Values
from pgtattle.proxy.events import Text
from pgtattle.proxy.execution import Execution

MAX_CHANGES: Final = 0.1
"""Changes for each read beyond which nothing is gained by keeping an answer."""
MAX_STATEMENTS: Final = 10_000

_NOTHING: Final[frozenset[str]] = frozenset()
_ANYTHING: Final[frozenset[str]] = frozenset("*")
_OPAQUE: Final = frozenset(("CALL", "DO", "EXECUTE", "LOCK"))

Question = tuple[Values, int]


class Again(NamedTuple):
    """Reads that asked again for the same; `compared`: their answers are known to be the same."""

    executions: list[Execution]
    compared: bool


class _Look(NamedTuple):
    """One execution: its place in the unit, and its answer; of one without a digest the number of rows is known.

    `named`: it has a prepared statement of its own. Drivers take results in binary from then on.
    """

    place: int
    digest: int
    rows: int
    named: bool

    def differs(self, other: _Look) -> bool:
        if self.digest and other.digest and self.named == other.named:
            return self.digest != other.digest
        return self.rows != other.rows


class Unchanged:
    """Remembers what each statement may change."""

    def __init__(self, facts: FactsCache, samples: Samples) -> None:
        self._facts = facts
        self._samples = samples
        self._effects: Bounded[str, frozenset[str]] = Bounded(MAX_STATEMENTS)
        self._unit: Sequence[Execution] | None = None
        self._places: list[int] = []
        self._written: list[frozenset[str]] = []

    def of(self, all_: Sequence[Execution], group: list[int], values: list[Values], tables: tuple[str, ...]) -> Again:
        """The longest row of a group's executions that asked again for the same."""
        if all_ is not self._unit:
            self._begin(all_)
        looks: dict[Question, list[_Look]] = {}
        for index, value in zip(group, values, strict=True):
            looks.setdefault((value, all_[index].context), []).append(self._look(all_, index))
        changing = _plain(tables)
        asked: list[list[_Look]] = []
        for of_it in looks.values():
            by, waited_for = self._changes(of_it)
            changing |= by
            if not waited_for:
                asked.append(of_it)
        best = max([self._longest(of_it, changing) for of_it in asked], key=len, default=[])
        compared = sum(look.digest != 0 for look in best)
        return Again([all_[look.place] for look in best], 2 * compared > len(best))

    def _begin(self, all_: Sequence[Execution]) -> None:
        """Find what a unit may change, by the place of the execution that may."""
        self._unit, self._places, self._written = all_, [], []
        for index, execution in enumerate(all_):
            text = execution.text
            effect = self._effects.get(text.statement.fingerprint)
            if effect is None:
                effect = self._effect(text)
                self._effects.put(text.statement.fingerprint, effect)
            if effect:
                self._places.append(index)
                self._written.append(effect)

    def _look(self, all_: Sequence[Execution], index: int) -> _Look:
        execution = all_[index]
        sample = self._samples.of(execution.id)
        return _Look(index, sample.digest if sample is not None else 0, execution.rows, execution.prepared != "")

    def _changes(self, looks: list[_Look]) -> tuple[frozenset[str], bool]:
        """The tables whose writes came before a changed answer; and whether it was waited for a change by others."""
        by = _NOTHING
        others = 0
        last = False
        for before, look in pairwise(looks):
            last = look.differs(before)
            if last:
                written = self._between(before.place, look.place)
                by |= written - _ANYTHING
                last = not written
                others += last
        return by, last or others > MAX_CHANGES * len(looks)

    def _longest(self, looks: list[_Look], tables: frozenset[str]) -> list[_Look]:
        best: list[_Look] = []
        row: list[_Look] = []
        for look in looks:
            if row and (look.differs(row[-1]) or self._may_change(row[-1].place, look.place, tables)):
                row = []
            row.append(look)
            if len(row) > len(best):
                best = row
        return best

    def _may_change(self, after: int, before: int, tables: frozenset[str]) -> bool:
        written = self._between(after, before)
        return "*" in written or not written.isdisjoint(tables)

    def _between(self, after: int, before: int) -> frozenset[str]:
        """The tables that the unit wrote to between two executions."""
        start, end = bisect_right(self._places, after), bisect_left(self._places, before)
        return _NOTHING.union(*self._written[start:end]) if start < end else _NOTHING

    def _effect(self, text: Text) -> frozenset[str]:
        """The tables that a statement may change the rows of; anything where nobody knows."""
        statement = text.statement
        facts = self._facts.of(text)
        if statement.kind == "copy" and " TO " in statement.sql:
            return _NOTHING
        if statement.command in _OPAQUE:
            return _ANYTHING
        if statement.kind in ("write", "ddl", "copy"):
            return _plain(facts.tables) or _ANYTHING
        if statement.kind != "read":
            return _NOTHING
        if waits(statement.sql) or calls_unknown(statement.sql):
            return _ANYTHING
        # A row that is locked is read again to see what the lock was waited for.
        return _plain(facts.tables) if facts.locks or modifies(statement.sql) else _NOTHING


def _plain(tables: Iterable[str]) -> frozenset[str]:
    """The names without their schemas."""
    return frozenset([table.rpartition(".")[2] for table in tables])
