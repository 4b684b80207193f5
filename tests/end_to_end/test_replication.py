"""Replication through the proxy: forwarded to the end, looked at never. Debian's server and its tools."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from tests import debian
from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import metric
from tests.waiting import PATIENCE, wait_for

ROWS = 2_000
SETTINGS = {"wal_level": "logical", "wal_keep_size": "64MB"}
RECEIVER_SECONDS = 8
"""How long a server waits for a sign of life of a receiver."""


@contextmanager
def publisher(**settings: str) -> Iterator[Database]:
    with debian.cluster(
        authentication="scram-sha-256", password="secret", settings={**SETTINGS, **settings}
    ) as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
        yield Database("postgres", cluster.host, cluster.port, cluster.user, cluster.password, cluster)


@pytest.fixture(scope="module")
def published() -> Iterator[Database]:
    with publisher() as database:
        yield database


def command(tool: str, served: Served, *arguments: str | Path) -> list[str]:
    return [str(debian.BINARIES / tool), "-d", served.database.dsn, *map(str, arguments)]


def run(*words: str | Path) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def fill(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE item")
        connection.execute("INSERT INTO item SELECT g, 'name ' || g FROM generate_series(1, %s) g", [ROWS])


def replicating(served: Served) -> float:
    return metric(served, "pgtattle_opaque_connections_total", reason="replication")


@pytest.mark.slow
def test_a_base_backup_with_its_wal(published: Database, serve: Serve, tmp_path: Path) -> None:
    served = serve(published)
    fill(published)
    folder = tmp_path / "backup"
    run(*command("pg_basebackup", served, "-D", folder, "-X", "stream", "-c", "fast", "--manifest-checksums=SHA256"))
    run(debian.BINARIES / "pg_verifybackup", folder)
    wait_for(lambda: replicating(served) == 2)
    assert metric(served, "pgtattle_bytes_total", direction="to_client") > 20_000_000
    # Others are looked at as ever.
    with psycopg.connect(served.database.dsn) as connection:
        connection.execute("SELECT 1")
    assert served.report().session.executions == 3


def test_wal_is_received_and_the_server_can_shut_down_cleanly(serve: Serve, tmp_path: Path) -> None:
    """A walsender that shuts down waits until the last of its bytes was confirmed: both directions must go on."""
    with publisher() as database:
        served = serve(database)
        run(*command("pg_receivewal", served, "--slot", "received", "--create-slot"))
        words = command("pg_receivewal", served, "-D", tmp_path, "--slot", "received", "--no-loop", "--synchronous")
        with running(words) as receiver:
            wait_for(lambda: list(tmp_path.glob("*.partial")))
            for _ in range(3):
                fill(database)
                with psycopg.connect(database.dsn, autocommit=True) as connection:
                    connection.execute("SELECT pg_switch_wal()")
            wait_for(lambda: sum(len(name) == 24 for name in os.listdir(tmp_path)) >= 3)
            database.cluster.stop()
            assert "database system is shut down" in database.cluster.log.read_text()
            receiver.wait(PATIENCE)
        first = min(name for name in os.listdir(tmp_path) if len(name) == 24)
        last = max(name for name in os.listdir(tmp_path) if len(name) == 24)
        run(debian.BINARIES / "pg_waldump", "-q", "-p", tmp_path, first, last)
        # What the server wrote last, after all others had gone, has arrived.
        (partial,) = tmp_path.glob("*.partial")
        wanted = partial.with_suffix("")
        partial.rename(wanted)
        dump = subprocess.run(
            [debian.BINARIES / "pg_waldump", "-p", tmp_path, wanted.name], capture_output=True, text=True, check=False
        )
        assert "CHECKPOINT_SHUTDOWN" in dump.stdout


@pytest.mark.slow
def test_changes_are_decoded_until_the_receiver_goes(serve: Serve, tmp_path: Path) -> None:
    with publisher(wal_sender_timeout=f"{RECEIVER_SECONDS}s") as published:
        served = serve(published)
        out = tmp_path / "changes"
        slot = ("--slot", "decoded")
        run(*command("pg_recvlogical", served, *slot, "--create-slot", "-P", "test_decoding"))
        words = command("pg_recvlogical", served, *slot, "--start", "-f", out, "--no-loop", "-F", "0", "-s", "1")
        with running(words) as receiver:
            for number in (1, 2):
                fill(published)
                wait_for(lambda wanted=number * ROWS: out.exists() and out.read_text().count("INSERT: id") == wanted)
                if number == 1:
                    # Keepalives pass both ways.
                    time.sleep(RECEIVER_SECONDS + 2)
            receiver.send_signal(signal.SIGINT)
            assert receiver.wait(PATIENCE) == 0
        run(*command("pg_recvlogical", served, *slot, "--drop-slot"))
        wait_for(lambda: replicating(served) == 3)


def test_copy_both_by_hand_and_the_session_after_it(published: Database, serve: Serve) -> None:
    """A stream of changes that the client ends in good order; the connection then takes commands again."""
    served = serve(published)
    found = []
    for database in (published, served.database):
        with psycopg.connect(database.dsn, autocommit=True, replication="database") as connection:
            server = connection.pgconn
            assert server.exec_(b"CREATE_REPLICATION_SLOT both TEMPORARY LOGICAL test_decoding").status == 2
            fill(published)
            begun = server.exec_(b"START_REPLICATION SLOT both LOGICAL 0/0")
            assert begun.status == pq.ExecStatus.COPY_BOTH
            changes: list[str] = []
            while len(changes) < ROWS:
                size, data = server.get_copy_data(0)
                assert size > 0
                if data[:1] == b"w" and bytes(data[25:]).startswith(b"table public.item: INSERT"):
                    changes.append(bytes(data[25:]).decode())
            server.put_copy_data(b"r" + struct.pack("!QQQQB", 0, 0, 0, 0, 1))
            server.put_copy_end()
            while server.get_copy_data(0)[0] > 0:
                pass
            statuses = []
            while (result := server.get_result()) is not None:
                statuses.append(result.status)
            again = server.exec_(b"IDENTIFY_SYSTEM")
            found.append((changes, statuses, again.status, again.get_value(0, 3)))
    assert found[0] == found[1]
    assert found[1][2:] == (pq.ExecStatus.TUPLES_OK, b"postgres")
    wait_for(lambda: replicating(served) == 1)
    assert served.report().session.executions == 0
