"""The model's bounds, rates and order."""

from __future__ import annotations

import msgspec
import pytest

from pgtattle.tui import client, model
from pgtattle.tui.model import Model, Ring
from tests.tui.screens import SESSION, execution, finding


def test_the_ring_is_bounded_by_count() -> None:
    ring = Ring()
    dropped = 0
    for start in range(0, 50_000, 500):
        dropped += ring.add([execution(start + n) for n in range(500)])
        assert len(ring.items) <= model.KEPT + model.SLACK
    assert dropped + len(ring.items) == 50_000
    assert ring.items[-1].id == 49_999
    assert [one.id for one in ring.items] == list(range(dropped, 50_000))


def test_the_ring_is_bounded_by_bytes_and_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "KEPT_BYTES", 10_000)
    ring = Ring()
    for number in range(100):
        ring.add([execution(number, "x" * 900, parameters=["y" * 100, None])])
        assert sum(len(one.sql) + 100 for one in ring.items) <= 10_000
    assert ring.items[-1].id == 99
    ring.add([execution(100, "x" * 50_000)])
    assert [one.id for one in ring.items] == [100]
    ring.add([execution(101)])
    assert [one.id for one in ring.items] == [101]


def test_pause_keeps_the_order_and_counts_all() -> None:
    state = Model()
    state.apply(client.Executions([execution(1)]))
    state.pause(True)
    for start in range(10, 30_010, 10_000):
        state.apply(client.Executions([execution(start + n) for n in range(10_000)]))
    assert state.piled_up == 30_000
    assert [one.id for one in state.executions] == [1]
    state.pause(False)
    assert state.piled_up == 0
    assert state.executions[-1].id == 30_009
    assert len(state.executions) <= model.KEPT + model.SLACK


def test_the_rate_is_that_of_the_last_seconds() -> None:
    state = Model()
    state.apply(client.Connected(True))
    assert state.rate == 0
    for second in range(10):
        state.apply(msgspec.structs.replace(SESSION, executions=1_000 * second), now=100.0 + second)
    assert state.rate == 1_000
    for second in range(10, 16):
        state.apply(msgspec.structs.replace(SESSION, executions=9_000), now=100.0 + second)
    assert state.rate == 0
    state.apply(client.Disconnected("gone"))
    assert (state.rate, state.connected, state.trouble) == (0, False, "gone")


def test_findings_are_bounded_by_dropping_the_least() -> None:
    state = Model()
    for number in range(model.FINDINGS + 5):
        state.apply(finding(f"low{number}", severity="low"))
    state.apply(finding("grave", severity="critical"))
    assert len(state.findings) == model.FINDINGS
    assert state.findings[0].id == "grave"


def test_a_reset_forgets_and_a_resumed_stream_does_not() -> None:
    state = Model()
    state.apply(client.Findings([finding("a")]))
    state.apply(client.Executions([execution(1)]))
    state.apply(client.Connected(False))
    assert len(state.executions) == len(state.findings) == 1
    state.apply(client.Connected(True))
    assert state.executions == state.findings == []
