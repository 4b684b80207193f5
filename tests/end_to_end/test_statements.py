"""The statement that an execution ran, however a driver has it run: prepared in a round trip of its own, by EXECUTE,
through a cursor; and what came of it: long rows, copies.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest

from pgtattle.proxy.schema import LoopEvidence
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


def loops(served: Served, name: str) -> list[tuple[str, str, str]]:
    """Confidence, parent and parent's column of the loops over the query that calls its column so."""
    return [
        (one.confidence, one.evidence.parent, one.evidence.parent_column)
        for one in served.report().findings
        if one.rule == "n-plus-one" and isinstance(one.evidence, LoopEvidence) and f" AS {name} " in one.sql
    ]


def author_by(work: Any) -> str:
    """The query for one author, another one for each way to run it."""
    return f"SELECT name AS {work.__name__} FROM authors WHERE id = "


def with_execute(database: Database, tag: str) -> None:
    with psycopg2.connect(database.dsn) as one, one.cursor() as cursor:
        cursor.execute(f"PREPARE by_id(int) AS {author_by(with_execute)} $1")
        cursor.execute("SELECT author_id FROM books ORDER BY md5(id::text) LIMIT 20" + tag)
        for (author,) in cursor.fetchall():
            cursor.execute("EXECUTE by_id(%s)" + tag, [author])


def with_a_cursor_each(database: Database, tag: str) -> None:
    with psycopg.connect(database.dsn) as one:
        for (author,) in one.execute("SELECT author_id FROM books ORDER BY md5(id::text) LIMIT 20" + tag).fetchall():
            with one.cursor("of_author") as cursor:
                cursor.execute(author_by(with_a_cursor_each) + "%s", [author]).fetchall()  # type: ignore[arg-type]


def with_batches(database: Database, tag: str) -> None:
    with psycopg2.connect(database.dsn) as one, one.cursor("books") as books, one.cursor() as authors:
        books.itersize = 7
        books.execute("SELECT author_id FROM books ORDER BY md5(id::text)" + tag)
        for (author,) in books:
            authors.execute(author_by(with_batches) + "%s", [author])


def with_a_copy(database: Database, tag: str) -> None:
    with psycopg.connect(database.dsn) as one:
        with one.cursor().copy(
            "COPY (SELECT repeat('x', 3000) AS body, author_id FROM books ORDER BY md5(id::text) LIMIT 20) "
            "TO STDOUT (FORMAT binary)" + tag
        ) as copy:
            copy.set_types(["text", "int4"])
            rows = list(copy.rows())
        for _, author in rows:
            one.execute(author_by(with_a_copy) + "%s", [author]).fetchall()  # type: ignore[arg-type]


def with_long_rows(database: Database, tag: str) -> None:
    with psycopg.connect(database.dsn) as one:
        books = "SELECT id, repeat('x', 70000) AS body, author_id FROM books ORDER BY md5(id::text) LIMIT 20"
        for *_, author in one.execute(books + tag).fetchall():
            one.execute(author_by(with_long_rows) + "%s", [author]).fetchall()  # type: ignore[arg-type]


@pytest.mark.parametrize("work", [with_execute, with_a_cursor_each, with_batches, with_a_copy, with_long_rows])
def test_a_loop_is_found_with_its_parent(served: Served, work: Any) -> None:
    name = work.__name__
    work(served.database, f" /*request_id='{name}'*/")
    assert loops(served, name) == [("proven", "books", "author_id")]


def test_an_export_in_batches_is_no_loop(served: Served) -> None:
    with psycopg2.connect(served.database.dsn) as one, one.cursor("export") as cursor:
        cursor.itersize = 2
        cursor.execute("SELECT id, shelf FROM books WHERE shelf < 7 /*request_id='export'*/")
        assert len(list(cursor)) == 42
    assert [one.rule for one in served.report().findings if one.unit and one.unit.key == "export"] == []
