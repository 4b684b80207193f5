"""`slow-query`: executions over the latency target.

Enters: executions. Leaves: a cumulative finding per statement. Out of scope: why it is slow, and the time that the
client took to read, which is not the server's. DDL, transaction control and session commands have no target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.events import Statement
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Severity, SlowEvidence, Suggestion
from pgtattle.proxy.settings import RuleSettings

MAX_STATEMENTS: Final = 5_000
ENOUGH: Final = 5
OFTEN: Final = 0.05
FAR: Final = 10

_WATCHED: Final = frozenset(("read", "write", "copy"))
_FROM_CLIENT: Final = re.compile(r"\s*copy\b.*\bfrom\s+stdin\b", re.IGNORECASE | re.DOTALL)
"""As long as the client takes to send its rows."""
_ADVICE: Final = (
    "Look at its plan with EXPLAIN (ANALYZE, BUFFERS) on the slowest values: a missing index, a bad estimate, a lock "
    "it waited for, or more rows than the caller needs."
)
_COPY_ADVICE: Final = (
    "EXPLAIN knows no COPY: look at the plan of the query that it copies, or copy fewer rows and columns."
)


class _Seen:
    """One statement so far. `buckets` counts executions by duration, four buckets for each power of two.

    `tally` counts those over the target.
    """

    __slots__ = ("buckets", "executions", "far_over", "max_ns", "next_at", "rows", "tally")

    def __init__(self) -> None:
        self.executions = 0
        self.tally = Tally()
        self.far_over = 0
        self.max_ns = 0
        self.rows = 0
        self.next_at = 1
        self.buckets: dict[int, int] = {}

    def middle_ns(self) -> float:
        """The median, to the bucket's width (a fifth)."""
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if 2 * seen >= self.executions:
                exponent, quarter = divmod(bucket, 4)
                return min(2.0 ** (exponent - 1) * (1 + (quarter + 0.5) / 4), float(self.max_ns))
        return 0.0


class SlowQuery(Analyzer):
    """Counts executions against the target, a statement at a time."""

    rules: ClassVar[tuple[str, ...]] = ("slow-query",)

    def __init__(self, settings: RuleSettings, facts: FactsCache) -> None:
        self._target_ns = int(settings.slow_query_ms * 1e6)
        self._facts = facts
        self._seen: Bounded[str, _Seen] = Bounded(MAX_STATEMENTS)

    def execution(self, execution: Execution) -> Iterable[Finding]:
        """Count an execution; the finding when it is over the target and tells something new."""
        statement = execution.text.statement
        watched = statement.kind in _WATCHED or statement.command == "FETCH"
        if not watched or (statement.kind == "copy" and _FROM_CLIENT.match(statement.sql)):
            return ()
        seen = self._seen.get(statement.fingerprint)
        if seen is None:
            seen = _Seen()
            self._seen.put(statement.fingerprint, seen)
        duration = max(0, execution.ended_ns - execution.started_ns - execution.stalled_ns)
        seen.executions += 1
        seen.tally.touch()
        length = duration.bit_length()
        bucket = 4 * length + ((duration >> (length - 3)) & 3 if length > 3 else 0)
        seen.buckets[bucket] = seen.buckets.get(bucket, 0) + 1
        if duration <= self._target_ns or execution.text.tags.get("pgtattle") == "ignore":
            return ()
        seen.tally.add(duration, execution.ended_ns)
        over = seen.tally.count
        seen.far_over += duration > FAR * self._target_ns
        if duration > seen.max_ns:
            seen.max_ns, seen.rows = duration, execution.rows
        if over < seen.next_at:
            return ()
        seen.next_at = over + 1 if over < 2 * ENOUGH else 2 * over
        return (self._finding(statement, self._facts.of(execution.text).tables[:3], seen),)

    def _finding(self, statement: Statement, tables: Sequence[str], seen: _Seen) -> Finding:
        over = seen.tally.count
        often = seen.executions >= ENOUGH and over > OFTEN * seen.executions and over > 1
        severity: Severity = "low"
        if often:
            severity = "high" if seen.far_over > max(1.0, OFTEN * seen.executions) else "medium"
        elif seen.far_over:
            severity = "medium"
        of = f" on {', '.join(tables)}" if tables else ""
        target = self._target_ns / 1e6
        times = f"{over} of {seen.executions} executions"
        return Finding(
            rule="slow-query",
            subject=statement.fingerprint,
            severity=severity,
            confidence="likely",
            title=f"{statement.command}{of} took up to {seen.max_ns / 1e6:,.0f} ms: {times} over {target:,.0f} ms",
            fingerprints=(statement.fingerprint,),
            sql=statement.sql,
            count=over,
            total_ns=seen.tally.total_ns,
            evidence=SlowEvidence(
                target_ms=target,
                executions=seen.executions,
                over_target=over,
                p50_ms=seen.middle_ns() / 1e6,
                max_ms=seen.max_ns / 1e6,
                rows=seen.rows,
            ),
            suggestion=Suggestion(text=_COPY_ADVICE if statement.kind == "copy" else _ADVICE),
            at_ns=seen.tally.last_ns,
            tally=seen.tally,
            draw=lambda: self._finding(statement, tables, seen),
        )
