"""The two lines on top: connection, counts and what was lost; findings, and what people must know."""

from __future__ import annotations

import time
from collections import Counter

from pgtattle.proxy.schema import SEVERITIES
from pgtattle.tui.harmless import line
from pgtattle.tui.model import Model
from pgtattle.tui.views import SEVERITY_STYLES
from pgtattle.tui.widgets.safe import Part, SafeText

NOTE_SECONDS = 6


class Header(SafeText):
    """Shows the model's state of affairs."""

    def __init__(self, url: str) -> None:
        super().__init__(fixed=True, id="header")
        self._url = url

    def refresh_from(self, model: Model) -> None:
        """Draw anew, if anything changed."""
        self.show([*_counts(model), "\n", *_findings(model), *_words(model, self._url)])


def _counts(model: Model) -> list[Part]:
    parts: list[Part] = [(" pgtattle ", "bold reverse"), " "]
    if model.connected:
        parts.append(("● connected ", "green"))
    else:
        parts.append(("○ not connected " if model.final else "○ reconnecting ", "red"))
    if model.paused:
        parts.append((f" PAUSED +{model.piled_up:,} ", "bold yellow"))
    session = model.session
    if session is not None:
        if session.shed or session.lost:
            parts.append((f" {session.shed:,} shed {session.lost:,} lost ", "bold red"))
        parts.append(f" {session.executions:,} executions  {model.rate:,.0f}/s ")
        parts.append((f" {session.connections:,} connections ", "dim"))
        if session.opaque_connections:
            parts.append((f" {session.opaque_connections:,} not observed ", "yellow"))
        if session.restarts:
            parts.append((f" {session.restarts:,} restarts ", "yellow"))
        evicted = sum(session.evicted.values())
        if evicted:
            parts.append((f" {evicted:,} evicted ", "dim"))
    if model.skipped:
        parts.append((f" {model.skipped:,} skipped here ", "yellow"))
    return parts


def _findings(model: Model) -> list[Part]:
    counts = Counter(one.severity for one in model.findings if one.stands)
    parts: list[Part] = [
        (f" {counts[severity]:,} {severity} ", SEVERITY_STYLES[severity])
        for severity in reversed(SEVERITIES)
        if counts[severity]
    ]
    return parts or [(" no findings ", "dim")]


def _words(model: Model, url: str) -> list[Part]:
    session = model.session
    if model.trouble:
        return [(f" {line(model.trouble)}", "red")]
    if session is not None and session.notes:
        notes = session.notes
        number = int(time.monotonic() / NOTE_SECONDS) % len(notes)
        count = f"note {number + 1}/{len(notes)}: " if len(notes) > 1 else ""
        return [(f" {count}{line(notes[number])}", "yellow")]
    where = url if session is None else f"session {session.id} at {url}"
    if session is not None and session.server_version:
        where += f", PostgreSQL {session.server_version}"
    return [(f" {line(where)}", "dim")]
