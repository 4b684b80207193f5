"""What the dashboard knows: bounded, fed by the client's events, read by the screens. No widgets, no I/O."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from pgtattle.proxy.schema import CONFIDENCES, SEVERITIES, ExecutionView, FindingView, SessionView, StatementView
from pgtattle.tui import client

KEPT: Final = 5_000
SLACK: Final = 1_000
RATE_SECONDS: Final = 5.0


class Model:
    """State and its changes. `dropped` counts rows that fell out of `executions` since it was last taken."""

    def __init__(self) -> None:
        self.connected = False
        self.trouble = ""
        self.final = False
        self.session: SessionView | None = None
        self.executions: list[ExecutionView] = []
        self.waiting: list[ExecutionView] = []
        self.statements: list[StatementView] = []
        self.skipped = 0
        self.paused = False
        self._findings: dict[str, FindingView] = {}
        self._dropped = 0
        self._seen: deque[tuple[float, int]] = deque()

    @property
    def findings(self) -> list[FindingView]:
        """Gravest first."""
        return sorted(
            self._findings.values(),
            key=lambda one: (
                -SEVERITIES.index(one.severity),
                -CONFIDENCES.index(one.confidence),
                -one.total_ms,
                one.id,
            ),
        )

    @property
    def rate(self) -> float:
        """Executions a second over the last seconds."""
        if len(self._seen) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return max(0.0, (last - first) / (last_at - first_at)) if last_at > first_at else 0.0

    def take_dropped(self) -> int:
        """How many rows fell out since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def pause(self, paused: bool) -> None:
        """Hold new executions back, or let them in."""
        self.paused = paused
        if not paused:
            self._add(self.waiting)
            self.waiting = []

    def clear(self) -> None:
        """Forget the executions that are shown."""
        self._dropped = 0
        self.executions = []
        self.waiting = []

    def apply(self, event: client.Event) -> None:
        """Take an event of the client."""
        match event:
            case client.Connected(fresh):
                self.connected, self.trouble = True, ""
                if fresh:
                    self.clear()
                    self._findings.clear()
                    self._seen.clear()
            case client.Disconnected(reason):
                self.connected, self.trouble = False, reason
            case client.Refused(reason):
                self.connected, self.trouble, self.final = False, reason, True
            case client.Executions(items):
                if self.paused:
                    self.waiting = (self.waiting + items)[-KEPT:]
                else:
                    self._add(items)
            case client.Findings(items):
                self._findings = {one.id: one for one in items}
            case client.Skipped(count):
                self.skipped += count
            case FindingView():
                self._findings[event.id] = event
            case SessionView():
                self.session = event
                now = time.monotonic()
                self._seen.append((now, event.executions))
                while self._seen and now - self._seen[0][0] > RATE_SECONDS:
                    self._seen.popleft()

    def _add(self, items: list[ExecutionView]) -> None:
        self.executions.extend(items)
        if len(self.executions) > KEPT + SLACK:
            excess = len(self.executions) - KEPT
            self.executions = self.executions[excess:]
            self._dropped += excess
