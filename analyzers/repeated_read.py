"""`repeated-read`: the same query with the same values, again and again in one unit of work.

Enters: complete units. Leaves: a finding per repetition and unit. Out of scope: repetitions across units, and polls: a
client that waits between two looks wants to see a change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.origin import source_of
from pgtattle.analyzers.repetition import BURST_PAUSE_NS, Repetition, Repetitions, usual_pause_ns
from pgtattle.proxy.events import Unit
from pgtattle.proxy.schema import Confidence, RepeatEvidence, Severity, Suggestion, UnitRef

MANY: Final = 10
POLL_GAP_NS: Final = 250_000_000


class RepeatedRead(Analyzer):
    """Finds what could be remembered for the length of a unit."""

    rules: ClassVar[tuple[str, ...]] = ("repeated-read",)

    def __init__(self, repetitions: Repetitions) -> None:
        self._repetitions = repetitions

    def unit(self, unit: Unit) -> Iterable[Finding]:
        """The repeated reads of a complete unit."""
        return [
            _finding(unit, repeat)
            for repeat in self._repetitions.of(unit)
            if repeat.shape == "repeat" and _heard(unit, repeat) and not _is_poll(unit, repeat)
        ]

    def preview(self, unit: Unit) -> Iterable[Finding]:
        """What can be said of it so far."""
        return self.unit(unit)


def _heard(unit: Unit, repeat: Repetition) -> bool:
    """A burst may be many requests that each read once."""
    return unit.kind != "burst" or len(repeat.executions) >= MANY


def _is_poll(unit: Unit, repeat: Repetition) -> bool:
    """True where the client waits before it asks again; in a burst, who waits a little may be the next request."""
    return usual_pause_ns(repeat.executions) > (BURST_PAUSE_NS if unit.kind == "burst" else POLL_GAP_NS)


def _is_cycle(unit: Unit, repeat: Repetition) -> bool:
    """True where a connection did everything about as often: it may have served one request after another."""
    if unit.kind != "connection" or unit.confidence == "strong":
        return False
    counts = Counter(
        execution.text.statement.fingerprint
        for execution in unit.executions
        if execution.text.statement.kind in ("read", "write")
    )
    return 2 * min(counts.values()) > len(repeat.executions)


def _finding(unit: Unit, repeat: Repetition) -> Finding:
    count = len(repeat.executions)
    severity: Severity = "low"
    confidence: Confidence = "likely"
    if unit.confidence == "strong":
        severity = "medium" if count >= MANY else "low"
    if unit.confidence == "weak" or not repeat.compared or _is_cycle(unit, repeat):
        severity, confidence = "info", "candidate"
    place = "burst of one connection" if unit.kind == "burst" else unit.kind
    route = f" (route {unit.route})" if unit.route else ""
    return Finding(
        rule="repeated-read",
        subject=repeat.statement.fingerprint,
        route=unit.route,
        severity=severity,
        confidence=confidence,
        title=f"{count} times the same read of {repeat.table} in one {place}{route}",
        fingerprints=(repeat.statement.fingerprint,),
        sql=repeat.statement.sql,
        count=count,
        total_ns=repeat.total_ns,
        unit=UnitRef(
            kind=unit.kind,
            key=unit.key,
            route=unit.route,
            source=source_of(repeat.executions[0].text.tags) or unit.source,
        ),
        evidence=RepeatEvidence(
            executions=count,
            distinct=repeat.distinct,
            units=1,
            database_ms=repeat.total_ns / 1e6,
            signal=unit.signal,
        ),
        suggestion=Suggestion(text=_advice(count, place, repeat.compared)),
        at_ns=unit.ended_ns,
        unit_id=unit.id,
    )


def _advice(count: int, place: str, compared: bool) -> str:
    if compared:
        return (
            f"Read it once and keep the result for the length of the {place}: "
            f"{count - 1} of {count} executions asked what was known already."
        )
    return (
        f"Where the {place} may keep the result of the first, the other {count - 1} are not needed. Their results were "
        "too large, or too many, to be compared: only the numbers of rows are known to be the same."
    )
