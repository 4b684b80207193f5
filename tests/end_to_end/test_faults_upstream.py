"""The server is not there, goes away in the middle, or comes back: what each client gets."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster, free_port
from tests.conftest import Database, Serve, Served, serving
from tests.end_to_end.faulty import HARMLESS, Network, Toxic
from tests.end_to_end.watching import SLEEP, Load, metric, settled
from tests.end_to_end.wire import SSL_REQUEST, Client, query, sqlstate
from tests.waiting import PATIENCE, wait_for

GONE = ("57P01", "57P02", "57P03", None)
"""What a client may be told of a server that stops; None: only the end of the stream."""


@pytest.fixture(scope="module")
def lone(trusting: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A proxy whose server was never started."""
    with serving(tmp_path_factory.mktemp("lone")) as start:
        yield start(replace(trusting, port=free_port()))


@pytest.fixture(scope="module")
def behind_network(trusting: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Served]]:
    with Network(trusting) as network, serving(tmp_path_factory.mktemp("rough")) as start:
        yield network, start(network.database)


@pytest.fixture
def rough(behind_network: tuple[Network, Served]) -> Iterator[tuple[Network, Served]]:
    """A proxy that reaches its server over a network with toxics, which end with the test."""
    network, served = behind_network
    yield network, served
    network.to_server = network.to_client = HARMLESS


def either(first: Served, second: Served) -> str:
    return (
        f"host=127.0.0.1,127.0.0.1 port={first.database.port},{second.database.port} "
        f"user={first.database.user} dbname={first.database.name}"
    )


def test_a_server_that_is_not_there_is_told_so_that_libpq_tries_its_next_host(lone: Served, served: Served) -> None:
    failed = metric(lone, "pgtattle_connections_total", result="failed")
    with Client(lone.database) as client:
        client.begin()
        refusal = client.frame()
        assert sqlstate(refusal) == "57P03"
        assert b"Connection refused" in refusal.body
        assert b"\0Hpgtattle could not reach PostgreSQL; start it or correct --upstream.\0" in refusal.body
        assert client.rest() == b""
    with psycopg.connect(either(lone, served)) as connection:
        assert connection.info.port == served.database.port
    assert lone.get("/readyz").status_code == 503
    wait_for(lambda: metric(lone, "pgtattle_connections_total", result="failed") == failed + 2)


def test_a_wish_for_encryption_is_not_answered_by_an_error(trusting: Database, serve: Serve) -> None:
    """libpq takes such an error for an attack, and `N` would blame TLS."""
    passing = serve(replace(trusting, port=free_port()), "--tls-passthrough")
    with Client(passing.database) as client:
        client.send(SSL_REQUEST)
        assert client.rest() == b""


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_what_libpqs_own_tools_say_of_it(lone: Served, served: Served) -> None:
    def run(*command: str) -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("psql", "-XAtc", "SELECT 'here'", either(lone, served)) == (0, "here\n")
    code, said = run("pg_isready", "-d", lone.database.dsn)
    assert (code, said.split(" - ")[1]) == (1, "rejecting connections\n")
    code, said = run("psql", "-XAtc", "SELECT 1", lone.database.dsn)
    assert code == 2
    assert "could not reach PostgreSQL; start it or correct --upstream" in said


@pytest.mark.parametrize("end", ["limit_data", "reset_peer"])
@pytest.mark.parametrize("size", [0, 3, 9, 200])
def test_a_server_that_dies_during_the_login(rough: tuple[Network, Served], end: str, size: int) -> None:
    """AuthenticationOk has 9 bytes; 200 end among the parameters."""
    network, served = rough
    network.to_client = Toxic(**{end: size})
    with Client(served.database) as client:
        client.begin()
        got = client.rest()
        if end == "limit_data":
            assert len(got) == size
        elif size:
            # An RST may overtake what was sent before it.
            assert len(got) <= size
        else:
            # One that overtakes the connect makes it fail: a server that cannot be reached.
            assert got == b"" or b"\0C57P03\0" in got
    with pytest.raises(psycopg.OperationalError) as failed:
        psycopg.connect(served.database.dsn, connect_timeout=int(PATIENCE))
    assert not isinstance(failed.value, psycopg.errors.ConnectionTimeout)
    network.to_client = HARMLESS
    with psycopg.connect(served.database.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("sql", ["SELECT repeat('x', 1000), generate_series(1, 20000)", "COPY ({}) TO STDOUT"])
def test_a_server_that_dies_in_a_result_leaves_what_it_sent_and_the_end(
    rough: tuple[Network, Served], sql: str
) -> None:
    network, served = rough
    network.to_client = Toxic(limit_data=5_000_000)
    sql = sql.format("SELECT repeat('x', 1000), generate_series(1, 20000)")
    with Client(served.database) as client:
        login = client.login()
        client.send(query(sql))
        got = client.rest()
    assert len(got) + sum(5 + len(one.body) for one in login) == 5_000_000


def test_a_server_that_dies_in_a_copy_in_ends_the_client(rough: tuple[Network, Served]) -> None:
    network, served = rough
    network.to_server = Toxic(reset_peer=3_000_000)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE copied (line text)")
        with pytest.raises(psycopg.OperationalError):
            copy_in(connection, 20_000)


def copy_in(connection: psycopg.Connection, rows: int) -> None:
    with connection.cursor().copy("COPY copied FROM STDIN") as copy:
        for _ in range(rows):
            copy.write_row(["x" * 1000])


def sleeping(connection: psycopg.Connection) -> None:
    connection.execute(SLEEP)


def idle(connection: psycopg.Connection) -> None:
    """The server's last words come to a client that asks nothing."""
    select.select([connection.pgconn.socket], [], [], PATIENCE)
    connection.execute("SELECT 1")


def in_transaction(connection: psycopg.Connection) -> None:
    with connection.transaction():
        idle(connection)


def copying_out(connection: psycopg.Connection) -> None:
    with connection.cursor().copy("COPY (SELECT repeat('x', 10000), generate_series(1, 100000000)) TO STDOUT") as copy:
        for _ in copy:
            pass


def copying_in(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TEMP TABLE copied (line text)")
    copy_in(connection, 1_000_000_000)


def waiting_for_news(connection: psycopg.Connection) -> None:
    connection.execute("LISTEN news")
    for _ in connection.notifies():
        pass


REACHED = {
    ("sleeping", "active", "SELECT"),
    ("idle", "idle", ""),
    ("in_transaction", "idle in transaction", "BEGIN"),
    ("copying_out", "active", "COPY ("),
    ("copying_in", "active", "COPY c"),
    ("waiting_for_news", "idle", "LISTEN"),
}
"""What the server says of the clients when each is where it should be."""


def reached(cluster: Cluster) -> set[tuple[str, str, str]]:
    with psycopg.connect(cluster.dsn()) as connection:
        rows = connection.execute(
            "SELECT application_name, state, left(query, 6) FROM pg_stat_activity WHERE application_name <> ''"
        ).fetchall()
    return {row for row in rows if row[0] in {state.__name__ for state in STATES}}


STATES: tuple[Callable[[psycopg.Connection], None], ...] = (
    sleeping, idle, in_transaction, copying_out, copying_in, waiting_for_news,
)  # fmt: skip


@pytest.mark.parametrize("how", ["fast", pytest.param("immediate", marks=pytest.mark.slow)])
def test_a_server_that_stops_ends_every_client_whatever_it_does(serve: Serve, how: str) -> None:
    with Cluster(18) as cluster:
        served = serve(Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster))
        ends: dict[str, object] = {}

        def client(state: Callable[[psycopg.Connection], None]) -> None:
            try:
                with psycopg.connect(
                    served.database.dsn, autocommit=True, application_name=state.__name__
                ) as connection:
                    state(connection)
            except psycopg.Error as error:
                ends[state.__name__] = error.sqlstate
            except BaseException as error:
                ends[state.__name__] = repr(error)

        threads = [threading.Thread(target=client, args=(state,)) for state in STATES]
        for thread in threads:
            thread.start()
        wait_for(lambda: reached(cluster) == REACHED, lambda: reached(cluster))
        assert ends == {}
        cluster.stop(how)  # type: ignore[arg-type]
        for thread in threads:
            thread.join(PATIENCE)
        assert set(ends) == {state.__name__ for state in STATES}
        assert all(sqlstate in GONE for sqlstate in ends.values()), ends
        wait_for(lambda: metric(served, "pgtattle_client_connections") == 0)
        cluster.start()
        with psycopg.connect(served.database.dsn) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)


def test_a_restart_under_load_costs_what_was_under_way_and_nothing_else(serve: Serve) -> None:
    with Cluster(18) as cluster:
        served = serve(Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster))
        load = Load(served.database, 4, reconnect=True)
        with load.running():
            load.goes_on()
            cluster.stop()
            wait_for(lambda: load.errors)
            cluster.start()
            load.goes_on()
        assert all(isinstance(one, psycopg.OperationalError) and one.sqlstate in GONE for one in load.errors)
        # The last words of the server may have been an answer to a request or not.
        assert load.executions <= settled(served) <= load.executions + len(load.errors)


def test_a_server_that_answers_nothing_is_given_up_in_time(trusting: Database, serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = silent.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        hole = replace(trusting, port=address[1], name=f"{trusting.name}?connect_timeout=2")
        lone = serve(hole)
        with Client(replace(lone.database, name=trusting.name)) as client:
            client.begin()
            refusal = client.frame()
            assert sqlstate(refusal) == "57P03"
            assert b"no answer within 2 s" in refusal.body
        for one in waiting:
            one.close()


def test_a_slow_server_is_waited_for_and_not_read_ahead_of(rough: tuple[Network, Served]) -> None:
    network, served = rough
    network.to_server = Toxic(bandwidth=4_000_000, latency=0.01)
    network.to_client = Toxic(latency=0.05, slow_close=0.5)
    rows = 3_000
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE copied (line text)")
        copy_in(connection, rows)
        row = connection.execute("SELECT count(*), sum(length(line)) FROM copied").fetchone()
    assert row == (rows, rows * 1000)


def test_a_server_that_falls_silent_is_left_when_its_client_leaves(rough: tuple[Network, Served]) -> None:
    network, served = rough
    network.to_client = Toxic(timeout=5_000)
    with Client(served.database) as client:
        client.login()
        client.send(query("SELECT repeat('x', 100000)"))
        client.discard(2_000)
        wait_for(lambda: metric(served, "pgtattle_client_connections") == 1)
        client.reset()
    wait_for(lambda: metric(served, "pgtattle_client_connections") == 0)


def test_a_session_that_the_server_ends_gets_its_last_words(served: Served, trusting: Database) -> None:
    with Client(served.database) as client:
        login = client.login()
        pid = next(int.from_bytes(one.body[:4], "big") for one in login if one.kind == b"K")
        with psycopg.connect(trusting.dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
        assert sqlstate(client.frame()) == "57P01"
        assert client.rest() == b""
    with psycopg.connect(served.database.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
