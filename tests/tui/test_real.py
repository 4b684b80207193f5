"""The dashboard before the real proxy and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psycopg

from pgtattle.tui.app import Dashboard
from pgtattle.tui.client import Client
from tests.conftest import Database, Serve
from tests.tui.screens import screen
from tests.tui.test_app import settled
from tests.waiting import PATIENCE


def query(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True, application_name="a shop") as connection:
        for statement in statements:
            connection.execute(statement)


def test_history_live_filter_and_statements(database: Database, serve: Serve) -> None:
    served = serve(database, "--values", "full")

    async def test() -> None:
        await asyncio.to_thread(query, served.database.dsn, "SELECT 'before' AS attached")
        app = Dashboard(Client(f"http://{served.addresses['api']}"))
        async with app.run_test(size=(140, 45), notifications=True) as pilot:
            await settled(app, lambda: "'before'" in screen(app))
            await asyncio.to_thread(query, served.database.dsn, "SELECT 'after' AS attached", "CREATE TABLE t (id int)")
            await settled(app, lambda: "'after'" in screen(app) and "CREATE TABLE t" in screen(app))
            await settled(app, lambda: "a shop" in screen(app))
            await settled(app, lambda: "PostgreSQL 18" in screen(app).splitlines()[1])
            await pilot.press("f", *"op:create", "enter")
            await settled(app, lambda: "'after'" not in screen(app) and "CREATE TABLE t" in screen(app))
            await pilot.press("f", *" nonsense:1", "enter")
            await settled(app, lambda: "unknown key nonsense" in screen(app))
            await settled(app, lambda: screen(app).splitlines()[-2].strip() == "op:create nonsense:1")
            await settled(app, lambda: "Cancel" in screen(app).splitlines()[-1])
            await pilot.press("escape", "2")
            await settled(app, lambda: "SELECT $1 AS attached" in screen(app))
            await pilot.press(*"sssssss", "enter")
            await settled(app, lambda: "failed" in screen(app))

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


def test_over_a_unix_socket_with_a_new_profiler(database: Database, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    served = serve(database, "--api", f"unix:{path}", "--values", "full")

    async def test() -> None:
        app = Dashboard(Client(f"unix:{path}"))
        async with app.run_test(size=(120, 36), notifications=True):
            await asyncio.to_thread(query, served.database.dsn, "SELECT 'the first'")
            await settled(app, lambda: "'the first'" in screen(app))
            os.kill(int(served.addresses["profiler_pid"]), signal.SIGKILL)
            await settled(app, lambda: "1 restarts" in screen(app) and "● connected" in screen(app))
            await asyncio.to_thread(query, served.database.dsn, "SELECT 'the second'")
            await settled(app, lambda: "'the second'" in screen(app))
            assert "'the first'" not in screen(app), "what the old profiler knew is gone in the server, too"

    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


def test_a_wrong_token_is_said(database: Database, serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-very-secret-token")
    token.chmod(0o600)
    served = serve(database, "--token-file", str(token))

    async def test(given: str, words: str) -> None:
        app = Dashboard(Client(f"http://{served.addresses['api']}", given))
        async with app.run_test(size=(140, 36)):
            await settled(app, lambda: words in screen(app))

    asyncio.run(asyncio.wait_for(test("", "a token is needed"), 2 * PATIENCE))
    asyncio.run(asyncio.wait_for(test("wrong", "this is not the token"), 2 * PATIENCE))
    asyncio.run(asyncio.wait_for(test("the-very-secret-token", "● connected"), 2 * PATIENCE))
