"""What the profiler remembers: a ring of executions, totals by statement, findings by id. All of it bounded.

Enters: executions and occurrences of findings, in order. Leaves: pages, changes since a cursor, and the report.
What falls out is counted in `evicted`; the totals of statements that fall out go on in one called `other`.
No I/O and no clock: moments are dated by the anchor.

Cursors. The ring numbers executions from 1 in the order in which they came: a cursor is the number of the last one
seen. Each change of a finding gets the next revision: a cursor is the last revision seen.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from pgtattle.analyzers.finding import Finding
from pgtattle.proxy.events import Statement
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.latencies import Latencies
from pgtattle.proxy.schema import (
    CONFIDENCES,
    SEVERITIES,
    ChattyEvidence,
    Evidence,
    FindingView,
    LoopEvidence,
    RepeatEvidence,
    Report,
    SessionView,
    StatementView,
    Suggestion,
    WriteLoopEvidence,
)
from pgtattle.proxy.unit_log import UnitLog
from pgtattle.proxy.views import Anchor, clean, cleaned, milliseconds, without_lengths

Sort = Literal["total", "calls", "mean", "p95", "max", "rows", "errors"]
Predicate = Callable[[Execution, Sequence[str]], bool]

OTHER: Final = "other"
_MAX_FINGERPRINTS: Final = 20
_ENTRY_BYTES: Final = 256
_SLOT_BYTES: Final = 64


class Limits(NamedTuple):
    """How much is remembered; `text_bytes` bounds SQL and values in the ring, by estimate."""

    executions: int = 10_000
    text_bytes: int = 32 * 1024 * 1024
    statements: int = 5_000
    findings: int = 2_000


DEFAULTS: Final = Limits()


class Changes(NamedTuple):
    """Matching executions after a cursor, the cursor after them, and how many fell out before they were seen."""

    executions: list[Execution]
    cursor: int
    skipped: int


class Store:
    """The memory of one session. `started_unix_ns` and `started_ns` are one moment on both clocks.

    `hidden`: of a literal not even the length is kept.
    """

    def __init__(
        self, started_unix_ns: int, started_ns: int, limits: Limits = DEFAULTS, *, hidden: bool = False
    ) -> None:
        self._hidden = hidden
        self.anchor = Anchor(started_unix_ns, started_ns)
        self.evicted = {"executions": 0, "statements": 0, "findings": 0}
        self.newest = 0
        self.revision = 0
        self._limits = limits
        self._ring: deque[tuple[Execution, Sequence[str], int]] = deque()
        self._ring_bytes = 0
        self._totals: OrderedDict[str, _Totals] = OrderedDict()
        self._other: _Totals | None = None
        self._findings: OrderedDict[str, tuple[int, FindingView]] = OrderedDict()
        # What is said of units that are not complete yet, and the findings as they are without it.
        self._previews: dict[str, list[Finding]] = {}
        self._settled: dict[str, FindingView | None] = {}
        self.units = UnitLog(self.anchor)

    @property
    def oldest(self) -> int:
        """The number of the oldest execution in the ring; `newest + 1` when it is empty."""
        return self.newest - len(self._ring) + 1

    def add_execution(self, execution: Execution, tables: Sequence[str]) -> None:
        """Remember an execution; `tables` are those of its statement."""
        text = execution.text
        size = _ENTRY_BYTES + len(text.sql) + _SLOT_BYTES * len(text.slots)
        for parameter in execution.parameters:
            size += _SLOT_BYTES + len(parameter.value or "")
        ring, limits = self._ring, self._limits
        ring.append((execution, tables, size))
        self.newest += 1
        self._ring_bytes += size
        while len(ring) > limits.executions or (self._ring_bytes > limits.text_bytes and len(ring) > 1):
            self._ring_bytes -= ring.popleft()[2]
            self.evicted["executions"] += 1

        statement = text.statement
        totals = self._totals.get(statement.fingerprint)
        if totals is None:
            totals = self._totals[statement.fingerprint] = _Totals(statement, tables)
            if len(self._totals) > limits.statements:
                self._evict_statement()
        else:
            self._totals.move_to_end(statement.fingerprint)
            totals.tables = tables
        totals.add(execution)

    def add_finding(self, finding: Finding) -> FindingView:
        """Merge an occurrence into the finding of its id, and give what is known of it now.

        Counts and times add up (a cumulative finding's replace the earlier ones), severity and confidence take the
        greater, and the words and the evidence are those of the most telling occurrence.
        """
        finding = cleaned(finding)
        if self._hidden:
            finding = replace(finding, evidence=without_lengths(finding.evidence))
        known = self._findings.get(finding.id)
        shown = known[1] if known is not None else None
        preview = self._previews.get(finding.unit_id)
        if preview is not None:
            preview.append(finding)
            self._settled.setdefault(finding.id, shown)
        elif finding.id in self._settled:
            self._settled[finding.id] = _merged(self._settled[finding.id], finding, self.anchor)
        return self._put(finding.id, _merged(shown, finding, self.anchor))

    def begin_preview(self, unit: str) -> None:
        """What is said of this unit from here on holds until it is said anew, or the unit is complete."""
        self.end_preview(unit)
        self._previews[unit] = []

    def end_preview(self, unit: str) -> None:
        """Forget what was said of a unit before it was complete."""
        said = self._previews.pop(unit, None)
        if not said:
            return
        for identity in dict.fromkeys(finding.id for finding in said):
            view = self._settled[identity]
            others = [each for preview in self._previews.values() for each in preview if each.id == identity]
            for finding in others:
                view = _merged(view, finding, self.anchor)
            if not others:
                del self._settled[identity]
            if view is not None:
                self._put(identity, view)
            else:
                self._findings.pop(identity, None)

    def _put(self, identity: str, view: FindingView) -> FindingView:
        self._findings.pop(identity, None)
        self.revision += 1
        self._findings[identity] = (self.revision, view)
        if len(self._findings) > self._limits.findings:
            self._findings.popitem(last=False)
            self.evicted["findings"] += 1
        return view

    def executions(self, after: int, limit: int, matches: Predicate | None = None) -> Changes:
        """Up to `limit` executions that match, the oldest first, after the cursor `after`."""
        skipped = max(0, self.oldest - 1 - after)
        cursor = after + skipped
        found: list[Execution] = []
        for execution, tables, _ in islice(self._ring, cursor + 1 - self.oldest, None):
            cursor += 1
            if matches is None or matches(execution, tables):
                found.append(execution)
                if len(found) >= limit:
                    break
        return Changes(found, cursor, skipped)

    def before(self, count: int, matches: Predicate | None = None) -> int:
        """The cursor after which the newest `count` matching executions stand."""
        cursor = self.newest
        if count > 0:
            for execution, tables, _ in reversed(self._ring):
                cursor -= 1
                if matches is None or matches(execution, tables):
                    count -= 1
                    if count <= 0:
                        break
        return cursor

    def execution(self, identity: int) -> Execution | None:
        """An execution by its id; None when it has left the ring. Ids count up in the order of the ring."""
        low, high = 0, len(self._ring)
        while low < high:
            middle = (low + high) // 2
            if self._ring[middle][0].id < identity:
                low = middle + 1
            else:
                high = middle
        found = self._ring[low][0] if low < len(self._ring) else None
        return found if found is not None and found.id == identity else None

    def statements(self, sort: Sort = "total") -> list[str]:
        """Fingerprints, the greatest first; `other` is last."""
        key = _SORTS[sort]
        order = sorted(self._totals.values(), key=lambda each: (-key(each), each.statement.fingerprint))
        return [each.statement.fingerprint for each in order] + ([OTHER] if self._other else [])

    def statement(self, fingerprint: str) -> StatementView | None:
        """A statement with its totals; None when it is not remembered."""
        totals = self._other if fingerprint == OTHER else self._totals.get(fingerprint)
        return totals.view() if totals else None

    def findings(self) -> list[FindingView]:
        """All findings, by severity, confidence and time; the gravest first."""
        return sorted((view for _, view in self._findings.values()), key=gravity)

    def finding(self, identity: str) -> FindingView | None:
        """A finding by its id; None when there is none."""
        known = self._findings.get(identity)
        return known[1] if known else None

    def findings_since(self, revision: int) -> list[tuple[int, FindingView]]:
        """The findings that changed after a revision, each with its own, in the order of their changes."""
        changed: list[tuple[int, FindingView]] = []
        for each in reversed(self._findings.values()):
            if each[0] <= revision:
                break
            changed.append(each)
        return changed[::-1]

    def session(self, session: SessionView) -> SessionView:
        """The session with what fell out of this memory."""
        return cleaned(replace(session, evicted=dict(self.evicted)))

    def report(self, session: SessionView) -> Report:
        """Everything that is remembered, as it stands."""
        return Report(
            session=self.session(session),
            findings=self.findings(),
            statements=list(self._views()),
        )

    def _views(self) -> Iterator[StatementView]:
        for fingerprint in self.statements():
            view = self.statement(fingerprint)
            if view is not None:
                yield view

    def _evict_statement(self) -> None:
        _, totals = self._totals.popitem(last=False)
        self.evicted["statements"] += 1
        if self._other is None:
            self._other = _Totals(Statement(OTHER, "(statements that are no longer remembered)", "", "utility"), ())
        self._other.take(totals)


class _Totals:
    """Running totals of one statement."""

    __slots__ = ("calls", "errors", "latencies", "max_ns", "min_ns", "rows", "statement", "tables", "total_ns")

    def __init__(self, statement: Statement, tables: Sequence[str]) -> None:
        self.statement = statement
        self.tables = tables
        self.calls = 0
        self.rows = 0
        self.total_ns = 0
        self.max_ns = 0
        self.min_ns = 1 << 63
        self.errors = 0
        self.latencies = Latencies()

    def add(self, execution: Execution) -> None:
        duration = execution.duration_ns
        self.calls += 1
        self.rows += execution.rows
        self.total_ns += duration
        if duration > self.max_ns:
            self.max_ns = duration
        if duration < self.min_ns:
            self.min_ns = duration
        if execution.sqlstate is not None:
            self.errors += 1
        self.latencies.add(duration)

    def take(self, other: _Totals) -> None:
        self.calls += other.calls
        self.rows += other.rows
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.min_ns = min(self.min_ns, other.min_ns)
        self.errors += other.errors
        self.latencies.take(other.latencies)

    def quantile(self, q: float) -> int:
        return max(self.min_ns, min(self.max_ns, self.latencies.quantile(q)))

    def view(self) -> StatementView:
        return StatementView(
            fingerprint=self.statement.fingerprint,
            sql=clean(self.statement.sql),
            kind=self.statement.kind,
            tables=[clean(table) for table in self.tables],
            calls=self.calls,
            rows=self.rows,
            total_ms=milliseconds(self.total_ns),
            mean_ms=milliseconds(self.total_ns // self.calls),
            p50_ms=milliseconds(self.quantile(0.50)),
            p95_ms=milliseconds(self.quantile(0.95)),
            p99_ms=milliseconds(self.quantile(0.99)),
            max_ms=milliseconds(self.max_ns),
            errors=self.errors,
        )


_SORTS: Final[dict[Sort, Callable[[_Totals], int]]] = {
    "total": lambda totals: totals.total_ns,
    "calls": lambda totals: totals.calls,
    "mean": lambda totals: totals.total_ns // totals.calls,
    "p95": lambda totals: totals.quantile(0.95),
    "max": lambda totals: totals.max_ns,
    "rows": lambda totals: totals.rows,
    "errors": lambda totals: totals.errors,
}
SORTS: Final[tuple[Sort, ...]] = tuple(_SORTS)


def gravity(view: FindingView) -> tuple[int, int, float, str]:
    """Sort key: the gravest finding first."""
    return (-SEVERITIES.index(view.severity), -CONFIDENCES.index(view.confidence), -view.total_ms, view.id)


def _first(finding: Finding, anchor: Anchor) -> FindingView:
    at = anchor.iso(finding.at_ns)
    return FindingView(
        id=finding.id,
        rule=finding.rule,
        severity=finding.severity,
        confidence=finding.confidence,
        title=finding.title,
        fingerprints=list(finding.fingerprints[:_MAX_FINGERPRINTS]),
        sql=finding.sql,
        count=finding.count,
        total_ms=milliseconds(finding.total_ns),
        unit=finding.unit,
        evidence=finding.evidence,
        suggestion=finding.suggestion,
        first_seen=at,
        last_seen=at,
    )


def _merged(known: FindingView | None, finding: Finding, anchor: Anchor) -> FindingView:
    fresh = _first(finding, anchor)
    if known is None:
        return fresh
    telling = fresh if finding.cumulative or _weight(fresh) >= _weight(known) else known
    fingerprints = dict.fromkeys((*known.fingerprints, *fresh.fingerprints))
    return replace(
        telling,
        severity=max(known.severity, fresh.severity, key=SEVERITIES.index),
        confidence=max(known.confidence, fresh.confidence, key=CONFIDENCES.index),
        fingerprints=list(fingerprints)[:_MAX_FINGERPRINTS],
        count=fresh.count if finding.cumulative else known.count + fresh.count,
        total_ms=fresh.total_ms if finding.cumulative else round(known.total_ms + fresh.total_ms, 3),
        suggestion=_suggestion(telling, known, fresh),
        evidence=telling.evidence if finding.cumulative else _with_units(telling.evidence, known, fresh),
        first_seen=min(known.first_seen, fresh.first_seen),
        last_seen=max(known.last_seen, fresh.last_seen),
    )


def _suggestion(telling: FindingView, known: FindingView, fresh: FindingView) -> Suggestion:
    """That of the most telling occurrence; SQL that only the other one has goes with it."""
    told = telling.suggestion
    other = (known if telling is fresh else fresh).suggestion
    return told if told.sql or not other.sql else replace(told, sql=other.sql, status=other.status)


def _weight(view: FindingView) -> tuple[int, int, int]:
    """How much an occurrence says; of the loops, the longest."""
    evidence = view.evidence
    length = 0
    if isinstance(evidence, LoopEvidence | RepeatEvidence | WriteLoopEvidence):
        length = evidence.executions
    elif isinstance(evidence, ChattyEvidence):
        length = evidence.queries
    return (CONFIDENCES.index(view.confidence), SEVERITIES.index(view.severity), length)


def _with_units(evidence: Evidence, known: FindingView, fresh: FindingView) -> Evidence:
    earlier, later = known.evidence, fresh.evidence
    if (
        isinstance(evidence, LoopEvidence | RepeatEvidence | WriteLoopEvidence | ChattyEvidence)
        and isinstance(earlier, LoopEvidence | RepeatEvidence | WriteLoopEvidence | ChattyEvidence)
        and isinstance(later, LoopEvidence | RepeatEvidence | WriteLoopEvidence | ChattyEvidence)
    ):
        return replace(evidence, units=earlier.units + later.units)
    return evidence
