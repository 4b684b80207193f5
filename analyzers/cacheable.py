"""`repeated-read` across units: the same query with the same values in one request after another, and the same result.

Enters: complete units, and the hashed samples of results. Leaves: a cumulative finding per statement, with the time
that a result stayed the same: how long it may be kept. Silent where the result changes as it is read, and where the
reads come like a clock: who polls wants to see a change. Out of scope: what repeats inside one unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.repetition import VOLATILE, is_tool, subject_of
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.events import Statement, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import RepeatEvidence, Severity, Suggestion

MIN_UNITS: Final = 20
MIN_WATCHED_NS: Final = 10_000_000_000
MAX_CHANGES: Final = 0.1
"""Changes for each read beyond which nothing is gained by keeping it."""
POLL_GAP_NS: Final = 50_000_000
MAX_CONNECTIONS: Final = 16
"""Of a read, whose pauses are measured each by itself."""
POLL_SPREAD: Final = 0.2
"""Deviation of the pauses from their mean, below which they are a clock's."""
MANY: Final = 100
LONG_NS: Final = 1_000_000_000
MAX_READS: Final = 10_000


class _Read:
    """One query with one set of values, so far. The pauses of each connection have one running mean and variance.

    It has a `tally` once it was found, shared with those of other values.
    """

    __slots__ = (
        "changed_ns", "changes", "digest", "first_ns", "last_ns", "mean_ns", "next_at", "pauses",
        "seen_ns", "stable_ns", "tally", "total_ns", "units", "variance",
    )  # fmt: skip

    def __init__(self, at_ns: int, digest: int) -> None:
        self.units = self.total_ns = self.changes = self.pauses = 0
        self.first_ns = self.last_ns = self.changed_ns = at_ns
        self.seen_ns: dict[int, int] = {}
        self.stable_ns = 0
        self.digest = digest
        self.tally: Tally | None = None
        self.mean_ns = self.variance = 0.0
        self.next_at = MIN_UNITS

    def add(self, execution: Execution, digest: int) -> None:
        at_ns = execution.ended_ns
        self._paused(execution.connection.id, at_ns)
        self.units += 1
        self.total_ns += execution.duration_ns
        self.last_ns = at_ns
        if self.tally is not None:
            self.tally.add(execution.duration_ns, at_ns)
        if digest != self.digest:
            stable_ns = at_ns - self.changed_ns
            self.stable_ns = min(self.stable_ns, stable_ns) if self.changes else stable_ns
            self.changes += 1
            self.digest, self.changed_ns = digest, at_ns

    def _paused(self, connection: int, at_ns: int) -> None:
        before_ns = self.seen_ns.get(connection)
        if before_ns is not None or len(self.seen_ns) < MAX_CONNECTIONS:
            self.seen_ns[connection] = at_ns
        if before_ns is not None:
            # Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
            self.pauses += 1
            off = at_ns - before_ns - self.mean_ns
            self.mean_ns += off / self.pauses
            self.variance += off * (at_ns - before_ns - self.mean_ns)

    @property
    def watched_ns(self) -> int:
        return self.last_ns - self.first_ns

    @property
    def worth_keeping(self) -> bool:
        return (
            self.units >= self.next_at
            and self.watched_ns >= MIN_WATCHED_NS
            and self.changes <= MAX_CHANGES * self.units
            and not self.polls
        )

    @property
    def polls(self) -> bool:
        deviation = (self.variance / max(1, self.pauses)) ** 0.5
        return self.mean_ns >= POLL_GAP_NS and deviation <= POLL_SPREAD * self.mean_ns


class Cacheable(Analyzer):
    """Follows every read whose result was sampled."""

    rules: ClassVar[tuple[str, ...]] = ("repeated-read",)

    def __init__(self, facts: FactsCache, samples: Samples) -> None:
        self._facts = facts
        self._samples = samples
        self._reads: Bounded[tuple[str, str, int], _Read] = Bounded(MAX_READS)
        self._tallies: Bounded[str, Tally] = Bounded(MAX_READS)

    def unit(self, unit: Unit) -> Iterable[Finding]:
        """The reads of a complete unit that are worth keeping, once, then at each doubling."""
        found: list[Finding] = []
        seen: set[int] = set()
        counted: set[int] = set()
        for execution in unit.executions:
            text = execution.text
            if text.statement.kind != "read" or execution.sqlstate is not None:
                continue
            sample = self._samples.of(execution.id)
            if sample is None or not sample.digest or is_tool(execution.connection.application):
                continue
            values = hash(execution.values)
            key = (execution.connection.database, text.statement.fingerprint, values)
            read = self._reads.get(key)
            if read is None:
                tables = subject_of(text, self._facts)
                if not tables or VOLATILE.search(text.statement.sql) or text.tags.get("pgtattle") == "ignore":
                    continue
                read = _Read(execution.ended_ns, sample.digest)
                self._reads.put(key, read)
            if id(read) in seen:
                # What comes again in the unit is another finding.
                continue
            seen.add(id(read))
            read.add(execution, sample.digest)
            if read.tally is not None and id(read.tally) not in counted:
                counted.add(id(read.tally))
                read.tally.units += 1
            if read.worth_keeping:
                read.next_at = 2 * read.units
                if read.tally is None:
                    read.tally = self._tally(text.statement)
                    read.tally.add(read.total_ns, read.last_ns, read.units)
                    # Reads of other values may have been in the same units.
                    read.tally.units = max(read.tally.units, read.units)
                    counted.add(id(read.tally))
                found.append(_finding(text.statement, read, read.tally, subject_of(text, self._facts)))
        return found

    def _tally(self, statement: Statement) -> Tally:
        tally = self._tallies.get(statement.fingerprint)
        if tally is None:
            tally = Tally()
            self._tallies.put(statement.fingerprint, tally)
        return tally


def _finding(statement: Statement, read: _Read, tally: Tally, tables: tuple[str, ...]) -> Finding:
    ttl_ns = read.stable_ns if read.changes else read.watched_ns
    severity: Severity = "low" if read.units >= MANY and read.total_ns >= LONG_NS else "info"
    table = ", ".join(tables[:3])
    if read.changes:
        stable = f"its result changed {read.changes} times, and stayed the same for at least {_seconds(ttl_ns)}"
    else:
        stable = f"its result has not changed in {_seconds(ttl_ns)}"
    return Finding(
        rule="repeated-read",
        subject=f"{statement.fingerprint} across units",
        severity=severity,
        confidence="likely",
        title=f"the same read of {table} in {read.units} units of work",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=tally.count,
        total_ns=tally.total_ns,
        evidence=RepeatEvidence(
            executions=read.units,
            distinct=1,
            units=read.units,
            database_ms=read.total_ns / 1e6,
            signal="the same values and the same rows",
            across=True,
            changes=read.changes,
            watched_s=round(read.watched_ns / 1e9, 1),
            ttl_s=round(ttl_ns / 1e9, 1),
        ),
        suggestion=Suggestion(
            text=f"Keep it in a cache of the application for up to {_seconds(ttl_ns)}: {stable}. A write of {table} "
            "can drop it sooner."
        ),
        at_ns=tally.last_ns,
        tally=tally,
        draw=lambda: _finding(statement, read, tally, tables),
    )


def _seconds(ns: int) -> str:
    seconds = ns / 1e9
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
