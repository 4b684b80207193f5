"""Background tasks of one process: none fails unseen, and none is left behind.

Enters: named coroutines, and exceptions of what must go on after them. Leaves: a line in the log and a count for each
failure.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from pgtattle.proxy.log import Limiter

STOP_SECONDS: Final = 5.0


class Tasks:
    """The tasks of a running loop. `failures` counts those that ended by an exception, callbacks of the loop too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.failures = 0
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._limiter = Limiter()
        self._log = structlog.get_logger()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in the background; `name` says in the log what it was."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def failed(self, name: str, error: BaseException) -> None:
        """Count and log a failure of `name`, which goes on."""
        self.failures += 1
        if self._limiter.lets(name, time.monotonic()):
            self._log.error(
                "background task failed",
                task=name,
                error=f"{type(error).__name__}: {error}",
                at=_place(error),
                **self._limiter.skipped(name),
            )

    def watch_callbacks(self) -> None:
        """Count and log what callbacks of the loop raise, too."""
        self._loop.set_exception_handler(self._callback_failed)

    async def stop(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(task.get_name(), error)

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self.failed("callback", error)
        else:
            loop.default_exception_handler(context)


def _place(error: BaseException) -> str:
    """Where it was raised: the last line of the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}: {last.line}"
