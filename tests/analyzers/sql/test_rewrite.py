"""One query for all: each candidate is planned and run by a server, and gives the rows that the loop gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from pgtattle.analyzers.rewrites import counts_of
from pgtattle.analyzers.sql.rewrite import for_all
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Parameter
from pgtattle.proxy.execution import Execution

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
    "SELECT title FROM books WHERE author_id IN (7)",
    "SELECT title FROM books WHERE 7 = author_id",
    "SELECT title FROM books WHERE (author_id) = (7)",
    "SELECT title FROM books WHERE author_id = ANY(ARRAY[7])",
    "SELECT title FROM books WHERE author_id = SOME(ARRAY[7])",
    "SELECT title FROM books WHERE author_id OPERATOR(pg_catalog.=) 7 AND sold = 1",
    "SELECT title FROM books WHERE author_id IS NOT DISTINCT FROM 7",
    "SELECT title FROM books b WHERE b.author_id = CAST('7' AS int)",
    "SELECT title, sold FROM books WHERE (sold, author_id) = (2, 7)",
    "SELECT author_id::bigint, title FROM books WHERE author_id::bigint = '7'::text::bigint",
]
AGGREGATES = [
    "SELECT count(*) FROM books WHERE author_id = 7",
    "SELECT sum(price), max(title) FROM books WHERE author_id = 7 AND sold > 0",
]
WHETHER = [
    "SELECT 1 FROM books WHERE author_id = 7 LIMIT 1",
    "SELECT 1 FROM books WHERE author_id = 7 ORDER BY id LIMIT 1 OFFSET 0",
    "SELECT 1 FROM books WHERE author_id = 7 FETCH FIRST ROW ONLY",
    "SELECT 1 AS a FROM books WHERE author_id = 7 AND sold = 1 LIMIT 1",
]
FIRST = [
    "SELECT title FROM books WHERE author_id = 7 ORDER BY id DESC LIMIT 3",
    "SELECT id, title FROM books WHERE author_id = 7 AND sold > 0 ORDER BY price, id LIMIT 2 OFFSET 1",
    "SELECT * FROM authors WHERE id = 7 LIMIT 21",
    "SELECT title FROM books WHERE author_id = 7 ORDER BY sold, id FETCH FIRST 2 ROWS ONLY",
    "SELECT title FROM books WHERE author_id = 7 ORDER BY sold FETCH FIRST 2 ROWS WITH TIES",
]
# One row of `id`, but the query has more, or fewer.
NOT_THE_ROW = [
    "SELECT a.id, b.title FROM authors a JOIN books b ON b.author_id = a.id WHERE a.id = 7 ORDER BY b.id LIMIT 1",
    "SELECT a.id, b.id FROM books a, books b WHERE a.id = 7 AND b.sold = a.sold ORDER BY b.id LIMIT 1",
    "SELECT x.title FROM books AS x(no, id, title) WHERE x.id = 7 ORDER BY x.no LIMIT 1",
    "SELECT name FROM authors WHERE id = 7 LIMIT 0",
    "SELECT name FROM authors WHERE id = 7 OFFSET (1)",
    "SELECT name FROM authors WHERE id = 7 LIMIT 1 OFFSET 1 ROWS",
    "SELECT name FROM authors WHERE id = 7 OFFSET 2 ROWS FETCH FIRST ROW ONLY",
]
# By two columns, whose values vary together: 7 is one, 2 the other.
KEYS = [
    "SELECT title FROM books WHERE author_id = 7 AND sold = 2",
    "SELECT sold, title FROM books WHERE sold = 2 AND price > 1 AND author_id = 7 ORDER BY title",
    "SELECT b.* FROM books b JOIN authors a ON a.id = b.author_id WHERE (b.author_id, b.sold) = (7, 2)",
    "SELECT author_id, title FROM books WHERE ((7 = author_id) AND sold IN (2)) AND (price = 3 OR price = 4)",
    "SELECT title FROM books WHERE (sold, author_id) IN ((2, 7))",
    "SELECT count(*), max(price) FROM books WHERE author_id = 7 AND sold = 2",
    "SELECT 1 FROM books WHERE author_id = 7 AND sold = 2 LIMIT 1",
    "SELECT id FROM books WHERE author_id = 7 AND sold = 2 ORDER BY id LIMIT 1",
    "SELECT id FROM books WHERE author_id = 7 AND sold = 2 ORDER BY price, id OFFSET 1",
]
# What stands for one of two values is no column's own.
NO_KEY = [
    "SELECT title FROM books WHERE author_id = 7 AND sold > 2",
    "SELECT title FROM books WHERE author_id = 7 AND (sold = 2 OR sold = 3)",
    "SELECT title FROM books WHERE author_id = 7 AND NOT sold = 2",
    "SELECT title FROM books WHERE author_id = 7 AND sold = 2 + 1",
    "SELECT title, 2 FROM books WHERE author_id = 7",
    "SELECT title FROM books WHERE author_id = 7 LIMIT 2",
    "SELECT title FROM books WHERE (author_id, sold) < (7, 2)",
    "SELECT title FROM books b JOIN authors a ON a.id = b.author_id AND a.born = 2 WHERE author_id = 7",
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
    "SELECT title FROM books WHERE author_id = 7 UNION SELECT name FROM authors",
    "SELECT count(*) FROM books WHERE author_id = 7 LIMIT 1",
    "UPDATE books SET sold = 1 WHERE author_id = 7",
    "SELECT title, sold FROM books WHERE author_id = 7 ORDER BY 1",
    "SELECT title, sold FROM books WHERE author_id = 7 ORDER BY (2) DESC LIMIT 2",
    "SELECT 1 FROM books WHERE author_id = 7",
    "SELECT 1 FROM books WHERE author_id = 7 LIMIT 2",
    "SELECT 1 FROM books WHERE author_id = 7 LIMIT 1 OFFSET 1",
    "SELECT 1 FROM books WHERE author_id = 7 ORDER BY id FETCH FIRST 1 ROW WITH TIES",
    "SELECT title FROM books WHERE author_id = 7 AND EXISTS (SELECT 1 FROM authors WHERE authors.id = books.author_id)",
    "SELECT name AS title FROM authors AS wanted WHERE wanted.id = 7 ORDER BY name LIMIT 1",
    'SELECT * FROM "Wanted" WHERE author_id = 7 LIMIT 2',
    "SELECT title INTO found FROM books WHERE author_id = 7",
    "SELECT nothing that is SQL at all = 7",
]


@pytest.fixture(scope="module")
def connection(postgres18: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres18.dsn(), autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("CREATE SCHEMA rewrite")
        connection.execute("SET search_path = rewrite")
        connection.execute(SETUP)
        yield connection
        connection.execute("DROP SCHEMA rewrite CASCADE")


def counts(sql: str) -> frozenset[tuple[int, int]]:
    """What LIMIT and OFFSET are, as of a loop of one turn."""
    (text,) = Texts().read(sql)
    connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
    return counts_of([Execution(id=1, connection=connection, text=text, started_ns=0, ended_ns=1)])


def normal(sql: str) -> tuple[str, int, list[str | None]]:
    """The normal form, the placeholder that stands for the seven, and what the others stand for."""
    (text,) = Texts().read(sql)
    values: dict[int, str | None] = {slot.number: slot.value for slot in text.slots}
    seven = next(number for number, value in values.items() if value == "7")
    return text.statement.sql, seven, [values[number] for number in sorted(values)]


def query(form: str, keys: tuple[tuple[int, int], ...], *more: Any, **most: Any) -> str:
    """The query for arrays of all values."""
    batch = for_all(form, keys, *more, **most)
    assert batch is not None, form
    assert batch.again == ()
    return batch.sql


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
    one = query(form, ((seven, INT4),), counts=counts(sql))
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


def test_a_column_that_is_cast_is_told_as_it_was_compared(connection: psycopg.Connection[Any]) -> None:
    looped, together, _ = both(connection, "SELECT author_id, title FROM books WHERE author_id::text = '7'::text")
    assert together
    assert Counter(together) == Counter((str(value), *row) for value, *row in looped)


def two(sql: str) -> tuple[str, dict[int, str], tuple[int, int]]:
    """The normal form, its values, and the placeholders of 7 and 2."""
    (text,) = Texts().read(sql)
    values = {slot.number: slot.value for slot in text.slots}
    seven, second = (next(number for number, value in values.items() if value == one) for one in ("7", "2"))
    return text.statement.sql, values, (seven, second)


def looped_by_two(connection: psycopg.Connection[Any], sql: str, turns: list[tuple[int, int]]) -> list[tuple[Any, ...]]:
    """The rows of the loop, each behind the loop's values; a count of none is left out."""
    form, values, (seven, second) = two(sql)
    rows: list[tuple[Any, ...]] = []
    for one, other in turns:
        values |= {seven: str(one), second: str(other)}
        found = ask(connection, form, [values[number] for number in sorted(values)])
        rows += [(one, other, *row) for row in found if row[0] != 0]
    return rows


def same_rows(looped: list[tuple[Any, ...]], together: list[tuple[Any, ...]]) -> bool:
    """True where both have the same rows, whichever of the keys' columns the rows had already."""
    return any(
        Counter(together) == Counter(tuple(row[place] for place in places) + row[2:] for row in looped)
        for places in ((), (0,), (1,), (0, 1), (1, 0))
    )


@pytest.mark.parametrize("sql", KEYS)
def test_rows_of_a_key_of_two_columns(connection: psycopg.Connection[Any], sql: str) -> None:
    turns = [(7, 2), (3, 1), (3, 2), (5, 3), (999, 0)]
    form, values, (seven, second) = two(sql)
    one = query(form, ((seven, INT4), (second, INT4)), counts=counts(sql))
    arrays: dict[int, Any] = {**values, seven: [turn[0] for turn in turns], second: [turn[1] for turn in turns]}
    together = ask(connection, one, [arrays[number] for number in sorted(arrays)])
    looped = looped_by_two(connection, sql, turns)
    assert together
    if "LIMIT 1" in sql and "SELECT 1" in sql:
        looped = [row[:2] for row in looped]
    assert same_rows(looped, together), one


@pytest.mark.parametrize("sql", KEYS[:7])
def test_a_key_whose_types_are_not_known_shows_two_rows(connection: psycopg.Connection[Any], sql: str) -> None:
    turns = [(7, 2), (3, 1)]
    form, values, (seven, second) = two(sql)
    batch = for_all(form, ((seven, INT4), (second, 0)), counts=counts(sql))
    assert batch is not None
    assert sorted(batch.again) == sorted((seven, second))
    given: dict[int, Any] = dict(values)
    for place, number in enumerate(batch.again, start=max(values) + 1):
        given[place] = turns[1][0 if number == seven else 1]
    together = ask(connection, batch.sql, [given[number] for number in sorted(given)])
    looped = looped_by_two(connection, sql, turns)
    if "SELECT 1" in sql:
        looped = [row[:2] for row in looped]
    assert together
    assert same_rows(looped, together), batch.sql


@pytest.mark.parametrize("sql", NO_KEY)
def test_nothing_by_one_column_of_a_key(sql: str) -> None:
    form, _, (seven, second) = two(sql)
    for oid in (INT4, 0):
        assert for_all(form, ((seven, oid), (second, oid)), counts=counts(sql)) is None


def test_all_columns_of_another_table_do_not_tell_the_value(connection: psycopg.Connection[Any]) -> None:
    sql = "SELECT a.* FROM books b JOIN authors a ON a.id = b.author_id WHERE author_id = 7"
    looped, together, _ = both(connection, sql)
    assert together
    assert Counter(together) == Counter(looped)


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
    [
        "SELECT * FROM authors WHERE id = 7 LIMIT 21",
        "SELECT name FROM authors WHERE id = 7 ORDER BY name LIMIT 1",
        "SELECT name FROM authors WHERE id = 7 LIMIT (1) OFFSET 0",
        "SELECT name FROM authors WHERE id = 7 OFFSET 0 ROWS FETCH FIRST ROW ONLY",
    ],
)
def test_the_one_row_of_a_unique_key(connection: psycopg.Connection[Any], sql: str) -> None:
    form, seven, values = normal(sql)
    one = query(form, ((seven, 0),), frozenset({"id"}), counts(sql))
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
    assert for_all(form, ((seven, 0),), counts=counts(sql)) is None


@pytest.mark.parametrize("sql", NOT_THE_ROW)
def test_a_limit_is_kept_where_a_unique_key_does_not_do_the_same(connection: psycopg.Connection[Any], sql: str) -> None:
    form, seven, values = normal(sql)
    assert for_all(form, ((seven, 0),), frozenset({"id"}), counts(sql)) is None
    one = query(form, ((seven, INT4),), frozenset({"id"}), counts(sql))
    assert "LATERAL" in one
    together = ask(connection, one, [VALUES if n == seven - 1 else value for n, value in enumerate(values)])
    looped = []
    for value in VALUES:
        values[seven - 1] = str(value)
        looped += [(value, *row) for row in ask(connection, form, values)]
    assert Counter(together) == Counter(looped)


def test_whether_the_row_of_a_unique_key_is_there(connection: psycopg.Connection[Any]) -> None:
    form, seven, values = normal("SELECT 1 FROM authors WHERE id = 7")
    one = query(form, ((seven, 0),), frozenset({"id"}))
    together = ask(connection, one, [VALUES if n == seven - 1 else value for n, value in enumerate(values)])
    assert Counter(together) == Counter((value,) for value in VALUES if value <= 20)


def test_a_value_of_null_finds_no_row_either(connection: psycopg.Connection[Any]) -> None:
    form, seven, values = normal("SELECT title, sold FROM books WHERE author_id = 7")
    one = query(form, ((seven, 0),))
    given: list[Any] = [None if n == seven - 1 else value for n, value in enumerate(values)]
    assert ask(connection, form.replace(f"${seven}", "NULL"), given) == []
    assert ask(connection, one, [["NULL"] if n == seven - 1 else value for n, value in enumerate(values)]) == []


def test_a_limit_that_changes_is_not_known() -> None:
    def turn(limit: str) -> Execution:
        (text,) = Texts().read("SELECT * FROM authors WHERE id = $1 LIMIT $2 OFFSET $3")
        connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
        parameters = (Parameter(23, "7"), Parameter(20, limit), Parameter(20, "0"))
        return Execution(id=1, connection=connection, text=text, parameters=parameters, started_ns=0, ended_ns=1)

    assert counts_of([turn("21"), turn("21")]) == {(2, 2), (3, 0)}
    assert counts_of([turn("1"), turn("0")]) == {(3, 0)}


@pytest.mark.parametrize("sql", NOTHING)
def test_nothing_where_it_could_be_wrong(sql: str) -> None:
    form, seven, _ = normal(sql)
    assert for_all(form, ((seven, INT4),), counts=counts(sql)) is None


def test_hostile_text_gives_nothing() -> None:
    for sql in ("SELECT " + "(" * 2_000 + "1", "SELECT pgtattle_slot_1 FROM t WHERE a = $1", "", "$1"):
        assert for_all(sql, ((1, 0),)) is None


@pytest.mark.parametrize("oid", [20, 21, 23])
def test_an_integer_is_not_what_one_value_fits_in(oid: int) -> None:
    sql = "SELECT id FROM books WHERE author_id = $1 ORDER BY id LIMIT $2"
    one = query(sql, ((1, oid),), counts=frozenset({(2, 2)}))
    assert "UNNEST(CAST($1 AS BIGINT[]))" in one
