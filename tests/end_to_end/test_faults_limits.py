"""Too many clients, too fast, too slow to say what they want: who waits, who is refused, and what is given back."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import (
    MIB,
    Log,
    await_count,
    backends,
    descriptors,
    memory,
    metric,
    relay_pid,
    settled,
)
from tests.end_to_end.wire import TERMINATE, Client, kinds, query, split, sqlstate, startup
from tests.waiting import PATIENCE, wait_for

IDLE = 2_000
A_SECOND = 500


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """The clients are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def log_in(database: Database) -> Client:
    client = Client(database)
    client.login(application_name="one of many")
    return client


@pytest.mark.slow
def test_two_thousand_idle_sessions_are_had_and_given_back(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    pid = relay_pid(served)
    log_in(served.database).close()
    idle, before = memory(pid), descriptors(pid)
    with ThreadPoolExecutor(16) as pool:
        clients = list(pool.map(log_in, [served.database] * IDLE))
    assert backends(trusting, "one of many") == IDLE
    wait_for(lambda: metric(served, "pgtattle_client_connections") == IDLE)
    assert memory(pid) - idle < 64 * MIB
    for client in clients[:: IDLE // 20]:
        assert kinds(client.ask(query("SELECT 1"))) == b"TDCZ"
    for client in clients:
        client.close()
    wait_for(lambda: backends(trusting, "one of many") == 0)
    wait_for(lambda: descriptors(pid) <= before)
    wait_for(lambda: metric(served, "pgtattle_client_connections") == 0)
    await_count(served, 20)


def test_five_hundred_connections_a_second_all_get_their_answers(served: Served) -> None:
    """They come at that rate, whatever becomes of those before them."""
    database, before = served.database, settled(served)
    opening = startup(user=database.user, database=database.name) + query("SELECT 'hello'") + TERMINATE

    async def one(number: int) -> bytes:
        await asyncio.sleep(number / A_SECOND)
        reader, writer = await asyncio.open_connection(database.host, database.port)
        writer.write(opening)
        answer = await reader.read(-1)
        writer.close()
        return answer

    async def storm() -> list[bytes]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*map(one, range(2 * A_SECOND)))

    for answer in asyncio.run(storm()):
        assert kinds(split(answer)) == b"RKZTDCZ"
        assert b"\0\0\0\5hello" in answer
    await_count(served, before + 2 * A_SECOND)


def test_stalled_startups_cost_nobody_else_anything(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--login-timeout", "6")
    pid = relay_pid(served)
    before, idle = descriptors(pid), memory(pid)
    beginnings = (b"", b"\0", startup(user="postgres")[:-1])
    address = (served.database.host, served.database.port)
    stalled = [socket.create_connection(address, PATIENCE) for _ in range(3_000)]
    for number, one in enumerate(stalled):
        # On a busy machine the first may be sent away before the last is there.
        with contextlib.suppress(ConnectionError):
            one.sendall(beginnings[number % len(beginnings)])
    with psycopg.connect(served.database.dsn, connect_timeout=int(PATIENCE)) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    assert row[0] < 10, "a client that has said nothing has a session of the server"
    assert memory(pid) - idle < 64 * MIB
    for one in stalled:
        assert gone(one)
        one.close()
    wait_for(lambda: descriptors(pid) <= before)


def gone(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_flood_of_bad_startups_is_told_in_few_lines(trusting: Database, serve: Serve, log: Log) -> None:
    served = serve(trusting)
    started = time.monotonic()
    for _ in range(300):
        with Client(served.database) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert client.rest() == b""
    told = log.text().count("reason=bad_startup")
    assert 1 <= told < 300
    assert told <= 5 * (time.monotonic() - started + 2)


def test_without_descriptors_clients_wait_or_are_told_and_the_next_gets_in(
    trusting: Database, serve: Serve, log: Log
) -> None:
    served = serve(trusting)
    pid = relay_pid(served)
    wait_for(lambda: served.get("/readyz").status_code == 200)
    before = descriptors(pid)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + 40, limits[1]))
    clients = [Client(served.database) for _ in range(60)]
    for client in clients:
        client.begin()
    wait_for(lambda: "raise ulimit -n" in log.text())
    # Whoever leaves makes room for those that wait at the door.
    answers = Counter[str]()
    while clients:
        ready, _, _ = select.select([client.socket for client in clients], [], [], PATIENCE)
        assert ready, answers
        for client in [one for one in clients if one.socket in ready]:
            answers[first_answer(client)] += 1
            client.close()
            clients.remove(client)
    assert answers["in"] > 0
    assert answers.keys() <= {"in", "57P03"}
    log_in(served.database).close()
    wait_for(lambda: descriptors(pid) <= before)


def first_answer(client: Client) -> str:
    """Whether a client is in, or the SQLSTATE that it was refused with."""
    first = client.frame()
    return "in" if first.kind == b"R" else sqlstate(first)


def test_beyond_the_limit_clients_are_refused_until_one_leaves(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--max-connections", "10")
    inside = [log_in(served.database) for _ in range(10)]
    for _ in range(5):
        with Client(served.database) as outside:
            outside.begin()
            refusal = outside.frame()
            assert sqlstate(refusal) == "53300"
            assert outside.rest() == b""
    wait_for(lambda: metric(served, "pgtattle_connections_total", result="refused") == 5)
    # A cancel request takes no place.
    with Client(served.database) as canceller:
        canceller.send(bytes.fromhex("0000001004d2162e0000000000000000"))
        assert canceller.rest() == b""
    inside.pop().close()

    def enters() -> bool:
        try:
            log_in(served.database).close()
        except EOFError:
            return False
        return True

    wait_for(enters)
    for client in inside:
        assert kinds(client.ask(query("SELECT 1"))) == b"TDCZ"
        client.close()


def test_more_connections_than_descriptors_is_refused_at_the_start(trusting: Database, serve: Serve) -> None:
    with pytest.raises(AssertionError, match="pgtattle serve ended with 2"):
        serve(trusting, "--max-connections", "100000000")
