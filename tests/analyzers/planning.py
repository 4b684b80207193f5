"""Questions to a real planner. One that a busy machine made too slow is asked again, as the profiler does."""

from __future__ import annotations

import asyncio

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.missing_index import MissingIndex
from pgtattle.analyzers.questions import Answer, IndexQuestion, Question
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.database import Planner
from pgtattle.proxy.events import Connection, Parameter
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings
from tests.conftest import Database

TRIES = 30


def asked(database: Database, *questions: Question, password: str | None = None) -> list[Answer]:
    """The answers, in order."""
    given = database.password if password is None else password

    async def answer(question: Question) -> Answer:
        for _ in range(TRIES):
            planner = Planner(database.dsn_without_password, given, per_second=1000)
            try:
                found = await planner.ask(question)
            finally:
                await planner.close()
            if "57014" not in found.error:
                break
        return found

    async def all_() -> list[Answer]:
        return [await answer(question) for question in questions]

    return asyncio.run(all_())


def statement(
    sql: str, *parameters: Parameter, database: str = "shop", connection: int = 1, second: int = 1, ms: float = 30.0
) -> Execution:
    """An execution that began at this second."""
    of = Connection(id=connection, client="127.0.0.1:1", opened_ns=0, user="alice", database=database)
    (text,) = Texts().read(sql)
    at_ns = second * 1_000_000_000
    return Execution(
        id=second,
        connection=of,
        text=text,
        parameters=parameters,
        started_ns=at_ns,
        ended_ns=at_ns + round(ms * 1e6),
    )


def ask(
    database: Database, sql: str, *parameters: Parameter, ms: float = 30.0
) -> tuple[list[Finding], IndexQuestion | None]:
    """What `missing-index` says of one execution, with the real planner between."""
    rule = MissingIndex(RuleSettings(), FactsCache())
    outcomes = list(rule.execution(statement(sql, *parameters, database=database.name, ms=ms)))
    if not outcomes:
        return [], None
    (question,) = outcomes
    assert isinstance(question, IndexQuestion)
    (answer,) = asked(database, question)
    assert not answer.error, answer.error
    return [one for one in rule.answer(answer) if isinstance(one, Finding)], question
