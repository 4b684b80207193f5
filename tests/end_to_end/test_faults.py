"""The analysis dies, the upstream dies, the proxy is told to go: what clients see, and what the counters say."""

from __future__ import annotations

import os
import signal
import threading
import time

import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster
from tests.conftest import Database, Serve
from tests.end_to_end.watching import Load, answers, metric, wait_for


def test_killing_the_profiler_under_load_hurts_no_client_and_loses_no_count(database: Database, serve: Serve) -> None:
    served = serve(database)
    load = Load(served.database)
    with load.running():
        time.sleep(1.0)
        bytes_before = metric(served, "pgtattle_bytes_total")
        os.kill(int(served.addresses["profiler_pid"]), signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: answers(served), 5)
        assert time.monotonic() - killed < 4
        time.sleep(1.5)
    assert not load.errors
    found = served.report().session
    assert found.restarts == 1
    assert found.connections == 3
    assert metric(served, "pgtattle_bytes_total") > bytes_before > 0
    assert metric(served, "pgtattle_profiler_restarts_total") == 1
    # Each is counted once: looked at, shed while nobody looked, or lost with the one that was killed.
    assert found.executions + found.shed + found.lost == load.executions
    assert found.lost + found.shed > 0


def test_a_stopped_profiler_sheds_and_recovers(database: Database, serve: Serve) -> None:
    served = serve(database)
    pid = int(served.addresses["profiler_pid"])
    load = Load(served.database, 2)
    big = "x" * 300_000
    with load.running():
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        with psycopg.connect(served.database.dsn, autocommit=True) as connection:
            for number in range(120):
                connection.execute("SELECT length(%s), %s::int", [big, number])
        os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)
    assert not load.errors
    found = served.report().session
    assert found.restarts == 0
    assert found.executions + found.shed + found.lost == load.executions + 120


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_lets_a_running_exchange_end(database: Database, serve: Serve, number: int) -> None:
    served = serve(database)
    got: list[object] = []

    def slow() -> None:
        with psycopg.connect(served.database.dsn, autocommit=True) as connection:
            got.append(connection.execute("SELECT 'done' FROM pg_sleep(1.5)").fetchone())

    idle = psycopg.connect(served.database.dsn, autocommit=True)
    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.7)
    served.process.send_signal(number)
    time.sleep(0.3)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(served.database.dsn, connect_timeout=2)
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    assert served.process.wait(10) == 0
    thread.join()
    assert got == [("done",)]


def test_an_upstream_that_restarts_ends_sessions_and_takes_new_ones(serve: Serve) -> None:
    with Cluster(18) as cluster:
        database = Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster)
        served = serve(database)
        connection = psycopg.connect(served.database.dsn, autocommit=True)
        assert served.get("/readyz").status_code == 200
        cluster.stop()
        with pytest.raises(psycopg.OperationalError) as ended:
            connection.execute("SELECT 1")
        assert ended.value.sqlstate in (None, "57P01")
        with pytest.raises(psycopg.OperationalError, match="could not reach PostgreSQL"):
            psycopg.connect(served.database.dsn)
        wait_for(lambda: served.get("/readyz").status_code == 503, 5)
        cluster.start()
        with psycopg.connect(served.database.dsn) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)


def test_a_login_without_a_challenge_is_noted(serve: Serve) -> None:
    with Cluster(16) as cluster:
        served = serve(Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster))
        with psycopg.connect(served.database.dsn) as connection:
            connection.execute("SELECT 1")
        assert any("asked no password of postgres" in note for note in served.report().session.notes)


def test_max_connections_is_refused_in_postgresql_words(database: Database, serve: Serve) -> None:
    served = serve(database, "--max-connections", "1")
    with psycopg.connect(served.database.dsn), pytest.raises(psycopg.OperationalError, match="too many clients"):
        psycopg.connect(served.database.dsn)


def test_a_cancel_reaches_the_right_session(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        timer = threading.Timer(0.5, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(20)")
        assert connection.execute("SELECT 1").fetchone() == (1,)
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
