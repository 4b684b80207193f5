"""What the protocol can do besides queries, with real clients: versions, start-up, addresses, large objects, news."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster, free_port
from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import await_count, cancelled, metric, settled
from tests.end_to_end.wire import Client, Frame, frame, kinds, query, startup
from tests.waiting import PATIENCE, wait_for

GREASE = {"_pq_.test_protocol_negotiation": "1", "_pq_.another": "x"}
ALIVE = Path("/proc/net/tcp")
KEEPALIVE = "02"


def asked_for(version: int, database: Database, **parameters: str) -> bytes:
    packet = startup(user=database.user, database=database.name, **parameters)
    return packet[:4] + struct.pack("!I", version) + packet[8:]


def observed(served: Served) -> None:
    assert served.report().session.opaque_connections == 0


# -- versions -------------------------------------------------------------------------------------------------------


def test_the_newest_protocol_that_both_sides_speak(each_database: Database, serve: Serve) -> None:
    """PostgreSQL 18 speaks 3.2; an older server tells the client that it does not, and they go on with 3.0."""
    served = serve(each_database)
    for version in ("3.0", "latest"):
        found = []
        for database in (each_database, served.database):
            with psycopg.connect(database.dsn, max_protocol_version=version) as connection:
                found.append(connection.pgconn.full_protocol_version)
                newest = connection.info.server_version >= 180000 and version == "latest"
                assert connection.execute("SELECT %s::int", [7]).fetchone() == (7,)
        assert found == [30002 if newest else 30000] * 2
    observed(served)


@pytest.mark.parametrize("server", [pytest.param(16, marks=pytest.mark.slow), 18])
def test_options_and_versions_of_the_future_are_the_servers_to_decline(serve: Serve, server: int) -> None:
    with Cluster(server) as cluster:
        database = Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster)
        served = serve(database)
        for version in (3 << 16 | 2, 3 << 16 | 9999):
            declines_the_future(database, served, server, version)
        await_count(served, 2)
        observed(served)


def declines_the_future(database: Database, served: Served, server: int, version: int) -> None:
    found: list[list[Frame]] = []
    for one in (database, served.database):
        with Client(one) as client:
            client.send(asked_for(version, database, **GREASE))
            login = client.until(b"Z")
            assert kinds(client.ask(query("SELECT 1"))) == b"TDCZ"
            found.append(login)
    direct, through = ([one for one in login if one.kind != b"K"] for login in found)
    assert through == direct
    keys = [len(next(one.body for one in login if one.kind == b"K")) for login in found]
    assert keys == [36 if server == 18 else 8] * 2
    (declined,) = [one.body for one in through if one.kind == b"v"]
    newest = 3 << 16 | 2 if server == 18 else 3 << 16
    assert struct.unpack_from("!II", declined) == (newest, len(GREASE))
    assert declined[8:].split(b"\0")[:-1] == [name.encode() for name in GREASE]


# -- start-up -------------------------------------------------------------------------------------------------------


def test_options_and_settings_of_the_startup_packet_reach_the_server(database: Database, serve: Serve) -> None:
    served = serve(database)
    options = "-c statement_timeout=12345 -c my.list=a\\ b,c --work_mem=1234kB"
    names = ("statement_timeout", "my.list", "work_mem", "client_encoding", "application_name")
    found = []
    for one in (database, served.database):
        with psycopg.connect(one.dsn, options=options, application_name="näme", client_encoding="latin1") as connection:
            found.append([row for name in names for row in connection.execute(f"SHOW {name}").fetchall()])
    assert found[0] == found[1]
    assert [value for (value,) in found[1][:4]] == ["12345ms", "a b,c", "1234kB", "LATIN1"]

    async def with_asyncpg() -> None:
        given = {"lock_timeout": "4321", "my.own": "it's", "extra_float_digits": "1"}
        connection = await asyncpg.connect(served.database.dsn, server_settings=given)
        try:
            assert [await connection.fetchval(f"SHOW {name}") for name in given] == ["4321ms", "it's", "1"]
        finally:
            await connection.close()

    asyncio.run(with_asyncpg())
    with pytest.raises(psycopg.OperationalError, match='unrecognized configuration parameter "no_such"'):
        psycopg.connect(served.database.dsn, options="-c no_such=1")
    observed(served)


# -- addresses ------------------------------------------------------------------------------------------------------


def run(*command: str | Path, text: str = "") -> str:
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket in it."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pgt") as name:
        yield Path(name)


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_a_unix_socket_is_where_libpq_looks_for_a_port(postgres18: Cluster, serve: Serve, folder: Path) -> None:
    dsn = f"host={postgres18.socket_folder} port={postgres18.port} user=postgres dbname=postgres"
    database = Database("postgres", "", 0, "postgres", "", postgres18)
    served = serve(
        database, "--upstream", dsn, "--listen", f"unix:{folder}", "--listen", f"unix:{folder}/.s.PGSQL.7777"
    )
    assert sorted(os.listdir(folder)) == [".s.PGSQL.5432", ".s.PGSQL.7777"]
    for port in ("5432", "7777"):
        assert run("psql", "-h", folder, "-p", port, "-U", "postgres", "-AXtc", "SELECT 1") == "1\n"
        with psycopg.connect(f"host={folder} port={port} user=postgres", autocommit=True) as connection:
            cancelled(connection, connection.cancel_safe, postgres18)
    observed(served)


def test_ipv6_on_both_sides(serve: Serve) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
    port = free_port()
    with Cluster(18, settings={"listen_addresses": "127.0.0.1,::1"}) as cluster:
        database = Database("postgres", "::1", cluster.port, cluster.user, "", cluster)
        dsn = f"postgresql://postgres@[::1]:{cluster.port}/postgres"
        served = serve(database, "--upstream", dsn, "--listen", f"[::1]:{port}")
        with psycopg.connect(f"host=::1 port={port} user=postgres", autocommit=True) as connection:
            assert connection.execute(
                "SELECT inet_client_addr() = '::1' AND inet_server_addr() = '::1'"
            ).fetchone() == (True,)
            cancelled(connection, connection.cancel_safe, cluster)
        assert settled(served) == 3


@pytest.mark.skipif(not ALIVE.exists(), reason="no /proc/net/tcp on this machine")
def test_both_legs_notice_a_peer_that_is_gone(database: Database, serve: Serve) -> None:
    """By TCP keepalive: the kernel shows which timer of a socket runs."""
    served = serve(database)
    with psycopg.connect(served.database.dsn) as connection:
        connection.execute("SELECT 1")
        # Until the last bytes are acknowledged another timer runs.
        wait_for(lambda: {kind for kind, _ in timers(served, database.port)} == {KEEPALIVE})
        left = [seconds for _, seconds in timers(served, database.port)]
        assert len(left) == 2
        assert all(0 < seconds <= 30 for seconds in left)


def timers(served: Served, server_port: int) -> list[tuple[str, float]]:
    """The timers of a proxy's connections and how long they have to run: sockets of clients and to the server."""
    fds = Path(f"/proc/{served.addresses['pid']}/fd")
    links = [os.readlink(one) for one in fds.iterdir() if one.is_symlink()]
    inodes = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    found = []
    for line in ALIVE.read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, _, _, _, inode, *_ = line.split()
        ports = [int(address.split(":")[1], 16) for address in (local, remote)]
        if inode in inodes and ports[1] and (ports[0] == served.database.port or ports[1] == server_port):
            kind, ticks = timer.split(":")
            found.append((kind, int(ticks, 16) / os.sysconf("SC_CLK_TCK")))
    return found


# -- large objects --------------------------------------------------------------------------------------------------


def test_large_objects_by_sql(database: Database, serve: Serve) -> None:
    served = serve(database)
    data = os.urandom(300_000)
    with psycopg.connect(served.database.dsn) as connection:
        row = connection.execute("SELECT lo_from_bytea(0, %b)", [data]).fetchone()
        assert row is not None
        connection.execute("SELECT lo_put(%s::oid, 100000, %b)", [row[0], b"new"])
        assert connection.execute("SELECT lo_get(%s::oid)", [row[0]]).fetchone() == (
            data[:100_000] + b"new" + data[100_003:],
        )
    assert settled(served) == 5


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_large_objects_by_function_calls(database: Database, serve: Serve, tmp_path: Path) -> None:
    """libpq's lo_import and lo_export speak the fast-path interface; what they call are no executions."""
    served = serve(database)
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(os.urandom(500_000))
    out = run(
        *("psql", "-X", "-d", served.database.dsn),
        text=f"\\lo_import {before}\n\\lo_export :LASTOID {after}\n\\lo_unlink :LASTOID\nSELECT 42;\n",
    )
    assert "42" in out
    assert after.read_bytes() == before.read_bytes()
    statements = {one.sql: one.calls for one in served.report().statements}
    assert statements["SELECT $1"] == 1
    assert not any("lo_" in sql for sql in statements if not sql.startswith("SELECT"))
    observed(served)


def test_a_function_call_that_fails_leaves_the_session_in_step(trusting: Database, serve: Serve) -> None:
    database, served = trusting, serve(trusting)

    def divide(a: int, b: int) -> bytes:
        arguments = b"".join(struct.pack("!Ii", 4, value) for value in (a, b))
        return frame(b"F", struct.pack("!IHHH", 154, 1, 1, 2) + arguments + struct.pack("!H", 1))

    answers = []
    for one in (database, served.database):
        with Client(one) as client:
            client.login()
            answers.append([client.ask(divide(84, 2)), client.ask(divide(1, 0)), client.ask(query("SELECT 1"))])
    assert answers[0] == answers[1]
    assert [kinds(answer) for answer in answers[1]] == [b"VZ", b"EZ", b"TDCZ"]
    assert answers[1][0][0].body == struct.pack("!ii", 4, 42)
    await_count(served, 1)
    observed(served)


# -- news -----------------------------------------------------------------------------------------------------------


def test_news_wake_idle_clients_at_once(database: Database, serve: Serve) -> None:
    served = serve(database)
    with (
        psycopg.connect(served.database.dsn, autocommit=True) as listener,
        psycopg.connect(served.database.dsn, autocommit=True) as speaker,
    ):
        listener.execute("LISTEN news")
        for number in range(3):
            timer = threading.Timer(0.3, speaker.execute, ["SELECT pg_notify('news', %s)", [f"{number}"]])
            timer.start()
            (news,) = listener.notifies(timeout=PATIENCE, stop_after=1)
            timer.join()
            assert (news.channel, news.payload, news.pid) == ("news", f"{number}", speaker.info.backend_pid)
        assert listener.execute("SELECT 1").fetchone() == (1,)

    async def with_asyncpg() -> None:
        connection = await asyncpg.connect(served.database.dsn)
        other = await asyncpg.connect(served.database.dsn)
        try:
            heard: asyncio.Queue[object] = asyncio.Queue()
            await connection.add_listener("news", lambda *news: heard.put_nowait(news[2:]))
            await other.execute("NOTIFY news, 'it''s'")
            async with asyncio.timeout(PATIENCE):
                assert await heard.get() == ("news", "it's")
        finally:
            await connection.close()
            await other.close()

    asyncio.run(with_asyncpg())
    assert {one.sql: one.calls for one in served.report().statements}["SELECT pg_notify($1, $2)"] == 3
    observed(served)


def test_last_words_to_an_idle_session_are_no_execution(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as idle:
        pid = idle.info.backend_pid
        with psycopg.connect(database.dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert select.select([idle.pgconn.socket], [], [], PATIENCE)[0]
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("SELECT 1")
    assert settled(served) <= 1
    assert metric(served, "pgtattle_errors_total", sqlstate="57P01") == 0


def test_one_proxy_before_another(database: Database, serve: Serve) -> None:
    inner = serve(database)
    outer = serve(inner.database)
    assert isinstance(outer.database, Database)
    with psycopg.connect(replace(outer.database).dsn, autocommit=True, max_protocol_version="latest") as connection:
        assert connection.pgconn.full_protocol_version == 30002
        cancelled(connection, connection.cancel_safe, database.cluster)
    # The outer one's side connection goes through the inner one too.
    assert settled(outer) == 2
    calls = {one.sql: one.calls for one in inner.report().statements}
    assert calls["SELECT pg_sleep($1)"] == 1
