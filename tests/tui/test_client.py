"""The client over a real server with faults: what is asked for, what comes, what is said when nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.schema import FindingView, SessionView
from pgtattle.tui.client import Client, Connected, Disconnected, Event, Executions, Findings, Refused, Skipped
from tests.tui.screens import Server, execution, finding, serving
from tests.waiting import PATIENCE

Got = TypeVar("Got")


def run(test: Callable[[], Awaitable[Got]]) -> Got:
    return asyncio.run(asyncio.wait_for(test(), PATIENCE))


async def take(client: Client, count: int, filter_: str = "") -> list[Event]:
    events: list[Event] = []
    stream = client.events(filter_)
    async for event in stream:
        events.append(event)
        if len(events) == count:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return events


async def first(server: Server, count: int, *, token: str = "", filter_: str = "") -> list[Event]:
    client = Client(server.url, token)
    try:
        return await take(client, count, filter_)
    finally:
        await client.close()


def test_history_findings_and_then_events_in_their_order() -> None:
    async def test() -> None:
        async with serving() as server:
            server.history = [execution(1), execution(2)]
            server.findings = [finding("a")]
            server.send("executions", [execution(3)], "s.3.0")
            server.send("finding", finding("b"))
            server.send("skipped", {"executions": 41})
            server.send("unknown", {"of": "a later version"})
            server.send("executions", [execution(4)])
            events = await first(server, 8)
            assert [type(one) for one in events] == [
                Connected, Findings, Executions, SessionView, Executions, FindingView, Skipped, Executions,
            ]  # fmt: skip
            assert events[0] == Connected(True)
            assert events[6] == Skipped(41)
            assert server.asked == [({"history": "1000"}, "")]

    run(test)


def test_it_goes_on_after_the_last_id_and_starts_anew_when_told() -> None:
    async def test() -> None:
        async with serving() as server:
            client = Client(server.url)
            stream = client.events("op:select")
            server.send("executions", [execution(3)], "s.3.0")
            server.cut()
            seen = [await anext(stream) for _ in range(5)]
            assert seen[3:] == [Executions([execution(3)]), Disconnected("the server ended the stream")]
            server.send("reset", {"reason": "session"}, "t.0.0")
            server.send("executions", [execution(1)], "t.1.0")
            seen = [await anext(stream) for _ in range(5)]
            assert seen[0] == Connected(False)
            assert seen[3:] == [Connected(True), Executions([execution(1)])]
            assert server.asked[1] == ({"history": "1000", "filter": "op:select"}, "s.3.0")
            await stream.aclose()  # type: ignore[attr-defined]
            await client.close()

    run(test)


@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_events_arrive_in_any_pieces(size: int) -> None:
    async def test() -> None:
        async with serving() as server:
            server.send("executions", [execution(3, "SELECT '\u017c\u00f3\u0142w'")])
            whole = server.queue.get_nowait().replace(b"\n", b"\r\n")
            for at in range(0, len(whole), size):
                server.queue.put_nowait(whole[at : at + size])
            assert (await first(server, 4))[3] == Executions([execution(3, "SELECT '\u017c\u00f3\u0142w'")])

    run(test)


@pytest.mark.parametrize(
    ("data", "words"), [(b"[{}]", "does not speak this version"), (b"[{", "does not speak this version")]
)
def test_garbage_is_said_and_tried_again(data: bytes, words: str) -> None:
    async def test() -> None:
        async with serving() as server:
            server.queue.put_nowait(b"event: executions\ndata: " + data + b"\n\n")
            events = await first(server, 5)
            assert isinstance(events[3], Disconnected)
            assert words in events[3].reason
            assert isinstance(events[4], Connected)

    run(test)


def test_a_line_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr("pgtattle.tui.client.MAX_LINE", 100_000)
        async with serving() as server:
            server.queue.put_nowait(b"data: " + b"x" * 200_000)
            events = await first(server, 4)
            assert isinstance(events[3], Disconnected)
            assert "too long" in events[3].reason

    run(test)


def test_a_busy_server_is_tried_again_and_its_words_are_shown() -> None:
    async def test() -> None:
        async with serving() as server:
            server.status = 503
            client = Client(server.url)
            stream = client.events()
            assert await anext(stream) == Disconnected(f"{server.url}: 16 event streams are open already")
            server.status = 200
            assert await anext(stream) == Connected(True)
            await stream.aclose()  # type: ignore[attr-defined]
            await client.close()

    run(test)


def test_the_token_is_sent_and_its_lack_ends_the_stream() -> None:
    async def test() -> None:
        async with serving() as server:
            server.token = "s3cret"
            assert await first(server, 9) == [Refused("a token is needed (give --token-file)")]
            assert (await first(server, 1, token="s3cret")) == [Connected(True)]

    run(test)


def test_a_filter_that_is_refused_is_told() -> None:
    async def test() -> None:
        async with serving() as server:
            server.refused_filter = "x:"
            client = Client(server.url)
            assert await client.refusal("x:") == "column 3: no such filter: x:"
            assert await client.refusal("op:select") == ""
            await client.close()

    run(test)


def test_without_a_server_it_says_so() -> None:
    async def test() -> None:
        client = Client("http://127.0.0.1:1")
        (event,) = await take(client, 1)
        assert event == Disconnected("http://127.0.0.1:1: nothing answers; is pgtattle running there?")
        assert await client.statements("total") is None
        assert await client.refusal("op:select") == ""
        await client.close()

    run(test)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x:port", "http://[::1", "http://x:0", "x:99999"])
def test_an_impossible_address_says_how_to_write_it(url: str) -> None:
    with pytest.raises(UsageError, match="write http://HOST:PORT or unix:/path"):
        Client(url)
