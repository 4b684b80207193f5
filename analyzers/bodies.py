"""Loops that are one piece of code: the statements of one body, the relations of one parent, a loop in a loop.

Enters: the loops of a unit. Leaves: bodies, each with its loops in the order of their begin. Two loops belong together
where one is driven by the rows of the other, where the same result drives both, or where they take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from pgtattle.analyzers.repetition import Repetition

ALTERNATE: Final = 0.8
"""So many turns of one loop must stand between two of the other."""


class Body(NamedTuple):
    """Loops that one change would end; `bodies` gives them in the order of their begin."""

    loops: tuple[Repetition, ...]

    @property
    def overlaps(self) -> bool:
        """True where a turn began before the one before it ended: they ran side by side."""
        turns = self.loops[0].executions
        return any(after.started_ns < before.ended_ns for before, after in pairwise(turns))


def bodies(loops: Sequence[Repetition]) -> list[Body]:
    """The loops of a unit, those that belong together as one."""
    groups: list[list[Repetition]] = []
    for loop in sorted(loops, key=lambda one: one.executions[0].started_ns):
        joined = [group for group in groups if any(_belong(loop, other) for other in group)]
        for group in joined:
            groups.remove(group)
        groups.append([*(one for group in joined for one in group), loop])
    for group in groups:
        group.sort(key=lambda one: (one.executions[0].started_ns, one.executions[0].id))
    return sorted((Body(tuple(group)) for group in groups), key=lambda body: body.loops[0].executions[0].started_ns)


def _belong(one: Repetition, other: Repetition) -> bool:
    return _drives(one, other) or _drives(other, one) or _same_parent(one, other) or _take_turns(one, other)


def _drives(outer: Repetition, inner: Repetition) -> bool:
    """True where the rows of one gave the other its values."""
    parent = inner.parent
    return (
        parent is not None and parent.proven and parent.execution.statement.fingerprint == outer.statement.fingerprint
    )


def _same_parent(one: Repetition, other: Repetition) -> bool:
    first, second = one.parent, other.parent
    return (
        first is not None
        and second is not None
        and first.proven
        and second.proven
        and first.execution.id == second.execution.id
    )


def _take_turns(one: Repetition, other: Repetition) -> bool:
    """True where both have as many turns, and one of each comes after one of the other."""
    if abs(len(one.executions) - len(other.executions)) > 1:
        return False
    if (
        one.executions[-1].started_ns < other.executions[0].started_ns
        or other.executions[-1].started_ns < one.executions[0].started_ns
    ):
        return False
    turns = sorted(
        [(execution.started_ns, execution.id, 0) for execution in one.executions]
        + [(execution.started_ns, execution.id, 1) for execution in other.executions]
    )
    changes = sum(before[2] != after[2] for before, after in pairwise(turns))
    return changes >= ALTERNATE * (len(turns) - 1)
