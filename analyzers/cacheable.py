"""`repeated-read` across units: the same query with the same values in one request after another, and the same result.

Enters: complete units, and the hashed samples of results. Leaves: a cumulative finding per statement, with the time
that a result stayed the same: how long it may be kept. Only units with a name of their own count: another connection's
reads may be a worker's that waits for a change. Silent where the result changes as it is read. Out of scope: what
repeats inside one unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.repetition import is_tool, subject_of
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.calls import answers_vary
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tallies, Tally
from pgtattle.analyzers.unchanged import MAX_CHANGES
from pgtattle.proxy.events import Statement, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import RepeatEvidence, Severity, Suggestion

MIN_UNITS: Final = 20
MANY: Final = 100
MAX_READS: Final = 10_000


class _Read:
    """One query with one set of values, so far.

    It has a `tally` once it was found, shared with those of other values.
    """

    __slots__ = (
        "changed_ns", "changes", "digest", "first_ns", "last_ns", "next_at", "stable_ns", "tally", "total_ns", "units",
    )  # fmt: skip

    def __init__(self, at_ns: int, digest: int) -> None:
        self.units = self.total_ns = self.changes = 0
        self.first_ns = self.last_ns = self.changed_ns = at_ns
        self.stable_ns = 0
        self.digest = digest
        self.tally: Tally | None = None
        self.next_at = MIN_UNITS

    def add(self, execution: Execution, digest: int) -> None:
        at_ns = execution.ended_ns
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

    @property
    def watched_ns(self) -> int:
        return self.last_ns - self.first_ns

    @property
    def worth_keeping(self) -> bool:
        return self.units >= self.next_at and self.changes <= MAX_CHANGES * self.units


class Cacheable(Analyzer):
    """Follows every read whose result was sampled."""

    rules: ClassVar[tuple[str, ...]] = ("repeated-read",)

    def __init__(self, facts: FactsCache, samples: Samples) -> None:
        self._facts = facts
        self._samples = samples
        self._reads: Bounded[tuple[str, str, int], _Read] = Bounded(MAX_READS)
        self._tallies = Tallies(MAX_READS)

    def unit(self, unit: Unit) -> Iterable[Finding]:
        """The reads of a complete unit that are worth keeping, once, then at each doubling."""
        if unit.confidence != "strong":
            return ()
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
            # Policies of rows see the user and the settings.
            values = hash((execution.values, execution.context, execution.connection.user))
            key = (execution.connection.database, text.statement.fingerprint, values)
            read = self._reads.get(key)
            if read is None:
                tables = subject_of(text, self._facts)
                if not tables or answers_vary(text.statement.sql) or text.tags.get("pgtattle") == "ignore":
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
                read.next_at = read.units + 1 if read.units < 2 * MIN_UNITS else 2 * read.units
                if read.tally is None:
                    read.tally = self._tallies.of(text.statement.fingerprint)
                    read.tally.add(read.total_ns, read.last_ns, read.units)
                    # Reads of other values may have been in the same units.
                    read.tally.units = max(read.tally.units, read.units)
                    counted.add(id(read.tally))
                found.append(_finding(text.statement, read, read.tally, subject_of(text, self._facts)))
        return found


def _finding(statement: Statement, read: _Read, tally: Tally, tables: tuple[str, ...]) -> Finding:
    ttl_ns = read.stable_ns if read.changes else read.watched_ns
    severity: Severity = "low" if read.units >= MANY else "info"
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
