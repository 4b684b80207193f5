"""The two lines on top: connection, counts, and what people must know."""

from __future__ import annotations

from collections import Counter

from pgtattle.proxy.schema import SEVERITIES
from pgtattle.tui.model import Model
from pgtattle.tui.views import SEVERITY_STYLES
from pgtattle.tui.widgets.safe import Part, SafeText


class Header(SafeText):
    """Shows the model's state of affairs."""

    def refresh_from(self, model: Model, url: str) -> None:
        """Draw anew."""
        session = model.session
        parts: list[Part] = [(" pgtattle ", "bold reverse"), " "]
        parts.append(("● connected ", "green") if model.connected else ("○ reconnecting ", "red"))
        if model.final:
            parts[-1] = ("○ not connected ", "red")
        if session is not None:
            parts.append(
                f" {session.executions:,} executions  {model.rate:,.0f}/s  {session.connections:,} connections "
            )
            if session.shed or session.lost:
                parts.append((f" {session.shed:,} shed {session.lost:,} lost ", "bold red"))
            if session.opaque_connections:
                parts.append((f" {session.opaque_connections} not observed ", "yellow"))
            if session.restarts:
                parts.append((f" {session.restarts} restarts ", "yellow"))
        counts = Counter(one.severity for one in model.findings)
        for severity in reversed(SEVERITIES):
            if counts[severity]:
                parts.append((f" {counts[severity]} {severity}", SEVERITY_STYLES[severity]))
        if model.paused:
            parts.append((f"  PAUSED +{len(model.waiting):,}", "bold yellow"))
        if model.skipped:
            parts.append((f"  {model.skipped:,} skipped", "yellow"))
        parts.append("\n")
        if model.trouble:
            parts.append((f" {model.trouble}", "red"))
        elif session is not None and session.notes:
            parts.append((f" {session.notes[0]}", "yellow"))
        else:
            parts.append((f" {url}", "dim"))
        self.show(parts)
