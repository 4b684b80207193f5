"""Which earlier query gave a loop its values: the parent of an N+1, and whether that is proven.

Enters: the executions of a loop, and the hashed samples of results before its turns. Leaves: the parent and its
column, with the evidence. Nothing here knows a value of a result; the values of the loop are hashed to be compared.

That all values of a loop stand in a column says little alone: small numbers stand in almost any column of ids. It is
proof together with one of these: a foreign key links the two columns, or their names do (`books.author_id` and
`authors.id`); the values come in the order of the rows and that order is no sorted one; or the values are sparse
(UUIDs, or numbers far apart).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Final, NamedTuple

from pgtattle.analyzers.feeds import Feed, Results
from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.values import Key
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.wire.rows import Field, hashed

CONTAINED: Final = 0.9
"""So much of a loop's values must stand in the column."""
IN_ORDER: Final = 4
"""Fewer values come in the same order by chance."""
SPARSE: Final = 10
"""Numbers are sparse whose distances make a range of so many times the column's different values; so are texts of
`LONG` characters."""
LONG: Final = 16
EACH: Final = 5
"""Turns for each of several results from which they are surely a loop in a loop."""
COVERED: Final = 0.8
"""So much of the rows' values must be asked for where there are fewer turns."""
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
    little, and of others that they did not come from a loop over the rows where it is false. The `first` turns came
    before any of the results: they are strays, and not of the loop.
    """

    execution: Execution
    column: str
    child: str
    evidence: tuple[str, ...]
    coverage: float
    in_order: bool
    rows: int
    rounds: int
    first: int

    @property
    def proven(self) -> bool:
        """True where more than containment speaks for it."""
        return bool(self.evidence)


class Loop(NamedTuple):
    """A loop: its executions, and what they ask for by their conditions."""

    executions: Sequence[Execution]
    keys: Sequence[Key]
    tables: tuple[str, ...]


class _Match(NamedTuple):
    """A column of a result, by `number`, that holds the values of one of a loop's keys, by `place`."""

    rank: tuple[int, bool, int]
    place: int
    number: int
    child: str
    evidence: tuple[str, ...]
    in_order: bool


class Parents:
    """Finds the parents of loops."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def of(
        self,
        loop: Loop,
        results: Results,
        turns: Sequence[int],
        least: int,
        tables: Callable[[Execution], tuple[str, ...]],
    ) -> Parent | None:
        """The parent of a loop whose turns are at these places of its unit; `tables` tells those of an execution.

        The one that proves most turns, `least` of them at least, and of several the latest; else the linked columns of
        several lists together; else the latest that holds the values at all.
        """
        likely: Parent | None = None
        plain: Parent | None = None
        for feed in results.feeds(loop.executions, turns, least):
            if plain is not None and not feed.given:
                break
            found = self._best(loop, feed, tables)
            if found is not None and found.proven:
                if not feed.given:
                    plain = found
                elif plain is None or _nested(found, plain, len(turns)):
                    plain = found
                    break
            if feed.first == 0:
                likely = likely or found
        if plain is not None and plain.first == 0:
            return plain
        several = self._of_several(loop, results, turns, least, tables)
        if several is not None and (plain is None or several.first < plain.first):
            return several
        return plain or likely

    def _of_several(
        self,
        loop: Loop,
        results: Results,
        turns: Sequence[int],
        least: int,
        tables: Callable[[Execution], tuple[str, ...]],
    ) -> Parent | None:
        """The proven parent of a loop whose values come from several columns, each linked to what it asks by."""

        def is_linked(execution: Execution, field: Field) -> bool:
            return bool(self._links(loop, loop.keys[0], execution, field, tables)[0])

        feed = results.linked(loop.executions, turns, least, is_linked) if len(loop.keys) == 1 else None
        found = self._best(loop, feed, tables) if feed is not None else None
        return found if found is not None and found.proven else None

    def _best(self, loop: Loop, feed: Feed, tables: Callable[[Execution], tuple[str, ...]]) -> Parent | None:
        best: _Match | None = None
        for place, key in enumerate(loop.keys):
            values = _turns(key, feed)
            asked = [hashed(value) for value in values]
            distinct = set(asked)
            if len(distinct) < LEAST:
                continue
            for number, column in enumerate(feed.columns):
                held = column.distinct
                if len(held) < 2 or len(distinct & held) < CONTAINED * len(distinct):
                    continue
                if feed.given and len(_in_time(asked, feed, number)) < CONTAINED * len(distinct):
                    continue
                in_order = _follows(asked, column.hashes)
                links, child = self._links(loop, key, feed.execution, column.field, tables)
                evidence = (*links, *_evidence(asked, values, len(held), in_order))
                in_order = in_order or _follow_each(asked, feed, number)
                # Of several columns the one that more speaks for, then the one with fewer other values.
                rank = (len(evidence), bool(links), -len(held))
                if best is None or rank > best.rank:
                    best = _Match(rank, place, number, child, evidence, in_order)
        return self._together(loop, feed, best, tables) if best is not None else None

    def _links(
        self,
        loop: Loop,
        key: Key,
        execution: Execution,
        field: Field,
        tables: Callable[[Execution], tuple[str, ...]],
    ) -> tuple[tuple[str, ...], str]:
        """What links a column of a result to one that a loop asks by, and that; to the first if nothing does."""
        for child in key.columns:
            links = []
            if self._keys.linked(execution.connection.database, (field.table, field.attribute), child, loop.tables):
                links.append("key")
            if linked(field.name, tables(execution), child, loop.tables):
                links.append("names")
            if links:
                return tuple(links), child
        return (), key.columns[0] if key.columns else ""

    def _together(self, loop: Loop, feed: Feed, best: _Match, tables: Callable[[Execution], tuple[str, ...]]) -> Parent:
        """The parent by its best column, with the columns of its rows that the loop's other values came from."""
        column = feed.columns[best.number]
        asked = [hashed(value) for value in _turns(loop.keys[best.place], feed)]
        names = {best.place: (column.field.name, best.child)}
        coverage = len(column.distinct.intersection(asked)) / len(column.distinct)
        for place, key in enumerate(loop.keys):
            if place == best.place:
                continue
            values = [hashed(value) for value in _turns(key, feed)]
            distinct, wanted = set(values), set(zip(asked, values, strict=True))
            linked_too = False
            for other in feed.columns:
                if other is column or len(distinct & other.distinct) < CONTAINED * len(distinct):
                    continue
                rows = set(zip(column.hashes, other.hashes, strict=False))
                if len(wanted & rows) < CONTAINED * len(wanted):
                    continue
                links, child = self._links(loop, key, feed.execution, other.field, tables)
                if place not in names or (links and not linked_too):
                    names[place] = (other.field.name, child)
                    linked_too = bool(links)
                    coverage = len(wanted & rows) / len(rows)
        return Parent(
            feed.execution,
            ", ".join(names[place][0] for place in sorted(names)),
            ", ".join(names[place][1] for place in sorted(names)),
            best.evidence,
            coverage,
            best.in_order,
            feed.rows,
            len(feed.parts) if feed.given else 1,
            feed.first,
        )


def is_each(parent: Parent, turns: int) -> bool:
    """True where a loop has so many turns for each of its parent's results that they are of one piece of code.

    Requests that each read a list, and one row of it or two, look like a loop in a loop.
    """
    whole = turns >= LEAST * parent.rounds and parent.coverage >= COVERED
    return parent.rounds == 1 or turns >= EACH * parent.rounds or whole


def _nested(parent: Parent, plain: Parent, turns: int) -> bool:
    """True for a loop in a loop whose first result holds all values too: the order of the rows tells."""
    return parent.in_order and not plain.in_order and turns >= EACH * parent.rounds


def _turns(key: Key, feed: Feed) -> list[str]:
    """The values of the turns that a feed tells of."""
    return key.values[feed.first :][: len(feed.given) or None]


def _in_time(asked: Sequence[int], feed: Feed, number: int) -> set[int]:
    """The values that stood in a column of a result that came before they were asked for."""
    seen: set[int] = set()
    found: set[int] = set()
    taken = 0
    for value, given in zip(asked, feed.given, strict=True):
        while taken < min(given, len(feed.parts)):
            columns = feed.parts[taken]
            if number < len(columns):
                seen.update(columns[number].hashes)
            taken += 1
        if value in seen:
            found.add(value)
    return found


def _evidence(asked: list[int], values: list[str], held: int, in_order: bool) -> tuple[str, ...]:
    found: list[str] = []
    if len(set(asked)) >= IN_ORDER and not _sorted(values) and in_order:
        found.append("order")
    if is_sparse(values, held):
        found.append("sparse")
    return tuple(found)


def _follows(asked: Sequence[int], hashes: Sequence[int]) -> bool:
    """True where the values come in the order of the rows, each row used once, or each value once at its first row."""
    rows = [value for value in hashes if value]
    return _is_subsequence(asked, rows) or _is_subsequence(asked, list(dict.fromkeys(rows)))


def _follow_each(asked: Sequence[int], feed: Feed, number: int) -> bool:
    """True where most values come in the order of the rows of the result just before them, three or more of each."""
    turns: dict[int, list[int]] = {}
    for value, given in zip(asked, feed.given, strict=False):
        turns.setdefault(min(given, len(feed.parts)), []).append(value)
    following = 0
    for given, values in turns.items():
        columns = feed.parts[given - 1]
        hashes = columns[number].hashes if number < len(columns) else []
        own = set(hashes)
        values = [value for value in values if value in own]
        following += len(values) if len(values) >= LEAST and _follows(values, hashes) else 0
    return bool(feed.given) and following >= CONTAINED * len(asked)


def _is_subsequence(asked: Sequence[int], rows: list[int]) -> bool:
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


@lru_cache(4096)
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
