"""A unit of work while it is open, and what is known of each connection: the state that `units` works on.

Enters: executions, one at a time. Leaves: the mark that an execution carries, and units as they stand.
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

GAP_NS: Final = 300 * MILLISECOND
"""The longest pause in a burst: far more than a client takes, for a busy machine makes pauses longer."""
GAP_MAX_NS: Final = 600 * MILLISECOND
"""The longest pause in a burst where it goes on as it went before; after so long what is open is shown as it stands."""
NAMED_NS: Final = 60_000 * MILLISECOND
"""Of silence, after which a name that a connection still has is used no more."""
LOOKED_AT: Final = 10
SMALL: Final = 3
"""Reads and writes that a loop has at least."""

_in_order = attrgetter("started_ns", "id")


class Open:
    """A unit that is not complete. `around` is the burst that a transaction began in; `checked_out`: a pool's mark
    came before it; `shown` counts the executions that it had when it was shown as it stands.
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
        "shown",
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
        self.shown = 0

    @property
    def small(self) -> bool:
        """True where no loop could be inside."""
        return len(self.executions) < SMALL + 2 and (
            sum(execution.text.statement.kind in ("read", "write") for execution in self.executions) < SMALL
        )

    def goes_on(self, execution: Execution) -> bool:
        """True where the unit went from its last statement to this one before: a loop's next turn."""
        last, this = self.executions[-1].text.statement.fingerprint, execution.text.statement.fingerprint
        before = ""
        for one in self.executions:
            fingerprint = one.text.statement.fingerprint
            if before == last and fingerprint == this:
                return True
            before = fingerprint
        return False

    def as_it_stands(self) -> Unit:
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
    """What is known of one connection. `released` is true after a mark of the pool that takes it back, `begun` in a
    transaction. `named` is the unit of the last name that it had, until it is given back.

    The marks of the last tags and settings are kept, for most executions carry the same ones as the one before.
    """

    __slots__ = (
        "begun",
        "ended_ns",
        "habit",
        "mark",
        "named",
        "old_ids",
        "pooled",
        "released",
        "scope",
        "setting_mark",
        "settings",
        "settings_transaction",
        "tag_mark",
        "tags",
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
        self.named: Open | None = None
        self.units = 0
        self.transaction = 0
        self.mark: Mark | None = None
        self.ended_ns = 0
        self.begun = False
        self.tags: object = None
        self.tag_mark: Mark | None = None
        self.settings: object = None
        self.settings_transaction = 0
        self.setting_mark: Mark | None = None
        self.old_ids = False

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
