"""Every execution is counted once, judged by the server's own log: seen + shed + lost = what it did."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import asyncpg
import msgspec
import pg8000.native
import psycopg
import psycopg2
import pytest

from pgtattle.proxy.schema import ExecutionPage
from tests import debian
from tests.conftest import Database, Serve, Served
from tests.end_to_end.server_log import Judge, Seen, counted_by_calls, judging, plain
from tests.end_to_end.watching import report
from tests.end_to_end.wire import FLUSH, SYNC, Client, bind, execute, frame, parse, query
from tests.waiting import PATIENCE, wait_for

NUMBERS = parse("SELECT generate_series(1, 9)")
USER = "counted"
"""Whose statements are counted by pg_stat_statements: our own side connection is another's."""

RAN = {"EXECUTE made(1)": "SELECT $1::int", "FETCH FORWARD": "SELECT * FROM item"}
"""What statements with these beginnings run, in the loads here."""

SETUP = """
    CREATE TABLE item (id int PRIMARY KEY, name text);
    INSERT INTO item SELECT g, 'name ' || g FROM generate_series(1, 500) g;
    CREATE FUNCTION careful(a int, b int) RETURNS int LANGUAGE plpgsql AS $$
        DECLARE many int;
        BEGIN
            SELECT count(*) INTO many FROM item WHERE id > a;
            UPDATE item SET name = name WHERE id = many;
            RETURN a / b;
        EXCEPTION WHEN division_by_zero THEN RETURN NULL;
        END $$;
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with judging() as one:
        with psycopg.connect(one.database.dsn, autocommit=True) as connection:
            connection.execute(SETUP)
            connection.execute(f"CREATE ROLE {USER} LOGIN SUPERUSER")
        yield one


# -- loads ----------------------------------------------------------------------------------------------------------


def simple(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True, application_name=name) as connection:
        for text in ("SELECT 1", "SELECT 1; SELECT 2 ;; SELECT 3", "", ";", "SELECT careful(1, 0)", "CHECKPOINT"):
            connection.execute(text)  # type: ignore[call-overload]
        for text in (
            *("SELECT 1/0", "SELEC 1", "SELECT 1; SELECT 2; SELECT 3/0; SELECT 4", "INSERT INTO item VALUES (1)"),
            *("BEGIN; SELECT 5; SELECT 6/0; COMMIT", "SELECT * FROM nowhere"),
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(text)  # type: ignore[call-overload]
            connection.execute("ROLLBACK")
        connection.execute("DO $$ BEGIN PERFORM 1; PERFORM careful(2, 0); RAISE NOTICE 'done'; END $$")
        with pytest.raises(psycopg.errors.RaiseException):
            connection.execute("DO $$ BEGIN PERFORM 1; RAISE EXCEPTION 'no'; END $$")
        connection.execute("PREPARE made AS SELECT $1::int")
        connection.execute("EXECUTE made(1)")
        connection.execute("DEALLOCATE made")


def extended(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True, application_name=name) as connection:
        for number in range(12):
            connection.execute("SELECT name FROM item WHERE id = %s", [number])
        with connection.transaction():
            connection.execute("UPDATE item SET name = %s WHERE id = 1", ["x"])
            with suppress(psycopg.Error), connection.transaction():
                connection.execute("SELECT %s::int / 0", [1])
        with suppress(psycopg.Error), connection.transaction():
            connection.execute("SELECT %s::int FROM nowhere", [1])
        connection.cursor().executemany("UPDATE item SET name = %s WHERE id = %s", [("y", n) for n in range(30)])
        with suppress(psycopg.Error), connection.pipeline() as pipeline:
            for number in range(10):
                connection.execute("SELECT 10 / %s::int", [number - 4])
                if number % 3 == 2:
                    pipeline.sync()
        with connection.transaction(), connection.cursor("held") as held:
            held.itersize = 100
            held.execute("SELECT * FROM item")
            assert len(list(held)) >= 500


def copying(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True, application_name=name) as connection:
        connection.execute("CREATE TEMP TABLE copied (a int)")
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(2000):
                copy.write_row((number,))
        with connection.cursor().copy("COPY copied TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 2000
        with pytest.raises(psycopg.Error), connection.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write("no number\n" * 2000)
        with pytest.raises(ValueError, match="given up"), connection.cursor().copy("COPY copied FROM STDIN"):
            raise ValueError("given up")
        connection.execute("SELECT count(*) FROM copied")


def cancelling(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True, application_name=name) as connection:
        for seconds in (0.0, 0.1, 0.3):
            timer = threading.Timer(seconds, connection.cancel_safe)
            timer.start()
            with suppress(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(%s)", [seconds * 20])
            timer.join()


def with_asyncpg(database: Database, name: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(database.dsn, server_settings={"application_name": name})
        try:
            for number in range(20):
                await connection.fetch("SELECT name FROM item WHERE id = $1", number)
            async with connection.transaction():
                seen = 0
                async for _ in connection.cursor("SELECT id FROM item", prefetch=50):
                    seen += 1
                    if seen == 120:
                        break
            with suppress(asyncpg.PostgresError):
                await connection.executemany("INSERT INTO item VALUES ($1, 'n')", [(n,) for n in (9001, 1, 9002)])
            with suppress(asyncpg.PostgresError):
                await connection.fetch("SELECT $1::int / 0", 1)
            with suppress(asyncio.TimeoutError):
                await connection.execute("SELECT pg_sleep(5)", timeout=0.2)
            await connection.copy_to_table("item", source=_lines(), columns=["id", "name"])
            await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    asyncio.run(work())


async def _lines() -> AsyncIterator[bytes]:
    yield b"20001\tcopied\n"


def with_pg8000(database: Database, name: str) -> None:
    connection = pg8000.native.Connection(
        database.user, host=database.host, port=database.port, database=database.name, application_name=name
    )
    try:
        for number in range(5):
            connection.run("SELECT name FROM item WHERE id = :id", id=number)
        prepared = connection.prepare("SELECT :a::int + 1")
        for number in range(5):
            prepared.run(a=number)
        prepared.close()
        with suppress(pg8000.native.DatabaseError):
            connection.run("SELECT 1/0")
        connection.run("SELECT 1")
    finally:
        connection.close()


def with_psycopg2(database: Database, name: str) -> None:
    connection = psycopg2.connect(database.dsn, application_name=name)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1; SELECT 2")
        cursor.execute("SELECT name FROM item WHERE id = %s", [1])
        with connection.cursor("held") as held:
            held.execute("SELECT * FROM item")
            held.fetchmany(10)
    connection.close()


def with_tools(database: Database, name: str) -> None:
    environment = {**os.environ, "PGAPPNAME": name, "PGUSER": database.user}
    where = ("-h", database.host, "-p", str(database.port))
    script = "SELECT 1 \\; SELECT 2;\n\\d item\nSELECT 1/0;\n\\lo_import /dev/null\nBEGIN;\nSELECT 3;\nROLLBACK;\n"
    subprocess.run(["psql", "-X", *where, "postgres"], input=script, text=True, env=environment, capture_output=True)
    pgbench = shutil.which("pgbench") or str(debian.BINARIES / "pgbench")
    for mode in ("simple", "extended", "prepared"):
        subprocess.run(
            [pgbench, *where, "-n", "-S", "-M", mode, "-c", "3", "-t", "200", "postgres"],
            env=environment,
            capture_output=True,
            check=True,
        )


def by_hand(database: Database, name: str) -> None:
    close = frame(b"C", b"Pq\0")
    describe = frame(b"D", b"P\0")
    with Client(database) as client:
        client.login(application_name=name)
        for sent in (
            NUMBERS + bind() + execute(rows=2) + SYNC,
            query("BEGIN"),
            NUMBERS + bind(portal="p") + execute("p", 2) + FLUSH + execute("p", 2) + execute("p") + SYNC,
            NUMBERS + bind(portal="q") + execute("q", 2) + close + SYNC,
            NUMBERS + bind() + execute(rows=2) + bind() + execute() + SYNC,
            query("COMMIT"),
            parse("SELECT 1", "named") + bind("named") + describe + execute() + bind("named") + execute() + SYNC,
            parse("SELECT 1", "named") + SYNC,
            parse("SELECT 1 WHERE") + bind() + execute() + SYNC,
            parse("SELECT $1::int")
            + frame(b"B", b"\0\0\0\0\0\1" + struct.pack("!I", 2) + b"xy\0\0")
            + execute()
            + SYNC,
            bind("absent") + execute() + SYNC,
            execute("absent") + SYNC,
            (parse("SELECT 7") + bind() + execute()) * 3
            + parse("SELECT 8/0")
            + bind()
            + execute()
            + (parse("SELECT 9") + bind() + execute()) * 3
            + SYNC,
            frame(b"F", struct.pack("!IHHH", 1598, 0, 0, 0)),
            parse("") + bind() + execute() + SYNC,
        ):
            client.ask(sent)


def abandoned(database: Database, name: str) -> None:
    with Client(database) as client:
        client.login(application_name=name)
        for sent in (
            query("BEGIN"),
            NUMBERS + bind(portal="p") + execute("p", 2) + bind(portal="p") + execute("p") + SYNC,
            NUMBERS + bind() + execute() + SYNC,
            query("ROLLBACK"),
        ):
            client.ask(sent)


LOADS: dict[str, Callable[[Database, str], None]] = {
    "simple": simple,
    "extended": extended,
    "copying": copying,
    "cancelling": cancelling,
    "asyncpg": with_asyncpg,
    "pg8000": with_pg8000,
    "psycopg2": with_psycopg2,
    "tools": with_tools,
    "by-hand": by_hand,
    "abandoned": abandoned,
}
UNCOUNTED = {"abandoned"}
"""A statement whose portal is open when its transaction fails is logged, but never gets into pg_stat_statements."""


# -- judged ---------------------------------------------------------------------------------------------------------


def as_it_is_shown(executions: Counter[Seen]) -> Counter[Seen]:
    """What the server did, an EXECUTE and a FETCH by the statement that they ran."""
    found: Counter[Seen] = Counter()
    for (text, sqlstate), many in executions.items():
        ran = next((ran for beginning, ran in RAN.items() if text.startswith(beginning)), text)
        found[ran, sqlstate] += many
    return found


def through_the_api(served: Served) -> dict[str, Counter[Seen]]:
    found: dict[str, Counter[Seen]] = {}
    path = "/api/v1/executions?limit=1000"
    after: str | None = ""
    while after is not None:
        page = msgspec.json.decode(served.get(path + (f"&after={after}" if after else "")).content, type=ExecutionPage)
        for one in page.items:
            found.setdefault(one.application, Counter())[plain(one.sql), one.sqlstate or ""] += 1
        after = page.after
    return found


def test_every_statement_is_seen_once_as_the_server_logged_it(judge: Judge, serve: Serve) -> None:
    with psycopg.connect(judge.database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS pgbench_accounts (aid int PRIMARY KEY, abalance int)")
        connection.execute("CREATE TABLE IF NOT EXISTS pgbench_branches (bid int)")
        connection.execute("INSERT INTO pgbench_branches VALUES (1)")
    served = serve(judge.database, "--values", "full")
    judge.calls(USER)
    for name, load in LOADS.items():
        load(served.database if name in UNCOUNTED else replace(served.database, user=USER), name)
    session = served.report().session
    calls = judge.calls(USER)
    truth = {name: as_it_is_shown(done) for name, done in judge.executions(LOADS).items()}
    seen = through_the_api(served)
    for name in LOADS:
        assert seen[name] == truth[name], (name, seen[name] - truth[name], truth[name] - seen[name])
    assert seen.keys() == truth.keys()
    total = sum(one.total() for one in truth.values())
    assert (session.executions, session.shed, session.lost, session.opaque_connections) == (total, 0, 0, 0)
    assert calls == sum(
        many for name in LOADS.keys() - UNCOUNTED for one, many in seen[name].items() if counted_by_calls(one)
    )


@contextmanager
def mixed_load(served: Served, names: list[str]) -> Iterator[Callable[[], None]]:
    """Clients of several kinds, without a pause. Gives what waits until each has done its work once more."""
    stop = threading.Event()
    errors: list[Exception] = []
    rounds = Counter[str]()

    def work(name: str) -> None:
        load = random.Random(name).choice([simple, extended, with_pg8000, copying])
        try:
            while not stop.is_set():
                load(served.database, name)
                rounds[name] += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()

    def goes_on() -> None:
        before = rounds.copy()
        wait_for(lambda: errors or all(rounds[name] > before[name] for name in names), "a round of each client")

    try:
        yield goes_on
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not errors


def settled(served: Served) -> tuple[int, int, int]:
    session = served.report().session
    return session.executions, session.shed, session.lost


def test_what_is_shed_is_counted_as_the_server_does(judge: Judge, serve: Serve) -> None:
    served = serve(judge.database)
    names = [f"shed-{number}" for number in range(4)]
    profiler = int(served.addresses["profiler_pid"])
    with mixed_load(served, names) as goes_on:
        goes_on()
        os.kill(profiler, signal.SIGSTOP)
        big = "x" * 70_000
        with psycopg.connect(served.database.dsn, autocommit=True, application_name="big") as connection:
            for _ in range(500):
                connection.execute("SELECT length(%s)", [big])
        goes_on()
        os.kill(profiler, signal.SIGCONT)
        goes_on()
    seen, shed, lost = settled(served)
    truth = sum(one.total() for one in judge.executions([*names, "big"]).values())
    assert seen + shed + lost == truth
    assert shed > 0
    assert lost == 0


@pytest.mark.slow
def test_what_is_lost_is_counted_as_the_server_does(judge: Judge, serve: Serve) -> None:
    served = serve(judge.database)
    names = [f"lost-{number}" for number in range(4)]
    with mixed_load(served, names) as goes_on:
        for _ in range(2):
            goes_on()
            before = report(served).session.restarts
            os.kill(int(_profiler(served)), signal.SIGKILL)
            wait_for(lambda wanted=before + 1: _restarts(served) == wanted)
    seen, shed, lost = settled(served)
    truth = sum(one.total() for one in judge.executions(names).values())
    assert seen + shed + lost == truth
    assert shed + lost > 0


def _restarts(served: Served) -> int:
    with suppress(Exception):
        return report(served).session.restarts
    return -1


def _profiler(served: Served) -> int:
    """The relay's only child now."""
    pid = served.addresses["pid"]
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
        return int(children.read().split()[0])
