"""TLS in every place it can be: real clients, Debian's PostgreSQL 15 with TLS and SCRAM behind the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pg8000.dbapi
import psycopg
import pytest

from tests import debian
from tests.conftest import Database, Serve, Served, fresh_database, serving
from tests.end_to_end.certificates import Authority, Pair
from tests.end_to_end.watching import Log, cancelled, metric
from tests.waiting import PATIENCE, wait_for

SSL_REQUEST = struct.pack("!iI", 8, 80877103)


@dataclass(frozen=True)
class World:
    """A server that takes plain connections and TLS, its certificate, one of the proxy's own, and their authority."""

    database: Database
    root: Path
    servers: Pair
    own: Pair
    authority: Authority

    def upstream(self, sslmode: str, root: Path | None = None) -> Database:
        """The database, with how the proxy reaches it written into its DSN."""
        name = f"{self.database.name}?sslmode={sslmode}&sslrootcert={root or self.root}"
        return _Named(**{**vars(self.database), "name": name})


class _Named(Database):
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    servers, own = authority.issue("server"), authority.issue("proxy")
    with debian.cluster(authentication="scram-sha-256", password="secret") as cluster:
        folder = cluster.socket_folder.parent / "data"
        for path, name in ((servers.cert, "server.crt"), (servers.key, "server.key")):
            shutil.copy(path, folder / name)
            owner = folder.stat()
            os.chown(folder / name, owner.st_uid, owner.st_gid)
            (folder / name).chmod(0o600)
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET ssl = on")
            connection.execute("SELECT pg_reload_conf()")
        with fresh_database(cluster) as database:
            yield World(database, authority.root, servers, own, authority)


def served(serve: Serve, world: World, *arguments: Any, sslmode: str = "disable", root: Path | None = None) -> Served:
    one = serve(world.upstream(sslmode, root), *map(str, arguments))
    return replace(one, database=replace(one.database, name=world.database.name))


@pytest.fixture(scope="module")
def own(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One proxy with a certificate of its own before a server that is spoken to in plain."""
    with serving(tmp_path_factory.mktemp("own")) as serve:
        yield served(serve, world, "--tls-cert", world.own.cert, "--tls-key", world.own.key)


def libpq(one: Served, **options: str) -> bool:
    """Log in and query with libpq; whether the client's leg was encrypted."""
    with psycopg.connect(one.database.dsn, connect_timeout=int(PATIENCE), **options) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return bool(connection.pgconn.ssl_in_use)


def upstream_encrypted(one: Served, **options: str) -> bool:
    with psycopg.connect(one.database.dsn, **options) as connection:
        row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert row is not None
        return bool(row[0])


def other_drivers(one: Served) -> None:
    """asyncpg and pg8000 with their defaults."""
    database = one.database

    async def with_asyncpg() -> None:
        connection = await asyncpg.connect(database.dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()

    asyncio.run(with_asyncpg())
    connection = pg8000.dbapi.connect(
        user=database.user, password=database.password, host=database.host, port=database.port, database=database.name
    )
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() in ([1], (1,))
    connection.close()


def seen(one: Served) -> int:
    return one.report().session.executions


def test_plain_on_both_legs(serve: Serve, world: World) -> None:
    one = served(serve, world)
    assert libpq(one) is False
    other_drivers(one)
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        libpq(one, sslmode="require")


@pytest.mark.parametrize(
    "sslmode",
    ["prefer", *(pytest.param(one, marks=pytest.mark.slow) for one in ("require", "verify-ca")), "verify-full"],
)
def test_plain_to_the_client_tls_to_the_server(serve: Serve, world: World, sslmode: str) -> None:
    one = served(serve, world, sslmode=sslmode)
    assert libpq(one) is False
    assert upstream_encrypted(one)
    other_drivers(one)
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        libpq(one, channel_binding="require")
    assert seen(one) >= 4


def test_own_certificate_to_the_client_plain_to_the_server(own: Served, world: World) -> None:
    one = own
    assert libpq(one) is True
    assert libpq(one, sslmode="verify-full", sslrootcert=str(world.root)) is True
    assert libpq(one, sslmode="disable") is False
    assert libpq(one, sslmode="require", sslnegotiation="direct") is True
    other_drivers(one)
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        libpq(one, channel_binding="require")
    assert seen(one) >= 6


def test_the_servers_own_certificate_on_both_legs(serve: Serve, world: World, log: Log) -> None:
    one = served(serve, world, "--tls-cert", world.servers.cert, "--tls-key", world.servers.key, sslmode="verify-full")
    assert libpq(one, channel_binding="require") is True
    assert libpq(one, sslmode="require", sslnegotiation="direct", channel_binding="require") is True
    assert libpq(one, sslmode="disable") is False
    other_drivers(one)
    assert upstream_encrypted(one)
    assert seen(one) >= 6
    one.stop()
    assert "channel_binding" not in log.text()


def test_another_certificate_on_both_legs_is_warned_of_and_never_becomes_plain(
    serve: Serve, world: World, log: Log
) -> None:
    one = served(serve, world, "--tls-cert", world.own.cert, "--tls-key", world.own.key, sslmode="verify-full")
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        libpq(one, sslmode="prefer")
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        libpq(one, sslmode="require")
    assert libpq(one, sslmode="require", channel_binding="disable") is True
    one.stop()
    assert log.text().count("channel_binding=disable in the client") == 1


def test_passed_through(serve: Serve, world: World) -> None:
    one = served(serve, world, "--tls-passthrough")
    assert libpq(one, channel_binding="require") is True
    assert libpq(one, sslmode="verify-full", sslrootcert=str(world.root)) is True
    other_drivers(one)
    before = one.report().session
    assert before.opaque_connections >= 3
    assert libpq(one, sslmode="disable") is False
    assert seen(one) == before.executions + 3


def test_a_request_is_cancelled_under_tls(serve: Serve, world: World) -> None:
    for arguments, sslmode in (
        ((world.own.cert, world.own.key), "disable"),
        ((world.servers.cert, world.servers.key), "require"),
    ):
        one = served(serve, world, "--tls-cert", arguments[0], "--tls-key", arguments[1], sslmode=sslmode)
        with psycopg.connect(one.database.dsn, sslmode="require") as connection:
            connection.autocommit = True
            cancelled(connection, connection.cancel_safe, world.database.cluster)


def test_direct_tls_to_the_server(serve: Serve, world: World) -> None:
    """No PostgreSQL of these has both TLS and direct negotiation: a proxy that has stands before it."""
    behind = served(serve, world, "--tls-cert", world.own.cert, "--tls-key", world.own.key)
    name = f"{world.database.name}?sslmode=verify-full&sslrootcert={world.root}&sslnegotiation=direct"
    one = serve(replace(behind.database, name=name))
    one = replace(one, database=replace(one.database, name=world.database.name))
    assert libpq(one) is False
    assert seen(behind) >= 1


def test_what_cannot_be_verified_is_refused_with_the_cure(serve: Serve, world: World, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    for sslmode in ("verify-ca", "verify-full", "require"):
        one = served(serve, world, sslmode=sslmode, root=stranger.root)
        with pytest.raises(psycopg.OperationalError, match="sslrootcert=FILE"):
            libpq(one)


def test_a_server_without_tls_is_not_spoken_to_in_plain(serve: Serve, world: World, database: Database) -> None:
    for sslmode, cure in (("require", "sslmode=disable would do without"), ("prefer", "")):
        one = serve(_Named(**{**vars(database), "name": f"{database.name}?sslmode={sslmode}"}))
        one = replace(one, database=replace(one.database, name=database.name))
        if cure:
            with pytest.raises(psycopg.OperationalError, match=cure):
                libpq(one)
        else:
            assert libpq(one) is False


def raw(one: Served) -> socket.socket:
    return socket.create_connection((one.database.host, one.database.port), PATIENCE)


def test_bytes_ahead_of_the_handshake_are_refused(own: Served, world: World) -> None:
    one = own
    with raw(one) as client:
        client.sendall(SSL_REQUEST + b"Q\0\0\0\x0dselect 1\0")
        assert client.recv(100) == b""
    libpq(one)


def test_encryption_is_asked_for_once(own: Served, world: World) -> None:
    one = own
    context = ssl.create_default_context(cafile=str(world.root))
    with raw(one) as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(1) == b"S"
        with context.wrap_socket(client, server_hostname="localhost") as secured:
            secured.sendall(SSL_REQUEST)
            assert secured.recv(1) == b""


def test_direct_tls_needs_its_application_protocol(own: Served, world: World) -> None:
    one = own
    context = ssl.create_default_context(cafile=str(world.root))
    with raw(one) as client, context.wrap_socket(client, server_hostname="localhost") as secured:
        got = b"?"
        with contextlib.suppress(OSError):
            secured.sendall(SSL_REQUEST)
            got = secured.recv(1)
        assert got in (b"", b"?")


def test_old_tls_is_refused(own: Served, world: World) -> None:
    one = own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with raw(one) as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(1) == b"S"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(client)


def shown(one: Served, root: Path) -> bytes:
    with raw(one) as client:
        client.sendall(SSL_REQUEST)
        assert client.recv(1) == b"S"
        with ssl.create_default_context(cafile=str(root)).wrap_socket(client, server_hostname="localhost") as secured:
            certificate = secured.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate


def test_a_new_certificate_is_taken_on_sighup_and_a_bad_one_is_not(
    serve: Serve, world: World, tmp_path: Path, log: Log
) -> None:
    cert, key = tmp_path / "used.crt", tmp_path / "used.key"
    first, second = world.authority.issue("first"), world.authority.issue("second")
    shutil.copy(first.cert, cert)
    shutil.copy(first.key, key)
    one = served(serve, world, "--tls-cert", cert, "--tls-key", key, "--log-format", "json")
    with psycopg.connect(one.database.dsn, sslmode="require") as connection:
        before = shown(one, world.root)
        shutil.copy(second.cert, cert)
        one.process.send_signal(signal.SIGHUP)
        wait_for(lambda: log.has("belong together"))
        assert shown(one, world.root) == before
        shutil.copy(second.key, key)
        one.process.send_signal(signal.SIGHUP)
        wait_for(lambda: log.has("certificate taken"))
        assert shown(one, world.root) != before
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert any(line["level"] == "error" and "belong together" in line["error"] for line in log.lines())
    assert any(line["message"] == "certificate taken" for line in log.lines())


def test_the_end_of_tls_without_a_word_is_no_error(serve: Serve, world: World, log: Log) -> None:
    one = served(serve, world, "--tls-cert", world.own.cert, "--tls-key", world.own.key, "--log-format", "json")
    connection = psycopg.connect(one.database.dsn, sslmode="require")
    os.close(connection.pgconn.socket)
    wait_for(lambda: log.has("connection closed"))
    one.stop()
    (closed,) = [line for line in log.lines() if line["message"] == "connection closed" and line["tls"] == "on"]
    assert (closed["level"], closed["reason"], closed["user"]) == ("info", "client", "postgres")


def test_a_handshake_that_comes_to_nothing_leaves_nothing(serve: Serve, world: World) -> None:
    certificate = ("--tls-cert", world.own.cert, "--tls-key", world.own.key)
    one = served(serve, world, *certificate, "--login-timeout", "5", "--drain", "600")
    kept = []
    for asked, after, end in itertools.product(
        (True, False), (b"", b"\x16garbage" * 10, b"\x16\x03\x01\x02\0\1"), ("close", "reset", "stay")
    ):
        client = raw(one)
        if asked:
            client.sendall(SSL_REQUEST)
            assert client.recv(1) == b"S"
        client.sendall(after)
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if end == "stay":
            kept.append(client)
        else:
            client.close()
    for client in kept:
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1000):
                pass
        client.close()
    wait_for(lambda: one.report() and metric(one, "pgtattle_client_connections") == 0, "no connection")
    assert one.stop() == 0


def test_authorities_that_cannot_be_read_are_told_at_the_start(world: World, tmp_path: Path) -> None:
    bad = tmp_path / "root.pem"
    bad.write_text("no certificate")
    for sslmode, root, says in (("verify-ca", str(bad), "sslrootcert="), ("require", "system", "verify-full")):
        upstream = f"postgresql://u@127.0.0.1:1/d?sslmode={sslmode}&sslrootcert={root}"
        command = [
            sys.executable,
            "-m",
            "pgtattle.proxy.cli",
            "serve",
            "--upstream",
            upstream,
            "--listen",
            "127.0.0.1:0",
        ]
        done = subprocess.run(
            [*command, "--api", "127.0.0.1:0"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 2
        assert says in done.stderr


def test_a_client_that_dies_in_a_transaction_frees_its_locks(serve: Serve, world: World) -> None:
    one = served(serve, world, sslmode="require")
    code = (
        "import os, sys, psycopg; c = psycopg.connect(sys.argv[1]); "
        "c.execute('CREATE TABLE locked ()'); c.commit(); c.execute('LOCK locked'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, one.database.dsn], check=True, timeout=PATIENCE)
    with psycopg.connect(world.database.dsn, autocommit=True) as direct:
        direct.execute("SET lock_timeout = '5s'")
        direct.execute("DROP TABLE locked")
