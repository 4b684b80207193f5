"""The scans of a whole table that an index would spare.

Enters: a plan, and what the catalogue says of a table. Leaves: the scan that is most of what the statement costs and of
which few rows are wanted. Out of scope: whether an index could serve it (`candidates`).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from pgtattle.analyzers.plan.model import Node
from pgtattle.analyzers.questions import TableFacts

MAX_SHARE: Final = 0.05
"""A scan of which more rows of the table are wanted is not helped by an index."""
MIN_COST_SHARE: Final = 0.3

_ABOVE_SCAN: Final = frozenset(("Limit", "LockRows", "Gather Merge", "Sort"))


def reads(node: Node, facts: TableFacts) -> bool:
    """True for a node that reads this table."""
    return node.relation == facts.name.rpartition(".")[2] and node.schema == facts.schema


def of_all(node: Node, facts: TableFacts) -> bool:
    """True for a node that reads the whole of this table."""
    return node.kind == "Seq Scan" and reads(node, facts)


def for_few_rows(root: Node, facts: TableFacts) -> Node | None:
    """The scan that leaves nearly all rows out."""
    for node in root.walk():
        few = node.filtered and node.rows <= MAX_SHARE * facts.rows
        if few and of_all(node, facts) and node.total_cost >= MIN_COST_SHARE * root.total_cost:
            return node
    return None


def for_first_rows(root: Node, facts: TableFacts) -> Node | None:
    """The scan that is sorted for its first rows, with the number of these."""
    for limit in root.walk():
        few = limit.kind == "Limit" and limit.rows <= MAX_SHARE * facts.rows
        if not few or limit.total_cost < MIN_COST_SHARE * root.total_cost:
            continue
        path = [limit]
        while len(path[-1].children) == 1 and path[-1].kind in _ABOVE_SCAN:
            path.append(path[-1].children[0])
        if any(node.kind == "Sort" for node in path) and of_all(path[-1], facts):
            return replace(path[-1], rows=limit.rows)
    return None
