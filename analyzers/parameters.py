"""`unparameterized`: the application pastes values into SQL text.

Enters: executions. Leaves: a cumulative finding per statement of an application that otherwise binds, and one per
application that never does. Out of scope: text that changes its structure with a value, and plan caches.

Whether a connection binds decides what pasted text means. A connection that never did belongs to a driver that binds
in the client (psycopg2, Django's default): its text is escaped, and one `info` for the whole application says so. On a
connection that binds, a statement with varying literals was put together by hand, unless something else quotes it: an
ORM that binds its writes and none of its reads, or whatever it was that made values with quotes in them pass. Those of
a class are one `info`, too. Until a connection binds it counts for the first class; its early executions move over when
it does.

Values are kept as hashes, so that nothing a user typed stays in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from pgtattle.analyzers.advice_words import server_binding
from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.frameworks import is_generated
from pgtattle.analyzers.plural import plural
from pgtattle.analyzers.repetition import is_catalogue, is_tool
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.events import Connection, ConnectionClass, Slot, Statement, Text
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import PastedEvidence, Severity, Suggestion

MIN_EXECUTIONS: Final = 20
MIN_VALUES: Final = 10
MIN_STATEMENTS: Final = 3
MIN_VARYING: Final = 3
MIXED_SHARE: Final = 0.5
MIN_QUOTED: Final = 2
"""Different values with a quote in them that passed: those that nobody escapes end a literal early."""
NO_READS: Final = 0.05
"""Of a class's reads that bind: so few that its driver or ORM binds none."""

_QUOTED: Final = (
    "Its driver or ORM writes the values into the text, which is safe where it does the quoting, but each text is "
    "planned anew and hand-made SQL cannot be told apart."
)

MAX_CONNECTIONS: Final = 1_000
MAX_CLASSES: Final = 500
MAX_STATEMENTS: Final = 2_000
MAX_VARYING: Final = 500
MAX_SLOTS: Final = 8
MAX_VALUES: Final = 64
MAX_PLACES: Final = 10_000
MAX_TEXTS: Final = 1_024
MAX_EARLY: Final = 10
MAX_EARLY_TEXT: Final = 2_000
MAX_NAMED: Final = 20

_CLAUSES: Final = frozenset(("where", "set", "values", "having", "on"))
# A literal that is a type's or an operator's, not a value of the user: casts to moments, and the keys of JSON paths.
_OF_TYPE: Final = re.compile(r"\s*::\s*(?:date|time|timestamp|interval)")
_OF_PATH: Final = re.compile(r"(?:->>?|#>>?|\?[|&]?)\s*$")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]|$)")


class _Pasted:
    """One statement of one class, with literals in it. `values` are hashes by placeholder, `quoted` those of values
    with a quote in them that passed. `generated`: an ORM wrote it; `inlined`: it counts for its class.
    """

    __slots__ = (
        "both",
        "generated",
        "inlined",
        "most_values",
        "next_at",
        "places",
        "quoted",
        "read",
        "sample",
        "tally",
        "texts",
        "values",
    )

    def __init__(self, places: frozenset[int], read: bool, generated: bool) -> None:
        self.places = places
        self.read = read
        self.generated = generated
        self.inlined = False
        self.quoted: set[int] = set()
        self.tally = Tally()
        self.most_values = 0
        self.both = False
        self.next_at = MIN_EXECUTIONS
        self.texts: set[int] = set()
        self.values: dict[int, set[int]] = {}
        self.sample: dict[int, str] = {}

    def add(self, execution: Execution, slots: list[Slot]) -> None:
        self.tally.add(execution.duration_ns, execution.ended_ns)
        self.both = self.both or execution.binds
        if len(self.texts) < MAX_TEXTS:
            self.texts.add(hash(execution.text.sql))
        for slot in slots:
            seen = self.values.get(slot.number)
            if seen is None:
                if len(self.values) >= MAX_SLOTS:
                    continue
                seen = self.values[slot.number] = set()
                self.sample[slot.number] = f"<{slot.kind} {len(slot.value)}> in {slot.where}"
            if "'" in slot.value and len(self.quoted) < MIN_QUOTED and execution.sqlstate is None:
                self.quoted.add(hash(slot.value))
            if len(seen) < MAX_VALUES:
                seen.add(hash(slot.value))
                self.most_values = max(self.most_values, len(seen))


class _Class:
    """One class: executions that bind, a tally of those that paste, the statements that do so with several values.

    Of a class that binds, `inlined` counts the executions of those that its driver or ORM writes, and `varying` has
    these. Its reads are counted by whether they were `generated`: an ORM may bind none beside hand-made SQL that does,
    and the other way round. `by_hand` are reads that were not, with several values.
    """

    __slots__ = ("bound", "bound_reads", "by_hand", "inlined", "next_at", "pasted", "pasted_reads", "varying")

    def __init__(self) -> None:
        self.bound = 0
        self.bound_reads = [0, 0]
        self.pasted_reads = [0, 0]
        self.pasted = Tally()
        self.inlined = Tally()
        self.by_hand: set[str] = set()
        self.varying: dict[str, int] = {}
        self.next_at = MIN_EXECUTIONS

    def inlines(self, pasted: _Pasted) -> bool:
        """True where a driver or an ORM wrote the values of a statement into it, and quoted them."""
        if len(pasted.quoted) >= MIN_QUOTED:
            return True
        alike = int(pasted.generated)
        if pasted.both or self.bound_reads[alike] > NO_READS * self.pasted_reads[alike]:
            return False
        return pasted.generated or (pasted.read and len(self.by_hand) >= MIN_STATEMENTS)


class _Connection:
    """Whether a connection binds, its class, and what it pasted before it was known to bind.

    `key` and `of_class` hold while the connection is described by `record`.
    """

    __slots__ = ("binds", "early", "key", "of_class", "record", "tool")

    def __init__(self, record: Connection, key: ConnectionClass, of_class: _Class) -> None:
        self.binds = key.binds
        self.tool = is_tool(record.application)
        self.early: list[tuple[Execution, list[Slot]]] = []
        self.record = record
        self.key = key
        self.of_class = of_class


class Unparameterized(Analyzer):
    """Follows every class of connections and every statement that carries literals."""

    rules: ClassVar[tuple[str, ...]] = ("unparameterized",)

    def __init__(self, facts: FactsCache) -> None:
        self._facts = facts
        self._connections: Bounded[int, _Connection] = Bounded(MAX_CONNECTIONS)
        self._classes: Bounded[ConnectionClass, _Class] = Bounded(MAX_CLASSES)
        self._pasted: Bounded[tuple[ConnectionClass, str], _Pasted] = Bounded(MAX_STATEMENTS)
        self._places: Bounded[str, frozenset[int]] = Bounded(MAX_PLACES)
        self._generated: Bounded[str, bool] = Bounded(MAX_PLACES)

    def execution(self, execution: Execution) -> Iterable[Finding]:
        """Count an execution; a finding when a threshold is crossed, then at each doubling."""
        text = execution.text
        slots = text.slots
        if not slots or text.statement.kind not in ("read", "write"):
            return ()
        record = execution.connection
        connection = self._connections.get(record.id)
        if connection is None or connection.record is not record or (execution.binds and not connection.binds):
            connection = self._known(record, connection, execution.binds)
        if connection.tool:
            return ()
        if execution.binds:
            connection.of_class.bound += 1
            if text.statement.kind == "read":
                connection.of_class.bound_reads[self._is_generated(text)] += 1
        literals = [slot for slot in slots if not slot.parameter and slot.where in _CLAUSES]
        if not literals or text.truncated or text.tags.get("pgtattle") == "ignore":
            return ()
        if execution.siblings > 1 and execution.protocol == "simple":
            # A script: fixtures, migrations, a driver's batch.
            return ()
        return self._paste(connection, execution, literals)

    def _known(self, record: Connection, before: _Connection | None, binds: bool) -> _Connection:
        """What is known of a connection, once it is described anew or binds for the first time."""
        key = ConnectionClass(
            record.application or record.user,
            record.database,
            record.client_host,
            binds or (before is not None and before.binds),
        )
        connection = _Connection(record, key, self._class(key))
        self._connections.put(record.id, connection)
        if before is not None and key.binds and not before.binds:
            self._move(before, connection)
        elif before is not None:
            connection.early = before.early
        return connection

    def _move(self, before: _Connection, now: _Connection) -> None:
        """What a connection pasted before its first bound parameter belongs to the class that binds."""
        for execution, literals in before.early:
            fingerprint = execution.text.statement.fingerprint
            pasted = self._pasted.get((before.key, fingerprint))
            if pasted is not None:
                pasted.tally.take_back(execution.duration_ns)
                before.of_class.pasted.take_back(execution.duration_ns)
                if pasted.tally.count <= 0:
                    before.of_class.varying.pop(fingerprint, None)
            self._paste(now, execution, literals)

    def _paste(self, connection: _Connection, execution: Execution, literals: list[Slot]) -> Iterable[Finding]:
        statement = execution.text.statement
        key = (connection.key, statement.fingerprint)
        pasted = self._pasted.get(key)
        if pasted is None:
            places = self._places.get(statement.fingerprint)
            if places is None:
                places = self._find_places(execution.text)
                self._places.put(statement.fingerprint, places)
            pasted = _Pasted(places, statement.kind == "read", self._is_generated(execution.text))
            self._pasted.put(key, pasted)
        slots = [slot for slot in literals if slot.number in pasted.places and _is_value(slot)]
        if not slots:
            return ()
        pasted.add(execution, slots)
        of_class = connection.of_class
        of_class.pasted.add(execution.duration_ns, execution.ended_ns)
        if not connection.binds:
            if len(connection.early) < MAX_EARLY and len(execution.text.sql) <= MAX_EARLY_TEXT:
                connection.early.append((execution, literals))
            if pasted.most_values >= MIN_VARYING:
                if statement.fingerprint in of_class.varying or len(of_class.varying) < MAX_VARYING:
                    of_class.varying[statement.fingerprint] = pasted.tally.count
                if of_class.pasted.count >= of_class.next_at and len(of_class.varying) >= MIN_STATEMENTS:
                    of_class.next_at = 2 * of_class.pasted.count
                    return (_of_application(connection.key, of_class, server_binding(execution)),)
            return ()
        if pasted.read:
            of_class.pasted_reads[pasted.generated] += 1
            if pasted.most_values >= MIN_VARYING and not pasted.generated and len(of_class.by_hand) < MIN_STATEMENTS:
                of_class.by_hand.add(statement.fingerprint)
        if pasted.inlined:
            of_class.inlined.add(execution.duration_ns, execution.ended_ns)
            of_class.varying[statement.fingerprint] = pasted.tally.count
        if pasted.tally.count >= pasted.next_at and pasted.most_values >= MIN_VALUES:
            pasted.next_at = 2 * pasted.tally.count
            if of_class.inlines(pasted):
                return self._inline(connection.key, of_class, pasted, statement)
            tables = self._facts.of(execution.text).tables[:3]
            return (_of_statement(connection.key, of_class, pasted, statement, tables),)
        return ()

    def _is_generated(self, text: Text) -> bool:
        found = self._generated.get(text.statement.fingerprint)
        if found is None:
            found = is_generated(text.sql)
            self._generated.put(text.statement.fingerprint, found)
        return found

    @staticmethod
    def _inline(key: ConnectionClass, of_class: _Class, pasted: _Pasted, statement: Statement) -> Iterable[Finding]:
        """A statement of a driver or an ORM: told with the others of its class."""
        if not pasted.inlined and len(of_class.varying) < MAX_VARYING:
            pasted.inlined = True
            of_class.varying[statement.fingerprint] = pasted.tally.count
            of_class.inlined.add(pasted.tally.total_ns, pasted.tally.last_ns, pasted.tally.count)
        return (_of_application(key, of_class, ""),)

    def _class(self, key: ConnectionClass) -> _Class:
        found = self._classes.get(key)
        if found is None:
            found = _Class()
            self._classes.put(key, found)
        return found

    def _find_places(self, text: Text) -> frozenset[int]:
        """The placeholders of a statement where a pasted value counts."""
        if all(map(is_catalogue, self._facts.of(text).tables)):
            return frozenset()
        sql = text.statement.sql
        places: set[int] = set()
        for slot in text.slots:
            place = re.search(rf"\${slot.number}(?!\d)", sql)
            if place and not _OF_TYPE.match(sql, place.end()) and not _OF_PATH.search(sql[: place.start()][-8:]):
                places.add(slot.number)
        # Frameworks write lists of ids into the text themselves; their length is another matter.
        return frozenset(places - {number for number, _ in text.lists if not _has_rows(sql, number)})


def _of_statement(
    key: ConnectionClass, of_class: _Class, pasted: _Pasted, statement: Statement, tables: Sequence[str]
) -> Finding:
    share = of_class.bound / max(1, of_class.bound + of_class.pasted.count)
    severity: Severity = "high" if pasted.both or share >= MIXED_SHARE else "medium"
    varying = sorted(number for number, seen in pasted.values.items() if len(seen) >= MIN_VALUES)
    slots = ", ".join(f"${number}" for number in varying)
    advice = f"Pass {slots} as bound parameters"
    if of_class.inlines(pasted):
        severity = "info"
        advice = f"{_QUOTED} {advice} where it can."
    else:
        advice += ", as the rest of the application does: pasted values are open to injection and cost a plan each."
    count = pasted.tally.count
    values = pasted.most_values
    often = f"{values}+" if values >= MAX_VALUES else str(values)
    return Finding(
        rule="unparameterized",
        subject=statement.fingerprint,
        severity=severity,
        confidence="likely",
        title=f"values pasted into a {statement.command} on {', '.join(tables)}: {often} different ones in "
        f"{count} executions, where {key.application} binds {share:.0%} of its queries",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=count,
        total_ns=pasted.tally.total_ns,
        evidence=PastedEvidence(
            application=key.application,
            executions=count,
            texts=len(pasted.texts),
            slots=[f"${number}" for number in varying],
            values=values,
            bound_share=share,
            statements=1,
            examples=[pasted.sample[number] for number in varying],
        ),
        suggestion=Suggestion(
            text=advice,
            sql=statement.sql,
        ),
        at_ns=pasted.tally.last_ns,
        tally=pasted.tally,
        draw=lambda: _of_statement(key, of_class, pasted, statement, tables),
    )


def _of_application(key: ConnectionClass, of_class: _Class, how: str) -> Finding:
    statements = len(of_class.varying)
    most = sorted(of_class.varying, key=lambda fingerprint: -of_class.varying[fingerprint])[:MAX_NAMED]
    tally = of_class.inlined if key.binds else of_class.pasted
    carry = (
        f"{plural(statements, 'statement')} {'carries its' if statements == 1 else 'carry their'} values in the text"
    )
    return Finding(
        rule="unparameterized",
        subject="\0".join((key.application, key.database, key.client_host, *(("inlined",) if key.binds else ()))),
        severity="info",
        confidence="likely",
        title=f"{key.application} quotes values by its driver or ORM: {carry}"
        if key.binds
        else f"{key.application} binds no parameters: {carry}",
        fingerprints=tuple(most),
        count=tally.count,
        total_ns=tally.total_ns,
        evidence=PastedEvidence(
            application=key.application,
            executions=tally.count,
            texts=0,
            slots=[],
            values=0,
            bound_share=of_class.bound / max(1, of_class.bound + of_class.pasted.count) if key.binds else 0.0,
            statements=statements,
            examples=[],
        ),
        suggestion=Suggestion(
            text=f"{_QUOTED} Pass them as parameters where it can."
            if key.binds
            else f"{_QUOTED} Bind in the server {how}."
        ),
        at_ns=tally.last_ns,
        tally=tally,
        draw=lambda: _of_application(key, of_class, how),
    )


def _is_value(slot: Slot) -> bool:
    """False for what code writes as a constant: the empty string, a day or a moment."""
    return bool(slot.value) and not (slot.kind == "string" and slot.value[:1].isdigit() and _MOMENT.match(slot.value))


def _has_rows(sql: str, number: int) -> bool:
    """True where a collapsed list is a column of VALUES."""
    place = re.search(rf"\${number}(?!\d)", sql)
    return place is not None and "VALUES" in sql[: place.start()]
