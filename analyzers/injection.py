"""`injection-signal`: a literal changed the structure of a statement that was known.

Enters: executions. Leaves: a finding when a text begins as a known one does, up to a literal whose values vary, and
goes on in a way that only a value with a quote in it explains. It is a signal with its evidence, never called more. Out
of scope: blocking; what a hostile value does inside a function of the server.

What is known of a place is learned: who sends it, the normal form up to the first varying string, and the statements
that followed. The order of a query builder's conditions and its `1 = 1` are learned with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.origin import source_of
from pgtattle.analyzers.repetition import is_tool
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.sql.tokens import tokenize
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.events import Slot, Text
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Confidence, InjectionEvidence, Severity, Suggestion

MIN_EXECUTIONS: Final = 50
MIN_QUOTED: Final = 3
"""Different values with a quote in them that passed, and no error of syntax: they are escaped."""
MIN_VALUES: Final = 10
MAX_VALUES: Final = 64
MAX_STATEMENTS: Final = 32
MAX_PLACES: Final = 5_000
ERRORS: Final = 3
"""Errors of a place that are a burst: someone tries what passes."""

_CLAUSES: Final = frozenset(("where", "set", "values", "having", "on"))
_GUESSED: Final = frozenset(("42601", "42703", "42P01", "22P02"))
_CONSTANT: Final = re.compile(r"\bOR (?:NOT )?\(?(\$\d+|TRUE)(?: (?:=|LIKE|>=|<=) (\$\d+))?(?!\d)")
_PROBES: Final = re.compile(
    r"\b(?:pg_sleep|lo_import|lo_export|pg_read_file|pg_read_binary_file|pg_ls_dir|dblink\w*|query_to_xml|inet_server_addr"
    r"|version)\s*\(|\b(?:pg_shadow|pg_authid)\b|\binformation_schema\.|\bpg_catalog\.|\bPROGRAM\b"
)
_ALONE: Final = frozenset(("a condition that is always true", "a second statement", "a call that probes the server"))
"""Signs that no query builder makes."""
_BROKEN: Final = "a quote that breaks the statement"


class _Place:
    """What followed one beginning of a statement: `values` as hashes, `quoted` those with a quote in them, `statements`
    as normal forms.
    """

    __slots__ = ("commented", "errors", "executions", "next_at", "quoted", "stacked", "statements", "tally", "values")

    def __init__(self) -> None:
        self.executions = 0
        self.stacked = 0
        self.commented = False
        self.errors = 0
        self.tally = Tally()
        self.next_at = 1
        self.values: set[int] = set()
        self.quoted: set[int] = set()
        self.statements: dict[str, str] = {}

    @property
    def escaped(self) -> bool:
        """True where a driver or an ORM escapes the values: what is strange behind them is the application's own."""
        return len(self.quoted) >= MIN_QUOTED and not self.errors


class Injection(Analyzer):
    """Learns what follows each varying literal, and tells what never did."""

    rules: ClassVar[tuple[str, ...]] = ("injection-signal",)

    def __init__(self) -> None:
        self._beginnings: Bounded[str, tuple[int, str]] = Bounded(2 * MAX_PLACES)
        self._places: Bounded[tuple[str, str, str], _Place] = Bounded(MAX_PLACES)

    def execution(self, execution: Execution) -> Iterable[Finding]:
        """Learn from an execution, or tell what is strange about it."""
        text = execution.text
        statement = text.statement
        if statement.kind not in ("read", "write") or not text.slots or text.truncated:
            return ()
        beginning = self._beginnings.get(statement.fingerprint)
        if beginning is None:
            beginning = _beginning(text)
            self._beginnings.put(statement.fingerprint, beginning)
        number, prefix = beginning
        if not number or is_tool(execution.connection.application) or text.tags.get("pgtattle") == "ignore":
            return ()
        record, slot = execution.connection, _slot(text, number)
        if slot is None:
            return ()
        key = (record.application or record.user, record.database, prefix)
        place = self._places.get(key)
        if place is None:
            place = _Place()
            self._places.put(key, place)
        known = place.executions >= MIN_EXECUTIONS and len(place.values) >= MIN_VALUES
        signs = _signs(execution, place, prefix) if known else []
        place.tally.touch()
        if execution.sqlstate in _GUESSED:
            place.errors += 1
        if signs:
            return self._tell(execution, place, slot, signs)
        if execution.sqlstate is None:
            place.executions += 1
            place.stacked += execution.siblings > 1
            place.commented = place.commented or _ends_in_comment(text)
            if len(place.values) < MAX_VALUES:
                place.values.add(hash(slot.value))
            if "'" in slot.value and len(place.quoted) < MIN_QUOTED:
                place.quoted.add(hash(slot.value))
            if statement.fingerprint not in place.statements and len(place.statements) < MAX_STATEMENTS:
                place.statements[statement.fingerprint] = statement.sql
        return ()

    def _tell(self, execution: Execution, place: _Place, slot: Slot, signs: list[str]) -> Iterable[Finding]:
        place.tally.add(execution.duration_ns, execution.ended_ns)
        if place.tally.count < place.next_at:
            return ()
        place.next_at = 2 * place.tally.count
        return (_finding(_Sign(execution, place, slot, signs), place),)


def _beginning(text: Text) -> tuple[int, str]:
    """The placeholder of the first string that is a value, and the normal form before it; 0 where there is none."""
    for slot in text.slots:
        if not slot.parameter and slot.kind == "string" and slot.where in _CLAUSES:
            return slot.number, text.statement.sql.partition(f"${slot.number}")[0]
    return 0, ""


def _slot(text: Text, number: int) -> Slot | None:
    """The first literal of a placeholder: the members of a list share theirs."""
    for slot in text.slots:
        if slot.number == number and not slot.parameter:
            return slot
    return None


def _signs(execution: Execution, place: _Place, prefix: str) -> list[str]:
    """What is strange about an execution that begins as the known ones of its place."""
    text = execution.text
    statement = text.statement
    signs: list[str] = []
    if execution.protocol == "simple" and execution.siblings > 1 and execution.position == 0 and not place.stacked:
        signs.append("a second statement")
    if statement.fingerprint in place.statements:
        return signs
    rest = statement.sql[len(prefix) :]
    usual = [sql[len(prefix) :] for sql in place.statements.values()]
    if _always_true(text, rest) and not any(_CONSTANT.search(one) for one in usual):
        signs.append("a condition that is always true")
    if "UNION" in rest and not any("UNION" in one for one in usual):
        signs.append("a UNION")
    probe = _PROBES.search(rest)
    if probe is not None and not any(probe[0] in one for one in usual):
        signs.append("a call that probes the server")
    if not place.commented and _ends_in_comment(text) and not any(rest.endswith(_tail(one)) for one in usual):
        signs.append("a comment that cuts off the rest")
    if execution.sqlstate == "42601":
        signs.append(_BROKEN if _ends_early(text.sql) else "a statement that is no SQL")
    return signs


def _ends_early(sql: str) -> bool:
    """True where a literal ends in the middle of a value, as in 'O'Brien', or is never closed."""
    tokens = tokenize(sql)
    for token, following in pairwise(tokens):
        if token.kind == "string" and following.kind == "word" and following.start == token.end:
            return True
    last = tokens[-1] if tokens else None
    return last is not None and last.kind == "string" and not last.text.endswith(_closing(last.text))


def _closing(literal: str) -> str:
    """What closes a literal that begins so; of a lone quote, which closes nothing, more than it has."""
    if literal[0] == "$":
        return literal[: literal.index("$", 1) + 1]
    quote = literal.index("'")
    body = literal[quote + 1 :]
    return "'" if body.endswith("'") and (len(body) - len(body.rstrip("'"))) % 2 == 1 else "''\0"


def _ends_in_comment(text: Text) -> bool:
    """True where the text ends in a comment that is no tags: dashes in a literal are none."""
    if "--" not in text.sql and ("/*" not in text.sql or text.tags):
        return False
    tokens = tokenize(text.sql)
    return bool(tokens) and tokens[-1].kind == "comment" and (tokens[-1].text.startswith("--") or not text.tags)


def _tail(rest: str) -> str:
    """What follows the varying literal itself."""
    return re.sub(r"^\$\d+", "", rest) or rest


def _always_true(text: Text, rest: str) -> bool:
    values = {f"${slot.number}": slot.value for slot in text.slots if not slot.parameter}
    for left, right in _CONSTANT.findall(rest):
        if left == "TRUE" or (right and left in values and values[left] == values.get(right)):
            return True
    return False


class _Sign:
    """One execution that was strange, without its values; `usual` is the first statement that its place had."""

    __slots__ = ("application", "database", "signs", "slot", "source", "sqlstate", "statement", "usual", "where")

    def __init__(self, execution: Execution, place: _Place, slot: Slot, signs: list[str]) -> None:
        record = execution.connection
        self.application = record.application or record.user
        self.database = record.database
        self.statement = execution.text.statement
        self.usual = next(iter(place.statements.values()), "")
        self.signs = signs
        self.slot = slot.number
        self.where = f"<{slot.kind} {len(slot.value)}> in {slot.where}"
        self.source = source_of(execution.text.tags)
        self.sqlstate = execution.sqlstate or ""


def _finding(sign: _Sign, place: _Place) -> Finding:
    statement, signs, usual = sign.statement, sign.signs, sign.usual
    burst = place.errors >= ERRORS
    severity: Severity = "medium"
    confidence: Confidence = "candidate"
    if len(signs) > 1 or _BROKEN in signs or (burst and _ALONE & set(signs)):
        # A quote that breaks out says for sure that values are pasted as they come.
        severity, confidence = "critical", "likely"
    elif _ALONE & set(signs) or burst:
        severity = "high"
    what = f"a value changed the structure of a {statement.command}"
    look = (
        f"Look where this text is put together, and bind ${sign.slot} as a parameter: a bound value cannot change the "
        "statement."
    )
    if place.escaped and _BROKEN not in signs:
        severity, confidence = "info", "candidate"
        what = f"a {statement.command} goes on in a new way behind an escaped value"
        look = (
            f"Values with quotes pass as ${sign.slot}, so the driver or ORM escapes them: likely the code wrote this."
        )
    return Finding(
        rule="injection-signal",
        subject="\0".join((sign.application, sign.database, usual)),
        severity=severity,
        confidence=confidence,
        title=f"{what}: {', '.join(signs)}",
        fingerprints=tuple(dict.fromkeys((*place.statements, statement.fingerprint)))[:2],
        sql=statement.sql,
        count=place.tally.count,
        total_ns=place.tally.total_ns,
        evidence=InjectionEvidence(
            application=sign.application,
            signs=signs,
            usual_sql=usual,
            executions=place.executions,
            values=len(place.values),
            errors=place.errors,
            slot=sign.where,
            source=sign.source,
            sqlstate=sign.sqlstate,
        ),
        suggestion=Suggestion(
            text=f"{look} Whether someone tries it from outside, the application's own log of requests tells.",
            sql=usual,
        ),
        at_ns=place.tally.last_ns,
        tally=place.tally,
        draw=lambda: _finding(sign, place),
    )
