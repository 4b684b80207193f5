"""EXPLAIN (FORMAT JSON) as typed nodes. Of conditions only names are kept: they hold the values of somebody's query."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

MAX_DEPTH: Final = 200

_TEXT: Final = re.compile(r"'(?:[^']|'')*'")
_CAST: Final = re.compile(
    r'\((?:(?:"(?:[^"]|"")+"|[\w$]+)\.)?(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))\)::'
    r"(double precision|(?:character|bit) varying|time(?:stamp)? with(?:out)? time zone"
    r'|(?:(?:"(?:[^"]|"")+"|[\w$]+)\.)?(?:"(?:[^"]|"")+"|[\w$]+))(?:\(\d+\))?(\[\])?'
)
_NAME: Final = re.compile(r'"((?:[^"]|"")+)"|([A-Za-z_\x80-\uffff][\w$]*)')


class Node(Struct, frozen=True):
    """A plan node. `total_cost` is of all its runs together with its children, `rows` are estimated for one run.

    An `index` that is not `searched` is walked through in its order. `filter_names` are all names in the node's filter:
    columns, and what else has one there. `casts` are its columns that are converted before they are compared, each with
    the type.
    """

    kind: str
    relation: str
    schema: str
    index: str
    searched: bool
    rows: float
    startup_cost: float
    total_cost: float
    filtered: bool
    filter_names: frozenset[str]
    casts: frozenset[tuple[str, str]]
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
        return _node(document[0]["Plan"], 0, 1.0, math.inf)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"this is no EXPLAIN (FORMAT JSON): {type(error).__name__}") from error


def _node(plan: dict[str, Any], depth: int, runs: float, most: float) -> Node:
    """A node that runs so often. It costs no more than the node above, which may not want all of its rows."""
    if depth > MAX_DEPTH:
        raise ValueError("this plan is nested too deeply")
    total_cost = min(runs * float(plan.get("Total Cost", 0)), most)
    below = plan.get("Plans", ())
    condition = _TEXT.sub("''", str(plan.get("Filter", "")))
    return Node(
        kind=str(plan["Node Type"]),
        relation=str(plan.get("Relation Name", "")),
        schema=str(plan.get("Schema", "")),
        index=str(plan.get("Index Name", "")),
        searched="Index Cond" in plan,
        rows=float(plan.get("Plan Rows", 0)),
        startup_cost=float(plan.get("Startup Cost", 0)),
        total_cost=total_cost,
        filtered="Filter" in plan,
        filter_names=_names(condition),
        casts=frozenset(
            (one[1].replace('""', '"') if one[1] else one[2], one[3] + (one[4] or ""))
            for one in _CAST.finditer(condition)
        ),
        children=tuple(_node(child, depth + 1, _runs(plan, child, runs), total_cost) for child in below),
    )


def _runs(plan: dict[str, Any], child: dict[str, Any], runs: float) -> float:
    """How often a child runs where its parent runs so often: EXPLAIN tells the cost of one run."""
    relationship = child.get("Parent Relationship")
    if relationship == "InitPlan" or plan["Node Type"] == "Materialize":
        return 1.0
    if relationship == "SubPlan":
        name = str(child.get("Subplan Name", ""))
        hashed = any(f"hashed {name}" in str(value) for value in plan.values() if not isinstance(value, dict))
        return 1.0 if hashed else runs * max(1.0, float(plan.get("Plan Rows", 0)))
    if relationship == "Inner" and plan["Node Type"] == "Nested Loop":
        outer = next((one for one in plan["Plans"] if one.get("Parent Relationship") == "Outer"), plan)
        return runs * max(1.0, float(outer.get("Plan Rows", 0)))
    return runs


def _names(condition: str) -> frozenset[str]:
    found = _NAME.finditer(condition)
    return frozenset(_name(one[1], one[2]) for one in found)


def _name(quoted: str | None, plain: str) -> str:
    return quoted.replace('""', '"') if quoted else plain
