"""Rewrites that the server was asked about: one is shown when EXPLAIN takes it.

Enters: findings with candidates, each one statement for a whole loop; later the server's answers. Leaves: questions,
and findings that show what may be shown. `verified` is a rewrite that the server takes and expects to be cheaper than
the loop, `partly` one that it only takes; `unverified` where nobody could be asked. What the server refuses is never
shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.plan.model import read
from pgtattle.analyzers.questions import Answer, RewriteAnswer, RewriteQuestion
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.values import Key
from pgtattle.proxy.events import Parameter
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import LoopEvidence, Suggestion, SuggestionStatus, WriteLoopEvidence

MAX_REWRITES: Final = 1_000
MAX_WAITING: Final = 500
"""Rewrites that findings wait for."""
MAX_VALUES: Final = 1_000
ASK_AGAIN_NS: Final = 600_000_000_000
LONGER: Final = 2
"""A loop of so many times the turns is asked about anew: its numbers are others."""
MAX_ASKED: Final = 10
"""Questions without an answer yet: others wait for the same server."""
UNANSWERED_NS: Final = 60_000_000_000

TEXT: Final = 25
"""The oid of text."""

_PLACEHOLDER: Final = re.compile(r"\$(\d+)")

Subject = tuple[str, str]
"""A database and a statement."""
Shown = Sequence[tuple[str, int]]
"""Rewrites, each with the turns of the loop that it stands for."""


class Candidate(NamedTuple):
    """One statement for `turns` executions of a loop, with parameters to plan it with: those of so many are `given`."""

    sql: str
    values: tuple[Parameter, ...]
    first: Execution
    turns: int
    given: int


class _Rewrite:
    """What is known of a rewrite: shown as `sql` with a status and the planner's costs, once it was answered.

    `turns` are those of the loop that was asked about last, and the values of `given` of them were; `all_cost` is of
    these at once, `one_cost` of one.
    """

    __slots__ = ("all_cost", "answered", "asked_ns", "given", "one_cost", "sql", "status", "turns")

    def __init__(self) -> None:
        self.asked_ns = 0
        self.turns = self.given = 0
        self.answered = False
        self.sql = ""
        self.status: SuggestionStatus = "unverified"
        self.all_cost = self.one_cost = 0.0

    def words(self, turns: int) -> str:
        """What the planner expects, for people who look at a loop of so many turns."""
        if self.status == "unverified":
            return ""
        all_ = f"all {turns}" if turns == self.given else f"{self.given} of them"
        return f"The planner expects {self.all_cost:,.2f} for {all_} at once, and {self.one_cost:,.2f} for one alone."

    def learn(self, answer: RewriteAnswer) -> None:
        self.answered = True
        self.sql, self.status = "", "unverified"
        if answer.refused:
            return
        self.sql = _renumbered(answer.question.rewritten)
        if answer.error:
            return
        try:
            one, all_ = read(answer.before).total_cost, read(answer.after).total_cost
        except ValueError:
            return
        self.status = "verified" if all_ < self.turns * one else "partly"
        self.all_cost, self.one_cost = all_, one


class Rewrites:
    """The rewrites of one analyzer's findings."""

    def __init__(self) -> None:
        self._rewrites: Bounded[Subject, _Rewrite] = Bounded(MAX_REWRITES)
        self._asked: dict[Subject, int] = {}
        # By rewrite, until the server has answered: the latest finding of each id, and all of its rewrites.
        self._waiting: Bounded[Subject, dict[str, tuple[Finding, Shown]]] = Bounded(MAX_WAITING)

    def suggest(self, finding: Finding, candidates: Sequence[Candidate]) -> tuple[Finding, list[RewriteQuestion]]:
        """The finding with what may be shown of its rewrites now, and what is to be asked about the others.

        The loop's values go to the server that they came from, and nowhere else.
        """
        if not candidates:
            return finding, []
        database = candidates[0].first.connection.database
        statements = tuple((candidate.sql, candidate.turns) for candidate in candidates)
        questions: list[RewriteQuestion] = []
        for candidate in candidates:
            key = (database, candidate.sql)
            rewrite = self._rewrites.get(key)
            if rewrite is None:
                rewrite = _Rewrite()
                self._rewrites.put(key, rewrite)
            longer = candidate.turns >= LONGER * rewrite.turns and key not in self._asked
            due = longer or finding.at_ns - rewrite.asked_ns >= ASK_AGAIN_NS
            asks = due and self._may_ask(finding.at_ns)
            if asks:
                rewrite.asked_ns = self._asked[key] = finding.at_ns
                rewrite.turns, rewrite.given = candidate.turns, candidate.given
                questions.append(
                    RewriteQuestion(
                        database=database,
                        sql=candidate.first.text.sql,
                        parameters=candidate.first.parameters,
                        rewritten=candidate.sql,
                        values=_referred(candidate.sql, candidate.values),
                    )
                )
            if asks or not rewrite.answered:
                waiting = self._waiting.get(key) or {}
                waiting[finding.id] = (finding, statements)
                self._waiting.put(key, waiting)
        return replace(finding, suggestion=self._suggestion(finding.suggestion.text, database, statements)), questions

    def _may_ask(self, now_ns: int) -> bool:
        if len(self._asked) >= MAX_ASKED:
            # A question may have been dropped on its way.
            self._asked = {key: at_ns for key, at_ns in self._asked.items() if now_ns - at_ns < UNANSWERED_NS}
        return len(self._asked) < MAX_ASKED

    def answer(self, answer: Answer) -> list[Finding]:
        """The findings that waited for this answer, said again with it; they count no new executions."""
        if not isinstance(answer, RewriteAnswer):
            return []
        key = (answer.question.database, answer.question.rewritten)
        self._asked.pop(key, None)
        rewrite = self._rewrites.get(key)
        if rewrite is None:
            return []
        rewrite.learn(answer)
        again: list[Finding] = []
        for finding, statements in (self._waiting.pop(key) or {}).values():
            suggestion = self._suggestion(finding.suggestion.text, key[0], statements)
            evidence = finding.evidence
            if suggestion.sql and isinstance(evidence, LoopEvidence | WriteLoopEvidence):
                evidence = replace(evidence, units=0)
                again.append(replace(finding, count=0, total_ns=0, evidence=evidence, suggestion=suggestion))
        return again

    def _suggestion(self, text: str, database: str, statements: Shown) -> Suggestion:
        """The advice with the rewrites that may be shown; as sure as the least sure of them."""
        known = [(self._rewrites.get((database, sql)), turns) for sql, turns in statements]
        told = [(rewrite, turns) for rewrite, turns in known if rewrite is not None and rewrite.sql]
        shown = [rewrite for rewrite, _ in told]
        if not shown:
            return Suggestion(text=text)
        statuses = [rewrite.status for rewrite in shown]
        status: SuggestionStatus = "verified"
        if any(one != "verified" for one in statuses):
            status = "unverified" if "unverified" in statuses else "partly"
        remarks = [words for rewrite, turns in told if (words := rewrite.words(turns))]
        if any(" GROUP BY " in rewrite.sql for rewrite in shown):
            remarks.append("A value that no row has is missing from its answer.")
        words = " ".join(dict.fromkeys((text, *remarks)))
        return Suggestion(text=words, sql=";\n".join(rewrite.sql for rewrite in shown), status=status)


def _referred(sql: str, values: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """The values, those that the statement no longer has a place for being NULLs of a type: it would be asked for."""
    places = {int(number) for number in _PLACEHOLDER.findall(sql)}
    return tuple(value if place in places else Parameter(TEXT, None) for place, value in enumerate(values, start=1))


def _renumbered(sql: str) -> str:
    """The statement with its placeholders counted from 1: the server asks for the type of one that is skipped."""
    places = {
        number: place for place, number in enumerate(sorted({int(one) for one in _PLACEHOLDER.findall(sql)}), start=1)
    }
    return _PLACEHOLDER.sub(lambda found: f"${places[int(found[1])]}", sql)


def array_of(executions: Sequence[Execution], keys: Sequence[Key]) -> tuple[Parameter, ...]:
    """The parameters of a statement in which each key of a loop stands for an array of its values: one of each turn.

    What was asked for twice is there once. The others are those of the first turn. Types are left to the server. Empty
    where a value has no text.
    """
    given = values_of(executions[0])
    turns = list(dict.fromkeys(zip(*(key.values for key in keys), strict=True)))[:MAX_VALUES]
    for place, key in enumerate(keys):
        if any(value is None or value.binary is not None for value in _values(executions, key.number)):
            return ()
        given[key.number] = Parameter(0, "{" + ",".join(_quoted(turn[place]) for turn in turns) + "}")
    return _in_order(given)


def arrays_of(executions: Sequence[Execution], numbers: Collection[int]) -> tuple[Parameter, ...]:
    """The parameters of a statement in which these placeholders stand for arrays, a member for each turn.

    The others are those of the first turn.
    """
    given = values_of(executions[0])
    for number in numbers:
        members = _members(executions, number)
        if members is None:
            return ()
        given[number] = Parameter(0, members)
    return _in_order(given)


def rows_of(executions: Sequence[Execution], again: Sequence[int]) -> tuple[Parameter, ...]:
    """The parameters of two turns: all of the first, then those of the second that are said `again`."""
    given, second = values_of(executions[0]), values_of(executions[1])
    last = max(given, default=0)
    for place, number in enumerate(again, start=1):
        given[last + place] = second.get(number, Parameter(0, None))
    return _in_order(given)


def counts_of(executions: Sequence[Execution]) -> frozenset[tuple[int, int]]:
    """What the placeholders of LIMIT and OFFSET are in every turn: 0, 1, or 2 for more; without what changes."""
    limits = {slot.number for slot in executions[0].text.slots if slot.where == "limit"}
    found: set[tuple[int, int]] = set()
    for number in limits:
        given = [values_of(execution).get(number) for execution in executions]
        texts = {value.value if value is not None else None for value in given}
        (text, *others) = texts
        if not others and text is not None and text.isascii() and text.isdecimal():
            found.add((number, min(int(text), 2)))
    return frozenset(found)


def are_listed(executions: Sequence[Execution]) -> bool:
    """True where a placeholder of the normal form stands for several values of a turn: a list, or rows."""
    return any(length > 1 for execution in executions for _, length in execution.text.lists)


def values_of(execution: Execution) -> dict[int, Parameter]:
    """The values of an execution by the number of their placeholder in the normal form."""
    return {
        slot.number: execution.parameters[slot.parameter - 1] if slot.parameter else Parameter(0, slot.value)
        for slot in execution.text.slots
        if slot.parameter <= len(execution.parameters)
    }


def _in_order(given: dict[int, Parameter]) -> tuple[Parameter, ...]:
    return tuple(given.get(place, Parameter(0, None)) for place in range(1, max(given, default=0) + 1))


def _values(executions: Sequence[Execution], number: int) -> list[Parameter | None]:
    return [values_of(execution).get(number) for execution in executions]


def _members(executions: Sequence[Execution], number: int) -> str | None:
    """An array's text with the value of a placeholder in every turn. None where one has no text."""
    members: list[str] = []
    for value in _values(executions[:MAX_VALUES], number):
        if value is None or value.binary is not None or value.truncated:
            return None
        members.append("NULL" if value.value is None else _quoted(value.value))
    return "{" + ",".join(members) + "}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
