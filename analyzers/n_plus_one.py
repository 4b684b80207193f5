"""`n-plus-one`: one query of a unit of work drove many others, each with another value.

Enters: complete units, and the server's word on rewrites. Leaves: a finding per body of loops and unit; its subject is
the query of the first loop. Without a request's own id, and without the proof that a result held the values
(`parents`, `walks`), a loop alone accuses nobody and stays `info`. Out of scope: writes in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Final, NamedTuple

from pgtattle.analyzers.advice_words import eager_loading
from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.bodies import Body, bodies
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.origin import source_of
from pgtattle.analyzers.parents import is_each
from pgtattle.analyzers.questions import Answer
from pgtattle.analyzers.repetition import Repetition, Repetitions
from pgtattle.analyzers.rewrites import Candidate, Rewrites, are_listed, array_of, counts_of, rows_of
from pgtattle.analyzers.scaling import Scale, Scaling
from pgtattle.analyzers.sql.rewrite import for_all
from pgtattle.analyzers.values import MOST
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import (
    CONFIDENCES,
    SEVERITIES,
    Confidence,
    LoopEvidence,
    LoopPart,
    Severity,
    Suggestion,
    UnitRef,
)

MANY: Final = 10
MAX_TOLD: Final = 10_000
MAX_REWRITTEN: Final = 5
"""Loops of a body for which one query is looked for."""

# By the name of a framework or driver: what the batch is called there.
Tables = Callable[[Execution], tuple[str, ...]]


class NPlusOne(Analyzer):
    """Accuses loops: surely where the unit has a request's id, as a hint elsewhere."""

    rules: ClassVar[tuple[str, ...]] = ("n-plus-one",)

    def __init__(self, repetitions: Repetitions, keys: Keys) -> None:
        self._repetitions = repetitions
        self._keys = keys
        self._scaling = Scaling()
        self._rewrites = Rewrites()
        self._told: dict[int, tuple[Confidence, str]] = {}
        self._told_before: dict[int, tuple[Confidence, str]] = {}

    def unit(self, unit: Unit) -> Iterable[Outcome]:
        """The loops of a complete unit, and questions about what would replace them."""
        return self._said(unit, complete=True)

    def preview(self, unit: Unit) -> Iterable[Outcome]:
        """The loops of a unit so far."""
        return self._said(unit, complete=False)

    def _said(self, unit: Unit, *, complete: bool) -> Iterable[Outcome]:
        loops = [loop for loop in self._repetitions.of(unit) if loop.shape == "loop" and _heard(unit, loop)]
        return self.of(unit, loops, complete=complete) if loops else ()

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """The findings whose rewrite the server took, said again with it."""
        return self._rewrites.answer(answer)

    def of(
        self, unit: Unit, loops: list[Repetition], *, side_by_side: bool = False, complete: bool = True
    ) -> Iterator[Outcome]:
        """The findings for loops of a unit, and questions about what would replace them.

        A turn is counted once, whatever it is a turn of. `side_by_side`: the turns ran on several connections, and more
        than their order joined them (`fan_out`).
        """
        tables = self._repetitions.tables
        for body in bodies(loops):
            turns = [one for loop in body.loops for one in loop.executions]
            fresh = [one for one in turns if self._teller(one) in ("", unit.id)]
            if not fresh:
                continue
            joined: Confidence | None = None
            if side_by_side:
                joined = "proven" if any(self.told(one) == "proven" for one in turns) else "likely"
            scales = [self._scale(unit, loop, complete) for loop in body.loops]
            body, about = _gravest(unit, body, scales, tables, joined)
            if unit.confidence != "strong":
                self._remember(fresh, about.confidence, unit.id)
            # The values of a walk are not known before it, so that no list of them can be asked for.
            shown = [loop for loop in body.loops[:MAX_REWRITTEN] if not loop.walk]
            candidates = [found for loop in shown if (found := self._candidate(loop)) is not None]
            finding, questions = self._rewrites.suggest(_finding(unit, body, about, tables, fresh), candidates)
            yield finding
            yield from questions

    def told(self, execution: Execution) -> Confidence | None:
        """How surely an execution was told of lately as the turn of a loop without a request's id; None: it was not."""
        told = self._told.get(execution.id) or self._told_before.get(execution.id)
        return told[0] if told is not None else None

    def _teller(self, execution: Execution) -> str:
        """The unit that the execution was told of; empty where it was not."""
        told = self._told.get(execution.id) or self._told_before.get(execution.id)
        return told[1] if told is not None else ""

    def _remember(self, turns: list[Execution], confidence: Confidence, unit: str) -> None:
        if len(self._told) >= MAX_TOLD:
            self._told, self._told_before = {}, self._told
        for execution in turns:
            self._told[execution.id] = confidence, unit

    def _candidate(self, loop: Repetition) -> Candidate | None:
        """One query for all turns of a loop, where there is one."""
        executions, keys = loop.executions, loop.keys
        if are_listed(executions) or not all(key.asks for key in keys):
            return None
        first, turns = executions[0], len(executions)
        unique = self._keys.unique(first.connection.database, loop.tables)
        places = tuple((key.number, key.oid) for key in keys)
        batch = for_all(loop.statement.sql, places, unique, counts_of(executions))
        if batch is None:
            return None
        values = rows_of(executions, batch.again) if batch.again else array_of(executions, keys)
        return Candidate(batch.sql, values, first, turns, 2 if batch.again else turns) if values else None

    def _scale(self, unit: Unit, loop: Repetition, complete: bool) -> Scale:
        """How the turns of a loop follow the rows of what drove it, in all units so far."""
        found, before = loop.parent, loop.read_before
        if found is not None:
            driver, rows = found.execution.statement.fingerprint, found.rows
        elif before is not None:
            driver, rows = before.statement.fingerprint, before.rows
        else:
            return ""
        return self._scaling.add(unit.route or driver, loop.statement.fingerprint, rows, loop.distinct, keep=complete)


class _About(NamedTuple):
    """What a loop of a body is about: who drove it, and how sure that is."""

    severity: Severity
    confidence: Confidence
    parent: str
    parent_sql: str
    proof: tuple[str, ...]

    @property
    def weight(self) -> tuple[int, int]:
        """For comparison: the surer one, then the graver one."""
        return CONFIDENCES.index(self.confidence), SEVERITIES.index(self.severity)


def _heard(unit: Unit, loop: Repetition) -> bool:
    """A connection may serve one request after another: without a mark, something must have given the values."""
    if unit.confidence == "strong" or unit.kind == "transaction" or loop.in_transaction:
        return True
    if loop.proven and (loop.walk or loop.parent is None or is_each(loop.parent, len(loop.executions))):
        return True
    before = loop.read_before
    enough = unit.kind == "connection" or len(loop.executions) >= MANY
    return enough and before is not None and before.rows >= loop.distinct


def _gravest(
    unit: Unit, body: Body, scales: list[Scale], tables: Tables, joined: Confidence | None
) -> tuple[Body, _About]:
    """The body with the loop first that tells most, whichever began first, and what that is about."""
    abouts = [_about(unit, body, loop, scale, tables, joined) for loop, scale in zip(body.loops, scales, strict=True)]
    best = max(range(len(abouts)), key=lambda one: (*abouts[one].weight, -one))
    loop = body.loops[best]
    return Body((loop, *(one for one in body.loops if one is not loop))), abouts[best]


def _about(unit: Unit, body: Body, loop: Repetition, scale: Scale, tables: Tables, joined: Confidence | None) -> _About:
    count = max(len(one.executions) for one in body.loops)
    before, found = loop.read_before, loop.parent
    likely = before if before is not None and before.rows in (len(loop.executions), loop.distinct) else None
    parent, parent_sql = (likely.table, likely.statement.sql) if likely is not None else ("", "")
    proof: tuple[str, ...] = ()
    if loop.walk:
        parent, parent_sql, proof = loop.table, loop.statement.sql, ("walk",)
    elif found is not None:
        parent, parent_sql = ", ".join(tables(found.execution)[:3]), found.execution.text.statement.sql
        proof = (*found.evidence, "scaling") if scale == "follows" else found.evidence
    severity: Severity = "info"
    confidence: Confidence = "candidate"
    if unit.confidence == "strong":
        severity, confidence = ("high" if count >= MANY else "medium"), "likely"
    weak = unit.confidence == "weak" and not loop.in_transaction
    if proof:
        confidence = "proven"
        if weak:
            # The rows gave the values; that one request asked for both is not known.
            kinds = {"link" if one in ("key", "names") else one for one in proof}
            severity = "info" if loop.walk else "medium" if len(kinds) > 1 else "low"
            if joined is not None:
                # What one connection showed is as sure as it was; the others' turns fill it up.
                severity, confidence = (severity, joined) if joined == "proven" else ("low", joined)
            elif (found is not None and not found.in_order) or _has_borders(unit, body, loop):
                severity, confidence = "info", "candidate"
        else:
            severity = "high" if count >= MANY else "medium"
    elif scale == "follows":
        severity = SEVERITIES[SEVERITIES.index(severity) + 1]
        confidence = "likely"
    if scale == "bounded":
        # However many rows there are, it is the same few turns: one query would save little, and may not be wanted.
        severity, confidence = "info", "candidate"
    return _About(severity, confidence, parent, parent_sql, proof)


def _connections(body: Body) -> int:
    return len({execution.connection.id for loop in body.loops for execution in loop.executions})


def _has_borders(unit: Unit, body: Body, loop: Repetition) -> bool:
    """True where something that is not of the loop stands between most of its turns: other requests have begun."""
    turns = {execution.id for execution in loop.executions}
    own = {loop.statement.fingerprint for loop in body.loops if loop.proven}
    borders = begun = 0
    bordered = False
    for execution in unit.executions:
        if execution.id in turns:
            borders += bordered and begun > 0
            begun, bordered = begun + 1, False
        elif execution.text.statement.kind in ("read", "write"):
            bordered = bordered or execution.text.statement.fingerprint not in own
    return borders >= MOST * (begun - 1)


def _finding(unit: Unit, body: Body, about: _About, tables: Tables, fresh: list[Execution]) -> Finding:
    loop = body.loops[0]
    found = None if loop.walk else loop.parent
    connections = _connections(body)
    burst = f"burst of {connections} connections" if connections > 1 else "burst of one connection"
    place = burst if unit.kind == "burst" else unit.kind
    route = f" (route {unit.route})" if unit.route else ""
    counts = " + ".join(f"{len(one.executions)}" for one in body.loops)
    queries = "one query" if len(body.loops) == 1 else f"{len(body.loops)} queries"
    names = ", ".join(dict.fromkeys(one.table for one in body.loops))
    longest_ns = max(execution.duration_ns for execution in loop.executions)
    return Finding(
        rule="n-plus-one",
        subject=loop.statement.fingerprint,
        route=unit.route,
        severity=about.severity,
        confidence=about.confidence,
        title=f"{counts} executions of {queries} on {names} in one {place}{route}",
        fingerprints=tuple(one.statement.fingerprint for one in body.loops),
        sql=loop.statement.sql,
        count=len(fresh),
        total_ns=sum(execution.duration_ns for execution in fresh),
        unit=UnitRef(
            kind=unit.kind,
            key=unit.key,
            route=unit.route,
            source=source_of(loop.executions[0].text.tags) or unit.source,
        ),
        evidence=LoopEvidence(
            executions=len(loop.executions),
            distinct=loop.distinct,
            units=1,
            database_ms=loop.total_ns / 1e6,
            gap_ms=loop.gap_ns / 1e6,
            signal=unit.signal,
            parent=about.parent,
            parent_sql=about.parent_sql,
            parent_column=loop.walk or (found.column if found is not None else ""),
            column=found.child if found is not None else "",
            proof=list(about.proof),
            coverage=round(found.coverage, 3) if found is not None else 0.0,
            saving_ms=round(max(0, loop.span_ns - longest_ns) / 1e6, 3),
            loops=[_part(one, tables) for one in body.loops] if len(body.loops) > 1 else [],
        ),
        suggestion=Suggestion(text=_advice(body, about)),
        at_ns=unit.ended_ns,
        unit_id=unit.id,
    )


def _part(loop: Repetition, tables: Tables) -> LoopPart:
    found = loop.parent if not loop.walk and loop.parent is not None and loop.parent.proven else None
    return LoopPart(
        fingerprint=loop.statement.fingerprint,
        sql=loop.statement.sql,
        table=loop.table,
        executions=len(loop.executions),
        distinct=loop.distinct,
        database_ms=loop.total_ns / 1e6,
        parent=loop.table if loop.walk else ", ".join(tables(found.execution)[:3]) if found is not None else "",
        parent_column=loop.walk or (found.column if found is not None else ""),
        column=found.child if found is not None else "",
        proof=["walk"] if loop.walk else list(found.evidence) if found is not None else [],
    )


def _query_of(loop: Repetition) -> str:
    """What reads all at once, in SQL's words; only by all columns of a key together."""
    finder = loop.finder
    if len(loop.keys) > 1:
        return f"a join, or {finder.condition} with an array for each column" if finder.keys else "a join"
    return f"a join, or {finder.condition if finder.same else '= ANY($1)'} with a list"


def _advice(body: Body, about: _About) -> str:
    loop = body.loops[0]
    count = len(loop.executions)
    eager = eager_loading(loop.executions, [loop.parent.execution] if loop.parent is not None else ())
    if loop.walk:
        words = [
            f"Each turn asks for what an earlier one answered in {loop.walk}: WITH RECURSIVE reads the whole of it in "
            "one query"
        ]
    else:
        key = f" of ({', '.join(loop.finder.keys)})" if len(loop.finder.keys) > 1 else ""
        how = f"at once with {eager}" if eager else f"in one query: {_query_of(loop)}"
        words = [f"Load all {loop.distinct} values{key} {how}"]
        if about.confidence == "proven" and loop.parent is not None:
            words.append(f"its values are {loop.parent.column} of the query on {about.parent} before")
            if loop.parent.execution.ended_ns > loop.executions[0].started_ns:
                words.append("it is still being read meanwhile: its cursor and connection stay taken for all turns")
        elif about.parent:
            words.append(f"the values are likely those of the query on {about.parent} before")
        if loop.distinct < count:
            words.append(f"{count - loop.distinct} of the {count} executions repeat an earlier value")
    if len(body.loops) > 1:
        others = ", ".join(dict.fromkeys(one.table for one in body.loops[1:]))
        words.append(f"the same for {others}, which the same code asks for one by one")
    if body.overlaps and (connections := _connections(body)) > 1:
        words.append(f"side by side on {connections} connections they hide how long they take, and hold the pool")
    return "; ".join(words) + "."
