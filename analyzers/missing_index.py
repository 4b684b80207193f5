"""`missing-index`: a table is read whole to find a few rows, and an index would find them.

Enters: executions, later the planner's answer about one of a statement. Whether it is asked, and how grave it is, hangs
on counts and plans, not on how long anything took. Leaves: questions, and findings that the
plan supports. With HypoPG the planner itself must choose the index and be a fifth cheaper; without it the finding says
`unverified`. Out of scope: selecting among indexes for a whole workload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from msgspec.structs import replace

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.plan.model import Node, read
from pgtattle.analyzers.questions import Answer, IndexAnswer, IndexCandidate, IndexQuestion, TableFacts
from pgtattle.analyzers.sql.facts import ColumnUse, Facts
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import IndexEvidence, Severity, Suggestion
from pgtattle.proxy.settings import RuleSettings

AT_LEAST_NS: Final = 300_000
"""No machine reads a table that is worth an index in less: what is quicker on any need not be asked about."""
OFTEN: Final = 5
"""Executions from which it is not `low`."""
MUCH: Final = 10_000_000
"""Rows read by all executions from which it is `high`."""
ASK_AGAIN_NS: Final = 600_000_000_000
MAX_WIDTH: Final = 3
MAX_CANDIDATES: Final = 4
MAX_SHARE: Final = 0.05
"""A scan that returns more of the table than this is not helped by an index."""
MIN_COST_SHARE: Final = 0.3
MIN_GAIN: Final = 0.2

_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")


class _Seen:
    """A fingerprint's executions so far; `found` is what was said of it, to be said again when it doubled."""

    __slots__ = ("asked_ns", "executions", "found", "said_at", "total_ns")

    def __init__(self) -> None:
        self.executions = 0
        self.total_ns = 0
        self.asked_ns = -ASK_AGAIN_NS
        self.said_at = 0
        self.found: Finding | None = None


class MissingIndex(Analyzer):
    """Asks about slow statements and reads the plans."""

    rules: ClassVar[tuple[str, ...]] = ("missing-index",)

    def __init__(self, settings: RuleSettings, facts: FactsCache) -> None:
        self._min_rows = settings.missing_index_min_rows
        self._facts = facts
        self._seen: Bounded[tuple[str, str], _Seen] = Bounded(10_000)

    def execution(self, execution: Execution) -> Iterable[Outcome]:
        """Ask about a statement once in ten minutes; repeat what was found as it goes on."""
        statement = execution.text.statement
        if statement.kind not in ("read", "write") or execution.sqlstate is not None:
            return ()
        key = (execution.connection.database, statement.fingerprint)
        seen = self._seen.get(key)
        if seen is None:
            seen = _Seen()
            self._seen.put(key, seen)
        duration_ns = execution.duration_ns
        seen.executions += 1
        seen.total_ns += duration_ns
        if seen.found is not None:
            graver = _severity(seen.found, seen.executions) != seen.found.severity
            return (self._say(seen, execution.ended_ns),) if graver or seen.executions >= 2 * seen.said_at else ()
        if duration_ns < AT_LEAST_NS or execution.ended_ns - seen.asked_ns < ASK_AGAIN_NS:
            return ()
        if execution.text.truncated or any(parameter.truncated for parameter in execution.parameters):
            return ()
        candidates = tuple(_candidates(self._facts.of(execution.text)))
        if not candidates:
            return ()
        seen.asked_ns = execution.ended_ns
        return (
            IndexQuestion(
                database=execution.connection.database,
                statement=statement,
                sql=execution.text.sql,
                parameters=execution.parameters,
                candidates=candidates[:MAX_CANDIDATES],
            ),
        )

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """A finding, where the plan shows one."""
        if not isinstance(answer, IndexAnswer):
            return ()
        seen = self._seen.get((answer.question.database, answer.question.statement.fingerprint))
        if seen is None or answer.error or not answer.before:
            return ()
        try:
            root = read(answer.before)
            plans = {candidate: (name, read(plan)) for candidate, name, plan in answer.after}
        except ValueError:
            return ()
        best: Finding | None = None
        gain = 0.0
        for candidate in answer.question.candidates:
            facts = next((one for one in answer.tables if one.name == candidate.table), None)
            scan = self._scan(root, facts) if facts is not None else None
            if facts is None or scan is None or _is_indexed(candidate.columns, facts):
                continue
            after: float | None = None
            if plans:
                name, plan = plans.get(candidate, ("", root))
                used = any(node.index == name for node in plan.walk()) if name else False
                if not used or plan.total_cost > root.total_cost * (1 - MIN_GAIN):
                    continue
                after = plan.total_cost
            else:
                # Nobody tried it: believe in what the scan itself leaves rows out by.
                columns = tuple(column for column in candidate.columns if column in scan.filter_names)
                if not columns or _is_indexed(columns, facts):
                    continue
                candidate = replace(candidate, columns=columns)
            saved = root.total_cost - after if after is not None else 0.0
            if best is None or saved > gain:
                best, gain = _finding(answer.question, candidate, facts, scan, root, after), saved
        if best is None:
            return ()
        seen.found = best
        return (self._say(seen, seen.asked_ns),)

    def _scan(self, root: Node, facts: TableFacts) -> Node | None:
        """The scan of the whole table that an index would spare, if it is what the statement costs."""
        if facts.rows < self._min_rows:
            return None
        for node in root.walk():
            if (
                node.kind == "Seq Scan"
                and node.relation == facts.name.rpartition(".")[2]
                and node.schema == facts.schema
                and node.filtered
                and node.rows <= MAX_SHARE * facts.rows
                and node.total_cost >= MIN_COST_SHARE * root.total_cost
            ):
                return node
        return None

    def _say(self, seen: _Seen, at_ns: int) -> Finding:
        assert seen.found is not None
        assert isinstance(seen.found.evidence, IndexEvidence)
        seen.said_at = seen.executions
        mean = seen.total_ns / seen.executions / 1e6
        severity = _severity(seen.found, seen.executions)
        evidence = replace(seen.found.evidence, executions=seen.executions, mean_ms=round(mean, 3))
        seen.found = replace(
            seen.found, count=seen.executions, total_ns=seen.total_ns, severity=severity, evidence=evidence, at_ns=at_ns
        )
        return seen.found


def _severity(finding: Finding, executions: int) -> Severity:
    evidence = finding.evidence
    rows = executions * (evidence.table_rows if isinstance(evidence, IndexEvidence) else 0)
    return "high" if rows >= MUCH else "medium" if executions >= OFTEN else "low"


def _candidates(facts: Facts) -> Iterator[IndexCandidate]:
    """Keys to try for each table: equalities, then a range or the order; then join columns."""
    for table in facts.tables:
        uses = [use for use in facts.uses if use.table == table and not use.function]
        equal = _columns(uses, "eq")
        ranges = _columns(uses, "range")
        joins = _columns(uses, "join")
        found: dict[tuple[str, ...], None] = {}
        if equal:
            if ranges:
                found.setdefault((*equal, ranges[0])[:MAX_WIDTH])
            found.setdefault(equal[:MAX_WIDTH])
        elif ranges:
            found.setdefault(ranges[:1])
        if joins and equal:
            found.setdefault((*equal, joins[0])[:MAX_WIDTH])
        for join in joins:
            found.setdefault((join,))
        for columns in found:
            yield IndexCandidate(table=table, columns=columns)


def _columns(uses: list[ColumnUse], role: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(use.column for use in uses if use.role == role))


def _is_indexed(columns: tuple[str, ...], facts: TableFacts) -> bool:
    """True when a valid btree index begins with these columns; the order of equalities does not matter."""
    return any(set(index[: len(columns)]) == set(columns) for index in facts.indexes)


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
        title=f"{relation} is read whole ({facts.rows:,.0f} rows) to find about {scan.rows:,.0f}: "
        f"no index on {columns}",
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
        cumulative=True,
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
