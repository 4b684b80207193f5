"""A count with its noun, for people to read."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """`1 query`, `1,200 executions`: of a noun in the singular."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun[:-1]}ies" if noun.endswith("ry") else f"{count:,} {noun}s"
