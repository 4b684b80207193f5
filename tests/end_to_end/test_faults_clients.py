"""Clients that vanish, do not read, ask for gigabytes or do nothing."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgtattle.proxy.schema import ExecutionPage
from tests.conftest import Database, Serve, Served
from tests.end_to_end.faulty import Network, Toxic
from tests.end_to_end.watching import (
    MIB,
    await_count,
    backends,
    descriptors,
    memory,
    metric,
    relay_pid,
    report,
    settled,
)
from tests.end_to_end.wire import FLUSH, SYNC, Client, bind, execute, frame, kinds, parse, query, sqlstate
from tests.waiting import wait_for

GIGABYTE = 1_000_000_000
ENDLESS = "SELECT repeat('x', 1000), generate_series(1, 100000000)"
"""Rows that the server makes as they are taken: a function in FROM would fill its disk first."""
MEGABYTES = "SELECT repeat('x', 1000000) FROM generate_series(1, 30)"
STALL = 3.0
"""Seconds for which a client does not read. The server itself needs a tenth of one."""
LONG = 280.0
"""Seconds that a server on a busy machine may need to copy a gigabyte about."""

BOUND = 64 * MIB
"""What a relay may need over idle, whatever its clients do."""


@pytest.mark.parametrize("sql", [ENDLESS, f"COPY ({ENDLESS}) TO STDOUT"])
def test_a_client_that_vanishes_takes_its_session_along(served: Served, trusting: Database, sql: str) -> None:
    before = descriptors(relay_pid(served))
    clients = [Client(served.database) for _ in range(5)]
    for client in clients:
        client.login(application_name="vanishing")
        client.send(query(sql))
        client.discard(MIB)
    assert backends(trusting, "vanishing") == 5
    for client in clients:
        client.reset()
    wait_for(lambda: backends(trusting, "vanishing") == 0)
    wait_for(lambda: descriptors(relay_pid(served)) <= before)


def test_a_client_over_a_bad_network_ends_like_one_that_vanished(served: Served, trusting: Database) -> None:
    toxics = (Toxic(limit_data=3_000_000), Toxic(reset_peer=3_000_000), Toxic(limit_data=0), Toxic(reset_peer=100))
    for toxic in toxics:
        with Network(served.database, to_client=toxic) as network:
            database = replace(network.database, name=f"{network.database.name}?application_name=unlucky")
            with pytest.raises(psycopg.OperationalError), psycopg.connect(database.dsn) as connection:
                connection.execute(ENDLESS)
        wait_for(lambda: backends(trusting, "unlucky") == 0)


def stays_stalled(database: Database, application: str) -> bool:
    """Whether a session waits for its client each time it is asked: everything between them is full."""
    return all(backends(database, application, "ClientWrite") == 1 for _ in range(20))


def test_a_client_that_stops_reading_a_gigabyte_and_goes_on(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    pid = relay_pid(served)
    with Client(served.database) as other:
        other.login()
        other.ask(query("SELECT 1"))
        idle = memory(pid)
        rows, width = GIGABYTE // 1_000_000, 1_000_000
        with Client(served.database) as client:
            client.login(application_name="slow")
            client.send(query(f"SELECT repeat('x', {width}) FROM generate_series(1, {rows})"))
            wait_for(lambda: stays_stalled(trusting, "slow"))
            assert memory(pid) - idle < BOUND
            assert kinds(other.ask(query("SELECT 1"))) == b"TDCZ"
            assert client.frame().kind == b"T"
            client.discard(rows * (1 + 4 + 2 + 4 + width))
            assert kinds(client.until(b"Z")) == b"CZ"
    assert memory(pid, "VmHWM") - idle < BOUND
    await_count(served, 3)


def test_a_client_that_stops_reading_a_gigabyte_and_leaves(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    pid = relay_pid(served)
    with psycopg.connect(served.database.dsn) as connection:
        connection.execute("SELECT 1")
        idle, before = memory(pid), descriptors(pid)
    client = Client(served.database)
    client.login(application_name="leaving")
    client.send(query(f"COPY ({ENDLESS}) TO STDOUT"))
    client.discard(MIB)
    wait_for(lambda: stays_stalled(trusting, "leaving"))
    assert memory(pid) - idle < BOUND
    client.close()
    wait_for(lambda: backends(trusting, "leaving") == 0)
    wait_for(lambda: descriptors(pid) <= before)
    assert memory(pid, "VmHWM") - idle < BOUND


def take_a_gigabyte(database: Database) -> None:
    with Client(database, LONG) as client:
        client.login()
        client.send(
            parse(f"SELECT repeat(repeat('x', 1000000), {GIGABYTE // 1_000_000})"),
            frame(b"B", b"\0\0" + struct.pack("!4H", 0, 0, 1, 1)),
            execute(),
            SYNC,
        )
        assert kinds([client.frame(), client.frame()]) == b"12"
        client.discard(1 + 4 + 2 + 4 + GIGABYTE)
        assert kinds(client.until(b"Z")) == b"CZ"


def give_a_gigabyte(database: Database) -> None:
    bound, rest = b"\0\0" + struct.pack("!HHHI", 1, 1, 1, GIGABYTE), b"\0\0"
    with Client(database, LONG) as client:
        client.login()
        client.send(frame(b"P", b"\0SELECT length($1)\0" + struct.pack("!HI", 1, 17)))
        client.send(b"B", struct.pack("!I", 4 + len(bound) + GIGABYTE + len(rest)), bound)
        chunk = bytes(1_000_000)
        for _ in range(GIGABYTE // len(chunk)):
            client.send(chunk)
        answer = client.ask(rest, execute(), SYNC)
        assert kinds(answer) == b"12DCZ"
        assert answer[2].body.endswith(str(GIGABYTE).encode())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_one_message_of_a_gigabyte_each_way(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    pid, profiler = relay_pid(served), int(served.addresses["profiler_pid"])
    with psycopg.connect(served.database.dsn) as connection:
        connection.execute("SELECT 1")
    before = settled(served)
    idle = [memory(one) for one in (pid, profiler)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(way, served.database) for way in (take_a_gigabyte, give_a_gigabyte)]:
            done.result(LONG)
    for one, was in zip((pid, profiler), idle, strict=True):
        assert memory(one, "VmHWM") - was < BOUND
    await_count(served, before + 2)


def slow_with_a_query(client: Client) -> None:
    client.send(query(MEGABYTES))
    time.sleep(STALL)
    client.until(b"Z")


def slow_with_a_portal(client: Client) -> None:
    client.send(parse(MEGABYTES) + bind() + execute() + SYNC)
    time.sleep(STALL)
    client.until(b"Z")


def slow_between_fetches(client: Client) -> None:
    client.send(parse("SELECT generate_series(1, 30)") + bind() + execute(rows=10) + FLUSH)
    for _ in range(2):
        client.until(b"s")
        time.sleep(STALL / 2)
        client.send(execute(rows=10) + FLUSH)
    client.until(b"s")
    client.send(execute() + SYNC)
    client.until(b"Z")


@pytest.mark.parametrize("slow", [slow_with_a_query, slow_with_a_portal, slow_between_fetches])
def test_a_slow_reader_is_not_a_slow_query(
    trusting: Database, serve: Serve, tmp_path: Path, slow: Callable[[Client], None]
) -> None:
    # A server on a busy machine may need some time, but less than its client.
    (tmp_path / "pgtattle.toml").write_text(f"[rules]\nslow-query-ms = {STALL * 500}\n")
    served = serve(trusting)
    with Client(served.database) as client:
        client.login()
        slow(client)
    await_count(served, 1)
    page = msgspec.json.decode(served.get("/api/v1/executions").content, type=ExecutionPage)
    (execution,) = page.items
    assert execution.rows == 30
    assert execution.stalled_ms > STALL * 500
    assert execution.duration_ms < STALL * 500
    assert not [one for one in report(served).findings if one.rule == "slow-query"]


def test_a_session_that_does_nothing_is_ended_between_transactions_only(trusting: Database, serve: Serve) -> None:
    served = serve(trusting, "--idle-timeout", "1")
    with Client(served.database) as idle, Client(served.database) as within, Client(served.database) as busy:
        # In one go: on a busy machine they might be idle between two steps.
        for client, sql in ((within, "BEGIN"), (busy, "SELECT pg_sleep(2.5)")):
            client.begin()
            client.send(query(sql))
            client.until(b"Z")
        within.until(b"Z")
        idle.login()
        end = idle.frame()
        assert sqlstate(end) == "57P05"
        assert idle.rest() == b""
        assert kinds(busy.until(b"Z")) == b"TDCZ"
        assert kinds(within.ask(query("SELECT 1"))) == b"TDCZ"
        within.ask(query("COMMIT"))
        assert sqlstate(within.frame()) == "57P05"
    wait_for(lambda: metric(served, "pgtattle_client_connections") == 0)
    await_count(served, 4)
