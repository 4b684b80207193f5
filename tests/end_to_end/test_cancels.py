"""Cancel requests by every way a client has, and with several servers: to the one that has the session, at once."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from pgtattle.proxy.demo.cluster import Cluster, free_port
from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import SLEEP, asleep, cancelled
from tests.end_to_end.wire import Client, kinds, query
from tests.waiting import PATIENCE, wait_for

MODES = pytest.mark.parametrize("mode", ["profile", "opaque"])


@MODES
def test_libpq_cancels_with_short_and_long_keys(each_database: Database, serve: Serve, mode: str) -> None:
    served = serve(each_database, "--mode", mode)
    for version, way in itertools.product(("3.0", "latest"), ("cancel", "cancel_safe")):
        with psycopg.connect(served.database.dsn, autocommit=True, max_protocol_version=version) as connection:
            cancelled(connection, getattr(connection, way), each_database.cluster)


def test_a_wrong_key_cancels_nothing(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        pid = connection.info.backend_pid
        wrong = (16).to_bytes(4, "big") + (80877102).to_bytes(4, "big") + pid.to_bytes(4, "big") + bytes(4)
        with Client(served.database) as other:
            other.send(wrong)
            assert other.rest() == b""
        assert connection.execute("SELECT pg_sleep(0.3), 1").fetchone() == ("", 1)


# -- several servers ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """The port of a host that takes connections and then says nothing, for ever."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield int(listening.getsockname()[1])


@contextlib.contextmanager
def full() -> Iterator[int]:
    """The port of a black hole: what is sent there is dropped."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = int(listening.getsockname()[1])
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def before(serve: Serve, database: Database, ports: list[int], *arguments: str) -> Served:
    hosts = ",".join(["127.0.0.1"] * len(ports))
    dsn = f"host={hosts} port={','.join(map(str, ports))} user={database.user} dbname={database.name} connect_timeout=1"
    return serve(database, "--upstream", dsn, *arguments)


def server_port(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT inet_server_port()").fetchone()
    assert row is not None
    return int(row[0])


def test_hosts_are_tried_in_order(database: Database, postgres16: Cluster, serve: Serve) -> None:
    with full() as hole:
        served = before(serve, database, [free_port(), hole, database.port, postgres16.port])
        with psycopg.connect(served.database.dsn) as connection:
            assert server_port(connection) == database.port
        other = replace(database, name="postgres")
        served = before(serve, other, [postgres16.port, database.port])
        with psycopg.connect(served.database.dsn) as connection:
            assert server_port(connection) == postgres16.port


@MODES
def test_a_cancel_does_not_wait_for_hosts_that_are_dead(database: Database, serve: Serve, mode: str) -> None:
    with silent() as mute, full() as hole:
        served = before(serve, database, [free_port(), hole, database.port, mute], "--mode", mode)
        with psycopg.connect(served.database.dsn, autocommit=True) as connection:
            cancelled(connection, connection.cancel_safe, database.cluster)
            # The request's own connection ends, too, or libpq would wait here.
            connection.cancel_safe(timeout=PATIENCE)


@MODES
def test_a_cancel_goes_to_the_server_that_has_the_session(serve: Serve, postgres18: Cluster, mode: str) -> None:
    """The first host is down when the first session comes, and up when the second does: each has its own server."""
    with Cluster(16, authentication="scram-sha-256", password=postgres18.password) as late:
        late.stop()
        database = Database("postgres", late.host, late.port, late.user, late.password, late)
        served = before(serve, database, [late.port, postgres18.port], "--mode", mode)
        with psycopg.connect(served.database.dsn, autocommit=True) as first:
            late.start()
            with psycopg.connect(served.database.dsn, autocommit=True) as second:
                assert (server_port(first), server_port(second)) == (postgres18.port, late.port)
                for connection, cluster in ((first, postgres18), (second, late)):
                    cancelled(connection, connection.cancel_safe, cluster)
                    cancelled(connection, connection.cancel, cluster)


def test_a_cancel_for_a_session_of_another_proxy_reaches_it(database: Database, serve: Serve) -> None:
    """Two proxies behind one name: a client's cancel may come to the one that does not have its session."""
    dead = free_port()
    one, other = (before(serve, database, [dead, database.port]) for _ in range(2))
    folder, port = database.cluster.socket_folder, database.cluster.port
    unix = f"host={folder} port={port} user={database.user} dbname={database.name}"
    trusting = serve(database, "--upstream", unix)
    with Client(trusting.database) as raw:
        key = next(one.body for one in raw.login() if one.kind == b"K")
        packet = (8 + len(key)).to_bytes(4, "big") + (80877102).to_bytes(4, "big") + key
        for proxy in (one, other):
            raw.send(query(SLEEP))
            wait_for(lambda: asleep(database.cluster))
            with Client(proxy.database) as request:
                request.send(packet)
                assert request.rest() == b""
            assert kinds(raw.until(b"Z")) == b"TEZ"
