"""PgBouncer on either side of the proxy, pooling sessions or transactions: what it can do alone, it can with us."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pgtattle.proxy.demo.cluster import free_port
from tests.conftest import Database, Served, serving
from tests.end_to_end.watching import cancelled
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")

SETUP = """
    DROP TABLE IF EXISTS pooled;
    CREATE TABLE pooled (id int PRIMARY KEY, name text);
    INSERT INTO pooled SELECT g, 'name ' || g FROM generate_series(1, 3000) g;
"""


@contextmanager
def bouncer(server: Database, mode: str) -> Iterator[Database]:
    """A PgBouncer before a server, or before whatever stands before one."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = user={server.user} host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {mode}\ndefault_pool_size = 5\n"
            f"ignore_startup_parameters = extra_float_digits\nlogfile = {folder}/pgbouncer.log\n"
        )
        as_user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        process = subprocess.Popen(["pgbouncer", "-q", config], stderr=subprocess.DEVNULL, **as_user)
        one = replace(server, host="127.0.0.1", port=port)
        try:
            wait_for(lambda: reachable(one))
            yield one
        finally:
            process.kill()
            process.wait()


def reachable(database: Database) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((database.host, database.port)) == 0


@dataclass(frozen=True)
class Chain:
    """Where clients connect, the proxy in the chain, and what the pooler hands out."""

    database: Database
    served: Served
    mode: str


@pytest.fixture(scope="module", params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["before", "behind"])
def chained(
    request: pytest.FixtureRequest, trusting: Database, tmp_path_factory: pytest.TempPathFactory, mode: str
) -> Iterator[Chain]:
    """The pooler before the proxy, and behind it."""
    with serving(tmp_path_factory.mktemp("chain")) as serve:
        if request.param == "before":
            served = serve(trusting)
            with bouncer(served.database, mode) as pooled:
                yield Chain(pooled, served, mode)
        else:
            with bouncer(trusting, mode) as pooled:
                served = serve(pooled)
                yield Chain(served.database, served, mode)


@pytest.fixture
def chain(trusting: Database, chained: Chain) -> Chain:
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
    return chained


def calls(chain: Chain) -> Counter[str]:
    return Counter({one.sql.lower(): one.calls for one in chain.served.report().statements})


def work(database: Database, mode: str) -> list[Any]:
    """What any pool can do; named statements only where a session is a client's own."""
    results: list[Any] = []
    threshold = 2 if mode == "session" else None
    with psycopg.connect(database.dsn, autocommit=True, prepare_threshold=threshold) as connection:
        for number in range(8):
            results += connection.execute("SELECT name FROM pooled WHERE id = %s", [number]).fetchall()
        results += connection.execute("SELECT * FROM pooled ORDER BY id").fetchall()
        results += connection.execute("SELECT 1; SELECT 2").fetchall()
        for failing in ("SELECT 1/0", "SELECT %s::int / 0"):
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute(failing, [1] if "%" in failing else None)
        with connection.transaction():
            connection.execute("UPDATE pooled SET name = 'new' WHERE id = %s", [1])
            results += connection.execute("SELECT name FROM pooled WHERE id = 1").fetchall()
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", [number]) for number in range(20)]
            results += [cursor.fetchone() for cursor in cursors]
        with connection.transaction():
            connection.execute("CREATE TEMP TABLE copied (a int) ON COMMIT DROP")
            with connection.cursor().copy("COPY copied FROM STDIN") as copy:
                for number in range(1000):
                    copy.write_row((number,))
            results += connection.execute("SELECT sum(a) FROM copied").fetchall()
        with connection.cursor().copy("COPY pooled TO STDOUT") as copy:
            results.append(b"".join(map(bytes, copy)))

    async def with_asyncpg() -> list[Any]:
        size = 100 if mode == "session" else 0
        one = await asyncpg.connect(database.dsn, statement_cache_size=size)
        try:
            found = [tuple(row) for row in await one.fetch("SELECT * FROM pooled WHERE id < $1 ORDER BY id", 50)]
            async with one.transaction():
                found += [tuple(row) async for row in one.cursor("SELECT id FROM pooled ORDER BY id", prefetch=500)]
            return found
        finally:
            await one.close()

    return results + asyncio.run(with_asyncpg())


def test_work_through_pooler_and_proxy_is_as_directly(trusting: Database, chain: Chain) -> None:
    before = calls(chain)
    through = work(chain.database, chain.mode)
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
    assert through == work(trusting, chain.mode)
    session = chain.served.report().session
    assert (session.shed, session.lost, session.opaque_connections) == (0, 0, 0)
    done = calls(chain) - before
    assert done["select name from pooled where id = $1"] == 9
    assert done["select $1::int"] == 20
    assert done["copy pooled to stdout"] == 1


def test_a_cancel_finds_its_way(chain: Chain) -> None:
    with psycopg.connect(chain.database.dsn, autocommit=True) as connection:
        for cancel in (connection.cancel, connection.cancel_safe):
            cancelled(connection, cancel, chain.database.cluster)


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.skipif(shutil.which("pgbench") is None, reason="pgbench is not installed")
def test_many_clients_share_few_sessions(trusting: Database, chain: Chain, tmp_path: Path, protocol: str) -> None:
    script = tmp_path / "script.sql"
    script.write_text("\\set id random(1, 3000)\nSELECT name FROM pooled WHERE id = :id;\n")
    clients, transactions = (20, 50) if chain.mode == "transaction" else (5, 200)
    before = calls(chain)
    done = subprocess.run(
        [
            *("pgbench", "-n", "-f", script, "-M", protocol, "-c", str(clients), "-t", str(transactions)),
            *("-h", chain.database.host, "-p", str(chain.database.port), "-U", trusting.user, trusting.name),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert f"number of transactions actually processed: {clients * transactions}/" in done.stdout
    asked = calls(chain) - before
    assert asked["select name from pooled where id = $1"] == clients * transactions


@pytest.mark.parametrize("mode", ["session"], indirect=True)
def test_a_session_of_ones_own_keeps_what_it_set(chain: Chain) -> None:
    with (
        psycopg.connect(chain.database.dsn, autocommit=True) as connection,
        psycopg.connect(chain.database.dsn, autocommit=True) as other,
    ):
        connection.execute("SET search_path = pg_catalog")
        connection.execute("PREPARE named AS SELECT $1::int + 1")
        connection.execute("LISTEN news")
        other.execute("NOTIFY news, 'one'")
        assert connection.execute("EXECUTE named(1)").fetchone() == (2,)
        assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        assert [news.payload for news in connection.notifies(timeout=PATIENCE, stop_after=1)] == ["one"]
