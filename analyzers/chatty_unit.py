"""`chatty-unit`: a request that asks more queries, or waits longer for them, than its budget.

Enters: complete units. Leaves: a finding per route (or application) and unit. Loops and repeats are counted once: the
rules that speak of them say it better. Out of scope: units without a name of their own, whose ends are guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.repetition import Repetitions
from pgtattle.proxy.events import Unit
from pgtattle.proxy.schema import ChattyEvidence, Severity, Suggestion, UnitRef
from pgtattle.proxy.settings import Budget, RuleSettings

FAR: Final = 3
"""Times the budget from which it is no longer `low`."""
MAX_TOP: Final = 5


class ChattyUnit(Analyzer):
    """Holds units against their budget."""

    rules: ClassVar[tuple[str, ...]] = ("chatty-unit",)

    def __init__(self, settings: RuleSettings, repetitions: Repetitions) -> None:
        self._budget = Budget(queries=settings.chatty_unit_queries, ms=settings.chatty_unit_ms)
        self._routes = settings.chatty_unit_routes
        self._repetitions = repetitions

    def unit(self, unit: Unit) -> Iterable[Finding]:
        """The finding where a complete unit is over its budget."""
        if unit.confidence != "strong":
            return ()
        most, budget_ns = self._budget_of(unit.route)
        asked = [one for one in unit.executions if one.text.statement.kind in ("read", "write")]
        total_ns = sum(one.duration_ns for one in asked)
        if len(asked) <= most and total_ns <= budget_ns:
            return ()
        again = sum(len(one.executions) - 1 for one in self._repetitions.of(unit))
        again_ns = sum(one.total_ns for one in self._repetitions.of(unit))
        queries = len(asked) - again
        if queries <= most and total_ns - again_ns <= budget_ns:
            return ()
        return (self._finding(unit, [one.text.statement.sql for one in asked], queries, total_ns),)

    def preview(self, unit: Unit) -> Iterable[Finding]:
        """What can be said of it so far."""
        return self.unit(unit)

    def _budget_of(self, route: str) -> tuple[int, int]:
        """Queries, and nanoseconds in the database."""
        own = self._routes.get(route, self._budget)
        queries = own.queries if own.queries is not None else self._budget.queries
        ms = own.ms if own.ms is not None else self._budget.ms
        return queries or 0, int((ms or 0) * 1e6)

    def _finding(self, unit: Unit, sqls: list[str], queries: int, total_ns: int) -> Finding:
        most, budget_ns = self._budget_of(unit.route)
        # Too many queries weigh by their number alone; how long they take hangs on the machine.
        over = queries / max(1, most) if queries > most else total_ns / max(1, budget_ns)
        severity: Severity = "medium" if over >= FAR else "low"
        record = unit.executions[0].connection
        where = unit.route or record.application or record.user
        top = Counter(sqls).most_common(MAX_TOP)
        return Finding(
            rule="chatty-unit",
            subject=where,
            route=unit.route,
            severity=severity,
            confidence="likely",
            title=f"{len(sqls)} queries in one {unit.kind} of {where}: {total_ns / 1e6:,.0f} ms in the database",
            fingerprints=(),
            count=len(sqls),
            total_ns=total_ns,
            unit=UnitRef(kind=unit.kind, key=unit.key, route=unit.route, source=unit.source),
            evidence=ChattyEvidence(
                queries=len(sqls),
                statements=len(set(sqls)),
                units=1,
                budget_queries=most,
                budget_ms=budget_ns / 1e6,
                database_ms=total_ns / 1e6,
                span_ms=(unit.ended_ns - unit.started_ns) / 1e6,
                most=[f"{times} x {sql}" for sql, times in top],
                signal=unit.signal,
            ),
            suggestion=Suggestion(
                text="Ask less: join what is read one after another, cache what seldom changes, and leave to a job "
                "what the answer does not need. Or give it a larger budget: chatty-unit-queries and chatty-unit-ms, or "
                "its route's own in chatty-unit-routes."
            ),
            at_ns=unit.ended_ns,
            unit_id=unit.id,
        )
