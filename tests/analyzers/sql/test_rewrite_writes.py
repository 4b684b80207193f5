"""One write for all: each candidate is run by a server, and leaves the table as the loop leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtattle.analyzers.rewrites import arrays_of, rows_of, values_of
from pgtattle.analyzers.sql.rewrite_keys import Batch
from pgtattle.analyzers.sql.rewrite_writes import write_all
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
    "UPDATE books SET title = 'sold', sold = sold + 1 WHERE id = {id} AND owner = '{owner}' RETURNING *",
    "UPDATE books SET title = '{title}' WHERE (owner, id) = ('{owner}', {id})",
    "UPDATE books SET title = '{title}', sold = 3 WHERE id IN ({id}) AND price > 1",
    "UPDATE books SET title = '{title}' WHERE {id} = id AND ('{owner}') = owner AND sold = 0",
]
DELETES = [
    "DELETE FROM books WHERE id = {id}",
    "DELETE FROM books WHERE id = {id}::int AND sold = 0 RETURNING title",
    "DELETE FROM books WHERE id = {id} AND owner = '{owner}'",
    'DELETE FROM books AS "B" WHERE id = {id} AND "B".sold = 0 RETURNING id',
    "DELETE FROM books WHERE (id, owner) = ({id}, '{owner}') RETURNING *",
    "DELETE FROM books WHERE (owner, id) IN (('{owner}', {id})) AND price > 1",
    "DELETE FROM books WHERE {id} = id AND sold IN (0)",
    "DELETE FROM books AS wanted WHERE owner OPERATOR(pg_catalog.=) '{owner}' AND wanted.id = {id}",
]
INSERTS = [
    "INSERT INTO books (id, title) VALUES (10{id}, '{title}')",
    "INSERT INTO books VALUES (10{id}::int, '{owner}', '{title}', DEFAULT, 0) ON CONFLICT (id) DO NOTHING RETURNING id",
    "INSERT INTO books (id, title, price) VALUES (10{id}, upper('{title}'), 10{id}.25)",
    "INSERT INTO books (id, title) VALUES (10{id}, current_date::text) ON CONFLICT DO NOTHING",
]
# Of the rows 7 and 3 both are there, and 999 is not.
UPSERTS = [
    "INSERT INTO books (id, title) VALUES ({id}, '{title}') ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    "INSERT INTO books AS b (id, owner, sold) VALUES ({id}::int, '{owner}', 1) ON CONFLICT (id) DO UPDATE SET "
    "id = excluded.id, sold = b.sold + 5 WHERE b.price < 40 RETURNING b.id",
    "MERGE INTO books b USING (VALUES ({id}::int, '{title}')) v(id, title) ON b.id = v.id "
    "WHEN MATCHED THEN UPDATE SET title = v.title",
    "MERGE INTO books b USING (SELECT {id}::int AS id, '{title}'::text AS title, 4 AS sold) AS v ON (v.id = b.id) "
    "WHEN MATCHED AND b.price > 5 THEN UPDATE SET title = v.title, sold = b.sold + v.sold "
    "WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.title)",
    "MERGE INTO books USING (VALUES ({id}, '{owner}')) AS v(no, owner) ON books.id = v.no AND books.owner = v.owner "
    "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING",
]
NOTHING = [
    "UPDATE books SET title = 'x' WHERE id = 1 OR id = 2",
    "UPDATE books SET title = 'x' WHERE id > 1",
    "UPDATE books SET title = 'x'",
    "UPDATE books SET title = a.name FROM authors a WHERE books.id = 1",
    "UPDATE books SET title = (SELECT 'x') WHERE id = 1",
    "DELETE FROM books",
    "DELETE FROM books USING authors WHERE books.id = 1",
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
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET id = excluded.id + 100",
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT (lower(title)) DO UPDATE SET sold = 1",
    "INSERT INTO books (title) VALUES ('a') ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    "INSERT INTO books (id, title) VALUES (1, 'a') ON CONFLICT ON CONSTRAINT c DO UPDATE SET sold = books.sold + 1",
    "INSERT INTO books (id, sold) VALUES (1, currval('authors_id_seq'))",
    "MERGE INTO books b USING authors v ON b.id = v.id AND v.name = 'x' WHEN MATCHED THEN DELETE",
    "MERGE INTO books b USING (SELECT 1 AS one) v ON b.id = 2 WHEN MATCHED THEN UPDATE SET title = 'x'",
    "MERGE INTO books b USING (VALUES (1)) v(id) ON b.id > v.id WHEN MATCHED THEN DELETE",
    "MERGE INTO books b USING (VALUES (1)) v(id) ON b.id = v.id OR b.sold = v.id WHEN MATCHED THEN DELETE",
    "MERGE INTO books b USING (VALUES (1)) v(id) ON b.id = v.id WHEN MATCHED THEN UPDATE SET id = v.id + 1",
    "MERGE INTO books b USING (VALUES (1)) v(id) ON b.id = v.id WHEN NOT MATCHED BY SOURCE THEN DELETE",
    "MERGE INTO books b USING (VALUES (1, 'a')) v(id, t) ON b.id = v.id WHEN MATCHED THEN UPDATE SET title = 'b'",
    "MERGE INTO books b USING (VALUES (1, 'a')) v(id, t) ON b.id = v.id WHEN MATCHED THEN UPDATE SET title = f(v.t)",
    "MERGE INTO books b USING (VALUES (1)) v(id) ON b.id = v.id WHEN MATCHED THEN UPDATE SET sold = (SELECT 5)",
    "DELETE FROM books WHERE id IS NOT DISTINCT FROM 1",
    "DELETE FROM books WHERE id::text = '1'",
    "DELETE FROM books WHERE (id, sold) > (1, 2)",
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
        found.append(
            (slot.number, "numeric" if is_number and "." in slot.value else "bigint" if is_number else "unknown")
        )
    return tuple(sorted(dict(found).items()))


def written(turns: list[Execution]) -> Batch:
    """The one write for all turns."""
    write = write_all(turns[0].statement.sql, types(turns[0]), varying(turns))
    assert write is not None
    return write


def varying(turns: list[Execution]) -> frozenset[int]:
    values = [values_of(turn) for turn in turns]
    return frozenset(number for number in values[0] if len({turn[number].value for turn in values}) > 1)


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
    if write.again:
        turns = turns[:2]
        loop = left(books, *((turn.text.sql, ()) for turn in turns))
        assert left(books, (write.sql, rows_of(turns, write.again))) == loop
    else:
        assert left(books, (write.sql, arrays_of(turns, varying(turns)))) == loop


@pytest.mark.parametrize("sql", INSERTS + UPSERTS)
@pytest.mark.parametrize("some", [slice(0, 2), slice(2, 4)])
def test_two_rows_leave_what_two_statements_leave(books: psycopg.Connection[Any], sql: str, some: slice) -> None:
    turns = [execution(sql.format(id=id, owner=owner, title=title)) for id, owner, title in TURNS[some]]
    write = written(turns)
    before, loop = left(books), left(books, *((turn.text.sql, ()) for turn in turns))
    assert before != loop
    assert left(books, (write.sql, rows_of(turns, write.again))) == loop
    assert bool(write.key) == (sql in UPSERTS)


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
    assert left(books, (write.sql, arrays_of(turns, {1}))) == loop
    assert len(loop) == 48


def test_without_a_type_only_the_server_can_give_one() -> None:
    assert write_all("UPDATE books SET title = $1 WHERE id = $2", ((1, ""), (2, "bigint")), frozenset((1, 2))) is None
    delete = "DELETE FROM books WHERE id = $1 AND sold = $2"
    for types, keys in ((((1, ""), (2, "")), {1, 2}), (((1, "unknown"), (2, "bigint")), {1, 2})):
        write = write_all(delete, types, frozenset(keys))
        assert write == ("DELETE FROM books WHERE (id, sold) IN (($1, $2), ($3, $4))", (1, 2), (1, 2))


def test_what_does_not_change_stays_as_it_is() -> None:
    types = ((1, ""), (2, ""), (3, "bigint"))
    one = write_all("DELETE FROM books WHERE tenant = $1 AND id = $2", types[:2], frozenset((2,)))
    assert one == ("DELETE FROM books WHERE tenant = $1 AND id = ANY($2)", (), (2,))
    other = write_all("UPDATE books SET price = $3 WHERE tenant = $1 AND id = $2", types, frozenset((2,)))
    assert other == ("UPDATE books SET price = $3 WHERE tenant = $1 AND id = ANY($2)", (), (2,))


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
    assert sorted(value.value or "" for value in arrays_of([one, one], {1, 2})) == ['{"7","7"}', "{NULL,NULL}"]


def test_a_whole_number_may_go_to_a_column_that_takes_others() -> None:
    """A driver's smallint, or a literal without a point, says nothing of the column that it is added to."""
    sql = "UPDATE books SET price = price + $1 WHERE id = $2 AND sold = $3"
    write = write_all(sql, ((1, "bigint"), (2, "bigint"), (3, "bigint")), frozenset((1, 2)))
    assert write is not None
    assert "unnest($1::numeric[], $2::bigint[])" in write.sql
