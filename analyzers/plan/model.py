"""EXPLAIN (FORMAT JSON) as typed nodes. Texts of conditions are left out: they hold the values of somebody's query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

MAX_DEPTH: Final = 200


class Node(Struct, frozen=True):
    """A plan node. `total_cost` is of all its runs together with its children, `rows` are the planner's estimate."""

    kind: str
    relation: str
    schema: str
    index: str
    rows: float
    startup_cost: float
    total_cost: float
    filtered: bool
    children: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def read(explained: bytes) -> Node:
    """The root node. Raises ValueError for anything that is not EXPLAIN's JSON."""
    try:
        document = msgspec.json.decode(explained)
        return _node(document[0]["Plan"], 0)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"this is no EXPLAIN (FORMAT JSON): {type(error).__name__}") from error


def _node(plan: dict[str, Any], depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise ValueError("this plan is nested too deeply")
    return Node(
        kind=str(plan["Node Type"]),
        relation=str(plan.get("Relation Name", "")),
        schema=str(plan.get("Schema", "")),
        index=str(plan.get("Index Name", "")),
        rows=float(plan.get("Plan Rows", 0)),
        startup_cost=float(plan.get("Startup Cost", 0)),
        total_cost=float(plan.get("Total Cost", 0)),
        filtered="Filter" in plan,
        children=tuple(_node(child, depth + 1) for child in plan.get("Plans", ())),
    )
