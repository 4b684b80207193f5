"""A unit of work while it is open, and what is known of each connection: the state that `units` works on.

Enters: executions, one at a time. Leaves: the mark that an execution carries, the pauses of a client, complete units.
Out of scope: which execution belongs to which unit.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from pgtattle.analyzers.origin import Mark, mark_of_settings, mark_of_tags, source_of
from pgtattle.proxy.events import Unit, UnitConfidence, UnitKind
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.habits import Habit, Pooled

MILLISECOND: Final = 1_000_000

GAP_MIN_NS: Final = 50 * MILLISECOND
# A unit is on people's screens within half a second of its end, so no gap inside a unit can be longer.
GAP_MAX_NS: Final = 400 * MILLISECOND
THINK_TIMES_IN_GAP: Final = 5
THINK_MIN_NS: Final = MILLISECOND / 10
LOOKED_AT: Final = 10
SMALL: Final = 3
"""Reads and writes that a loop has at least."""

_in_order = attrgetter("started_ns", "id")


class Open:
    """A unit that is not complete. `around` is the burst that a transaction began in; `checked_out`: a pool's mark
    came before it.
    """

    __slots__ = (
        "around",
        "checked_out",
        "connections",
        "done",
        "ended_ns",
        "executions",
        "key",
        "kind",
        "learned",
        "mark",
        "pooled",
        "route",
        "scope",
        "signal",
        "started_ns",
        "transaction",
    )

    def __init__(self, kind: UnitKind, key: str, signal: str, started_ns: int) -> None:
        self.kind: UnitKind = kind
        self.key = key
        self.signal = signal
        self.started_ns = started_ns
        self.ended_ns = 0
        self.executions: list[Execution] = []
        self.connections: set[int] = set()
        self.route = ""
        self.transaction = 0
        self.mark: Mark | None = None
        self.scope = ""
        self.learned = False
        self.around: Open | None = None
        self.checked_out = False
        self.pooled = False
        self.done = False

    @property
    def small(self) -> bool:
        """True where no loop could be inside."""
        return len(self.executions) < SMALL + 2 and (
            sum(execution.text.statement.kind in ("read", "write") for execution in self.executions) < SMALL
        )

    def complete(self) -> Unit:
        """The unit, as it flows."""
        self.executions.sort(key=_in_order)
        tags = [execution.text.tags for execution in self.executions[:LOOKED_AT] if execution.text.tags]
        strong = self.mark is not None or self.learned
        confidence: UnitConfidence = "strong" if strong else "weak" if self.kind == "burst" else "medium"
        return Unit(
            id=f"u{self.executions[0].id}",
            kind=self.kind,
            key=self.key,
            confidence=confidence,
            signal=self.signal,
            route=self.route,
            source=next(filter(None, map(source_of, tags)), ""),
            executions=tuple(self.executions),
            pooled=self.pooled,
        )


class Track:
    """What is known of one connection. `released` is true after a mark of the pool that takes it back.

    `think_ns` is a running median of the pauses inside units, `gap_ns` the longest pause that is still inside one. The
    marks of the last tags and settings are kept, for most executions carry the same ones as the one before.
    """

    __slots__ = (
        "ended_ns",
        "gap_ns",
        "habit",
        "mark",
        "old_ids",
        "pooled",
        "released",
        "scope",
        "setting_mark",
        "settings",
        "settings_transaction",
        "tag_mark",
        "tags",
        "think_ns",
        "transaction",
        "unit",
        "units",
    )

    def __init__(self, scope: str, habit: Habit, pooled: bool) -> None:
        self.scope = scope
        self.habit = habit
        self.pooled = Pooled(pooled)
        self.released = False
        self.unit: Open | None = None
        self.units = 0
        self.transaction = 0
        self.mark: Mark | None = None
        self.ended_ns = 0
        self.think_ns = float(MILLISECOND)
        self.gap_ns = float(GAP_MIN_NS)
        self.tags: object = None
        self.tag_mark: Mark | None = None
        self.settings: object = None
        self.settings_transaction = 0
        self.setting_mark: Mark | None = None
        self.old_ids = False

    def paused(self, pause_ns: int) -> None:
        """Learn from a pause inside a unit: a step towards it, whatever its size, follows the median."""
        think_ns = self.think_ns * (1.1 if pause_ns > self.think_ns else 1 / 1.1)
        self.think_ns = think_ns if think_ns > THINK_MIN_NS else THINK_MIN_NS
        gap_ns = THINK_TIMES_IN_GAP * think_ns
        self.gap_ns = GAP_MIN_NS if gap_ns < GAP_MIN_NS else min(gap_ns, GAP_MAX_NS)

    def mark_of(self, execution: Execution) -> Mark | None:
        """The name that the execution itself carries, if it is fresh."""
        tags = execution.text.tags
        mark = None
        if tags:
            if tags is not self.tags:
                self.tags, self.tag_mark = tags, mark_of_tags(tags)
            mark = self.tag_mark
        if mark is not None and execution.reused:
            last = self.unit.mark if self.unit is not None else None
            if self.old_ids or last is None or (last.kind, last.id) != (mark.kind, mark.id):
                self.old_ids = self.old_ids or (last is not None and not last.setting)
                mark = None
            elif self.unit is not None and self.unit.done:
                mark = None
        if mark is None and execution.settings:
            if execution.settings is not self.settings or execution.transaction != self.settings_transaction:
                self.settings, self.settings_transaction = execution.settings, execution.transaction
                transaction = f"{execution.connection.id}/{execution.transaction}" if execution.transaction else ""
                self.setting_mark = mark_of_settings(execution.settings, transaction)
            mark = self.setting_mark
        return mark
