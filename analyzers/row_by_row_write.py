"""`row-by-row-write`: INSERT, UPDATE, DELETE or MERGE in a loop that one statement could do.

Enters: complete units. Leaves: a finding per statement and unit. Where no signal tells a unit apart it is a hint; in a
burst only an UPDATE or DELETE right after another is, for a service that writes a row for each request looks like a
loop of statements that insert. Out of scope: reads in a loop; what the client sent without waiting, which is one round
trip for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import ClassVar, Final

from pgtattle.analyzers.advice_words import bulk_writing
from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.frameworks import application_of
from pgtattle.analyzers.origin import source_of
from pgtattle.analyzers.questions import Answer
from pgtattle.analyzers.repetition import (
    BURST_PAUSE_NS,
    MAX_GROUPS,
    batched,
    is_catalogue,
    is_retryable,
    is_tool,
    usual_pause_ns,
)
from pgtattle.analyzers.rewrites import Candidate, Rewrites, are_listed, arrays_of, rows_of, values_of
from pgtattle.analyzers.sql.facts import Facts
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.rewrite_writes import UNKNOWN, write_all
from pgtattle.analyzers.values import MOST, Finder, finder_of, keys_of, varying_places
from pgtattle.proxy.events import Statement, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Confidence, Severity, Suggestion, UnitRef, WriteLoopEvidence
from pgtattle.proxy.settings import RuleSettings

LOOK_BEFORE: Final = 4
"""Executions of a connection before a write among which the read that checked for it is looked for."""

_COMMANDS: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE"))
_ASKS: Final = frozenset(("read", "write", "copy"))
_INTEGER: Final = re.compile(r"-?\d+")
_NUMERIC: Final = re.compile(r"-?\d+\.\d+")
# pg_type.dat. Of integers drivers take the smallest that a value fits in.
_TYPES: Final = {
    16: "boolean", 20: "bigint", 21: "bigint", 23: "bigint", 25: "text", 700: "real", 701: "double precision",
    1043: "varchar", 1082: "date", 1114: "timestamp", 1184: "timestamptz", 1700: "numeric", 2950: "uuid",
}  # fmt: skip
_LITERALS: Final = {"integer": "bigint", "numeric": "numeric", "string": UNKNOWN}
_INSERT: Final = "one INSERT of many rows (VALUES …, … or SELECT … FROM unnest(…))"
_MERGE: Final = "write them with one MERGE … USING (VALUES …, …) or USING unnest(…), in which no key is twice"


class RowByRowWrite(Analyzer):
    """Finds loops of writes."""

    rules: ClassVar[tuple[str, ...]] = ("row-by-row-write",)

    def __init__(self, settings: RuleSettings, facts: FactsCache) -> None:
        self._least = settings.row_by_row_write_min
        self._facts = facts
        self._rewrites = Rewrites()

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """The loops of writes of a complete unit, and questions about what would replace them."""
        executions = unit.executions
        if len(executions) < self._least or is_tool(application_of(executions[0])):
            return ()
        groups: dict[tuple[str, str, str], list[int]] = {}
        for index, execution in enumerate(executions):
            if execution.text.statement.command in _COMMANDS:
                record = execution.connection
                key = (execution.text.statement.fingerprint, record.database, record.user)
                groups.setdefault(key, []).append(index)
        outcomes: list[Outcome] = []
        # A unit of very many loops is told by its greatest ones.
        repeated = sorted((group for group in groups.values() if len(group) >= self._least), key=len, reverse=True)
        for group in sorted(repeated[:MAX_GROUPS]):
            outcomes += self._judge(unit, group)
        return outcomes

    def preview(self, unit: Unit) -> Iterable[Outcome]:
        """What can be said of it so far."""
        return self.unit(unit)

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """The findings whose rewrite the server took, said again with it."""
        return self._rewrites.answer(answer)

    def _judge(self, unit: Unit, group: list[int]) -> Sequence[Outcome]:
        all_ = unit.executions
        retried = {
            (one.connection.id, one.transaction)
            for one in all_
            if one.sqlstate and one.transaction and is_retryable(one.sqlstate)
        }
        group = [
            index
            for index in group
            if all_[index].sqlstate is None and (all_[index].connection.id, all_[index].transaction) not in retried
        ]
        if len(group) < self._least or batched(all_, group):
            return ()
        executions = [all_[index] for index in group]
        tables = self._facts.of(executions[0].text).tables
        if not tables or all(map(is_catalogue, tables)) or _several_rows(executions):
            return ()
        facts = self._facts.of(executions[0].text)
        if unit.kind == "burst" and (_inserts(executions[0]) or not _in_a_row(all_, group)):
            return ()
        told = _telling(executions[0], facts)
        distinct = len({_values(execution, told) for execution in executions})
        if told is not None and distinct < MOST * len(group):
            # The same row again and again: a counter, a heartbeat, a queue.
            return ()
        checked = executions[0].text.statement.command == "INSERT" and self._checked(all_, group, tables)
        finding = _finding(unit, executions, distinct, tables, checked, _finder_of(executions, facts))
        finding, questions = self._rewrites.suggest(finding, _candidates(executions))
        return finding, *questions

    def _checked(self, all_: Sequence[Execution], group: list[int], tables: tuple[str, ...]) -> bool:
        """True where most writes come after a read of the same table: get, or create."""
        checked = 0
        for index in group:
            for execution in reversed(all_[max(0, index - LOOK_BEFORE) : index]):
                if execution.connection.id != all_[index].connection.id or execution.text.statement.kind != "read":
                    continue
                checked += not set(tables).isdisjoint(self._facts.of(execution.text).tables)
                break
        return checked >= MOST * len(group)


def _in_a_row(all_: Sequence[Execution], group: Sequence[int]) -> bool:
    """True where most come right after one another: nothing else was asked, nor waited for, in between."""
    members = set(group)
    asked = [index in members for index, one in enumerate(all_) if one.text.statement.kind in _ASKS]
    followed = sum(one and other for one, other in pairwise(asked))
    return followed >= MOST * (len(group) - 1) and usual_pause_ns([all_[index] for index in group]) <= BURST_PAUSE_NS


def _inserts(first: Execution) -> bool:
    """True for a statement that may insert a row."""
    statement = first.text.statement
    return statement.command == "INSERT" or (statement.command == "MERGE" and "INSERT" in statement.sql)


def _telling(first: Execution, facts: Facts) -> frozenset[int] | None:
    """The placeholders that tell which rows are changed; None where all of them make a row.

    A column that is set and asked for is none: it is a version or a lock, and another one each time.
    """
    asked = {one.number: one.column.rpartition(".")[2] for one in facts.compared}
    command = first.text.statement.command
    if command in ("INSERT", "MERGE"):
        # By what ON CONFLICT or MERGE finds a row; DO NOTHING changes none.
        kept = frozenset(number for number, column in asked.items() if column not in facts.assigned)
        return kept or frozenset(asked) if asked and (command == "MERGE" or facts.assigned) else None
    return frozenset(
        slot.number
        for slot in first.text.slots
        if (slot.where in ("where", "on", "from") or slot.number in asked)
        and asked.get(slot.number) not in facts.assigned
    )


def _finder_of(executions: Sequence[Execution], facts: Facts) -> Finder:
    """By which columns the writes of a loop find their rows."""
    rows = [execution.values for execution in executions]
    varying = varying_places(executions[0], rows)
    keys = keys_of(executions[0], rows, varying, facts.compared) if varying else []
    return finder_of([key for key in keys if key.columns], facts.compared)


def _values(execution: Execution, told: frozenset[int] | None) -> tuple[str | None, ...]:
    """The values of an execution, or of these placeholders."""
    slots = execution.text.slots
    return tuple(
        [value for slot, value in zip(slots, execution.values, strict=True) if told is None or slot.number in told]
    )


def _several_rows(executions: Sequence[Execution]) -> bool:
    """True where most write several rows already."""
    several = sum(
        execution.rows > 1 or max([length for _, length in execution.text.lists], default=1) > 1
        for execution in executions
    )
    return several >= MOST * len(executions)


def _finding(
    unit: Unit,
    executions: Sequence[Execution],
    distinct: int,
    tables: tuple[str, ...],
    checked: bool,
    finder: Finder,
) -> Finding:
    count, first = len(executions), executions[0]
    statement = first.text.statement
    total_ns = sum(execution.duration_ns for execution in executions)
    span_ns = max(execution.ended_ns for execution in executions) - first.started_ns
    alone = all(not execution.transaction for execution in executions)
    severity: Severity = "medium"
    confidence: Confidence = "likely"
    together = first.transaction and all(one.transaction == first.transaction for one in executions)
    if checked or (unit.kind in ("connection", "burst") and not together):
        severity, confidence = "info", "candidate"
    table, route = ", ".join(tables[:3]), f" (route {unit.route})" if unit.route else ""
    return Finding(
        rule="row-by-row-write",
        subject=statement.fingerprint,
        route=unit.route,
        severity=severity,
        confidence=confidence,
        title=f"{count} times one {statement.command} on {table} in one {unit.kind}{route}",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=count,
        total_ns=total_ns,
        unit=UnitRef(kind=unit.kind, key=unit.key, route=unit.route, source=source_of(first.text.tags) or unit.source),
        evidence=WriteLoopEvidence(
            executions=count,
            distinct=distinct,
            units=1,
            rows=sum(execution.rows for execution in executions),
            database_ms=total_ns / 1e6,
            gap_ms=max(0, span_ns - total_ns) / 1e6,
            signal=unit.signal,
            committed_alone=alone,
            checked=checked,
        ),
        suggestion=Suggestion(text=_advice(unit, executions, alone, checked, finder)),
        at_ns=unit.ended_ns,
        unit_id=unit.id,
    )


def _advice(unit: Unit, executions: Sequence[Execution], alone: bool, checked: bool, finder: Finder) -> str:
    statement = executions[0].text.statement
    bulk = bulk_writing(executions, unit.executions) if statement.command != "MERGE" else ""
    how = f"use {bulk}" if bulk else _how(statement, finder)
    words = [f"{len(executions)} round trips write what one can: {how}"]
    if checked:
        words.append(
            "each write comes after a read that looks whether the row is there: a unique constraint and ON CONFLICT "
            "do both"
        )
    if alone:
        words.append("each is committed alone, with a flush to disk: one transaction around them is quicker already")
    return "; ".join(words) + "."


def _how(statement: Statement, finder: Finder) -> str:
    """One statement for all, in SQL's words; rows are found by all columns of a key together."""
    match statement.command:
        case "MERGE":
            return _MERGE
        case "INSERT":
            upsert = " DO UPDATE " in statement.sql
            return f"insert them with {_INSERT}, {'in which no key is twice' if upsert else 'or with COPY'}"
        case "UPDATE":
            columns = (*finder.same, *finder.keys)
            by = f", by ({', '.join(columns)}) together" if len(columns) > 1 else ""
            return f"change them with one UPDATE … FROM (VALUES …) or FROM unnest(…){by}"
        case _:
            return f"delete them with one DELETE … WHERE {finder.condition or 'key = ANY($1)'}"


def _candidates(executions: Sequence[Execution]) -> list[Candidate]:
    """One statement for all writes, where there is one."""
    first = executions[0]
    turns = [values_of(execution) for execution in executions]
    numbers = {slot.number for slot in first.text.slots}
    if are_listed(executions) or any(turn.keys() != numbers for turn in turns):
        return []
    varying = frozenset(number for number in numbers if len({turn[number].value for turn in turns}) > 1)
    write = write_all(first.text.statement.sql, _types_of(executions), varying)
    if write is None or any(value.binary is not None for value in turns[0].values()):
        return []
    if first.text.statement.command != "DELETE" and write.key:
        keys = {tuple([_comparable(turn[number].value) for number in write.key]) for turn in turns}
        if len(keys) < len(turns):
            # Of two changes of one row a loop leaves the later, one statement either, or it fails.
            return []
    given = rows_of(executions, write.again) if write.again else arrays_of(executions, varying)
    return [Candidate(write.sql, given, first, len(turns), 2 if write.again else len(turns))] if given else []


def _types_of(executions: Sequence[Execution]) -> tuple[tuple[int, str], ...]:
    """For each placeholder the type of an array of its values; empty where it is not known.

    That of the parameters, or what the server takes literals for. NULLs have none: drivers send them without.
    """
    found: dict[int, set[int | str]] = {slot.number: set() for slot in executions[0].text.slots}
    for execution in executions:
        for slot, text in zip(execution.text.slots, execution.values, strict=True):
            if text is None:
                continue
            kind: int | str = slot.kind
            if slot.parameter:
                kind = execution.parameters[slot.parameter - 1].oid
            elif slot.kind == "number":
                kind = "integer" if _INTEGER.fullmatch(text) else "numeric" if _NUMERIC.fullmatch(text) else ""
            found[slot.number].add(kind)
    return tuple(sorted((number, _type_of(kinds)) for number, kinds in found.items()))


def _type_of(kinds: set[int | str]) -> str:
    """The type of values of these oids, or kinds of literals."""
    if len(kinds) == 1:
        (kind,) = kinds
        return _TYPES.get(kind, "") if isinstance(kind, int) else _LITERALS.get(kind, "")
    if kinds and kinds <= {20, 21, 23}:
        return "bigint"
    return "numeric" if kinds == {"integer", "numeric"} else ""


def _comparable(text: str | None) -> Decimal | str | None:
    """A value such that those that some type holds for equal are equal: 1 and 01, A and a."""
    if text is None:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text.strip().casefold()
    return number if number.is_finite() else text.strip().casefold()
