"""Runs the cases of `tests/cases/*.toml`: traffic in, exactly the expected findings out.

A case is traffic as data; `tests/cases/README.md` says how to write one. Texts, units and analyzers are the real ones;
what the decoder would have said of transactions and exchanges is worked out here from the statements.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgtattle.analyzers.analyzer import Outcome
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.questions import ForeignKey, KeysAnswer, KeysQuestion, RewriteAnswer, RewriteQuestion
from pgtattle.analyzers.registry import analyzers
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Parameter, Text, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.pipeline import END_OF_TIME_NS
from pgtattle.proxy.settings import RuleSettings
from pgtattle.proxy.tags import SessionTags
from pgtattle.proxy.units import Units
from pgtattle.proxy.wire.rows import Column, Field, Sample, hashed

CASES = Path(__file__).parents[1] / "cases"
MILLISECOND = 1_000_000
WALL = datetime(2024, 5, 1, 10, 0, 0)
# What the planner says of any statement: whether rewrites are right is asked of a real one elsewhere.
PLAN = b'[{"Plan": {"Node Type": "Index Scan", "Total Cost": 8.0}}]'


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A connection of a case."""

    user: str = "app"
    application: str = "shop"
    database: str = "bookshop"
    host: str = "10.0.0.1"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statement, or several with `each`, done `times` times."""

    sql: str = ""
    each: tuple[Step, ...] = ()
    times: int = 1
    count: str = "n"
    params: tuple[str, ...] = ()
    connection: str = "main"
    gap_ms: float = 1.0
    duration_ms: float = 1.0
    stalled_ms: float = 0.0
    open_ms: float = 0.0
    rows: int = 1
    result: dict[str, tuple[str, ...]] = {}
    error: str | None = None
    reused: bool = False
    prepared: str = ""
    cut: bool = False
    settings: dict[str, str] = {}
    pipeline: bool = False
    parallel: bool = False
    close: str = ""


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding; what is not given is not compared. `title`, `sql` and `suggestion` are parts, the rest is exact."""

    rule: str
    severity: str | None = None
    confidence: str | None = None
    count: int | None = None
    distinct: int | None = None
    title: str = ""
    sql: str = ""
    suggestion: str = ""
    rewrite: str | None = None
    parent: str | None = None
    parent_column: str | None = None
    column: str | None = None
    proof: list[str] | None = None
    kind: str | None = None
    key: str | None = None
    route: str | None = None
    source: str | None = None
    signal: str | None = None
    status: str | None = None
    ttl_s: float | None = None
    changes: int | None = None
    loops: tuple[dict[str, Any], ...] = ()


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Traffic and all that may be said of it."""

    name: str
    traffic: tuple[Step, ...]
    expect: tuple[Expected, ...]
    connections: dict[str, Client] = {}
    keys: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    standard_conforming_strings: bool = True
    rules: RuleSettings = RuleSettings()


def cases() -> list[Any]:
    found = []
    for path in sorted(CASES.glob("*.toml")):
        for table in tomllib.loads(path.read_text())["case"]:
            case = msgspec.convert(table, Case)
            found.append(pytest.param(case, id=f"{path.stem}: {case.name}"))
    return found


def place(table: str, column: str) -> tuple[int, int]:
    """An oid and a number that stand for a column."""
    return int.from_bytes(table.encode(), "big"), int.from_bytes(column.encode(), "big")


def foreign_key(written: str) -> ForeignKey:
    """`books.author_id -> authors.id`"""
    (table, column), (other, key) = (side.strip().split(".") for side in written.split("->"))
    return ForeignKey(
        column=place(table, column), column_name=(table, column), referred=place(other, key), referred_name=(other, key)
    )


class Replay:
    """Plays a case to units and analyzers, with a clock of its own."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.facts = FactsCache()
        self.samples = Samples()
        self.texts = Texts()
        self.units = Units()
        self.analyzers = analyzers(
            msgspec.structs.replace(case.rules, disable=("missing-index", *case.rules.disable)),
            self.facts,
            self.samples,
        )
        self.findings: list[Finding] = []
        self.asked: list[RewriteAnswer | KeysAnswer] = []
        self.now = 1_000 * MILLISECOND
        self.ticked = self.now
        self.ids = 0
        self.exchange = 0
        self.records: dict[str, Connection] = {}
        self.transactions: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        self.tags: dict[str, SessionTags] = {}

    def run(self) -> list[Finding]:
        for step in self.case.traffic:
            self.step(step, {})
        self.complete(self.units.flush())
        self.pass_(END_OF_TIME_NS)
        return self.findings

    def step(self, step: Step, counters: dict[str, int]) -> None:
        if step.close and step.times > 1:
            for n in range(1, step.times + 1):
                self.step(msgspec.structs.replace(step, times=1), {**counters, step.count: n})
            return
        if step.close:
            record = self.record(self.filled(step.close, counters))
            self.complete(self.units.closed(record.id, self.now))
            return
        repeated = [{**counters, step.count: n} for n in range(1, step.times + 1)] if step.times > 1 else [counters]
        if step.each:
            for counted in repeated:
                for inner in step.each:
                    self.step(inner, counted)
            return
        if step.pipeline:
            self.exchange_of([pair for counted in repeated for pair in self.read(step, counted)], step, counters)
            return
        start = self.now
        ends = start
        for counted in repeated:
            if step.parallel:
                self.now = start
            self.exchange_of(self.read(step, counted), step, counted)
            ends = max(ends, self.now)
        self.now = ends

    def read(self, step: Step, counters: dict[str, int]) -> list[tuple[str, Text, tuple[Parameter, ...]]]:
        parameters = tuple(
            Parameter(25, None if value == "NULL" else self.filled(value, counters), truncated=step.cut)
            for value in step.params
        )
        name = self.filled(step.connection, counters)
        escapes = not self.case.standard_conforming_strings
        texts = self.texts.read(self.filled(step.sql, counters), escapes=escapes)
        return [(name, text, parameters) for text in texts]

    def filled(self, text: str, counters: dict[str, int]) -> str:
        def number(match: re.Match[str]) -> str:
            n = counters[match[1]]
            return str((n % int(match[2]) if match[2] else n) + int(match[3] or 0))

        text = text.replace("{time}", str(WALL + timedelta(microseconds=self.now // 1_000)))
        return re.sub(r"\{(\w)(?:%(\d+))?(?:\+(\d+))?\}", number, text)

    def sample(self, step: Step, counters: dict[str, int]) -> None:
        """Keep the rows of the execution that is made next."""
        columns = []
        for name, values in step.result.items():
            table, _, name = name.rpartition(".")
            column = Column(Field(name, *(place(table, name) if table else (0, 0)), 25, False))
            column.hashes.extend(hashed(self.filled(value, counters)) for value in values)
            columns.append(column)
        if columns:
            rows = tuple(tuple(column.hashes) for column in columns)
            self.samples.keep(self.ids, Sample(columns, len(rows[0]), True, hash(rows)))

    def exchange_of(
        self, statements: list[tuple[str, Text, tuple[Parameter, ...]]], step: Step, counters: dict[str, int]
    ) -> None:
        self.exchange += 1
        self.now += int(step.gap_ms * MILLISECOND)
        self.tick(None)
        name = statements[0][0]
        record = self.record(name)
        tags = self.tags.setdefault(name, SessionTags())
        made: list[dict[str, Any]] = []
        for position, (_, text, parameters) in enumerate(statements):
            if text.statement.command == "BEGIN":
                self.begun[name] = self.begun.get(name, 0) + 1
                self.transactions[name] = self.begun[name]
            transaction = self.transactions.get(name, 0)
            if text.statement.command in ("COMMIT", "ROLLBACK") and " TO " not in text.statement.sql:
                self.transactions[name] = 0
            started = self.now
            self.now += int(step.duration_ms * MILLISECOND)
            self.tick(record.id)
            self.ids += 1
            self.sample(step, counters)
            tags.executed(text, parameters, step.error is None)
            made.append(
                {
                    "id": self.ids,
                    "connection": record,
                    "text": text,
                    "parameters": parameters,
                    "protocol": "extended" if parameters or step.pipeline else "simple",
                    "prepared": self.filled(step.prepared, counters),
                    "reused": step.reused,
                    "binds": bool(parameters),
                    "exchange": self.exchange,
                    "position": position,
                    "siblings": len(statements),
                    "transaction": transaction,
                    "settings": step.settings or tags.now,
                    "context": tags.context,
                    "rows": len(next(iter(step.result.values()))) if step.result else step.rows,
                    "sqlstate": step.error,
                    "started_ns": started,
                    "first_row_ns": self.now if step.open_ms else 0,
                    "ended_ns": self.now + int(step.open_ms * MILLISECOND),
                    "stalled_ns": int(step.stalled_ms * MILLISECOND),
                }
            )
        status = "T" if self.transactions.get(name) else "I"
        if status == "I":
            tags.transaction_ended(committed=statements[-1][1].statement.command != "ROLLBACK")
        for execution in made:
            self.take(Execution(**execution, status=status))

    def tick(self, busy: int | None) -> None:
        while self.ticked + 100 * MILLISECOND <= self.now:
            self.ticked += 100 * MILLISECOND
            self.complete(self.units.tick(self.ticked, lambda connection: connection == busy))
            for unit in self.units.show(self.ticked, lambda connection: connection == busy):
                self.preview(unit)
            self.pass_(self.ticked)

    def pass_(self, now_ns: int) -> None:
        for analyzer in self.analyzers:
            self.found(analyzer.tick(now_ns))

    def take(self, execution: Execution) -> None:
        for analyzer in self.analyzers:
            self.found(analyzer.execution(execution))
        self.complete(self.units.add(execution))

    def complete(self, units: list[Unit]) -> None:
        for unit in units:
            for analyzer in self.analyzers:
                self.found(analyzer.unit(unit))

    def preview(self, unit: Unit) -> None:
        """What is said of a unit that goes on holds until it is complete: only its questions stay."""
        for analyzer in self.analyzers:
            self.found(outcome for outcome in analyzer.preview(unit) if not isinstance(outcome, Finding))

    def found(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Finding():
                    self.findings.append(outcome)
                case RewriteQuestion():
                    self.asked.append(RewriteAnswer(question=outcome, before=PLAN, after=PLAN))
                case KeysQuestion():
                    keys = tuple(map(foreign_key, self.case.keys))
                    unique = tuple(
                        ("", table, column) for table, _, column in (one.partition(".") for one in self.case.unique)
                    )
                    self.asked.append(KeysAnswer(question=outcome, keys=keys, unique=unique))
                case _:
                    raise AssertionError(outcome)
        while self.asked:
            answer = self.asked.pop(0)
            for analyzer in self.analyzers:
                self.found(analyzer.answer(answer))

    def record(self, name: str) -> Connection:
        if name not in self.records:
            client = self.case.connections.get(name, Client())
            number = len(self.records) + 1
            self.records[name] = Connection(
                id=number,
                client=f"{client.host}:{40_000 + number}",
                opened_ns=self.now,
                user=client.user,
                database=client.database,
                application=client.application,
            )
        return self.records[name]


def merged(findings: list[Finding]) -> list[Finding]:
    """The last occurrence of each finding, counts added up as the store does."""
    by_id: dict[str, Finding] = {}
    for finding in findings:
        before = by_id.get(finding.id)
        if before is not None and not finding.cumulative:
            finding = msgspec.structs.replace(finding, count=finding.count + before.count)
        by_id[finding.id] = finding
    return list(by_id.values())


def mismatches(expected: Expected, finding: Finding) -> Iterator[str]:
    evidence = msgspec.to_builtins(finding.evidence)
    unit = msgspec.to_builtins(finding.unit) if finding.unit else {}
    exact = {
        "rule": finding.rule,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "count": finding.count,
        "distinct": evidence.get("distinct"),
        "rewrite": finding.suggestion.sql,
        "parent": evidence.get("parent"),
        "parent_column": evidence.get("parent_column"),
        "column": evidence.get("column"),
        "proof": evidence.get("proof"),
        "kind": unit.get("kind"),
        "key": unit.get("key"),
        "route": finding.route,
        "source": unit.get("source"),
        "signal": evidence.get("signal"),
        "status": finding.suggestion.status,
        "ttl_s": evidence.get("ttl_s"),
        "changes": evidence.get("changes"),
    }
    for name, actual in exact.items():
        wanted = getattr(expected, name)
        if wanted is not None and wanted != actual:
            yield f"{name} is {actual!r}, expected {wanted!r}"
    parts = {"title": finding.title, "sql": finding.sql, "suggestion": finding.suggestion.text}
    for name, text in parts.items():
        if getattr(expected, name) not in text:
            yield f"{name} is {text!r}, expected {getattr(expected, name)!r} in it"

    for number, loop in enumerate(expected.loops):
        told = dict(enumerate(evidence["loops"])).get(number, {})
        if any(told.get(key) != value for key, value in loop.items()):
            yield f"loop {number} is {told!r}, expected {loop!r}"


@pytest.mark.parametrize("case", cases())
def test_case(case: Case) -> None:
    findings = merged(Replay(case).run())
    told = [f"{finding.rule} {finding.severity}: {finding.title} | {finding.sql}" for finding in findings]
    assert len(findings) == len(case.expect), told
    for expected in case.expect:
        found = [list(mismatches(expected, finding)) for finding in findings]
        assert [] in found, found
    for finding in findings:
        assert any(not list(mismatches(expected, finding)) for expected in case.expect), told


def test_silences_are_tested_as_much_as_findings() -> None:
    every = [parameter.values[0] for parameter in cases()]
    silent = [case for case in every if not case.expect]
    assert 2 * len(silent) >= len(every)


def test_case_names_are_unique() -> None:
    names = [parameter.id for parameter in cases()]
    assert len(names) == len(set(names))
