"""The proxy is told to end: what runs comes to its end, what waits is told, and nobody holds it for long."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import Database, Serve, Served
from tests.end_to_end.certificates import Authority, Pair
from tests.end_to_end.watching import backends
from tests.end_to_end.wire import SSL_REQUEST, Client, frame, query, scripted, split, sqlstate, startup
from tests.waiting import wait_for

ENDLESS = "600"
"""A drain time that no test waits for."""
PATIENCE = 60.0
TWELVE = 12


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Authority(tmp_path_factory.mktemp("authority")).issue("proxy")


def ended(served: Served) -> int:
    return served.process.wait(PATIENCE)


def refused(served: Served) -> bool:
    """True once newcomers are refused as a server that shuts down refuses them."""
    with Client(served.database) as client:
        client.begin()
        one = client.frame()
        return one.kind == b"E" and sqlstate(one) == "57P03"


def draining(served: Served) -> None:
    """Tell it to end, and wait until it has begun to."""
    served.process.send_signal(signal.SIGTERM)
    wait_for(lambda: refused(served))


def last(client: Client) -> str:
    """The SQLSTATE that a session ends with."""
    (final,) = split(client.rest())[-1:]
    return sqlstate(final)


# -- others that are there when the signal comes ---------------------------------------------------------------------


@contextlib.contextmanager
def churn(served: Served) -> Iterator[None]:
    """Clients that come, work and go, with something to clean up for the server; in the drain they are refused."""
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, EOFError), Client(served.database, PATIENCE) as client:
                client.login()
                client.ask(query("CREATE TEMP TABLE one AS SELECT generate_series(1, 100) AS id"))
                client.send(frame(b"X"))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(come_and_go) for _ in range(4)]
        try:
            yield
        finally:
            stop.set()
            for worker in workers:
                worker.result(PATIENCE)


@contextlib.contextmanager
def leaving(served: Served) -> Iterator[None]:
    """Clients that sent their end while their session was idle, in a transaction, or at work."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(served.database)) for _ in range(3)]
        for client in clients:
            client.login()
        clients[1].ask(query("BEGIN"))
        clients[2].send(query("SELECT pg_sleep(0.5), 'kept'"))
        for client in clients:
            client.socket.shutdown(socket.SHUT_WR)
        yield
        assert b"kept" in clients[2].rest()


@contextlib.contextmanager
def encrypted(served: Served) -> Iterator[None]:
    """Idle sessions over TLS whose clients do not read, as those of a pool."""
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(psycopg.connect(served.database.dsn, sslmode="require", autocommit=True))
            for _ in range(3)
        ]
        yield
        for connection in idle:
            with pytest.raises(psycopg.errors.AdminShutdown):
                connection.execute("SELECT 1")


@contextlib.contextmanager
def copies(served: Served) -> Iterator[None]:
    """A COPY of each direction that is half done at the signal."""
    with (
        psycopg.connect(served.database.dsn) as giving,
        psycopg.connect(served.database.dsn, autocommit=True) as taking,
    ):
        giving.execute("CREATE TEMP TABLE given (id int)")
        with (
            giving.cursor().copy("COPY given FROM STDIN") as into,
            taking.cursor().copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as out,
        ):
            rows = out.rows()
            first = [next(rows) for _ in range(1000)]
            for number in range(1000):
                into.write_row([number])
            yield
            for number in range(1000):
                into.write_row([number])
            assert len(first) + sum(1 for _ in rows) == 1_000_000
        assert giving.execute("SELECT count(*) FROM given").fetchone() == (2000,)
        giving.commit()


@contextlib.contextmanager
def replication(served: Served) -> Iterator[None]:
    """A stream of WAL, which has no end: it is over with the drain time."""
    with Client(served.database) as receiver:
        receiver.login(replication="true")
        with psycopg.connect(served.database.cluster.dsn()) as direct:
            (position,) = direct.execute("SELECT pg_current_wal_flush_lsn()").fetchone() or ("",)
        receiver.send(query(f"START_REPLICATION PHYSICAL {position}"))
        receiver.until(b"W")
        yield
        receiver.rest()


Others = Callable[[Served], contextlib.AbstractContextManager[None]]

KINDS: list[tuple[Others, str]] = [
    (churn, ENDLESS), (leaving, ENDLESS), (encrypted, ENDLESS), (copies, ENDLESS), (replication, "4"),
]  # fmt: skip


def sigterm(direct: Database, served: Served, others: Others) -> None:
    """One SIGTERM while a query, a transaction and `others` are under way."""
    with (
        psycopg.connect(direct.dsn, autocommit=True) as lock,
        psycopg.connect(served.database.dsn, autocommit=True, application_name="at work") as working,
        psycopg.connect(served.database.dsn) as transaction,
        ThreadPoolExecutor(1) as pool,
    ):
        lock.execute("SELECT pg_advisory_lock(10)")
        transaction.execute("CREATE TEMP TABLE held (id int)")
        with others(served):
            waits = "SELECT 42, 'finished' FROM pg_advisory_lock_shared(10)"
            answer = pool.submit(lambda: working.execute(waits).fetchone())
            wait_for(lambda: backends(direct, "at work", "advisory") == 1)
            draining(served)
            lock.execute("SELECT pg_advisory_unlock(10)")
            assert answer.result(PATIENCE) == (42, "finished")
            transaction.execute("INSERT INTO held VALUES (1)")
            transaction.commit()
    assert ended(served) == 0


@pytest.mark.parametrize(("others", "drain"), KINDS, ids=[others.__name__ for others, _ in KINDS])
def test_what_runs_at_the_signal_comes_to_its_end(
    trusting: Database, serve: Serve, certificate: Pair, others: Others, drain: str
) -> None:
    sigterm(trusting, serve(trusting, "--drain", drain, *tls(certificate)), others)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("others", "drain"), KINDS, ids=[others.__name__ for others, _ in KINDS])
def test_twelve_signals_of_twelve_let_everything_come_to_its_end(
    trusting: Database, serve: Serve, certificate: Pair, others: Others, drain: str
) -> None:
    for _ in range(TWELVE):
        sigterm(trusting, serve(trusting, "--drain", drain, *tls(certificate)), others)


def tls(certificate: Pair) -> tuple[str, ...]:
    return "--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key)


# -- who is told what ------------------------------------------------------------------------------------------------


def test_libpq_tries_its_next_host_when_one_shuts_down(trusting: Database, serve: Serve) -> None:
    leaving_one, other = serve(trusting, "--drain", ENDLESS), serve(trusting)
    with psycopg.connect(leaving_one.database.dsn) as holding:
        holding.execute("SELECT 1")
        draining(leaving_one)
        ports = f"{leaving_one.database.port},{other.database.port}"
        hosts = f"host=127.0.0.1,127.0.0.1 port={ports} user={trusting.user} dbname={trusting.name}"
        with psycopg.connect(hosts) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert connection.info.port == other.database.port
    assert ended(leaving_one) == 0


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_running_query_is_cancelled_in_a_drain(
    trusting: Database, serve: Serve, certificate: Pair, sslmode: str
) -> None:
    served = serve(trusting, "--drain", ENDLESS, *tls(certificate))
    with (
        psycopg.connect(served.database.dsn, autocommit=True, sslmode=sslmode, application_name="endless") as one,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(one.execute, "SELECT pg_sleep(600)")
        wait_for(lambda: backends(trusting, "endless", "PgSleep") == 1)
        draining(served)
        one.cancel_safe(timeout=PATIENCE)
        with pytest.raises(psycopg.errors.QueryCanceled):
            answer.result(PATIENCE)
        assert ended(served) == 0


@pytest.mark.parametrize("encryption", [b"", SSL_REQUEST], ids=["at once", "asks for TLS first"])
def test_a_client_that_waits_for_its_server_is_told(serve: Serve, encryption: bytes) -> None:
    """A server whose queue of connections is full takes no more."""
    with socket.socket() as busy, contextlib.ExitStack() as stack:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        port = busy.getsockname()[1]
        filled = False
        while not filled:
            one = stack.enter_context(socket.socket())
            one.settimeout(0.5)
            try:
                one.connect(("127.0.0.1", port))
            except TimeoutError:
                filled = True
        nobody = Database("any", "127.0.0.1", port, "postgres", "", None)  # type: ignore[arg-type]
        upstream = f"postgresql://postgres@127.0.0.1:{port}/any?connect_timeout={ENDLESS}"
        served = serve(nobody, "--drain", ENDLESS, "--upstream", upstream)
        with Client(served.database) as waiting, Client(served.database) as silent:
            if encryption:
                waiting.send(encryption)
                assert waiting.socket.recv(1) == b"N"
            waiting.begin()
            wait_for(lambda: b'result="accepted",tls="off"} 1' in served.get("/metrics").content)
            served.process.send_signal(signal.SIGTERM)
            assert last(waiting) == "57P01"
            assert ended(served) == 0
            assert silent.rest() == b""


def test_a_client_whose_login_does_not_go_on_is_told(serve: Serve) -> None:
    def never_answers(connection: socket.socket) -> None:
        while connection.recv(1024):
            pass

    with scripted(never_answers) as server:
        served = serve(server, "--drain", ENDLESS)
        with Client(served.database) as client:
            client.begin()
            wait_for(lambda: b'result="accepted",tls="off"} 1' in served.get("/metrics").content)
            served.process.send_signal(signal.SIGTERM)
            assert last(client) == "57P01"
        assert ended(served) == 0


def test_a_message_that_was_sent_in_part_gets_its_answer(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--drain", ENDLESS)
    message = query("SELECT 'whole'")
    with Client(served.database) as client, Client(served.database) as idle:
        client.login()
        idle.login()
        client.send(message[:9])
        draining(served)
        assert last(idle) == "57P01"
        client.send(message[9:])
        frames = split(client.rest())
        assert [one.kind for one in frames] == [b"T", b"D", b"C", b"Z", b"E"]
        assert b"whole" in frames[1].body
    assert ended(served) == 0


def test_a_message_that_stays_in_part_is_cut_when_the_time_is_over(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--drain", "1")
    with Client(served.database) as client:
        client.login()
        client.send(query("SELECT 1")[:9])
        served.process.send_signal(signal.SIGTERM)
        assert client.rest() == b""
    assert ended(served) == 0


def test_a_tls_client_that_reads_late_gets_everything(trusting: Database, serve: Serve, certificate: Pair) -> None:
    """What is on its way to a client that is slow to read is not cut by the end of its TLS."""
    size = 4_000_000
    served = serve(trusting, "--drain", ENDLESS, *tls(certificate))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((served.database.host, served.database.port), PATIENCE) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as client:
            client.sendall(startup(user=trusting.user, database=trusting.name, application_name="slow"))
            received = b""
            while not received.endswith(b"Z\0\0\0\5I"):
                received += client.recv(65_536)
            client.sendall(query(f"SELECT repeat('x', {size})"))
            wait_for(lambda: backends(trusting, "slow", "Client%") == 1)
            draining(served)
            received = b""
            with contextlib.suppress(ConnectionError):
                while chunk := client.recv(65_536):
                    received += chunk
    frames = split(received)
    assert [one.kind for one in frames] == [b"T", b"D", b"C", b"Z", b"E"]
    assert frames[1].body.count(b"x") == size
    assert ended(served) == 0


def test_the_idle_timeout_outlives_sessions_that_end_halfway(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--idle-timeout", "0.5")
    for _ in range(2):
        with Client(served.database) as idle, Client(served.database) as half:
            half.login()
            half.ask(query("CREATE TEMP TABLE one AS SELECT generate_series(1, 100) AS id"))
            half.socket.shutdown(socket.SHUT_WR)
            idle.login()
            assert last(idle) == "57P05"
            half.rest()
    assert b"pgtattle_task_failures_total 0" in served.get("/metrics").content
