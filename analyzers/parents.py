"""Which earlier query gave a loop its values: the parent of an N+1, and whether that is proven.

Enters: the executions of a loop, those before it, and the hashed samples of their results. Leaves: the parent and its
column, with the evidence. Nothing here knows a value of a result; the values of the loop are hashed to be compared.

That all values of a loop stand in a column says little alone: small numbers stand in almost any column of ids. It is
proof together with one of these: a foreign key links the two columns, or their names do (`books.author_id` and
`authors.id`); the values come in the order of the rows and that order is no sorted one; or the values are sparse
(UUIDs, or numbers far apart).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from statistics import median
from typing import Final, NamedTuple

from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.values import Key
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.wire.rows import Column, Field, Sample, hashed

CONTAINED: Final = 0.9
"""So much of a loop's values must stand in the column."""
IN_ORDER: Final = 4
"""Fewer values come in the same order by chance."""
SPARSE: Final = 10
"""Numbers are sparse whose distances make a range of so many times the column's different values; so are texts of
`LONG` characters."""
LONG: Final = 16
MAX_PARENTS: Final = 20
"""Statements whose results are looked at, the latest first."""
MAX_RESULTS: Final = 100
"""Results of one statement that are looked at as one."""
EACH: Final = 5
"""Turns for each of several results from which they are surely a loop in a loop."""
LEAST: Final = 3
"""Different values without which nothing is proven."""

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_KEYS: Final = frozenset(("id", "pk", "uuid", "guid", "key"))
_COMMON: Final = _KEYS | frozenset(("name", "code", "type", "status", "kind", "state", "created_at", "updated_at"))


class Parent(NamedTuple):
    """A query that gave a loop its values: its column, the loop's own column, and by which evidence.

    Where several values vary together, `column` and `child` name all that came from the same rows. `evidence` is of
    `key names order sparse`, and proof where it is not empty. `coverage` is the share of the column's values that the
    loop asked for; 1.0 is a query for every row. `rows` are those of all results that are as one, and `rounds` counts
    the results where some came between the turns. `in_order`: they came as the rows do, which of sorted ones says
    little, and of others that they did not come from a loop over the rows where it is false.
    """

    execution: Execution
    column: str
    child: str
    evidence: tuple[str, ...]
    coverage: float
    in_order: bool
    rows: int
    rounds: int

    @property
    def proven(self) -> bool:
        """True where more than containment speaks for it."""
        return bool(self.evidence)


class Loop(NamedTuple):
    """A loop: its executions, and what they ask for by their conditions."""

    executions: Sequence[Execution]
    keys: Sequence[Key]
    tables: tuple[str, ...]


class _Fed(NamedTuple):
    """Results of one statement that are as one, `parts`; `execution` is the last before a loop's first turn.

    `given` counts for each turn those that came before it, where some came between the turns: a loop in a loop. It may
    be shorter than the loop, which then is told by its first turns.
    """

    execution: Execution
    columns: Sequence[Column]
    parts: Sequence[Sample]
    given: Sequence[int]
    rows: int


class _Match(NamedTuple):
    """A column of a result, by `number`, that holds the values of one of a loop's keys, by `place`."""

    rank: tuple[int, bool, int]
    place: int
    number: int
    child: str
    evidence: tuple[str, ...]
    in_order: bool


class Results:
    """The sampled results of one unit, by statement, for all of its loops."""

    def __init__(self, executions: Sequence[Execution], samples: Samples) -> None:
        self._results: dict[str, list[tuple[int, Execution, Sample]]] = {}
        self._columns: dict[tuple[str, int, int], Sequence[Column]] = {}
        for index, execution in enumerate(executions):
            sample = samples.of(execution.id)
            if sample is not None:
                self._results.setdefault(execution.text.statement.fingerprint, []).append((index, execution, sample))

    def before(self, first: Execution, turns: Sequence[int]) -> Iterator[_Fed]:
        """The results that began before a loop whose turns are at these places, the latest statement first.

        Those of one statement are as one result, for a loop's may be the parent of another: those before the first
        turn, then with them those that came between the turns.
        """
        index = turns[0]
        found: list[tuple[int, str, int]] = []
        for fingerprint, results in self._results.items():
            if fingerprint == first.text.statement.fingerprint:
                continue
            count = bisect_left(results, index, key=itemgetter(0))
            while count and (results[count - 1][1].first_row_ns or results[count - 1][1].ended_ns) > first.started_ns:
                count -= 1
            if count:
                found.append((results[count - 1][0], fingerprint, count))
        for _, fingerprint, count in sorted(found, reverse=True)[:MAX_PARENTS]:
            results = self._results[fingerprint]
            start = max(0, count - MAX_RESULTS)
            yield self._fed(fingerprint, start, count, count, ())
            if count < len(results) and results[count][0] < turns[-1]:
                places = [place for place, _, _ in results[start : start + MAX_RESULTS + 1]]
                given = [bisect_left(places, turn) for turn in turns]
                given = given[: bisect_left(given, MAX_RESULTS + 1)]
                yield self._fed(fingerprint, start, start + given[-1], count, given)

    def _fed(self, fingerprint: str, start: int, end: int, before: int, given: Sequence[int]) -> _Fed:
        results = self._results[fingerprint]
        parts = [sample for _, _, sample in results[start:end]]
        rows = sum(execution.rows for _, execution, _ in results[start:end])
        return _Fed(results[before - 1][1], self._together(fingerprint, start, end), parts, given, rows)

    def _together(self, fingerprint: str, start: int, end: int) -> Sequence[Column]:
        """The columns of some results of a statement, one after another."""
        key = (fingerprint, start, end)
        known = self._columns.get(key)
        if known is None:
            samples = [sample for _, _, sample in self._results[fingerprint][start:end]]
            known = self._columns[key] = samples[0].columns if len(samples) == 1 else _joined(samples)
        return known


class Parents:
    """Finds the parents of loops."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def of(
        self, loop: Loop, results: Results, turns: Sequence[int], tables: Callable[[Execution], tuple[str, ...]]
    ) -> Parent | None:
        """The parent of a loop whose turns are at these places of its unit; `tables` tells those of an execution.

        The latest proven one; else the latest that holds the values at all.
        """
        likely: Parent | None = None
        plain: Parent | None = None
        for fed in results.before(loop.executions[0], turns):
            found = self._best(loop, fed, tables(fed.execution))
            if not fed.given:
                if plain is not None:
                    return plain
                if found is not None and found.proven:
                    plain = found
            elif found is not None and found.proven and (plain is None or _nested(found, plain, len(turns))):
                return found
            likely = likely or found
        return plain or likely

    def _best(self, loop: Loop, fed: _Fed, tables: tuple[str, ...]) -> Parent | None:
        best: _Match | None = None
        for place, key in enumerate(loop.keys):
            values = key.values[: len(fed.given)] if fed.given else key.values
            asked = [hashed(value) for value in values]
            distinct = set(asked)
            if len(distinct) < LEAST:
                continue
            for number, column in enumerate(fed.columns):
                held = column.distinct
                if len(held) < 2 or len(distinct & held) < CONTAINED * len(distinct):
                    continue
                if fed.given and len(_in_time(asked, fed, number)) < CONTAINED * len(distinct):
                    continue
                in_order = _follows(asked, column)
                links, child = self._links(loop, key, fed.execution, column.field, tables)
                evidence = (*links, *_evidence(asked, key.values, len(held), in_order))
                # Of several columns the one that more speaks for, then the one with fewer other values.
                rank = (len(evidence), bool(links), -len(held))
                if best is None or rank > best.rank:
                    best = _Match(rank, place, number, child, evidence, in_order)
        return self._together(loop, fed, best, tables) if best is not None else None

    def _links(
        self, loop: Loop, key: Key, execution: Execution, field: Field, tables: tuple[str, ...]
    ) -> tuple[tuple[str, ...], str]:
        """What links a column of a result to one that a loop asks by, and that; to the first if nothing does."""
        for child in key.columns:
            links = []
            if self._keys.linked(execution.connection.database, (field.table, field.attribute), child, loop.tables):
                links.append("key")
            if linked(field.name, tables, child, loop.tables):
                links.append("names")
            if links:
                return tuple(links), child
        return (), key.columns[0] if key.columns else ""

    def _together(self, loop: Loop, fed: _Fed, best: _Match, tables: tuple[str, ...]) -> Parent:
        """The parent by its best column, with the columns of its rows that the loop's other values came from."""
        column = fed.columns[best.number]
        turns = len(fed.given) or len(loop.executions)
        asked = [hashed(value) for value in loop.keys[best.place].values[:turns]]
        names = {best.place: (column.field.name, best.child)}
        coverage = len(column.distinct.intersection(asked)) / len(column.distinct)
        for place, key in enumerate(loop.keys):
            if place == best.place:
                continue
            values = [hashed(value) for value in key.values[:turns]]
            distinct, wanted = set(values), set(zip(asked, values, strict=True))
            linked_too = False
            for other in fed.columns:
                if other is column or len(distinct & other.distinct) < CONTAINED * len(distinct):
                    continue
                rows = set(zip(column.hashes, other.hashes, strict=False))
                if len(wanted & rows) < CONTAINED * len(wanted):
                    continue
                links, child = self._links(loop, key, fed.execution, other.field, tables)
                if place not in names or (links and not linked_too):
                    names[place] = (other.field.name, child)
                    linked_too = bool(links)
                    coverage = len(wanted & rows) / len(rows)
        return Parent(
            fed.execution,
            ", ".join(names[place][0] for place in sorted(names)),
            ", ".join(names[place][1] for place in sorted(names)),
            best.evidence,
            coverage,
            best.in_order,
            fed.rows,
            len(fed.parts) if fed.given else 1,
        )


def _nested(parent: Parent, plain: Parent, turns: int) -> bool:
    """True for a loop in a loop whose first result holds all values too: the order of the rows tells."""
    return parent.in_order and not plain.in_order and turns >= EACH * parent.rounds


def _in_time(asked: Sequence[int], fed: _Fed, number: int) -> set[int]:
    """The values that stood in a column of a result that came before they were asked for."""
    seen: set[int] = set()
    found: set[int] = set()
    taken = 0
    for value, given in zip(asked, fed.given, strict=True):
        while taken < min(given, len(fed.parts)):
            columns = fed.parts[taken].columns
            if number < len(columns):
                seen.update(columns[number].hashes)
            taken += 1
        if value in seen:
            found.add(value)
    return found


def _joined(samples: Sequence[Sample]) -> Sequence[Column]:
    """The columns of results of one statement, one result after another."""
    columns = [Column(column.field) for column in samples[0].columns]
    for sample in samples:
        for column, part in zip(columns, sample.columns, strict=False):
            column.hashes.extend(part.hashes)
    return columns


def _evidence(asked: list[int], values: list[str], held: int, in_order: bool) -> tuple[str, ...]:
    found: list[str] = []
    if len(set(asked)) >= IN_ORDER and not _sorted(values) and in_order:
        found.append("order")
    if is_sparse(values, held):
        found.append("sparse")
    return tuple(found)


def _follows(asked: list[int], column: Column) -> bool:
    """True where the values come in the order of the rows, each row used once, or each value once at its first row."""
    rows = [value for value in column.hashes if value]
    return _is_subsequence(asked, rows) or _is_subsequence(asked, list(dict.fromkeys(rows)))


def _is_subsequence(asked: list[int], rows: list[int]) -> bool:
    following = iter(rows)
    return all(value in following for value in asked)


def _sorted(values: list[str]) -> bool:
    """True for values that only go up or only go down: two sorted lists agree for free."""
    if all(map(_is_number, values)):
        numbers = [int(value) for value in values]
        return _one_way([after - before for before, after in pairwise(numbers)])
    return _one_way([(after > before) - (after < before) for before, after in pairwise(values)])


def _one_way(steps: list[int]) -> bool:
    return all(step >= 0 for step in steps) or all(step <= 0 for step in steps)


def is_sparse(values: Sequence[str], held: int) -> bool:
    """True for values that no other column of `held` different ones holds by chance.

    Of numbers the middle distance counts, so that one far off makes no others sparse; days and moments are never so.
    """
    if all(map(_is_number, values)):
        numbers = sorted({int(value) for value in values})
        if len(numbers) < LEAST:
            return False
        return median([after - before for before, after in pairwise(numbers)]) * len(numbers) >= SPARSE * held
    return min(map(len, values)) >= LONG and not any(map(_DAY.match, values))


def _is_number(value: str) -> bool:
    return value.removeprefix("-").isdecimal() and len(value) < 20


def linked(column: str, tables: tuple[str, ...], child: str, child_tables: tuple[str, ...]) -> bool:
    """True where the names say that a parent's column and the child's column hold the same thing.

    The same name that is not a common one; `author_id` and the key of `author` or `authors`; the key of `books` and
    `book_id`. ORMs call result columns `books_author_id`, and tables `shop_author`.
    """
    child = _plain(child)
    names = {_plain(column)}
    for table in tables:
        prefix = _plain(table) + "_"
        names |= {name.removeprefix(prefix) for name in list(names)}
    return any(
        (name == child and name not in _COMMON)
        or (child in _KEYS and _refers(name, child_tables))
        or (name in _KEYS and _refers(child, tables))
        for name in names
    )


def _refers(column: str, tables: tuple[str, ...]) -> bool:
    """True where a column is named for a key of one of the tables."""
    stem, _, key = column.rpartition("_")
    return bool(stem) and key in _KEYS and any(_named(table, stem) for table in tables)


def _named(table: str, stem: str) -> bool:
    table = _plain(table)
    plurals = {stem, stem + "s", stem + "es", stem[:-1] + "ies" if stem.endswith("y") else stem}
    return table in plurals or any(table.endswith("_" + plural) for plural in plurals)


def _plain(name: str) -> str:
    """A name without its schema and quotes, in small letters with underscores."""
    return _CAMEL.sub("_", name.replace('"', "").rpartition(".")[2]).lower()
