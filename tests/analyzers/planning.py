"""Questions to a real planner. One that a busy machine made too slow is asked again, as the profiler does."""

from __future__ import annotations

import asyncio

from pgtattle.analyzers.questions import Answer, Question
from pgtattle.proxy.database import Planner
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
