"""No background task fails unseen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from pgtattle.proxy import log
from pgtattle.proxy.tasks import Tasks

Logged = Callable[[], list[dict[str, str]]]


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    """The lines that were logged."""
    file = tmp_path / "log"
    log.configure("json", str(file))
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()]
    structlog.reset_defaults()


async def fails() -> None:
    raise ZeroDivisionError("no such luck")


def test_a_failure_is_counted_and_logged_with_its_name_and_place(logged: Logged) -> None:
    async def test() -> int:
        tasks = Tasks(asyncio.get_running_loop())
        await asyncio.wait([tasks.start("the stars", fails())])
        await asyncio.sleep(0)
        return tasks.failures

    assert asyncio.run(test()) == 1
    (line,) = logged()
    assert (line["level"], line["message"], line["task"]) == ("error", "background task failed", "the stars")
    assert line["error"] == "ZeroDivisionError: no such luck"
    assert line["at"].startswith("test_tasks.py:")
    assert line["at"].endswith('in fails: raise ZeroDivisionError("no such luck")')


def test_what_a_callback_raises_is_counted_too(logged: Logged) -> None:
    async def test() -> int:
        loop = asyncio.get_running_loop()
        tasks = Tasks(loop)
        tasks.watch_callbacks()
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks.failures

    assert asyncio.run(test()) == 1
    assert logged()[0]["task"] == "callback"


def test_a_task_that_ends_or_is_stopped_is_no_failure(logged: Logged) -> None:
    async def test() -> tuple[int, bool]:
        tasks = Tasks(asyncio.get_running_loop())
        tasks.start("short", asyncio.sleep(0))
        endless = tasks.start("endless", asyncio.Event().wait())  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        await tasks.stop()
        return tasks.failures, endless.cancelled()

    assert asyncio.run(test()) == (0, True)
    assert logged() == []
