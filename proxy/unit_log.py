"""The latest units of work, for people to look at: what each was, not its executions, which the store has.

Enters: complete units. Leaves: views, latest first. Bounded; a burst of one execution is no work that was told apart,
and is left out. No I/O and no clock.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from typing import Final

from pgtattle.proxy.events import Unit
from pgtattle.proxy.schema import UnitView
from pgtattle.proxy.views import Anchor, cleaned, milliseconds

MAX_UNITS: Final = 500
MAX_IDS: Final = 200
"""Executions of a unit that are told."""
MAX_STATEMENTS: Final = 20


class UnitLog:
    """A ring of units by id."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._units: OrderedDict[str, tuple[UnitView, array[int]]] = OrderedDict()

    def add(self, unit: Unit) -> None:
        """Remember a unit."""
        executions = unit.executions
        if unit.kind == "burst" and len(executions) < 2:
            return
        most = Counter([one.text.statement.fingerprint for one in executions]).most_common(MAX_STATEMENTS)
        view = UnitView(
            id=unit.id,
            kind=unit.kind,
            key=unit.key,
            confidence=unit.confidence,
            signal=unit.signal,
            route=unit.route,
            source=unit.source,
            started_at=self._anchor.iso(unit.started_ns),
            span_ms=milliseconds(unit.ended_ns - unit.started_ns),
            database_ms=milliseconds(sum([one.duration_ns for one in executions])),
            executions=len(executions),
            connections=len({one.connection.id for one in executions}),
            statements=[fingerprint for fingerprint, _ in most],
        )
        self._units[unit.id] = (cleaned(view), array("q", [one.id for one in executions[:MAX_IDS]]))
        if len(self._units) > MAX_UNITS:
            self._units.popitem(last=False)

    def ids(self) -> list[str]:
        """The ids of all units, latest first."""
        return list(reversed(self._units))

    def unit(self, identity: str) -> UnitView | None:
        """A unit by its id; None when it is not remembered."""
        known = self._units.get(identity)
        return known[0] if known else None

    def executions(self, identity: str) -> list[int]:
        """The ids of a unit's executions, up to a bound."""
        known = self._units.get(identity)
        return list(known[1]) if known else []
