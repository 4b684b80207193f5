"""Does PostgreSQL answer? Real servers and PgBouncer do; ports that accept, and servers that are not ready, do not."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from pgtattle.proxy import dsn, probe
from pgtattle.proxy.errors import UpstreamUnreachable
from pgtattle.proxy.wire.startup import error_response
from tests.conftest import Database
from tests.end_to_end.test_pooler import bouncer


def asked(url: str, seconds: float = 60.0) -> None:
    asyncio.run(probe.answers(dsn.upstream(url, {}), seconds))


def failure(answer: bytes | None, seconds: float = 60.0) -> str:
    """What is said of a port that answers so and then closes; None: it does neither."""

    async def serve() -> str:
        over = asyncio.Event()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            if answer is None:
                await over.wait()
            else:
                writer.write(answer)
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(client, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                await probe.answers(dsn.upstream(f"postgresql://u@127.0.0.1:{port}/d", {}), seconds)
            except UpstreamUnreachable as error:
                return str(error)
            finally:
                over.set()
        return ""

    return asyncio.run(serve())


def test_a_server_answers_whatever_it_says_to_the_role(each_database: Database) -> None:
    asked(each_database.dsn_without_password)
    asked(f"postgresql://nobody_of_that_name@{each_database.host}:{each_database.port}/no_such_database")


def test_a_pooler_answers_for_its_server(database: Database) -> None:
    if shutil.which("pgbouncer") is None:
        pytest.skip("PgBouncer is not installed")
    with bouncer(database, "transaction") as pooled:
        asked(pooled.dsn_without_password)


def test_the_server_logs_nothing_of_it(database: Database) -> None:
    before = database.cluster.log.read_bytes()
    for _ in range(3):
        asked(database.dsn_without_password)
    assert b"FATAL" not in database.cluster.log.read_bytes()[len(before) :]


def test_a_login_without_a_challenge_is_ended_in_order() -> None:
    welcome = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0Z\0\0\0\x05I"
    assert failure(welcome) == ""


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error_response("FATAL", "57P03", "the database system is starting up"), "is starting up (SQLSTATE 57P03)"),
        (error_response("FATAL", "57P03", "the database system is shutting down"), "is shutting down"),
        (error_response("FATAL", "57P01", "ended\x1b[2J"), "ended [2J (SQLSTATE 57P01)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no PostgreSQL"),
        (b"SSH-2.0-OpenSSH\r\n", "no PostgreSQL"),
        (b"Q\0\0\0\x05\0", "no PostgreSQL"),
        (b"R\0\0\0\x08\0\0", "without an answer"),
        (b"", "without an answer"),
    ],
)
def test_what_is_no_answer(answer: bytes, says: str) -> None:
    assert says in failure(answer)


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "3D000", "53300", "08P01"])
def test_a_refusal_is_an_answer(sqlstate: str) -> None:
    assert failure(error_response("FATAL", sqlstate, "no")) == ""


def test_a_port_that_accepts_and_says_nothing_is_no_answer() -> None:
    assert "does not answer a startup within 0.2 s" in failure(None, 0.2)


def test_nothing_there() -> None:
    with pytest.raises(UpstreamUnreachable, match="Connection refused"):
        asked("postgresql://u@127.0.0.1:1/d")
