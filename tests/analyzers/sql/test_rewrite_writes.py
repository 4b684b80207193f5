"""One write for all: each candidate is run by a server, and leaves the table as the loop leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtattle.analyzers.rewrites import arrays_of, rows_of, values_of
from pgtattle.analyzers.sql.rewrite_writes import Write, write_all
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Parameter
from pgtattle.proxy.execution import Execution
from tests.conftest import Database

SETUP = """
    CREATE TABLE books (id int PRIMARY KEY, owner text, title text, price numeric, sold int);
    INSERT INTO books SELECT n, 'o' || n % 3, 'book ' || n, n, 0 FROM generate_series(1, 50) n;
"""
TURNS = [("7", "o1", 'Zoë \\ "x"'), ("3", "o0", "it''s {a,b}"), ("49", "o1", ""), ("999", "o2", "NULL")]
UPDATES = [
    "UPDATE books SET title = '{title}' WHERE id = {id}",
    "UPDATE books SET title = '{title}', sold = sold + {id} WHERE id = {id}",
    'UPDATE "books" SET "title" = \'{title}\' WHERE "books"."id" = {id} AND owner = \'{owner}\'',
    "UPDATE books b SET price = {id}.5 WHERE b.id = {id}::int RETURNING b.id",
    "UPDATE books SET sold = 5 WHERE id = {id} AND price < 40 RETURNING id, books.title",
    "UPDATE books SET title = '0{id}', price = {id} WHERE (id = {id} AND (owner = '{owner}'))",
    'UPDATE books AS "B" SET sold = sold + 2, title = lower(owner) WHERE id = {id}',
    'UPDATE books AS "B" SET title = DEFAULT WHERE "B".id = {id} RETURNING "B".*',
]
DELETES = [
    "DELETE FROM books WHERE id = {id}",
    "DELETE FROM books WHERE id = {id}::int AND sold = 0 RETURNING title",
    "DELETE FROM books WHERE id = {id} AND owner = '{owner}'",
    'DELETE FROM books AS "B" WHERE id = {id} AND "B".sold = 0 RETURNING id',
]
INSERTS = [
    "INSERT INTO books (id, title) VALUES (10{id}, '{title}')",
    "INSERT INTO books VALUES (10{id}::int, '{owner}', '{title}', DEFAULT, 0) ON CONFLICT (id) DO NOTHING RETURNING id",
    "INSERT INTO books (id, title, price) VALUES (10{id}, upper('{title}'), 10{id}.25)",
    "INSERT INTO books (id, title) VALUES (10{id}, current_date::text) ON CONFLICT DO NOTHING",
]
NOTHING = [
    "UPDATE books SET title = 'x' WHERE id = 1 OR id = 2",
    "UPDATE books SET title = 'x' WHERE id > 1",
    "UPDATE books SET title = 'x'",
    "UPDATE books SET title = a.name FROM authors a WHERE books.id = 1",
    "UPDATE books SET title = (SELECT 'x') WHERE id = 1",
    "DELETE FROM books",
    "DELETE FROM books USING authors WHERE books.id = 1",
    "DELETE FROM books WHERE id IN (1, 2)",
    "INSERT INTO books (id) SELECT 1",
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET title = 'b'",
    "INSERT INTO books (id, title) VALUES ((SELECT 1), 'a')",
    "INSERT INTO books DEFAULT VALUES",
    "WITH a AS (SELECT 1) DELETE FROM books WHERE id = 1",
    "UPDATE books SET sold = 5 WHERE id = 1 AND sold < 4",
    "UPDATE books SET id = 2 WHERE id = 1",
    "UPDATE books SET title = 'x' WHERE id = 1 AND price > 3",
    "UPDATE books SET title = 'x' WHERE id = 1 AND 'y' <> owner",
    "UPDATE books SET title = 'x' WHERE id = 1 + 2",
    "UPDATE books SET title = 'x' WHERE id = 1 RETURNING *",
    "UPDATE books SET title = 'x' WHERE id = 1 AND EXISTS (SELECT 1 FROM authors WHERE authors.id = books.id)",
    "UPDATE books AS wanted SET title = 'x' WHERE id = 1",
    "UPDATE \"Wanted\" SET title = 'x' WHERE id = 1",
    "UPDATE books SET title = title || 'x' WHERE id = 1",
    "UPDATE books SET (title, owner) = ('x', 'y') WHERE id = 1",
    "UPDATE books SET tags[1] = 'x' WHERE id = 1",
    "UPDATE books SET title = next_title(1) WHERE id = 1",
    "UPDATE books SET title = 'x' WHERE day = '2024-01-01 10:00'::date",
    "DELETE FROM books WHERE owner = lower('A')",
    "DELETE FROM books WHERE owner = coalesce('A', 'b')",
    "DELETE FROM books WHERE id = 1 + 0",
    "DELETE FROM books WHERE id = 1 AND EXISTS (SELECT 1 FROM authors WHERE authors.id = books.id)",
    "DELETE FROM books WHERE id = 1 AND sold = 2 RETURNING *",
    "DELETE FROM wanted WHERE id = 1 AND sold = 2",
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT ON CONSTRAINT c DO UPDATE SET sold = books.sold + 1",
    "INSERT INTO books (id, sold) VALUES (1, currval('authors_id_seq'))",
]


@pytest.fixture
def books(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
        yield connection


def execution(sql: str) -> Execution:
    (text,) = Texts().read(sql)
    connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
    return Execution(id=1, connection=connection, text=text, started_ns=0, ended_ns=1)


def types(one: Execution) -> tuple[tuple[int, str], ...]:
    found = []
    for slot in one.text.slots:
        is_number = slot.kind == "number"
        found.append((slot.number, "numeric" if is_number and "." in slot.value else "bigint" if is_number else "text"))
    return tuple(sorted(dict(found).items()))


def written(turns: list[Execution]) -> Write:
    """The one write for all turns."""
    values = [values_of(turn) for turn in turns]
    varying = frozenset(number for number in values[0] if len({turn[number].value for turn in values}) > 1)
    write = write_all(turns[0].statement.sql, types(turns[0]), varying)
    assert write is not None
    return write


def left(connection: psycopg.Connection[Any], *statements: tuple[str, tuple[Parameter, ...]]) -> list[Any]:
    """The table after the statements, which are then undone."""
    try:
        connection.execute("BEGIN")
        for sql, parameters in statements:
            values = [None if one.value is None else one.value.encode() for one in parameters]
            result = connection.pgconn.exec_params(sql.encode(), values)
            assert result.status in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK), (
                result.get_error_message()
            )
        return connection.execute("SELECT id, owner, title, price, sold FROM books ORDER BY id").fetchall()
    finally:
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("sql", UPDATES + DELETES)
def test_a_change_of_all_rows_leaves_what_the_loop_leaves(books: psycopg.Connection[Any], sql: str) -> None:
    turns = [execution(sql.format(id=id, owner=owner, title=title)) for id, owner, title in TURNS]
    write = written(turns)
    before, loop = left(books), left(books, *((turn.text.sql, ()) for turn in turns))
    assert before != loop
    assert left(books, (write.sql, arrays_of(turns))) == loop


@pytest.mark.parametrize("sql", INSERTS)
def test_an_insert_of_two_rows_leaves_what_two_inserts_leave(books: psycopg.Connection[Any], sql: str) -> None:
    turns = [execution(sql.format(id=id, owner=owner, title=title)) for id, owner, title in TURNS[:2]]
    write = written(turns)
    loop = left(books, *((turn.text.sql, ()) for turn in turns))
    assert left(books, (write.sql, rows_of(turns, write.again))) == loop
    assert len(loop) == 52


@pytest.mark.parametrize("sql", NOTHING)
def test_what_could_be_wrong_is_not_suggested(sql: str) -> None:
    one = execution(sql)
    assert write_all(one.statement.sql, types(one), frozenset(values_of(one))) is None


def test_a_delete_by_null_deletes_nothing(books: psycopg.Connection[Any]) -> None:
    (text,) = Texts().read("DELETE FROM books WHERE id = $1")
    turns = [
        Execution(
            id=number,
            connection=Connection(id=1, client="127.0.0.1:1", opened_ns=0),
            text=text,
            parameters=(Parameter(0, value),),
            started_ns=0,
            ended_ns=1,
        )
        for number, value in enumerate(("7", None, "7", "9"))
    ]
    write = write_all(text.statement.sql, ((1, ""),), frozenset((1,)))
    assert write is not None
    loop = left(books, *((turn.text.sql, turn.parameters) for turn in turns))
    assert left(books, (write.sql, arrays_of(turns))) == loop
    assert len(loop) == 48


def test_without_a_type_only_the_server_can_give_one() -> None:
    assert write_all("UPDATE books SET title = $1 WHERE id = $2", ((1, ""), (2, "bigint")), frozenset((1, 2))) is None
    assert write_all("DELETE FROM books WHERE id = $1 AND sold = $2", ((1, ""), (2, "")), frozenset((1,))) is None


def test_a_statement_that_is_the_same_each_time_has_no_key() -> None:
    assert write_all("UPDATE books SET title = $1 WHERE id = $2", ((1, "text"), (2, "bigint")), frozenset((1,))) is None


def test_bound_parameters_go_as_they_came() -> None:
    (text,) = Texts().read("UPDATE books SET title = $2 WHERE id = $1")
    connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
    parameters = (Parameter(23, "7"), Parameter(25, None))
    one = Execution(id=1, connection=connection, text=text, parameters=parameters, started_ns=0, ended_ns=1)
    assert {number: value.value for number, value in values_of(one).items()} == {
        slot.number: parameters[slot.parameter - 1].value for slot in text.slots
    }
    assert sorted(value.value or "" for value in arrays_of([one, one])) == ['{"7","7"}', "{NULL,NULL}"]


def test_a_whole_number_may_go_to_a_column_that_takes_others() -> None:
    """A driver's smallint, or a literal without a point, says nothing of the column that it is added to."""
    sql = "UPDATE books SET price = price + $1 WHERE id = $2 AND sold = $3"
    write = write_all(sql, ((1, "bigint"), (2, "bigint"), (3, "bigint")), frozenset((1, 2)))
    assert write is not None
    assert "unnest($1::numeric[], $2::bigint[], $3::bigint[])" in write.sql
