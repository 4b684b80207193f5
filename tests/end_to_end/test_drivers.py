"""The same work directly and through `pgtattle serve` gives the same results, byte for byte, with every driver."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg import sql

from tests.conftest import Database, Serve, Served
from tests.waiting import PATIENCE

VALUES: list[Any] = [
    1,
    -(2**62),
    "it's $1 -- not /* a comment */ \\ ",
    None,
    "",
    decimal.Decimal("12345678901234567890.123456789"),
    b"\x00\xff binary",
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.UTC),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    [1, 2, None],
    True,
]

SETUP = """
    CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(12, 2), made timestamptz, data bytea, tags text[]);
    INSERT INTO item SELECT g, 'name ' || g, g / 7.0, '2024-01-01'::timestamptz + g * interval '1 hour',
        decode(md5(g::text), 'hex'), ARRAY['a' || g, NULL, ''] FROM generate_series(1, 2000) g;
"""

Work = Callable[[Database], list[Any]]


def with_psycopg(database: Database) -> list[Any]:
    results: list[Any] = []
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for value in VALUES:
            for binary in (False, True):
                cursor = connection.cursor(binary=binary)
                results.append(cursor.execute("SELECT %s", [value]).fetchall())
        for _ in range(12):
            results.append(connection.execute("SELECT * FROM item WHERE id = %s", [7]).fetchall())
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", [n]) for n in range(50)]
            results.append([cursor.fetchone() for cursor in cursors])
        with connection.transaction(), connection.cursor("held") as held:
            held.itersize = 100
            held.execute("SELECT * FROM item ORDER BY id")
            results.append(list(held))
        with connection.cursor() as cursor:
            cursor.executemany("UPDATE item SET name = %s WHERE id = %s", [(f"n{n}", n) for n in range(50)])
            results.append(cursor.rowcount)
        with connection.cursor().copy("COPY item TO STDOUT (FORMAT binary)") as copy:
            results.append(b"".join(bytes(block) for block in copy))
        connection.execute("CREATE TEMP TABLE loaded (a int, b text)")
        with connection.cursor().copy("COPY loaded FROM STDIN") as copy:
            for n in range(5000):
                copy.write_row((n, f"row {n}"))
        results.append(
            connection.execute("SELECT count(*), sum(a), md5(string_agg(b, ',' ORDER BY a)) FROM loaded").fetchall()
        )
        for failing in ("SELECT 1/0", "SELEC 1", "SELECT * FROM absent", "INSERT INTO item (id) VALUES (1)"):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(failing)
            results.append((caught.value.sqlstate, str(caught.value)))
        results.append(connection.execute("SELECT 1; SELECT 2; SELECT 3").fetchall())
        results.append(connection.execute(sql.SQL("SELECT {}").format(sql.Literal("x'y"))).fetchall())
    return results


def with_psycopg2(database: Database) -> list[Any]:
    results: list[Any] = []
    connection = psycopg2.connect(database.dsn)
    with connection, connection.cursor() as cursor:
        for value in VALUES:
            if isinstance(value, uuid.UUID):
                continue
            cursor.execute("SELECT %s", [value])
            results.append(
                [[bytes(cell) if isinstance(cell, memoryview) else cell for cell in row] for row in cursor.fetchall()]
            )
        cursor.execute("SELECT id, name, price, made, tags FROM item ORDER BY id")
        results.append(cursor.fetchall())
        psycopg2.extras.execute_values(
            cursor, "INSERT INTO item (id, name) VALUES %s", [(n, "new") for n in range(9000, 9100)]
        )
        psycopg2.extras.execute_batch(
            cursor, "UPDATE item SET name = %s WHERE id = %s", [("b", n) for n in range(9000, 9100)]
        )
        cursor.execute("SELECT id, name FROM item WHERE id >= 9000 ORDER BY id")
        results.append(cursor.fetchall())
        with connection.cursor("held") as held:
            held.execute("SELECT id FROM item ORDER BY id")
            results.append(held.fetchmany(150))
        connection.rollback()
    connection.close()
    return results


def with_asyncpg(database: Database) -> list[Any]:
    async def work() -> list[Any]:
        results: list[Any] = []
        connection = await asyncpg.connect(database.dsn)
        try:
            results.append([tuple(row) for row in await connection.fetch("SELECT * FROM item ORDER BY id")])
            for n in range(10):
                results.append(await connection.fetchval("SELECT name FROM item WHERE id = $1", n))
            await connection.executemany("UPDATE item SET name = $2 WHERE id = $1", [(n, f"a{n}") for n in range(50)])
            async with connection.transaction():
                async for row in connection.cursor("SELECT id, data FROM item ORDER BY id", prefetch=20):
                    results.append(tuple(row))
                    if len(results) > 400:
                        break
            rows = [(n, f"c{n}") for n in range(20_000, 20_200)]
            results.append(await connection.copy_records_to_table("item", records=rows, columns=["id", "name"]))
            with pytest.raises(asyncpg.UniqueViolationError) as caught:
                await connection.execute("INSERT INTO item (id) VALUES (1)")
            results.append(str(caught.value))
            heard: list[Any] = []
            await connection.add_listener("channel", lambda *notice: heard.append(notice[2:]))
            await connection.execute("NOTIFY channel, 'hello'")
            async with asyncio.timeout(PATIENCE):
                while not heard:
                    await asyncio.sleep(0.01)
            results.append(heard)
        finally:
            await connection.close()
        return results

    return asyncio.run(work())


def with_pg8000(database: Database) -> list[Any]:
    connection = pg8000.native.Connection(
        database.user, host=database.host, port=database.port, database=database.name, password=database.password
    )
    try:
        results: list[Any] = [connection.run("SELECT id, name, price, made, data, tags FROM item ORDER BY id")]
        results += [connection.run("SELECT :value", value=value) for value in VALUES if value is not None]
        with pytest.raises(pg8000.native.DatabaseError) as caught:
            connection.run("SELECT 1/0")
        results.append(caught.value.args[0]["C"])
        return results
    finally:
        connection.close()


def with_psql(database: Database) -> list[Any]:
    script = """
        SELECT * FROM item ORDER BY id LIMIT 500;
        SELECT 1 AS a \\; SELECT 2 AS b;
        \\copy (SELECT id, name FROM item ORDER BY id) TO STDOUT
        CREATE TEMP TABLE t (a int);
        COPY t FROM STDIN;
1
2
\\.
        SELECT sum(a) FROM t;
        SELECT 1/0;
        \\d item
    """
    done = subprocess.run(
        ["psql", "-X", "-v", "VERBOSITY=verbose", database.dsn],
        input=script.encode(),
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    return [done.stdout, done.stderr]


WORKS: list[Any] = [
    with_psycopg,
    with_psycopg2,
    with_asyncpg,
    with_pg8000,
    pytest.param(with_psql, marks=pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")),
]


@pytest.mark.parametrize("work", WORKS)
def test_results_are_equal(each_database: Database, serve: Serve, work: Work) -> None:
    database = each_database
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
    direct = work(database)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE item")
        connection.execute(SETUP)
    served: Served = serve(database)
    through = work(served.database)
    assert through == direct
    report = served.report()
    assert report.session.executions > 0
    assert (report.session.shed, report.session.lost, report.session.opaque_connections) == (0, 0, 0)
