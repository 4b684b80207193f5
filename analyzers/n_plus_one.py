"""`n-plus-one`: one query of a unit of work drove many others, each with another value.

Enters: complete units. Leaves: a finding per loop and unit; its subject is the repeated query. Without a request's own
id, and without the proof that an earlier result held the values (`parents`), a loop alone accuses nobody and stays
`info`. Out of scope: writes in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.origin import source_of, word_of_framework
from pgtattle.analyzers.repetition import Repetition, Repetitions
from pgtattle.analyzers.sql.rewrite import for_all
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Confidence, LoopEvidence, Severity, Suggestion, UnitRef

MANY: Final = 10
LONG_NS: Final = 50_000_000

# By the `framework` or `db_driver` tag: what the batch is called there.
_EAGER: Final = (
    ("django", "select_related() or prefetch_related()"),
    ("sqlalchemy", "selectinload() or joinedload()"),
    ("rails", "includes() or preload()"),
    ("activerecord", "includes() or preload()"),
    ("laravel", "with()"),
    ("eloquent", "with()"),
    ("hibernate", "JOIN FETCH or @BatchSize"),
    ("spring", "JOIN FETCH or @BatchSize"),
    ("prisma", "include, or one findMany() with in"),
    ("sequelize", "include"),
    ("typeorm", "relations or leftJoinAndSelect()"),
    ("entityframework", "Include()"),
    ("gorm", "Preload()"),
)


class NPlusOne(Analyzer):
    """Accuses loops: surely where the unit has a request's id, as a hint elsewhere."""

    rules: ClassVar[tuple[str, ...]] = ("n-plus-one",)

    def __init__(self, repetitions: Repetitions) -> None:
        self._repetitions = repetitions

    def unit(self, unit: Unit) -> Iterable[Finding]:
        """The loops of a complete unit."""
        return [
            _finding(unit, loop, self._repetitions.tables)
            for loop in self._repetitions.of(unit)
            if loop.shape == "loop" and _heard(unit, loop)
        ]


def _heard(unit: Unit, loop: Repetition) -> bool:
    """A connection may serve one request after another: without a mark, something must have given the values."""
    if loop.proven or unit.confidence == "strong" or unit.kind == "transaction":
        return True
    before = loop.read_before
    enough = unit.kind == "connection" or len(loop.executions) >= MANY
    return enough and before is not None and before.rows >= loop.distinct


def _finding(unit: Unit, loop: Repetition, tables: Callable[[Execution], tuple[str, ...]]) -> Finding:
    count = len(loop.executions)
    before = loop.read_before
    likely = before if before is not None and before.rows in (count, loop.distinct) else None
    parent, parent_sql = (likely.table, likely.statement.sql) if likely is not None else ("", "")
    found = loop.parent
    if found is not None:
        parent, parent_sql = ", ".join(tables(found.execution)[:3]), found.execution.text.statement.sql
    severity: Severity = "info"
    confidence: Confidence = "candidate"
    if unit.confidence == "strong":
        severity, confidence = ("high" if count >= MANY else "medium"), "likely"
    if found is not None and found.proven:
        confidence = "proven"
        long = loop.total_ns + loop.gap_ns >= LONG_NS
        if unit.confidence == "weak":
            # The rows gave the values; that one request asked for both is not known.
            severity = "medium" if len(found.evidence) > 1 else "low"
        else:
            severity = "high" if count >= MANY and (long or severity == "high") else "medium"
    first = loop.executions[0]
    place = "burst of one connection" if unit.kind == "burst" else unit.kind
    route = f" (route {unit.route})" if unit.route else ""
    return Finding(
        rule="n-plus-one",
        subject=loop.statement.fingerprint,
        route=unit.route,
        severity=severity,
        confidence=confidence,
        title=f"{count} executions of one query on {loop.table} in one {place}{route}",
        fingerprints=(loop.statement.fingerprint,),
        sql=loop.statement.sql,
        count=count,
        total_ns=loop.total_ns,
        unit=UnitRef(kind=unit.kind, key=unit.key, route=unit.route, source=source_of(first.text.tags) or unit.source),
        evidence=LoopEvidence(
            executions=count,
            distinct=loop.distinct,
            units=1,
            database_ms=loop.total_ns / 1e6,
            gap_ms=loop.gap_ns / 1e6,
            signal=unit.signal,
            parent=parent,
            parent_sql=parent_sql,
            parent_column=found.column if found is not None else "",
            column=found.child if found is not None else "",
            proof=list(found.evidence) if found is not None else [],
            coverage=round(found.coverage, 3) if found is not None else 0.0,
        ),
        suggestion=Suggestion(text=_advice(unit, loop, parent), sql=for_all(loop.statement.sql, *loop.place)),
        at_ns=unit.ended_ns,
    )


def _advice(unit: Unit, loop: Repetition, parent: str) -> str:
    count = len(loop.executions)
    eager = word_of_framework(unit, _EAGER)
    how = f"at once with {eager}" if eager else "in one query: a join, or = ANY($1) with a list"
    words = [f"Load all {loop.distinct} values {how}"]
    found = loop.parent
    if found is not None and found.proven:
        words.append(f"its values are {found.column} of the query on {parent} before")
    elif parent:
        words.append(f"the values are likely those of the query on {parent} before")
    if loop.distinct < count:
        words.append(f"{count - loop.distinct} of the {count} executions repeat an earlier value")
    return "; ".join(words) + "."
