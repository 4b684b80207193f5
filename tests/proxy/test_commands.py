"""How the commands end."""

from __future__ import annotations

import asyncio

import pytest

from pgtattle.proxy.commands import DRAIN_FAILED, drained


class Proxy:
    """A proxy whose drain fails, which none does by itself."""

    def __init__(self, failure: Exception | None, seconds: float = 0.0) -> None:
        self._failure = failure
        self._seconds = seconds

    async def drain(self) -> None:
        await asyncio.sleep(self._seconds)
        if self._failure is not None:
            raise self._failure


def test_a_drain_that_fails_is_said_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> int:
        return await drained(Proxy(RuntimeError("broken")), asyncio.Event())

    assert asyncio.run(test()) == DRAIN_FAILED
    assert "the drain failed and sessions may have been cut: RuntimeError: broken" in capsys.readouterr().err


def test_a_second_signal_ends_a_drain_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> int:
        again = asyncio.Event()
        again.set()
        return await drained(Proxy(None, 600.0), again)

    assert asyncio.run(test()) == 0
    assert capsys.readouterr().err == ""
