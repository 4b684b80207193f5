"""Rewrites that the server was asked about: one is shown when EXPLAIN takes it.

Enters: a loop and one statement for all of it; later the server's answer. Leaves: the question, what may be shown, and
how sure it is. `verified` is a rewrite that the server takes and expects to be cheaper than the loop, `partly` one that
it only takes; `unverified` where nobody could be asked. What the server refuses is never shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pgtattle.analyzers.analyzer import RewriteAnswer, RewriteQuestion
from pgtattle.analyzers.plan.model import read
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.proxy.events import Parameter
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import SuggestionStatus

MAX_REWRITES: Final = 1_000
MAX_VALUES: Final = 1_000
ASK_AGAIN_NS: Final = 600_000_000_000

Key = tuple[str, str]


class Rewrite(NamedTuple):
    """What may be shown: SQL with its status, and a sentence on what the planner said of it."""

    sql: str = ""
    status: SuggestionStatus = "advice"
    words: str = ""


NOTHING: Final = Rewrite()


class _Asked:
    __slots__ = ("answered", "at_ns", "rewrite", "turns")

    def __init__(self, at_ns: int, turns: int) -> None:
        self.at_ns = at_ns
        self.turns = turns
        self.answered = False
        self.rewrite = NOTHING


class Rewrites:
    """What is known of rewrites, by database and SQL."""

    def __init__(self) -> None:
        self._asked: Bounded[Key, _Asked] = Bounded(MAX_REWRITES)

    def ask(
        self, executions: Sequence[Execution], sql: str, parameters: tuple[Parameter, ...]
    ) -> RewriteQuestion | None:
        """The question whether `sql`, with these parameters, does what the loop does; None where it was asked.

        The loop's values go to the server that they came from, and nowhere else.
        """
        first, last = executions[0], executions[-1]
        key = (first.connection.database, sql)
        asked = self._asked.get(key)
        if asked is not None and last.ended_ns - asked.at_ns < ASK_AGAIN_NS:
            return None
        if asked is None:
            asked = _Asked(last.ended_ns, len(executions))
            self._asked.put(key, asked)
        asked.at_ns = last.ended_ns
        return RewriteQuestion(
            database=first.connection.database,
            sql=first.text.sql,
            parameters=first.parameters,
            rewritten=sql,
            values=parameters,
        )

    def of(self, database: str, sql: str) -> Rewrite:
        """What may be shown of a rewrite now."""
        asked = self._asked.get((database, sql))
        return asked.rewrite if asked is not None else NOTHING

    def pending(self, database: str, sql: str) -> bool:
        """True while an answer may still come, for the first time."""
        asked = self._asked.get((database, sql))
        return asked is not None and not asked.answered

    def answer(self, answer: RewriteAnswer) -> Key:
        """Take an answer; the rewrite that it is about."""
        question = answer.question
        key = (question.database, question.rewritten)
        asked = self._asked.get(key)
        if asked is None:
            return key
        asked.answered = True
        if answer.refused:
            asked.rewrite = NOTHING
        elif answer.error:
            asked.rewrite = Rewrite(question.rewritten, "unverified")
        else:
            asked.rewrite = _judged(answer, asked.turns)
        return key


def _judged(answer: RewriteAnswer, turns: int) -> Rewrite:
    try:
        one, all_ = read(answer.before).total_cost, read(answer.after).total_cost
    except ValueError:
        return Rewrite(answer.question.rewritten, "unverified")
    words = f"The planner expects {all_:,.2f} for all at once, and {one:,.2f} for each of {turns}."
    return Rewrite(answer.question.rewritten, "verified" if all_ < turns * one else "partly", words)


def array_of(executions: Sequence[Execution], number: int) -> tuple[Parameter, ...]:
    """The parameters of a statement in which `$number` stands for the array of all values of a loop.

    The others are those of the first turn. Types are left to the server.
    """
    members: dict[str, None] = {}
    for execution in executions[:MAX_VALUES]:
        for slot, value in zip(execution.text.slots, execution.values, strict=True):
            if slot.number == number and value is not None:
                members[value] = None
    first = executions[0]
    given = {
        slot.number: first.parameters[slot.parameter - 1] if slot.parameter else Parameter(0, slot.value)
        for slot in first.text.slots
    }
    given[number] = Parameter(0, "{" + ",".join(map(_member, members)) + "}")
    return tuple(given.get(place, Parameter(0, None)) for place in range(1, max(given) + 1))


def _member(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
