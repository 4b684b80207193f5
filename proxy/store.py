"""What the profiler remembers: a ring of executions, totals by statement, units, and the ledger of findings; bounded.

Enters: executions and findings, in order. Leaves: pages, changes since a cursor, and the report. What falls out is
counted in `evicted`; the totals of statements that fall out go on in one called `other`.
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
from pgtattle.proxy.ledger import Ledger
from pgtattle.proxy.schema import FindingView, Report, SessionView, StatementView
from pgtattle.proxy.unit_log import UnitLog
from pgtattle.proxy.views import Anchor, clean, cleaned, milliseconds

Sort = Literal["total", "calls", "mean", "p95", "max", "rows", "errors"]
Predicate = Callable[[Execution, Sequence[str]], bool]

OTHER: Final = "other"
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
        self.anchor = Anchor(started_unix_ns, started_ns)
        self.newest = 0
        self.units = UnitLog(self.anchor)
        self.ledger = Ledger(self.anchor, limits.findings, hidden)
        self._limits = limits
        self._ring: deque[tuple[Execution, Sequence[str], int]] = deque()
        self._ring_bytes = 0
        self._totals: OrderedDict[str, _Totals] = OrderedDict()
        self._other: _Totals | None = None
        self._evicted_executions = self._evicted_statements = 0

    @property
    def evicted(self) -> dict[str, int]:
        """What fell out, by what it was."""
        return {
            "executions": self._evicted_executions,
            "statements": self._evicted_statements,
            "findings": self.ledger.evicted,
        }

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
            self._evicted_executions += 1

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
        """Take what a rule says, and give what is known of that finding now."""
        return self.ledger.add(finding)

    def findings(self) -> list[FindingView]:
        """All findings with their totals as they are now: those that stand first, the gravest first."""
        return self.ledger.all()

    def finding(self, identity: str) -> FindingView | None:
        """A finding by its id; None when there is none."""
        return self.ledger.one(identity)

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

    def session(self, session: SessionView) -> SessionView:
        """The session with what fell out of this memory."""
        return cleaned(replace(session, evicted=self.evicted))

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
        self._evicted_statements += 1
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
