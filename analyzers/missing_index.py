"""`missing-index`: a table is read whole to find a few rows or sort out the first ones, and an index would find them.

Enters: executions, later the planner's answer about one of a statement. Leaves: questions, and findings that the plan
supports, until it says that they are gone. Every statement that an index could serve is asked about, a few at a time
(`backlog`), and no answer is final: each question is asked again (`schedule`). With HypoPG the planner itself must
choose the index and be a fifth cheaper; without it the finding says `unverified`. Whether it speaks and how grave it is
hangs on counts and plans, not on how long anything took. Out of scope: selecting among indexes for a whole workload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar, Final

from msgspec.structs import replace

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.backlog import Backlog, Key
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.plan import scans
from pgtattle.analyzers.plan.candidates import is_indexed, serves
from pgtattle.analyzers.plan.model import Node, read
from pgtattle.analyzers.questions import Answer, IndexAnswer, IndexCandidate, IndexQuestion, TableFacts
from pgtattle.analyzers.schedule import SILENT_NS, STANDING_NS, UNANSWERED_NS, Allowance, Schedule
from pgtattle.analyzers.schema_changes import Change, SchemaChanges, words_of
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tally
from pgtattle.analyzers.temporary_tables import TemporaryTables
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Cost, IndexEvidence, Severity, Suggestion
from pgtattle.proxy.settings import RuleSettings

OFTEN: Final = 5
"""Executions from which it is not `low`."""
MUCH: Final = 10_000_000
"""Rows read by all executions from which it is `high`."""
MAX_ASKED: Final = 1_000
"""Statements that a change of the schema has asked about again."""
MAX_OPEN: Final = 2
"""First questions that are asked at the same time: the next one follows an answer, as fast as the planner answers."""
MIN_GAIN: Final = 0.2

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
_CONDITION: Final = re.compile(r"\b(?:WHERE|ON|LIMIT|FETCH)\b")
"""Of a normal form. Without any there is nothing to parse for."""


class _Found:
    """An index that a statement lacks, or lacked.

    `tally` counts the executions without it, `lacking_ns` is the mean of those that surely were. Once it is `gone`,
    `cured` and `cured_ns` are of those since.
    """

    __slots__ = ("cured", "cured_ns", "finding", "gone", "lacking_ns", "said_at", "tally")

    def __init__(self, finding: Finding, tally: Tally) -> None:
        self.finding = finding
        self.tally = tally
        self.lacking_ns = 0
        self.said_at = 0
        self.gone = False
        self.cured = 0
        self.cured_ns = 0

    def say(self) -> Finding:
        """The finding as it stands."""
        evidence = self.finding.evidence
        assert isinstance(evidence, IndexEvidence)
        tally = self.tally
        self.said_at = tally.count
        mean = tally.total_ns / tally.count / 1e6
        severity = _severity(self.finding, tally.count)
        before = _cost(self.lacking_ns) if self.gone else None
        after = _cost(self.cured_ns // self.cured) if self.gone and self.cured else None
        return replace(
            self.finding,
            count=tally.count,
            total_ns=tally.total_ns,
            severity=severity,
            evidence=replace(evidence, executions=tally.count, mean_ms=round(mean, 3)),
            at_ns=tally.last_ns,
            state="gone" if self.gone else "open",
            before=before,
            after=after,
            tally=tally,
            draw=self.say,
        )


class _Seen:
    """A fingerprint's executions, when it is asked about, and what was found; `barren` where no index could help."""

    __slots__ = ("asked_mean_ns", "barren", "found", "schedule", "tables", "tally")

    def __init__(self) -> None:
        self.asked_mean_ns = 0
        self.barren = False
        self.schedule = Schedule()
        self.tables: frozenset[str] = frozenset()
        self.tally = Tally()
        self.found: _Found | None = None

    @property
    def stands(self) -> bool:
        """True while an index is missing."""
        return self.found is not None and not self.found.gone

    def add(self, execution: Execution) -> None:
        duration_ns = execution.duration_ns
        self.schedule.executed(duration_ns)
        found = self.found
        if found is not None and found.gone:
            found.cured += 1
            found.cured_ns += duration_ns
            self.tally.touch()
        else:
            self.tally.add(duration_ns, execution.ended_ns)

    def settle(self) -> Iterable[Finding]:
        """No index is missing now."""
        if self.found is None or self.found.gone:
            return ()
        self.found.gone, self.found.cured, self.found.cured_ns = True, 0, 0
        return (self.found.say(),)

    def find(self, finding: Finding) -> Iterable[Finding]:
        """An index is missing: the one that was, or another one instead."""
        former: Iterable[Finding] = ()
        if self.found is None or self.found.finding.id != finding.id:
            if self.found is not None:
                former = self.settle()
                tally = Tally()
                tally.add(self.tally.total_ns, self.tally.last_ns, self.tally.count)
                self.tally = tally
            self.found = _Found(finding, self.tally)
        self.found.finding, self.found.gone = finding, False
        self.found.lacking_ns = self.asked_mean_ns
        return (*former, self.found.say())


class MissingIndex(Analyzer):
    """Asks about statements and reads the plans."""

    rules: ClassVar[tuple[str, ...]] = ("missing-index",)

    def __init__(self, settings: RuleSettings, facts: FactsCache) -> None:
        self._min_rows = settings.missing_index_min_rows
        self._facts = facts
        self._seen: Bounded[Key, _Seen] = Bounded(10_000)
        self._changes = SchemaChanges()
        self._temporary = TemporaryTables()
        self._asked: dict[Key, _Seen] = {}
        self._backlog = Backlog(self._ran)
        # The first questions without an answer, and when they were asked.
        self._open: dict[Key, int] = {}
        self._now_ns = 0
        # What stands has an allowance of its own: it is looked at again however much there is to ask about.
        self._again_standing = Allowance(per_second=2, most=8)
        self._again_silent = Allowance(per_second=1, most=8)

    def execution(self, execution: Execution) -> Iterable[Outcome]:
        """Ask about a statement, and again when it is due; repeat what was found as it goes on."""
        statement = execution.text.statement
        if statement.kind not in ("read", "write"):
            self._temporary.see(execution)
            for change in self._changes.see(execution):
                self._expire(change)
            return ()
        key = (execution.connection.database, statement.fingerprint)
        seen = self._seen.get(key)
        if seen is None:
            seen = _Seen()
            seen.barren = not _CONDITION.search(statement.sql)
            self._seen.put(key, seen)
        seen.add(execution)
        if seen.barren or not seen.schedule.is_due(execution.ended_ns):
            found = seen.found
            if found is not None and not found.gone and seen.tally.count >= 2 * found.said_at:
                return (found.say(),)
            return ()
        if key in self._backlog or not _is_whole(execution):
            return ()
        if self._temporary.among(execution, self._facts.tables(execution.text)):
            return ()
        self._now_ns = execution.ended_ns
        if not seen.schedule.asked:
            self._backlog.add(key, execution)
            return self._first()
        allowance = self._again_standing if seen.stands else self._again_silent
        return self._ask(key, seen, execution) if allowance.take(execution.ended_ns) else ()

    def tick(self, now_ns: int) -> Iterable[Outcome]:
        """Go on with the first questions where an answer did not come."""
        self._now_ns = now_ns
        return self._first()

    def _first(self) -> Iterable[Outcome]:
        """The first questions about statements, of those that ran most often, while they are few."""
        questions: list[Outcome] = []
        for key in [key for key, at_ns in self._open.items() if self._now_ns - at_ns > UNANSWERED_NS]:
            del self._open[key]
        while len(self._open) < MAX_OPEN and (waiting := self._backlog.take()) is not None:
            key, execution = waiting
            seen = self._seen.get(key)
            if seen is not None and (asked := self._ask(key, seen, execution)):
                self._open[key] = self._now_ns
                questions += asked
        return questions

    def _ask(self, key: Key, seen: _Seen, execution: Execution) -> Iterable[Outcome]:
        """The question about a statement, if an index could serve it."""
        facts = self._facts.of(execution.text)
        uses = tuple(use for use in facts.uses if serves(use, facts.has_limit))
        seen.barren = not uses
        if not uses:
            return ()
        if key not in self._asked and len(self._asked) >= MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = seen
        seen.tables = words_of(facts.tables)
        seen.schedule.ask(self._now_ns)
        if seen.found is None or not seen.found.gone:
            seen.asked_mean_ns = seen.tally.total_ns // seen.tally.count
        return (
            IndexQuestion(
                database=execution.connection.database,
                statement=execution.text.statement,
                sql=execution.text.sql,
                parameters=execution.parameters,
                uses=uses,
            ),
        )

    def _ran(self, key: Key) -> int:
        seen = self._seen.get(key)
        return seen.tally.count if seen is not None else 0

    def _expire(self, change: Change) -> None:
        for (database, _), seen in self._asked.items():
            if database == change.database and change.concerns(seen.tables):
                seen.schedule.expire()

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """A finding, where the plan shows one; what became of an earlier one."""
        if not isinstance(answer, IndexAnswer):
            return ()
        key = (answer.question.database, answer.question.statement.fingerprint)
        self._open.pop(key, None)
        seen = self._seen.get(key)
        return (*(self._learn(answer, seen) if seen is not None else ()), *self._first())

    def _learn(self, answer: IndexAnswer, seen: _Seen) -> Iterable[Outcome]:
        try:
            best = self._judge(answer, seen.found)
        except ValueError:
            # Nobody said anything: what was said before stands.
            seen.schedule.answered(SILENT_NS)
            return ()
        # Below a view are tables that the statement does not name.
        seen.tables |= words_of(tuple(facts.name for facts in answer.tables))
        seen.schedule.answered(STANDING_NS if best is not None else SILENT_NS)
        return seen.find(best) if best is not None else seen.settle()

    def _judge(self, answer: IndexAnswer, known: _Found | None) -> Finding | None:
        """The index that helps most, or the one that is known if it is still missing; None where none is.

        Raises ValueError where the planner did not say.
        """
        if answer.error or not answer.before:
            raise ValueError("no plan")
        root = read(answer.before)
        plans = {candidate: (name, read(plan)) for candidate, name, plan in answer.after}
        best: Finding | None = None
        gain = 0.0
        tables = {facts.name: facts for facts in answer.tables}
        for candidate in answer.candidates:
            facts = tables[candidate.table]
            scan = scans.for_first_rows(root, facts) if candidate.ordered else scans.for_few_rows(root, facts)
            if scan is None or facts.rows < self._min_rows:
                continue
            after: float | None = None
            if answer.tried:
                name, plan = plans.get(candidate, ("", root))
                used = any(node.index == name and (node.searched or candidate.ordered) for node in plan.walk())
                if not (name and used) or plan.total_cost > root.total_cost * (1 - MIN_GAIN):
                    continue
                after = plan.total_cost
            else:
                # Nobody tried it: believe in what the scan itself leaves rows out by.
                columns = tuple(column for column in candidate.columns if column in scan.filter_names)
                if not columns or is_indexed(columns, facts):
                    continue
                candidate = replace(candidate, columns=columns)
            found = _finding(answer.question, candidate, facts, scan, root, after)
            saved = root.total_cost - after if after is not None else 0.0
            if known is not None and not known.gone and found.id == known.finding.id:
                return found
            if best is None or saved > gain:
                best, gain = found, saved
        if best is None and known is not None and not known.gone and self._is_missing(answer, root, known.finding):
            return known.finding
        return best

    def _is_missing(self, answer: IndexAnswer, root: Node, known: Finding) -> bool:
        """True where an index that was found is still missing, although it would not help with these values."""
        evidence = known.evidence
        assert isinstance(evidence, IndexEvidence)
        for facts in answer.tables:
            if f"{facts.schema}.{facts.name.rpartition('.')[2]}" == evidence.table:
                if facts.rows < self._min_rows or is_indexed(tuple(evidence.columns), facts):
                    return False
                if not all(name in facts.columns and facts.columns[name].btree for name in evidence.columns):
                    return False
                scanned = any(node.filtered and scans.of_all(node, facts) for node in root.walk())
                refused = answer.tried and known.confidence != "proven" and scans.for_few_rows(root, facts) is not None
                return scanned and not refused
        return False


def _is_whole(execution: Execution) -> bool:
    """True where the planner can be asked with the text and the values of an execution."""
    if execution.sqlstate is not None or execution.text.truncated:
        return False
    return not any(parameter.truncated for parameter in execution.parameters)


def _severity(finding: Finding, executions: int) -> Severity:
    evidence = finding.evidence
    rows = executions * (evidence.table_rows if isinstance(evidence, IndexEvidence) else 0)
    return "high" if rows >= MUCH else "medium" if executions >= OFTEN else "low"


def _cost(ns: int) -> Cost:
    return Cost(queries=1, ms=round(ns / 1e6, 3))


def _finding(
    question: IndexQuestion,
    candidate: IndexCandidate,
    facts: TableFacts,
    scan: Node,
    root: Node,
    after: float | None,
) -> Finding:
    relation = facts.name.rpartition(".")[2]
    columns = ", ".join(candidate.columns)
    read_whole = f"is read whole {'and sorted ' if candidate.ordered else ''}({facts.rows:,.0f} rows)"
    purpose = f"to {'return the first' if candidate.ordered else 'find about'} {scan.rows:,.0f}"
    name = "_".join(("ix", relation, *candidate.columns))[:63]
    create = (
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {quoted(name)} "
        f"ON {quoted(facts.schema)}.{quoted(relation)} USING btree ({', '.join(map(quoted, candidate.columns))});"
    )
    if after is None:
        words = (
            f"An index on {columns} would find the rows. "
            "Without HypoPG here, the planner was not asked whether it would use it."
        )
    else:
        costs = f"{after:,.0f} instead of {root.total_cost:,.0f}"
        words = f"With an index on {columns} the planner expects {costs}, and uses it."
    return Finding(
        rule="missing-index",
        subject=f"{question.database}.{facts.schema}.{relation}({columns})",
        severity="medium",
        confidence="likely" if after is None else "proven",
        title=f"{relation} {read_whole} {purpose}: no index on {columns}",
        fingerprints=(question.statement.fingerprint,),
        sql=question.statement.sql,
        count=0,
        total_ns=0,
        evidence=IndexEvidence(
            table=f"{facts.schema}.{relation}",
            columns=list(candidate.columns),
            node=scan.kind,
            table_rows=round(facts.rows),
            plan_rows=round(scan.rows),
            cost_before=root.total_cost,
            cost_after=after,
            executions=0,
            mean_ms=0.0,
        ),
        suggestion=Suggestion(text=words, sql=create, status="unverified" if after is None else "verified"),
        at_ns=0,
    )


def quoted(name: str) -> str:
    """An identifier, in double quotes where it needs them."""
    if _PLAIN.fullmatch(name) and name.upper() not in _RESERVED:
        return name
    return '"' + name.replace('"', '""').replace("\0", "") + '"'


_RESERVED: Final = frozenset(
    """ALL ANALYSE ANALYZE AND ANY ARRAY AS ASC ASYMMETRIC BOTH CASE CAST CHECK COLLATE COLUMN CONSTRAINT CREATE
    CURRENT_DATE CURRENT_ROLE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DEFAULT DEFERRABLE DESC DISTINCT DO
    ELSE END EXCEPT FALSE FETCH FOR FOREIGN FROM GRANT GROUP HAVING IN INITIALLY INTERSECT INTO LATERAL LEADING
    LIMIT LOCALTIME LOCALTIMESTAMP NOT NULL OFFSET ON ONLY OR ORDER PLACING PRIMARY REFERENCES RETURNING SELECT
    SESSION_USER SOME SYMMETRIC TABLE THEN TO TRAILING TRUE UNION UNIQUE USER USING VARIADIC WHEN WHERE WINDOW
    WITH""".split()
)
