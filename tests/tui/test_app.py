"""The dashboard, driven by keys, its screens read as text."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pgtattle.proxy.schema import Cost
from pgtattle.tui import keymap
from pgtattle.tui.app import Dashboard
from pgtattle.tui.client import Client
from tests.tui.screens import HOSTILE, SESSION, Server, execution, finding, screen, serving, statement
from tests.waiting import PATIENCE, eventually


@asynccontextmanager
async def dashboard(
    server: Server, size: tuple[int, int] = (120, 36), *, owns_session: bool = False
) -> AsyncIterator[tuple[Dashboard, Any]]:
    app = Dashboard(Client(server.url), owns_session=owns_session)
    async with app.run_test(size=size, notifications=True) as pilot:
        await settled(app, lambda: "● connected" in screen(app) or bool(app._model.trouble))
        await settled(app, lambda: app.focused is not None)
        yield app, pilot


async def settled(app: Dashboard, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    await eventually(condition, lambda: f"{app.focused}\n{screen(app)}", seconds)


def in_order(app: Dashboard, first: str, second: str) -> bool:
    """True where both are on the screen, one above or before the other."""
    text = screen(app)
    return 0 <= text.find(first) < text.find(second)


async def pressed(app: Dashboard, pilot: Any, key: str, condition: Callable[[], bool]) -> None:
    """Press a key until it shows, as people do on a slow terminal; for keys that may be pressed twice."""
    for _ in range(5):
        await pilot.press(key)
        with contextlib.suppress(AssertionError):
            return await settled(app, condition, 15.0)
    raise AssertionError(f"{key} shows nothing\n{screen(app)}")


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
def test_live_shows_history_then_what_comes(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(n, f"SELECT {n} FROM history") for n in range(3)]
            async with dashboard(server, size) as (app, pilot):
                await settled(app, lambda: "SELECT 2 FROM history" in screen(app))
                server.send("executions", [execution(9, "SELECT 9 FROM live", sqlstate="42P01")], "s.9.1")
                await settled(app, lambda: "SELECT 9 FROM live" in screen(app))
                for row, words in enumerate(("● connected", "session s at http", "1 Live")):
                    await settled(app, lambda row=row, words=words: words in screen(app).splitlines()[row])  # type: ignore[misc]
                await settled(app, lambda: "42P01" in screen(app))
                await settled(app, lambda: ("application" in screen(app)) == (size[0] >= 100))
                await settled(app, lambda: screen(app).splitlines()[-1].endswith("Quit"))
                await pressed(app, pilot, "enter", lambda: "SQLSTATE 42P01" in screen(app))
                await settled(app, lambda: "$2  NULL" in screen(app))
                await pilot.press("escape")
                await settled(app, lambda: "SQLSTATE" not in screen(app))

    run(test)


def test_a_row_is_drawn_when_the_cursor_knows_it_and_not_before() -> None:
    """Executions come between two frames; a repaint must not show them below a cursor that stayed where it was."""

    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            await settled(app, lambda: "session s at" in screen(app) and not app._changed)
            rows = [execution(1, "SELECT 'drawn'")]
            app._live.show(rows)
            rows.append(execution(2, "SELECT 'not yet'"))
            app._live.rows.refresh()
            await settled(app, lambda: "'drawn'" in screen(app))
            await pilot.pause()
            assert "'not yet'" not in screen(app)
            app._live.show(rows)
            await settled(app, lambda: "'not yet'" in screen(app))
            await pressed(app, pilot, "enter", lambda: screen(app).count("'not yet'") == 2)

    run(test)


def test_the_detail_scrolls_while_the_list_keeps_its_keys() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(1, "SELECT 1\n" + "\n".join(f"-- line {n}" for n in range(100)))]
            async with dashboard(server, (80, 24)) as (app, pilot):
                await settled(app, lambda: "SELECT 1" in screen(app))
                await pressed(app, pilot, "enter", lambda: "-- line 3\n" in screen(app))
                await pilot.press(*["right_square_bracket"] * 20)
                await settled(app, lambda: "-- line 25" in screen(app))
                await pilot.press(*["left_square_bracket"] * 20)
                await settled(app, lambda: "-- line 25" not in screen(app))

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
                await settled(app, lambda: len(app._model.executions) == 201)
                await settled(app, lambda: "G follows the newest" in screen(app))
                assert "row 900" not in screen(app)
                await pilot.press("G")
                await settled(app, lambda: "row 900" in screen(app))
                server.send("executions", [execution(901, "SELECT 'row 901'")])
                await settled(app, lambda: "row 901" in screen(app))

    run(test)


def test_an_open_detail_stays_and_closing_it_follows_again() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(n, f"SELECT 'row {n}'") for n in range(5)]
            async with dashboard(server) as (app, pilot):
                await settled(app, lambda: "row 4" in screen(app))
                await pressed(app, pilot, "enter", lambda: screen(app).count("row 4") == 2)
                for start in range(100, 40_000, 10_000):
                    server.send("executions", [execution(start + n, "SELECT 'flood'") for n in range(10_000)])
                await settled(app, lambda: app._model.executions[-1].id == 40_099)
                await settled(app, lambda: screen(app).count("row 4") == 1)
                copied: list[str] = []
                app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
                await pilot.press("c", "escape")
                assert copied == ["SELECT 'row 4'"]
                server.send("executions", [execution(99_999, "SELECT 'the newest'")])
                await settled(app, lambda: "the newest" in screen(app))

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
            await settled(app, lambda: "PAUSED" not in screen(app))

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
                await settled(app, lambda: in_order(app, "the graver", "the lesser"))
                await settled(app, lambda: "1 critical  1 low" in screen(app).splitlines()[1])
                await pilot.press("g", "enter")
                await settled(app, lambda: "Load all of them at once." in screen(app))
                await settled(app, lambda: "SELECT 1 = ANY($1)" in screen(app))
                await settled(app, lambda: "(advice)" in screen(app))
                await settled(app, lambda: bool(re.search(r"executions +12", screen(app))))
                copied: list[str] = []
                app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
                await pilot.press("c", "y")
                assert copied == ["SELECT $1", "SELECT 1 = ANY($1)"]

    run(test)


def test_a_finding_that_is_gone_is_last_with_what_changed() -> None:
    async def test() -> None:
        async with serving() as server:
            server.findings = [finding("a", "the graver", "critical"), finding("b", "the lesser", "low")]
            async with dashboard(server, (80, 30)) as (app, pilot):
                await pressed(app, pilot, "3", lambda: "● open" in screen(app))
                await settled(app, lambda: in_order(app, "the graver", "the lesser"))
                await settled(app, lambda: "1 critical" in screen(app))
                before, after = Cost(queries=26, ms=92.0), Cost(queries=2, ms=4.0)
                server.send(
                    "finding", msgspec.structs.replace(server.findings[0], state="gone", before=before, after=after)
                )
                await settled(app, lambda: "○ gone" in screen(app))
                await settled(app, lambda: in_order(app, "the lesser", "the graver"))
                await settled(app, lambda: "1 critical" not in screen(app))
                await pressed(app, pilot, "G", lambda: app._findings.rows.current is app._model.findings[-1])
                await pressed(
                    app, pilot, "enter", lambda: "○ gone, /books: 26 → 2 queries, 92.0 → 4.0 ms" in screen(app)
                )

    run(test)


def test_the_cursor_stays_on_its_finding_and_the_detail_keeps_up() -> None:
    async def test() -> None:
        async with serving() as server:
            server.findings = [finding("a", "the first", "low")]
            async with dashboard(server) as (app, pilot):
                await pilot.press("3", "enter")
                await settled(app, lambda: "seen 12 times" in screen(app))
                server.send("finding", finding("b", "the graver", "critical"))
                server.send("finding", msgspec.structs.replace(server.findings[0], count=4321))
                await settled(app, lambda: "seen 4,321 times" in screen(app))
                await settled(app, lambda: "the graver" in screen(app))

    run(test)


def test_statements_are_sorted_by_the_server() -> None:
    async def test() -> None:
        async with serving() as server:
            server.statements = [statement("a", "SELECT slow", 90.0, 1), statement("b", "SELECT often", 10.0, 50)]
            async with dashboard(server) as (app, pilot):
                await pilot.press("2")
                await settled(app, lambda: "SELECT slow" in screen(app))
                await settled(app, lambda: in_order(app, "SELECT slow", "SELECT often"))
                await pilot.press("s")
                await settled(app, lambda: screen(app).index("SELECT often") < screen(app).index("SELECT slow"))
                await settled(app, lambda: "by calls" in screen(app))

    run(test)


def test_a_slow_server_holds_no_key_up() -> None:
    async def test() -> None:
        async with serving() as server:
            server.slow = 600.0
            server.findings = [finding("a", "a finding")]
            async with dashboard(server) as (app, pilot):
                await pilot.press("2", "3")
                await settled(app, lambda: "a finding" in screen(app))

    run(test)


def test_a_filter_is_the_servers_and_its_error_is_shown() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            await pilot.press("f", *"op:select")
            await settled(app, lambda: screen(app).splitlines()[-2].strip() == "op:select")
            await pressed(app, pilot, "enter", lambda: len(server.asked) == 2)
            assert server.asked[-1][0]["filter"] == "op:select"
            assert server.asked[-1][0]["history"] == "1000"
            await settled(app, lambda: "No execution matches op:select" in screen(app))
            server.refused_filter = "op:selectx[/b]"
            await pilot.press("slash", *"x[/b]", "enter")
            await settled(app, lambda: "column 3: no such filter: op:selectx[/b]" in screen(app))
            assert len(server.asked) == 2, "the stream goes on with the filter that works"
            await pilot.press("escape")
            await settled(app, lambda: "column 3" not in screen(app))
            await settled(app, lambda: "filter: op:select" in screen(app))
            await pilot.press("f", "ctrl+a", "ctrl+k", "enter")
            await settled(app, lambda: len(server.asked) == 3)
            assert "filter" not in server.asked[-1][0]

    run(test)


def test_help_names_every_key() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server, (100, 60)) as (app, pilot):
            server.send("session", msgspec.structs.replace(SESSION, notes=["a role without a password", "[/b] note"]))
            await settled(app, lambda: "note 1/2" in screen(app) or "note 2/2" in screen(app))
            await pilot.press("question_mark")
            await settled(app, lambda: "dur>100ms" in screen(app))
            described = [f"{key:20}{what}" for key, what in keymap.described()]
            await settled(app, lambda: all(one in screen(app) for one in described))
            await settled(app, lambda: "[/b] note" in screen(app))
            await pilot.press("escape")
            await settled(app, lambda: "dur>100ms" not in screen(app))

    run(test)


def test_it_says_what_to_do_while_there_is_nothing() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, pilot):
            await settled(app, lambda: "point your application at" in screen(app))
            await pilot.press("2")
            await settled(app, lambda: "No statement was seen yet" in screen(app))
            await pilot.press("3")
            await settled(app, lambda: "Nothing to tell so far" in screen(app))
            await pilot.press("enter", "j", "G", "c", "y", "escape")
            await settled(app, lambda: "there is no suggested SQL here" in screen(app))

    run(test)


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
def test_what_was_lost_is_said_on_top(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server, size) as (app, _):
            assert "lost" not in screen(app)
            server.send("session", msgspec.structs.replace(SESSION, executions=1_234_567, shed=12, lost=3))
            server.send("skipped", {"executions": 17})
            await settled(app, lambda: "12 shed 3 lost" in screen(app))
            await settled(app, lambda: "1,234,567 executions" in screen(app).splitlines()[0])
            await settled(app, lambda: ("17 skipped here" in screen(app)) == (size[0] > 100))
            await settled(
                app, lambda: bool(re.search(r"session s at http://\S+, PostgreSQL 18", screen(app).splitlines()[1]))
            )
            lost = next(part for part in app.query_one("#header")._parts if "lost" in part[0])  # type: ignore[attr-defined]
            assert "red" in lost[1]

    run(test)


def test_it_reconnects_and_says_so() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(1, "SELECT 'kept'")]
            async with dashboard(server) as (app, _):
                await settled(app, lambda: "kept" in screen(app))
                port = int(server.url.rsplit(":", 1)[1])
                await server.stop()
                await settled(app, lambda: "○ reconnecting" in screen(app))
                await settled(app, lambda: "is pgtattle running there?" in screen(app))
                await settled(app, lambda: "kept" in screen(app))
                server.queue = asyncio.Queue()
                server.history = []
                await server.start(port)
                await settled(app, lambda: "● connected" in screen(app))
                assert server.asked[-1][1] == "s.1.1"
                await settled(app, lambda: "kept" in screen(app))

    run(test)


def test_a_version_that_is_not_known_yet_is_not_named() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server) as (app, _):
            server.send("session", msgspec.structs.replace(SESSION, executions=7, server_version=""))
            await settled(app, lambda: " 7 executions" in screen(app))
            await settled(app, lambda: screen(app).splitlines()[1].split()[-1].startswith("http://"))

    run(test)


@pytest.mark.parametrize(
    ("status", "body", "token", "words"),
    [(200, None, "secret", "--token-file"), (200, b"<html>", "", "does not speak pgtattle")],
)
def test_a_server_that_refuses_is_said(status: int, body: bytes | None, token: str, words: str) -> None:
    async def test() -> None:
        async with serving() as server:
            server.status, server.body, server.token = status, body, token
            async with dashboard(server, (80, 24)) as (app, _):
                await settled(app, lambda: words in screen(app))
                await settled(app, lambda: "○ not connected" in screen(app))

    run(test)


def test_hostile_text_reaches_no_terminal() -> None:
    async def test() -> None:
        async with serving() as server:
            fields = dict.fromkeys(("database", "user", "application", "client", "command", "tag"), HOSTILE)
            server.history = [
                execution(1, HOSTILE, parameters=[HOSTILE, "y" * 1_000_000], tags={HOSTILE: HOSTILE}, **fields),
                execution(2, "SELECT '" + "x[/b]" * 200_000),
            ]
            server.findings = [finding("a", HOSTILE, sql=HOSTILE)]
            server.statements = [statement("a", HOSTILE, 1.0)]
            server.refused_filter = HOSTILE.strip()
            async with dashboard(server) as (app, pilot):
                server.send("session", msgspec.structs.replace(SESSION, notes=[HOSTILE], server_version=HOSTILE))
                copied: list[str] = []
                app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
                for pane in "123":
                    await pilot.press(pane)
                    await settled(app, lambda: screen(app).count("owned") >= 2)
                    await pilot.press("g")
                    await pressed(app, pilot, "enter", lambda: screen(app).count("owned") >= 3)
                    await pilot.press("c", "question_mark")
                    await settled(
                        app, lambda: "notes of this session" in str(app.screen.query_one("#help-text").render())
                    )  # type: ignore[attr-defined]
                    assert not re.search(UNSAFE, screen(app))
                    await pilot.press("escape")
                    assert not re.search(UNSAFE, screen(app))
                    await settled(app, lambda: "[/b]" in screen(app))
                assert copied == [HOSTILE] * 3
                await app._use_filter(HOSTILE.strip())
                await settled(app, lambda: "no such filter" in app.query_one("#filter-error").render().plain)  # type: ignore[attr-defined]
                assert not re.search(UNSAFE, screen(app))

    run(test)


UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2028\u2066-\u2069\ud800-\udfff]")


PATIENCE_SECONDS = 50.0


@pytest.mark.parametrize(("key", "stay"), [("q", "n"), ("ctrl+c", "escape")])
def test_leaving_a_session_of_its_own_is_asked_while_clients_are_connected(key: str, stay: str) -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server, owns_session=True) as (app, pilot):
            await settled(app, lambda: "1 connections" in screen(app), PATIENCE_SECONDS)
            await pilot.press(key)
            await settled(app, lambda: "1 client is connected through pgtattle" in screen(app), PATIENCE_SECONDS)
            await pilot.press(stay)
            await settled(app, lambda: "Leave?" not in screen(app), PATIENCE_SECONDS)
            assert app.is_running
            await pilot.press(key)
            await settled(app, lambda: "Leave?" in screen(app), PATIENCE_SECONDS)
            await pilot.press("y")
            await settled(app, lambda: not app.is_running, PATIENCE_SECONDS)
            assert app.return_value == 0

    run(test)


def test_a_second_ctrl_c_leaves() -> None:
    async def test() -> None:
        async with serving() as server, dashboard(server, owns_session=True) as (app, pilot):
            await settled(app, lambda: "1 connections" in screen(app), PATIENCE_SECONDS)
            await pilot.press("ctrl+c")
            await settled(app, lambda: "Leave?" in screen(app), PATIENCE_SECONDS)
            await pilot.press("ctrl+c")
            await settled(app, lambda: not app.is_running, PATIENCE_SECONDS)

    run(test)


@pytest.mark.parametrize(("clients", "owns_session"), [(1, False), (0, True)])
def test_leaving_is_not_asked_without_clients_nor_of_who_only_attached(clients: int, owns_session: bool) -> None:
    async def test() -> None:
        async with serving() as server:
            server.session = msgspec.structs.replace(SESSION, connections=clients)
            async with dashboard(server, owns_session=owns_session) as (app, pilot):
                await settled(app, lambda: f"{clients} connections" in screen(app), PATIENCE_SECONDS)
                await pilot.press("q")
                await settled(app, lambda: not app.is_running, PATIENCE_SECONDS)

    run(test)
