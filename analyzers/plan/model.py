"""EXPLAIN (FORMAT JSON) as typed nodes. Of conditions only names are kept: they hold the values of somebody's query."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

MAX_DEPTH: Final = 200

_TEXT: Final = re.compile(r"'(?:[^']|'')*'")
_NAME: Final = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_\x80-\uffff][\w$]*)')


class Node(Struct, frozen=True):
    """A plan node. `total_cost` is of all its runs together with its children, `rows` are the planner's estimate.

    `filter_names` are all names in its filter: columns, and what else has one there.
    """

    kind: str
    relation: str
    schema: str
    index: str
    rows: float
    startup_cost: float
    total_cost: float
    filtered: bool
    filter_names: frozenset[str]
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
        filter_names=_names(str(plan.get("Filter", ""))),
        children=tuple(_node(child, depth + 1) for child in plan.get("Plans", ())),
    )


def _names(condition: str) -> frozenset[str]:
    found = _NAME.finditer(_TEXT.sub("''", condition))
    return frozenset(one[1].replace('""', '"') if one[1] else one[2] for one in found)
