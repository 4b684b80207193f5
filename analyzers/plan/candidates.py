"""The btree keys that could serve a statement.

Enters: what a statement does with columns, what the catalogue says of its tables, and its plan. Leaves: candidates,
best first. A name that is no column of its table is one of an outer query, a column whose type has no operator class
can be in no key, and an index does not serve a column that is converted before it is compared: they are left out, the
others stay. Out of scope: whether the planner would use a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final

from pgtattle.analyzers.plan.model import Node
from pgtattle.analyzers.plan.scans import of_all, reads
from pgtattle.analyzers.questions import IndexCandidate, TableFacts
from pgtattle.analyzers.sql.facts import ColumnUse

MAX_WIDTH: Final = 3
UNKNOWN: Final = 0.01
"""The share of the rows that an equality finds in a column without statistics."""

_ROLES: Final = frozenset(("eq", "null", "range", "join"))


def serves(use: ColumnUse, limited: bool) -> bool:
    """True for a use that a key could serve, as far as the statement alone shows: an order where it is `limited`."""
    return bool(use.table) and not use.function and (use.role in _ROLES or (limited and use.role == "order"))


def candidates(uses: Iterable[ColumnUse], tables: Iterable[TableFacts], plan: Node) -> Iterator[IndexCandidate]:
    """Keys that can be built and are not there: the first of each table, then the second of each, and so on."""
    of_tables: list[list[IndexCandidate]] = []
    for facts in tables:
        sources: dict[str, list[ColumnUse]] = {}
        for use in uses:
            if use.table == facts.name and _fits(use, facts, plan):
                sources.setdefault(use.source, []).append(use)
        searched = dict.fromkeys(key for mine in sources.values() for key in _keys(mine, facts))
        ordered = dict.fromkeys(key for mine in sources.values() if (key := _order(mine, facts)))
        of_tables.append(
            [
                *(IndexCandidate(table=facts.name, columns=key) for key in searched if not is_indexed(key, facts)),
                *(IndexCandidate(table=facts.name, columns=key, ordered=True) for key in ordered),
            ]
        )
    for ranked in zip_longest(*of_tables):
        yield from (candidate for candidate in ranked if candidate is not None)


def is_indexed(columns: tuple[str, ...], facts: TableFacts) -> bool:
    """True when a valid btree index begins with these columns; the order of equalities does not matter."""
    return any(set(index[: len(columns)]) == set(columns) for index in facts.indexes)


def filtering(plan: Node, facts: TableFacts) -> Iterator[ColumnUse]:
    """The columns that a scan of a table leaves rows out by, each for itself: a plan does not show how it does.

    Worth a try, and no more: only a planner that takes an index on one of them shows that it serves.
    """
    scanned = [node for node in plan.walk() if node.filtered and of_all(node, facts)]
    for name in facts.columns:
        if any(name in node.filter_names for node in scanned):
            yield ColumnUse(facts.name, name, "eq", source=f"plan.{name}")


def _keys(uses: list[ColumnUse], facts: TableFacts) -> tuple[tuple[str, ...], ...]:
    """Equalities, then a range; then join columns."""
    equal, rows = _equalities(uses, facts)
    ranges = _columns(uses, "range")
    joins = _columns(uses, "join")
    found: dict[tuple[str, ...], None] = {}
    if equal:
        if ranges and rows > 1:
            found.setdefault((*equal, ranges[0])[:MAX_WIDTH])
        found.setdefault(equal)
    elif ranges:
        found.setdefault(ranges[:1])
    if joins and equal:
        found.setdefault((*equal, joins[0])[:MAX_WIDTH])
    for join in joins:
        found.setdefault((join,))
    return tuple(found)


def _order(uses: list[ColumnUse], facts: TableFacts) -> tuple[str, ...]:
    """The columns of an ORDER BY of one direction that no index has: one is read forwards or backwards."""
    key = _columns(uses, "order")[:MAX_WIDTH]
    one_way = len({use.descending for use in uses if use.role == "order"}) == 1
    return key if one_way and not any(index[: len(key)] == key for index in facts.indexes) else ()


def _fits(use: ColumnUse, facts: TableFacts, plan: Node) -> bool:
    column = facts.columns.get(use.column)
    if column is None or not column.btree or use.compared_to in facts.columns:
        return False
    casts = [cast for node in plan.walk() if reads(node, facts) for cast in node.casts]
    return all(name != use.column or type in column.casts for name, type in casts)


def _equalities(uses: list[ColumnUse], facts: TableFacts) -> tuple[tuple[str, ...], float]:
    """The columns of equalities, those that find the fewest rows first, until one is left; and the rows that are."""
    shares: dict[str, float] = {}
    for use in uses:
        if use.role in ("eq", "null"):
            column = facts.columns[use.column]
            share = column.null if use.role == "null" else column.equal
            shares.setdefault(use.column, UNKNOWN if share < 0 else share)
    rows = facts.rows
    key: list[str] = []
    for name, share in sorted(shares.items(), key=lambda one: one[1]):
        if len(key) == MAX_WIDTH or (key and rows <= 1):
            break
        key.append(name)
        rows *= share
    return tuple(key), rows


def _columns(uses: list[ColumnUse], role: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(use.column for use in uses if use.role == role))
