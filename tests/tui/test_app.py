"""The dashboard, driven by keys, its screens read as text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pgtattle.tui.app import Dashboard
from pgtattle.tui.client import Client
from tests.tui.screens import HOSTILE, Server, execution, finding, screen, serving, statement


@asynccontextmanager
async def dashboard(server: Server, size: tuple[int, int] = (120, 36)) -> AsyncIterator[tuple[Dashboard, Any]]:
    app = Dashboard(Client(server.url))
    async with app.run_test(size=size) as pilot:
        await settled(app, lambda: "connected" in screen(app) or bool(app._model.trouble))
        yield app, pilot


async def settled(app: Dashboard, condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 40))


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
def test_live_shows_history_then_what_comes(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(n, f"SELECT {n} FROM history") for n in range(3)]
            async with dashboard(server, size) as (app, pilot):
                await settled(app, lambda: "SELECT 2 FROM history" in screen(app))
                server.send("executions", [execution(9, "SELECT 9 FROM live", sqlstate="42P01")], "s.9.1")
                await settled(app, lambda: "SELECT 9 FROM live" in screen(app))
                shown = screen(app).splitlines()
                assert "connected" in shown[0]
                assert "1 Live" in shown[2]
                assert "42P01" in screen(app)
                assert ("application" in screen(app)) == (size[0] >= 100)
                await pilot.press("enter")
                await settled(app, lambda: "SQLSTATE 42P01" in screen(app))
                assert "$2  NULL" in screen(app)
                await pilot.press("escape")
                await settled(app, lambda: "SQLSTATE" not in screen(app))

    run(test)


def test_it_follows_the_newest_until_the_cursor_moves() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(n, f"SELECT 'row {n}'") for n in range(200)]
            async with dashboard(server) as (app, pilot):
                await settled(app, lambda: "row 199" in screen(app))
                await pilot.press("g")
                await settled(app, lambda: "'row 0'" in screen(app))
                server.send("executions", [execution(900, "SELECT 'row 900'")])
                await asyncio.sleep(0.4)
                assert "row 900" not in screen(app)
                await pilot.press("G")
                await settled(app, lambda: "row 900" in screen(app))
                server.send("executions", [execution(901, "SELECT 'row 901'")])
                await settled(app, lambda: "row 901" in screen(app))

    run(test)


def test_pause_counts_what_piles_up() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            await pilot.press("space")
            server.send("executions", [execution(n, "SELECT 'piled'") for n in range(7)])
            await settled(app, lambda: "PAUSED +7" in screen(app))
            assert "piled" not in screen(app)
            await pilot.press("space")
            await settled(app, lambda: "piled" in screen(app))
            assert "PAUSED" not in screen(app)

    run(test)


def test_findings_come_gravest_first_with_what_to_do() -> None:
    async def test() -> None:
        async with serving() as server:
            server.findings = [finding("a", "the lesser", "low")]
            async with dashboard(server) as (app, pilot):
                await pilot.press("3")
                await settled(app, lambda: "the lesser" in screen(app))
                server.send("finding", finding("b", "the graver", "critical"))
                await settled(app, lambda: "the graver" in screen(app))
                assert screen(app).index("the graver") < screen(app).index("the lesser")
                assert "1 critical 1 low" in screen(app).splitlines()[0]
                await pilot.press("g", "enter")
                await settled(app, lambda: "Load all of them at once." in screen(app))
                assert "SELECT 1 = ANY($1)" in screen(app)
                assert "(advice)" in screen(app)
                copied: list[str] = []
                app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
                await pilot.press("c", "y")
                assert copied == ["SELECT $1", "SELECT 1 = ANY($1)"]

    run(test)


def test_statements_are_sorted() -> None:
    async def test() -> None:
        async with serving() as server:
            server.statements = [statement("a", "SELECT slow", 90.0, 1), statement("b", "SELECT often", 10.0, 50)]
            async with dashboard(server) as (app, pilot):
                await pilot.press("2")
                await settled(app, lambda: "SELECT slow" in screen(app))
                assert screen(app).index("SELECT slow") < screen(app).index("SELECT often")
                await pilot.press("s")
                await settled(app, lambda: screen(app).index("SELECT often") < screen(app).index("SELECT slow"))
                assert "by calls" in screen(app)

    run(test)


def test_a_filter_is_the_servers_and_its_error_is_shown() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            await pilot.press("f", *"op:select", "enter")
            await settled(app, lambda: len(server.asked) == 2)
            assert server.asked[-1][0]["filter"] == "op:select"
            await settled(app, lambda: "filter: op:select" in screen(app))
            server.status = 400
            await pilot.press("slash", *"x", "enter")
            await settled(app, lambda: any("column 3" in str(one.message) for one in app._notifications))
            server.status = 200

    run(test)


def test_help_is_made_of_the_bindings() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server, (100, 45)) as (app, pilot):
            await pilot.press("question_mark")
            await settled(app, lambda: "dur>100ms" in screen(app))
            for words in ("Pause", "Filter", "Sort statements", "Copy suggestion", "Page down"):
                assert words in screen(app)
            await pilot.press("escape")
            await settled(app, lambda: "dur>100ms" not in screen(app))

    run(test)


def test_it_says_what_to_do_while_there_is_nothing() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            assert "point your application at" in screen(app)
            await pilot.press("3")
            await settled(app, lambda: "Nothing to tell so far" in screen(app))

    run(test)


def test_it_reconnects_and_says_so() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(1, "SELECT 'kept'")]
            async with dashboard(server) as (app, _):
                await settled(app, lambda: "kept" in screen(app))
                port = int(server.url.rsplit(":", 1)[1])
                await server.stop()
                await settled(app, lambda: "reconnecting" in screen(app))
                assert "kept" in screen(app)
                server.queue = asyncio.Queue()
                server.history = []
                await server.start(port)
                await settled(app, lambda: "● connected" in screen(app))
                assert server.asked[-1][1] == "s.1.1"
                assert "kept" in screen(app)

    run(test)


@pytest.mark.parametrize(
    ("status", "body", "words"), [(401, None, "--token-file"), (200, b"<html>", "does not speak pgtattle")]
)
def test_a_server_that_refuses_is_said(status: int, body: bytes | None, words: str) -> None:
    async def test() -> None:
        async with serving() as server:
            server.status, server.body = status, body
            async with dashboard(server) as (app, _):
                await settled(app, lambda: words in screen(app))
                assert "not connected" in screen(app)

    run(test)


def test_hostile_text_reaches_no_terminal() -> None:
    async def test() -> None:
        async with serving() as server:
            fields = dict.fromkeys(("database", "user", "application", "client", "command", "tag"), HOSTILE)
            server.history = [
                execution(1, HOSTILE, parameters=[HOSTILE], tags={HOSTILE: HOSTILE}, **fields),
                execution(2, "SELECT '" + "x[/b]" * 200_000),
            ]
            server.findings = [finding("a", HOSTILE, sql=HOSTILE)]
            server.statements = [statement("a", HOSTILE, 1.0)]
            async with dashboard(server) as (app, pilot):
                for pane in "123":
                    await pilot.press(pane)
                    await asyncio.sleep(0.3)
                    await pilot.press("g", "enter")
                    await asyncio.sleep(0.3)
                    await pilot.press("c")
                    shown = screen(app)
                    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", shown)
                    assert "owned" in shown
                    assert "[/b]" in shown

    run(test)
