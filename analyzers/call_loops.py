"""`row-by-row-write` for procedures: one CALL in a loop, with other values each time.

Enters: complete units. Leaves: a finding per procedure and unit. What a procedure does is not seen: it counts as a
write. Out of scope: a burst, in which a service that calls a procedure for each request looks like a loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.origin import source_of
from pgtattle.analyzers.repetition import MAX_GROUPS, batched, is_retryable, is_tool
from pgtattle.analyzers.values import MOST, are_known
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Confidence, Severity, Suggestion, UnitRef, WriteLoopEvidence
from pgtattle.proxy.settings import RuleSettings


class CallLoops(Analyzer):
    """Finds loops of calls."""

    rules: ClassVar[tuple[str, ...]] = ("row-by-row-write",)

    def __init__(self, settings: RuleSettings) -> None:
        self._least = settings.row_by_row_write_min

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """The loops of calls of a complete unit."""
        executions = unit.executions
        if unit.kind == "burst" or len(executions) < self._least or is_tool(executions[0].connection.application):
            return ()
        groups: dict[str, list[int]] = {}
        for index, execution in enumerate(executions):
            if execution.text.statement.command == "CALL":
                groups.setdefault(execution.text.statement.fingerprint, []).append(index)
        found = [self._judge(unit, group) for group in list(groups.values())[:MAX_GROUPS]]
        return [one for one in found if one is not None]

    def preview(self, unit: Unit) -> Iterable[Outcome]:
        """What can be said of it so far."""
        return self.unit(unit)

    def _judge(self, unit: Unit, group: list[int]) -> Finding | None:
        all_ = unit.executions
        group = [index for index in group if all_[index].sqlstate is None]
        if len(group) < self._least or batched(all_, group) or any(is_retryable(one.sqlstate or "") for one in all_):
            return None
        executions = [all_[index] for index in group]
        if not all(map(are_known, executions)):
            return None
        distinct = len({execution.values for execution in executions})
        return _finding(unit, executions, distinct) if distinct >= MOST * len(group) else None


def _finding(unit: Unit, executions: list[Execution], distinct: int) -> Finding:
    count, first = len(executions), executions[0]
    statement = first.text.statement
    total_ns = sum(execution.duration_ns for execution in executions)
    span_ns = max(execution.ended_ns for execution in executions) - first.started_ns
    together = first.transaction != 0 and all(one.transaction == first.transaction for one in executions)
    severity: Severity = "medium"
    confidence: Confidence = "likely"
    if unit.kind == "connection" and not together:
        severity, confidence = "info", "candidate"
    procedure = statement.sql[len("CALL ") :].partition("(")[0].strip()
    route = f" (route {unit.route})" if unit.route else ""
    return Finding(
        rule="row-by-row-write",
        subject=statement.fingerprint,
        route=unit.route,
        severity=severity,
        confidence=confidence,
        title=f"{count} times one CALL of {procedure} in one {unit.kind}{route}",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=count,
        total_ns=total_ns,
        unit=UnitRef(kind=unit.kind, key=unit.key, route=unit.route, source=source_of(first.text.tags) or unit.source),
        evidence=WriteLoopEvidence(
            executions=count,
            distinct=distinct,
            units=1,
            rows=0,
            database_ms=total_ns / 1e6,
            gap_ms=max(0, span_ns - total_ns) / 1e6,
            signal=unit.signal,
            committed_alone=all(not execution.transaction for execution in executions),
        ),
        suggestion=Suggestion(
            text=f"{count} round trips call what one can: pass all values as arrays, and let the procedure go through "
            "unnest($1, …)."
        ),
        at_ns=unit.ended_ns,
        unit_id=unit.id,
    )
