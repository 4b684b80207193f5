"""Traffic that is as it should be: nothing is said of it."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from tests.conftest import Database, Serve

REQUESTS = 50


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
