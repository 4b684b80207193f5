"""The profiler's own loops: none ends unseen."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pgtattle.proxy.profiler import Profiler


class Silent:
    """A link on which nothing comes."""

    async def next(self) -> None:
        await asyncio.Event().wait()


class Broken:
    """A pipeline with a rule that fails."""

    def tick(self, now_ns: int) -> None:
        raise ZeroDivisionError


def test_a_rule_that_fails_in_a_tick_ends_the_process_which_is_started_anew() -> None:
    profiler = Profiler.__new__(Profiler)
    profiler._link = cast(Any, Silent())
    profiler._pipeline = cast(Any, Broken())
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asyncio.wait_for(profiler._until_one_ends(), 10))
