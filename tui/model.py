"""What the dashboard knows: bounded, fed by the client's events, read by the screens. No widgets, no I/O.

Text is kept as it came, so that copies are true; `harmless` is on both roads to the screen (`widgets.safe`,
`widgets.rows`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from pgtattle.proxy.schema import ExecutionView, FindingView, SessionView, StatementView
from pgtattle.tui import client

KEPT: Final = 20_000
SLACK: Final = 2_000
KEPT_BYTES: Final = 32 * 1024 * 1024
FINDINGS: Final = 2_000
RATE_SECONDS: Final = 5.0
RATE_LEAST_SECONDS: Final = 0.5


class Ring:
    """The newest executions, at most `KEPT` (and `SLACK`, so that the list is not moved for each) and `KEPT_BYTES`.

    The newest one stays however big it is.
    """

    def __init__(self) -> None:
        self.items: list[ExecutionView] = []
        self._bytes = 0

    def add(self, items: Sequence[ExecutionView]) -> int:
        """Take executions, oldest first; how many fell out at the other end."""
        self.items.extend(items)
        self._bytes += sum(map(_weight, items))
        excess = len(self.items) - KEPT if len(self.items) > KEPT + SLACK else 0
        self._bytes -= sum(map(_weight, self.items[:excess]))
        if self._bytes > KEPT_BYTES:
            while self._bytes > KEPT_BYTES * 3 // 4 and excess < len(self.items) - 1:
                self._bytes -= _weight(self.items[excess])
                excess += 1
        if excess:
            self.items = self.items[excess:]
        return excess


class Model:
    """State and its changes. `piled_up` counts what came while `paused`."""

    def __init__(self) -> None:
        self.connected = False
        self.trouble = ""
        self.final = False
        self.session: SessionView | None = None
        self.statements: list[StatementView] = []
        self.skipped = 0
        self.paused = False
        self.piled_up = 0
        self._shown = Ring()
        self._waiting = Ring()
        self._dropped = 0
        self._findings: dict[str, FindingView] = {}
        self._sorted: list[FindingView] | None = None
        self._rates: deque[tuple[float, int]] = deque()

    @property
    def executions(self) -> list[ExecutionView]:
        """Oldest first."""
        return self._shown.items

    @property
    def findings(self) -> list[FindingView]:
        """Those that stand first, the gravest of them first."""
        if self._sorted is None:
            self._sorted = sorted(self._findings.values(), key=attrgetter("gravity"))
        return self._sorted

    @property
    def rate(self) -> float:
        """Executions a second over the last seconds; 0 while nothing is known."""
        if not self._rates or not self.connected:
            return 0.0
        (first_at, first), (last_at, last) = self._rates[0], self._rates[-1]
        seconds = last_at - first_at
        return max(0.0, (last - first) / seconds) if seconds >= RATE_LEAST_SECONDS else 0.0

    def take_dropped(self) -> int:
        """How many rows fell out of `executions` since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def pause(self, paused: bool) -> None:
        """Hold new executions back, or let them in."""
        self.paused = paused
        if not paused:
            self._dropped += self._shown.add(self._waiting.items)
            self._waiting, self.piled_up = Ring(), 0

    def apply(self, event: client.Event, now: float | None = None) -> None:
        """Take an event of the client; `now` is monotonic, in seconds."""
        match event:
            case client.Connected(fresh):
                self.connected, self.trouble = True, ""
                if fresh:
                    self._forget()
            case client.Disconnected(reason):
                self.connected, self.trouble = False, reason
            case client.Refused(reason):
                self.connected, self.trouble, self.final = False, reason, True
            case client.Executions(items) if self.paused:
                self._waiting.add(items)
                self.piled_up += len(items)
            case client.Executions(items):
                self._dropped += self._shown.add(items)
            case client.Findings(items):
                self._findings = {one.id: one for one in items}
                self._sorted = None
            case client.Skipped(count):
                self.skipped += count
            case FindingView():
                self._findings[event.id] = event
                self._sorted = None
                if len(self._findings) > FINDINGS:
                    del self._findings[self.findings[-1].id]
                    self._sorted = None
            case SessionView():
                self.session = event
                now = time.monotonic() if now is None else now
                self._rates.append((now, event.executions))
                while now - self._rates[0][0] > RATE_SECONDS:
                    self._rates.popleft()

    def _forget(self) -> None:
        self._shown, self._waiting = Ring(), Ring()
        self._dropped = self.piled_up = 0
        self._findings.clear()
        self._sorted = None
        self._rates.clear()


def _weight(one: ExecutionView) -> int:
    """Characters of an execution's texts that have no bound of their own."""
    return len(one.sql) + sum(len(value) for value in one.parameters if value is not None)
