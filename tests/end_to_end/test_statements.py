"""The statement that an execution ran, however a driver has it run: prepared in a round trip of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pg8000.native
import psycopg
import pytest

from tests.conftest import Database, Served

REQUESTS = 3
TURNS = 6
SETUP = """
    DROP TABLE IF EXISTS books, authors;
    CREATE TABLE authors (id int PRIMARY KEY, name text);
    CREATE TABLE books (id int PRIMARY KEY, shelf int, author_id int);
    INSERT INTO authors SELECT n * 37, 'author ' || n FROM generate_series(1, 50) n;
    INSERT INTO books SELECT n, n % 8, (1 + n * 7 % 50) * 37 FROM generate_series(1, 48) n;
"""


@pytest.fixture(autouse=True)
def shop(trusting: Database) -> None:
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute(SETUP)


def units(served: Served) -> list[dict[str, Any]]:
    served.report()
    found: list[dict[str, Any]] = served.get("/api/v1/units?limit=1000").json()["items"]
    return found


def with_psycopg(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as one:
        for request in range(REQUESTS):
            tag = f" /*request_id='psycopg{request}'*/"
            books = "SELECT id, author_id FROM books WHERE shelf = %s" + tag
            for _, author in one.execute(books, [request], prepare=True).fetchall():  # type: ignore[arg-type]
                one.execute("SELECT name FROM authors WHERE id = %s" + tag, [author], prepare=True).fetchall()  # type: ignore[arg-type]


def with_asyncpg(database: Database) -> None:
    async def work() -> None:
        one = await asyncpg.connect(database.dsn)
        for request in range(REQUESTS):
            tag = f" /*request_id='asyncpg{request}'*/"
            for row in await one.fetch("SELECT id, author_id FROM books WHERE shelf = $1" + tag, request):
                await one.fetch("SELECT name FROM authors WHERE id = $1" + tag, row["author_id"])
        await one.close()

    asyncio.run(work())


def with_pg8000(database: Database) -> None:
    one = pg8000.native.Connection(database.user, host=database.host, port=database.port, database=database.name)
    for request in range(REQUESTS):
        tag = f" /*request_id='pg8000{request}'*/"
        for _, author in one.run("SELECT id, author_id FROM books WHERE shelf = :shelf" + tag, shelf=request):
            one.run("SELECT name FROM authors WHERE id = :id" + tag, id=author)
    one.close()


@pytest.mark.parametrize("work", [with_psycopg, with_asyncpg, with_pg8000])
def test_a_request_is_told_by_its_id_where_statements_are_prepared_apart(served: Served, work: Any) -> None:
    name = work.__name__.removeprefix("with_")
    work(served.database)
    found = {unit["key"]: unit["executions"] for unit in units(served) if unit["key"].startswith(name)}
    assert found == {f"{name}{request}": 1 + TURNS for request in range(REQUESTS)}
