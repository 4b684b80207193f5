"""The report for programs: JSON, version 1."""

from __future__ import annotations

import msgspec

from pgtattle.proxy.schema import Report


def render(report: Report) -> str:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
