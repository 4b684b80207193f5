"""Traffic that is as it should be: nothing is said of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess

import asyncpg
import pytest

from tests.conftest import Database, Serve

REQUESTS = 50
SLOW = pytest.mark.slow
PGBENCH_SECONDS = int(os.environ.get("PGBENCH_SECONDS", "3"))
"""Of each load; more by hand."""


@pytest.fixture
def books(database: Database) -> list[int]:
    async def fill() -> list[int]:
        connection = await asyncpg.connect(database.dsn)
        await connection.execute("CREATE TABLE books (id int PRIMARY KEY, title text, author_id int)")
        await connection.execute("INSERT INTO books SELECT n * 17, 'book ' || n, n FROM generate_series(1, 100) n")
        rows = await connection.fetch("SELECT id FROM books")
        await connection.close()
        return [row["id"] for row in rows]

    return asyncio.run(fill())


def test_requests_at_once_that_each_ask_once(serve: Serve, database: Database, books: list[int]) -> None:
    """Each on a connection of its own; then through a small pool, after one that read the list."""
    served = serve(database)
    asked = random.Random(7).sample(books, REQUESTS)

    async def alone(book: int) -> None:
        connection = await asyncpg.connect(served.database.dsn)
        assert await connection.fetchval("SELECT title FROM books WHERE id = $1", book)
        await connection.close()

    async def pooled() -> None:
        async with asyncpg.create_pool(served.database.dsn, min_size=5, max_size=5) as pool:

            async def request(book: int) -> None:
                async with pool.acquire() as connection:
                    assert await connection.fetchval("SELECT title FROM books WHERE id = $1", book)

            async with pool.acquire() as connection:
                assert len(await connection.fetch("SELECT id, title FROM books ORDER BY id LIMIT 20")) == 20
            await asyncio.gather(*map(request, asked))

    async def run() -> None:
        await asyncio.gather(*map(alone, asked))
        await pooled()

    asyncio.run(run())
    report = served.report()
    assert sum(one.calls for one in report.statements if one.sql.startswith("SELECT title FROM books")) == 2 * REQUESTS
    assert report.findings == []


@pytest.mark.skipif(shutil.which("pgbench") is None, reason="pgbench is not installed")
@pytest.mark.parametrize("script", ["-S", pytest.param("-N", marks=SLOW)])
@pytest.mark.parametrize("mode", [pytest.param("simple", marks=SLOW), "extended", pytest.param("prepared", marks=SLOW)])
def test_pgbench_at_full_speed(serve: Serve, database: Database, script: str, mode: str) -> None:
    """Under a name that is not its own, for it would be known as a tool. What is slow by its load is said."""
    environment = {**os.environ, "PGAPPNAME": "shop"}
    subprocess.run(["pgbench", "-i", "-q", "-s", "2", database.dsn], check=True, capture_output=True)
    served = serve(database)
    load = ["pgbench", "-n", script, "-M", mode, "-c", "4", "-T", str(PGBENCH_SECONDS), served.database.dsn]
    subprocess.run(load, env=environment, check=True, capture_output=True)
    report = served.report()
    assert report.session.executions > 100
    pasted = {"unparameterized"} if mode == "simple" else set()
    said = {(one.rule, one.severity) for one in report.findings if one.rule not in {"slow-query", "missing-index"}}
    assert {rule for rule, _ in said} <= pasted, said
    assert all(severity == "info" for _, severity in said)
