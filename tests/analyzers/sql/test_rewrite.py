"""One query for all: each candidate is planned and run by a server, and gives the rows that the loop gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from pgtattle.analyzers.sql.rewrite import for_all
from pgtattle.analyzers.sql.texts import Texts

INT4 = 23
VALUES = [7, 3, 5, 999, 12]

SETUP = """
    CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL, born int); CREATE TABLE books (id int PRIMARY KEY,
    author_id int REFERENCES authors, title text NOT NULL, price numeric, sold int); INSERT INTO authors SELECT n,
    'author ' || n, 1900 + n FROM generate_series(1, 20) n; INSERT INTO books SELECT n, 1 + n % 15, 'book ' || n % 9, n
    % 7, n % 4 FROM generate_series(1, 200) n;
"""

ROWS = [
    "SELECT id, name FROM authors WHERE id = 7",
    "SELECT name FROM authors WHERE id = 7",
    "SELECT * FROM authors WHERE id = 7",
    "SELECT a.id AS a_id, a.name FROM authors a WHERE a.id = 7::integer ORDER BY a.name",
    'SELECT "authors"."id", "authors"."name" FROM "authors" WHERE "authors"."id" = 7',
    "SELECT title, price FROM books WHERE author_id = 7 AND sold > 1",
    "SELECT b.title, a.name FROM books b JOIN authors a ON a.id = b.author_id WHERE b.author_id = 7",
    "SELECT upper(title) FROM books WHERE (author_id = 7) AND (sold = 2 OR sold = 3)",
]
AGGREGATES = [
    "SELECT count(*) FROM books WHERE author_id = 7",
    "SELECT sum(price), max(title) FROM books WHERE author_id = 7 AND sold > 0",
]
WHETHER = [
    "SELECT 1 FROM books WHERE author_id = 7 LIMIT 1",
    "SELECT 1 AS a FROM books WHERE author_id = 7 AND sold = 1 LIMIT 1",
]
FIRST = [
    "SELECT title FROM books WHERE author_id = 7 ORDER BY id DESC LIMIT 3",
    "SELECT id, title FROM books WHERE author_id = 7 AND sold > 0 ORDER BY price, id LIMIT 2 OFFSET 1",
    "SELECT * FROM authors WHERE id = 7 LIMIT 21",
]
NOTHING = [
    "SELECT title FROM books WHERE author_id > 7",
    "SELECT title FROM books WHERE author_id = 7 OR sold = 1",
    "SELECT title FROM books WHERE author_id = 7 FOR UPDATE",
    "SELECT DISTINCT title FROM books WHERE author_id = 7",
    "SELECT sold, count(*) FROM books WHERE author_id = 7 GROUP BY sold",
    "SELECT random(), title FROM books WHERE author_id = 7",
    "SELECT title FROM books WHERE author_id = (SELECT 7)",
    "WITH b AS (SELECT * FROM books) SELECT * FROM b WHERE author_id = 7",
    "SELECT title, row_number() OVER () FROM books WHERE author_id = 7",
    "SELECT count(*) + 1 FROM books WHERE author_id = 7",
    "SELECT title FROM books WHERE author_id IN (7)",
    "SELECT title FROM books WHERE author_id = 7 UNION SELECT name FROM authors",
    "SELECT count(*) FROM books WHERE author_id = 7 LIMIT 1",
    "UPDATE books SET sold = 1 WHERE author_id = 7",
    "not SQL at all = 7",
]


@pytest.fixture(scope="module")
def connection(postgres18: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres18.dsn(), autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("CREATE SCHEMA rewrite")
        connection.execute("SET search_path = rewrite")
        connection.execute(SETUP)
        yield connection
        connection.execute("DROP SCHEMA rewrite CASCADE")


def normal(sql: str) -> tuple[str, int, list[str | None]]:
    """The normal form, the placeholder that stands for the seven, and what the others stand for."""
    (text,) = Texts().read(sql)
    values: dict[int, str | None] = {slot.number: slot.value for slot in text.slots}
    seven = next(number for number, value in values.items() if value == "7")
    return text.statement.sql, seven, [values[number] for number in sorted(values)]


def ask(connection: psycopg.Connection[Any], sql: str, values: list[Any]) -> list[tuple[Any, ...]]:
    """Run a statement with `$n` in it, the values being literals of no type."""
    for number in range(len(values), 0, -1):
        value = values[number - 1]
        literal = "'{" + ",".join(map(str, value)) + "}'" if isinstance(value, list) else f"'{value}'"
        if not isinstance(value, list) and str(value).isdigit():
            literal = str(value)
        sql = sql.replace(f"${number}", literal)
    connection.execute("EXPLAIN " + sql)
    return connection.execute(sql).fetchall()


def both(connection: psycopg.Connection[Any], sql: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], str]:
    """The rows of the loop, each behind the loop's value; those of the one query; and its text."""
    form, seven, values = normal(sql)
    one = for_all(form, seven, INT4)
    assert one, form
    looped = []
    for value in VALUES:
        values[seven - 1] = str(value)
        looped += [(value, *row) for row in ask(connection, form, values)]
    return looped, ask(connection, one, [VALUES if n == seven - 1 else value for n, value in enumerate(values)]), one


@pytest.mark.parametrize("sql", ROWS)
def test_rows(connection: psycopg.Connection[Any], sql: str) -> None:
    looped, together, one = both(connection, sql)
    assert "ANY(" in one
    assert together
    added = len(together[0]) == len(looped[0])
    assert Counter(together) == Counter(row if added else row[1:] for row in looped)


@pytest.mark.parametrize("sql", AGGREGATES)
def test_aggregates(connection: psycopg.Connection[Any], sql: str) -> None:
    looped, together, _ = both(connection, sql)
    assert together
    assert Counter(together) == Counter(row for row in looped if row[1])


@pytest.mark.parametrize("sql", WHETHER)
def test_whether_there_are_any(connection: psycopg.Connection[Any], sql: str) -> None:
    looped, together, _ = both(connection, sql)
    assert together
    assert Counter(together) == Counter(row[:1] for row in looped)


@pytest.mark.parametrize(
    "sql",
    ["SELECT * FROM authors WHERE id = 7 LIMIT 21", "SELECT name FROM authors WHERE id = 7 ORDER BY name LIMIT 1"],
)
def test_the_one_row_of_a_unique_key(connection: psycopg.Connection[Any], sql: str) -> None:
    form, seven, values = normal(sql)
    one = for_all(form, seven, unique=frozenset({"id"}))
    assert "LIMIT" not in one
    together = ask(connection, one, [VALUES if n == seven - 1 else value for n, value in enumerate(values)])
    looped = []
    for value in VALUES:
        values[seven - 1] = str(value)
        looped += [row if len(row) > 1 else (value, *row) for row in ask(connection, form, values)]
    assert together
    assert Counter(together) == Counter(looped)


@pytest.mark.parametrize("sql", FIRST)
def test_the_first_rows_of_each(connection: psycopg.Connection[Any], sql: str) -> None:
    looped, together, one = both(connection, sql)
    assert "LATERAL" in one
    assert Counter(together) == Counter(looped)
    form, seven, _ = normal(sql)
    assert for_all(form, seven) == ""


@pytest.mark.parametrize("sql", NOTHING)
def test_nothing_where_it_could_be_wrong(sql: str) -> None:
    form, seven, _ = normal(sql)
    assert for_all(form, seven, INT4) == ""


def test_hostile_text_gives_nothing() -> None:
    for sql in ("SELECT " + "(" * 2_000 + "1", "SELECT pgtattle_slot_1 FROM t WHERE a = $1", "", "$1"):
        assert for_all(sql, 1) == ""
