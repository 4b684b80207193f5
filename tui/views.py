"""Records as rows and as details: columns, cells and pieces of text. No widgets, and nothing is harmless yet."""

from __future__ import annotations

import msgspec

from pgtattle.proxy.schema import ExecutionView, FindingView, StatementView
from pgtattle.tui.harmless import BLOCK, LINE, block
from pgtattle.tui.sql import pretty
from pgtattle.tui.widgets.rows import Cells, Column
from pgtattle.tui.widgets.safe import Part

SEVERITY_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}
STATUS_STYLES = {"verified": "green", "confirmed": "green", "partly": "yellow", "refuted": "red"}
STATES = {
    "open": ("● open", ""),
    "improved": ("◐ improved", "green"),
    "gone": ("○ gone", "dim"),
    "ignored": ("- ignored", "dim"),
}
"""How a finding's state is shown: a sign and a word, and a style."""
SLOW_MS = 100.0
PARAMETERS = 200

LIVE = (
    Column("time UTC", 12),
    Column("ms", 8, "right"),
    Column("rows", 6, "right"),
    Column("what", 9),
    Column("db", 10, from_width=110),
    Column("application", 16, from_width=100),
    Column("SQL"),
)
STATEMENTS = (
    Column("calls", 8, "right"),
    Column("total ms", 10, "right"),
    Column("mean", 8, "right"),
    Column("p95", 8, "right", from_width=90),
    Column("rows", 9, "right", from_width=100),
    Column("errors", 6, "right", from_width=110),
    Column("SQL"),
)
FINDINGS = (
    Column("severity", 8),
    Column("state", 10),
    Column("rule", 15),
    Column("sure", 9, from_width=100),
    Column("times", 7, "right"),
    Column("total ms", 9, "right", from_width=90),
    Column("what"),
)


def execution_cells(one: ExecutionView) -> Cells:
    """A row of Live."""
    style = "red" if one.sqlstate else "yellow" if one.duration_ms >= SLOW_MS else ""
    return (
        (one.at[11:23], "dim"),
        (f"{one.duration_ms:.2f}", style),
        (str(one.rows), ""),
        (one.sqlstate or one.command, style),
        (one.database, "dim"),
        (one.application or one.user, "dim"),
        (_one_line(one.sql), style),
    )


def statement_cells(one: StatementView) -> Cells:
    """A row of Statements."""
    return (
        (str(one.calls), ""),
        (f"{one.total_ms:,.1f}", ""),
        (f"{one.mean_ms:.2f}", ""),
        (f"{one.p95_ms:.2f}", ""),
        (str(one.rows), "dim"),
        (str(one.errors) if one.errors else "", "red"),
        (_one_line(one.sql), ""),
    )


def finding_cells(one: FindingView) -> Cells:
    """A row of Findings; what does not stand is dim."""
    state, state_style = STATES[one.state]
    style = "" if one.stands else "dim"
    return (
        (one.severity, SEVERITY_STYLES[one.severity] if one.stands else style),
        (state, state_style),
        (one.rule, style),
        (one.confidence, "dim"),
        (str(one.count), style),
        (f"{one.total_ms:,.1f}", style),
        (one.title, style),
    )


def execution_detail(one: ExecutionView) -> list[Part]:
    """Everything of an execution."""
    parts: list[Part] = [(f"failed with SQLSTATE {one.sqlstate}\n\n", "red")] if one.sqlstate else []
    parts += [*_sql(one.sql), "\n\n", *_parameters(one.parameters)]
    first = f", first row after {one.first_row_ms:.2f} ms" if one.first_row_ms is not None else ""
    stalled = f", the client took no rows for {one.stalled_ms:.2f} ms" if one.stalled_ms else ""
    parts += [("time       ", "dim"), f"{one.duration_ms:.3f} ms{first}{stalled}\n"]
    parts += [("answer     ", "dim"), f"{one.tag or '-'}, {one.rows:,} rows, {one.bytes:,} bytes\n"]
    transaction = f"transaction {one.transaction}" if one.transaction else "autocommit"
    parts += [
        ("connection ", "dim"),
        f"{one.connection}, {one.user}@{one.database} from {one.client} ({one.application or 'no application_name'})\n",
        ("exchange   ", "dim"),
        f"{one.exchange}, position {one.position}, {one.protocol} protocol, {transaction}\n",
        ("at         ", "dim"),
        f"{one.at}\n",
        ("statement  ", "dim"),
        f"{one.fingerprint}\n",
    ]
    for key, value in one.tags.items():
        parts += [(f"{key:10} ", "dim"), f"{value}\n"]
    return parts


def statement_detail(one: StatementView) -> list[Part]:
    """Everything of a statement."""
    return [
        *_sql(one.sql),
        "\n\n",
        ("calls      ", "dim"),
        f"{one.calls:,}, {one.errors:,} failed, {one.rows:,} rows\n",
        ("time       ", "dim"),
        f"{one.total_ms:,.1f} ms in all, mean {one.mean_ms:.3f}, median {one.p50_ms:.3f}, p95 {one.p95_ms:.3f}, "
        f"p99 {one.p99_ms:.3f}, max {one.max_ms:.3f}\n",
        ("tables     ", "dim"),
        f"{', '.join(one.tables) or '-'}\n",
        ("statement  ", "dim"),
        f"{one.fingerprint} ({one.kind})\n",
    ]


def finding_detail(one: FindingView) -> list[Part]:
    """Everything of a finding: evidence, and what to do."""
    parts: list[Part] = [
        (f"{one.severity} ", SEVERITY_STYLES[one.severity]),
        (f"{one.title}\n", "bold"),
        (f"{one.rule}, {one.confidence}, {_totals(one)}\n", "dim"),
        STATES[one.state],
        *([f", {one.change}"] if one.state in ("improved", "gone") else []),
        "\n\n",
        *_sql(one.sql),
        "\n\n",
    ]
    if one.unit is not None:
        place = " ".join(word for word in (one.unit.route, one.unit.source) if word)
        parts += [("where      ", "dim"), f"{place or one.unit.key} ({one.unit.kind})\n"]
    status = one.suggestion.status
    parts += [("what to do ", "bold"), (f"({status})\n", STATUS_STYLES.get(status, "dim")), f"{one.suggestion.text}\n"]
    if one.suggestion.sql:
        parts += ["\n", *_sql(one.suggestion.sql), ("\n(y copies this)\n", "dim")]
    parts.append(("\nevidence, of the worst\n" if one.unit is not None else "\nevidence\n", "bold"))
    for key, value in msgspec.to_builtins(one.evidence).items():
        if key != "rule" and value not in ("", None, []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts += [(f"  {key.replace('_', ' '):13} ", "dim"), f"{shown}\n"]
    parts += [("\nid         ", "dim"), f"{one.id}\n", ("seen       ", "dim"), f"{one.first_seen} … {one.last_seen}\n"]
    return parts


def _totals(one: FindingView) -> str:
    units = f" in {one.units:,} units" if one.units > 1 else ""
    return f"seen {one.count:,} times{units}, {one.total_ms:,.1f} ms in all"


def _one_line(sql: str) -> str:
    return " ".join(sql[:LINE].split())


def _sql(sql: str) -> list[Part]:
    """The SQL for reading; of a very long one the beginning, and how much more there is."""
    parts: list[Part] = list(pretty(sql[:BLOCK]))
    if len(sql) > BLOCK:
        parts.append((f"\n… {len(sql) - BLOCK:,} more characters: c copies all of it", "yellow"))
    return parts


def _parameters(values: list[str | None]) -> list[Part]:
    parts: list[Part] = [("parameters\n", "bold")] if values else []
    for number, value in enumerate(values[:PARAMETERS], 1):
        shown = ("NULL", "italic") if value is None else (block(value, LINE), "")
        parts += [(f"  ${number}  ", "dim"), shown, "\n"]
    if len(values) > PARAMETERS:
        parts.append((f"  … {len(values) - PARAMETERS:,} more\n", "yellow"))
    return [*parts, "\n"] if values else []
