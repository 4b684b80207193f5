"""Waiting for an event. The bound of a wait is so wide that only what hangs reaches it: it is no expectation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds after which something hangs. A busy machine needs many times what an idle one does."""

PAUSE = 0.02


def wait_for(condition: Callable[[], T], what: object = "the condition", seconds: float = PATIENCE) -> T:
    """Ask until the answer is true, and give it. `what` names it, or is called for the state when time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, _over(what, seconds)
        time.sleep(PAUSE)
    return found


async def eventually(condition: Callable[[], T], what: object = "the condition", seconds: float = PATIENCE) -> T:
    """The same for a test that is a coroutine."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, _over(what, seconds)
        await asyncio.sleep(PAUSE)
    return found


def _over(what: object, seconds: float) -> str:
    return f"not within {seconds:g} s: {what() if callable(what) else what}"
