"""The proxy is told to go, is asked to cancel, and is reached by other roads: what clients see."""

from __future__ import annotations

import os
import signal
import threading

import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster
from tests.conftest import Database, Serve
from tests.end_to_end.pgbench import Pgbench
from tests.end_to_end.watching import backends, cancelled, refused
from tests.end_to_end.wire import Client, query
from tests.waiting import PATIENCE, wait_for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_a_running_exchange_end(database: Database, serve: Serve, number: int) -> None:
    served = serve(database)
    got: list[object] = []

    def slow() -> None:
        with psycopg.connect(served.database.dsn, autocommit=True) as connection:
            got.append(connection.execute("SELECT 'done' FROM (SELECT pg_advisory_lock(1)) AS held").fetchone())

    idle = psycopg.connect(served.database.dsn, autocommit=True)
    thread = threading.Thread(target=slow)
    with psycopg.connect(database.dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        thread.start()
        wait_for(lambda: holder.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone(), "the running exchange")
        served.process.send_signal(number)
        wait_for(lambda: refused(served.database), "a proxy that takes nobody")
        with pytest.raises(psycopg.errors.AdminShutdown, match="pgtattle is shutting down"):
            idle.execute("SELECT 1")
        assert served.process.poll() is None
    assert served.process.wait(PATIENCE) == 0
    thread.join(PATIENCE)
    assert got == [("done",)]


def test_a_drain_under_load_cuts_nothing(trusting: Database, serve: Serve) -> None:
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE answered")
    served = serve(trusting)
    with Pgbench(served.database, "SELECT nextval('answered') FROM pg_sleep(0.01);") as bench:
        wait_for(lambda: answered(trusting) > 100, "some answers")
        assert served.stop() == 0
        bench.end(2)
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        executed = answered(trusting)
        connection.execute("DROP SEQUENCE answered")
    assert bench.transactions == executed > 0


def answered(database: Database) -> int:
    with psycopg.connect(database.dsn) as connection:
        row = connection.execute("SELECT last_value FROM answered").fetchone()
    assert row is not None
    return int(row[0])


def test_a_second_signal_ends_at_once(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    with Client(served.database) as client:
        client.login(application_name="told twice")
        client.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: backends(trusting, "told twice", "PgSleep") == 1)
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(served.database), "a proxy that takes nobody")
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        assert client.rest() == b""


def test_what_does_not_end_is_ended_when_the_drain_time_is_over(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--drain", "1")
    with Client(served.database) as client:
        client.login(application_name="endless")
        client.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: backends(trusting, "endless", "PgSleep") == 1)
        assert served.stop() == 0
        assert client.rest() == b""


def test_a_login_without_a_challenge_is_noted(serve: Serve) -> None:
    with Cluster(16) as cluster:
        served = serve(Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster))
        with psycopg.connect(served.database.dsn) as connection:
            connection.execute("SELECT 1")
        assert any("asked no password of postgres" in note for note in served.report().session.notes)


def test_a_cancel_reaches_the_right_session(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        cancelled(connection, connection.cancel, database.cluster)
    (failed,) = [one for one in served.report().statements if "pg_sleep" in one.sql]
    assert failed.errors == 1


def test_unix_sockets_on_both_sides(postgres18: Cluster, tmp_path: object, serve: Serve) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        database = Database("postgres", str(postgres18.socket_folder), postgres18.port, "postgres", "", postgres18)
        dsn = f"host={postgres18.socket_folder} port={postgres18.port} user=postgres dbname=postgres"
        served = serve(database, "--upstream", dsn, "--listen", f"unix:{folder}")
        assert served.addresses["listen"].startswith("127.0.0.1")
        with psycopg.connect(f"host={folder} port=5432 user=postgres dbname=postgres") as connection:
            assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)
        assert served.stop() == 0
        assert os.listdir(folder) == []
