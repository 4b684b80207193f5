"""The report for people at a terminal: at most 100 columns wide but for SQL that is meant to be copied.

Enters: a `Report`. Leaves: text, with colour codes only where asked for. All text of the report is made harmless here.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Final

from pgtattle.analyzers.plural import plural
from pgtattle.analyzers.reports.harmless import harmless
from pgtattle.proxy.schema import (
    ChattyEvidence,
    ChurnEvidence,
    Evidence,
    FindingView,
    IndexEvidence,
    InjectionEvidence,
    LoopEvidence,
    LoopPart,
    PastedEvidence,
    RepeatEvidence,
    Report,
    SessionView,
    Severity,
    SlowEvidence,
    StatementView,
    SuggestionStatus,
    WriteLoopEvidence,
)

WIDTH: Final = 100
_TOP: Final = 15
_SQL_LINES: Final = 12
_INDENT: Final = " " * 4

_CLAUSE: Final = re.compile(
    r" (?=(?:FROM|WHERE|(?:LEFT |RIGHT |FULL |INNER |CROSS )?(?:OUTER )?JOIN|GROUP BY|HAVING|ORDER BY|LIMIT|OFFSET"
    r"|UNION|EXCEPT|INTERSECT|VALUES|SET|RETURNING|ON CONFLICT|FOR UPDATE)\b)(?<!LEFT )(?<!RIGHT )(?<!FULL )(?<!INNER )"
    r"(?<!CROSS )(?<!OUTER )",
    re.IGNORECASE,
)
_COLOURS: Final[dict[Severity, str]] = {"info": "36", "low": "34", "medium": "33", "high": "31", "critical": "1;31"}
_STATUS: Final[dict[SuggestionStatus, str]] = {
    "verified": "verified: the planner takes it",
    "partly": "partly verified",
    "unverified": "not verified",
    "confirmed": "confirmed by traffic",
    "refuted": "refuted: the planner does not take it",
    "advice": "advice",
}


def render(report: Report, colour: bool = False) -> str:
    """The report as text that ends with a line feed."""
    lines = [*_header(report.session), ""]
    standing = [finding for finding in report.findings if finding.stands]
    if standing:
        lines += [f"{plural(len(standing), 'finding')}, the gravest first", ""]
        for number, finding in enumerate(standing, start=1):
            lines += [*_finding(number, finding, colour), ""]
    elif report.findings:
        lines += ["No finding is open.", ""]
    else:
        lines += [*_nothing_found(report), ""]
    lines += _settled("Gone since they were found", [one for one in report.findings if one.state == "gone"])
    lines += _settled("Ignored", [one for one in report.findings if one.state == "ignored"])
    lines += _statements(report.statements)
    return "\n".join(lines).rstrip("\n") + "\n"


_PROOFS: Final = {
    "key": "a foreign key",
    "names": "the columns' names",
    "order": "the order of the rows",
    "sparse": "values that are far apart",
    "scaling": "as many turns as rows in every unit",
    "walk": "its own earlier results",
}


def _loop_in_words(loop: LoopPart) -> str:
    """One of the other loops of a body."""
    fed = f", {loop.parent}.{loop.parent_column} feeds {loop.column or 'it'}" if loop.parent_column else ""
    return f"; with it {loop.executions:,} executions with {loop.distinct:,} different values of {loop.sql}{fed}"


def evidence_in_words(evidence: Evidence) -> str:
    """What a finding rests on, as a sentence."""
    match evidence:
        case LoopEvidence():
            words = (
                f"{evidence.executions:,} executions with {evidence.distinct:,} different values in one unit of work, "
                f"seen in {plural(evidence.units, 'unit')}; {_ms(evidence.database_ms)} in the database and "
                f"{_ms(evidence.gap_ms)} between the queries; told apart by {evidence.signal}"
            )
            if evidence.proof:
                feeds = f"{evidence.parent}.{evidence.parent_column} feeds {evidence.column or 'it'}"
                words += f"; {feeds}, as told by {' and '.join(_PROOFS[one] for one in evidence.proof)}"
            words += f"; driven by {evidence.parent_sql or evidence.parent}" if evidence.parent else ""
            words += f"; one query for all would save about {_ms(evidence.saving_ms)}" if evidence.saving_ms else ""
            return words + "".join(map(_loop_in_words, evidence.loops[1:]))
        case RepeatEvidence(across=True):
            return (
                f"{evidence.executions:,} executions with one set of values, each in a unit of its own, within "
                f"{evidence.watched_s:,.0f} s; {plural(evidence.changes, 'change')} of its result; "
                f"{_ms(evidence.database_ms)} in the database; told apart by {evidence.signal}"
            )
        case RepeatEvidence():
            return (
                f"{evidence.executions:,} executions with {plural(evidence.distinct, 'set')} of values, seen in "
                f"{plural(evidence.units, 'unit')}; {_ms(evidence.database_ms)} in the database; "
                f"told apart by {evidence.signal}"
            )
        case WriteLoopEvidence():
            words = (
                f"{evidence.executions:,} executions in one unit of work wrote {plural(evidence.rows, 'row')}, seen "
                f"in {plural(evidence.units, 'unit')}; {_ms(evidence.database_ms)} in the database and "
                f"{_ms(evidence.gap_ms)} between the writes; told apart by {evidence.signal}"
            )
            words += "; each committed alone" if evidence.committed_alone else ""
            return words + ("; each after a read of the same table" if evidence.checked else "")
        case ChattyEvidence():
            return (
                f"{evidence.queries:,} queries of {plural(evidence.statements, 'statement')} in one "
                f"unit of work, seen in {plural(evidence.units, 'unit')}; {_ms(evidence.database_ms)} of its "
                f"{_ms(evidence.span_ms)} in the database; the budget is {evidence.budget_queries:,} and "
                f"{_ms(evidence.budget_ms)}; told apart by {evidence.signal}; most often {'; '.join(evidence.most)}"
            )
        case ChurnEvidence():
            return (
                f"{evidence.application or 'the application'} prepared {plural(evidence.texts, 'text')} of it on one "
                f"connection; they differ in their {evidence.cause}"
            )
        case InjectionEvidence():
            values = f"{evidence.values}{'+' if evidence.values >= 64 else ''} values"
            words = (
                f"{', '.join(evidence.signs)}, from {evidence.slot}, after "
                f"{plural(evidence.executions, 'execution')} of {evidence.application or 'the application'} with "
                f"{values} that left the statement as it is"
            )
            words += f"; {plural(evidence.errors, 'error')} of statements that begin alike" if evidence.errors else ""
            return words + (f"; sent from {evidence.source}" if evidence.source else "")
        case PastedEvidence():
            if evidence.lengths:
                return (
                    f"{plural(evidence.executions, 'execution')} of {evidence.application or 'the application'} with "
                    f"lists of {evidence.lengths} different lengths in {', '.join(evidence.slots)}"
                )
            binds = f"{evidence.application or 'the application'} binds {evidence.bound_share:.0%} of its executions"
            if not evidence.slots:
                return (
                    f"{plural(evidence.executions, 'execution')} of {plural(evidence.statements, 'statement')} with "
                    f"values in the text; {binds}"
                )
            return (
                f"{plural(evidence.texts, 'different text')} in {plural(evidence.executions, 'execution')}; "
                f"literals in {', '.join(evidence.slots)} took {plural(evidence.values, 'value')}, such as "
                f"{', '.join(evidence.examples)}; {binds}"
            )
        case IndexEvidence():
            after = "" if evidence.cost_after is None else f", {evidence.cost_after:,.0f} with the index"
            words = (
                f"{evidence.node} on {evidence.table} ({plural(evidence.table_rows, 'row')}) for "
                f"{plural(evidence.plan_rows, 'row')}, filtered by {', '.join(evidence.columns)}; planner's cost "
                f"{evidence.cost_before:,.0f}{after}; {plural(evidence.executions, 'execution')}, "
                f"{_ms(evidence.mean_ms)} each"
            )
            return words + (f"; {evidence.note}" if evidence.note else "")
        case SlowEvidence():
            return (
                f"{evidence.over_target:,} of {plural(evidence.executions, 'execution')} took over "
                f"{_ms(evidence.target_ms)}; half of all up to {_ms(evidence.p50_ms)}, the worst "
                f"{_ms(evidence.max_ms)}; {plural(evidence.rows, 'row')}"
            )


def connections(session: SessionView) -> str:
    """How many connections were accepted, and how many of them are open now."""
    still = f" ({session.connections:,} open)" if session.connections else ""
    return plural(session.connections_total, "connection") + still


def _header(session: SessionView) -> Iterator[str]:
    server = f", PostgreSQL {session.server_version}" if session.server_version else ""
    yield from _wrapped(
        f"pgtattle: {plural(session.executions, 'execution')} in {session.seconds:,.1f} s over "
        f"{connections(session)}{server}"
    )
    missing = []
    if session.shed:
        missing.append(f"{plural(session.shed, 'execution')} shed under load")
    if session.lost:
        missing.append(f"{plural(session.lost, 'execution')} lost with a profiler that died")
    if session.opaque_connections:
        missing.append(f"{plural(session.opaque_connections, 'connection')} not followed")
    if missing:
        yield from _wrapped(f"not analyzed: {', '.join(missing)}", "  ")
    evicted = [f"{count:,} {what}" for what, count in session.evicted.items() if count and what != "executions"]
    if evicted:
        yield from _wrapped(f"no longer remembered one by one: {', '.join(evicted)}", "  ")
    for note in session.notes:
        yield from _wrapped(f"note: {note}", "  ")


def _nothing_found(report: Report) -> Iterator[str]:
    session = report.session
    if not session.executions:
        yield from _wrapped(
            "No findings, because nothing was looked at: no query came through the proxy. "
            "Point the application at the proxy's address and run it again."
        )
        return
    units = "executions" if session.executions != 1 else "execution"
    yield from _wrapped(
        f"No findings. Looked at {session.executions:,} {units} of {plural(len(report.statements), 'statement')} over "
        f"{connections(session)}, and no rule had anything to say."
    )


def _finding(number: int, finding: FindingView, colour: bool) -> Iterator[str]:
    severity = finding.severity.upper()
    painted = f"\x1b[{_COLOURS[finding.severity]}m{severity}\x1b[0m" if colour else severity
    yield f"{number}. {painted}  {harmless(finding.rule)} ({finding.confidence})  {harmless(finding.id)}"
    yield from _wrapped(finding.title, _INDENT)
    if finding.sql:
        yield from _sql(finding.sql)
    if finding.state == "improved":
        yield from _wrapped(f"Improved: {finding.change}", _INDENT)
    yield from _wrapped(f"Evidence: {evidence_in_words(finding.evidence)}", _INDENT)
    yield from _wrapped(f"Seen: {_totals(finding)}{_where(finding)}", _INDENT)
    suggestion = finding.suggestion
    yield from _wrapped(f"Fix ({_STATUS[suggestion.status]}): {suggestion.text}", _INDENT)
    for line in suggestion.sql.splitlines():
        yield f"{_INDENT}    {harmless(line)}"


def _settled(title: str, findings: list[FindingView]) -> Iterator[str]:
    """What there is nothing to do about: a line or two each."""
    if not findings:
        return
    yield f"{title}: {len(findings):,}"
    for finding in findings:
        yield from _wrapped(f"{finding.rule}  {finding.id}  {finding.title}", "  ")
        change = f"{finding.change}; " if finding.state == "gone" else ""
        yield from _wrapped(f"{change}{_totals(finding)}", _INDENT)
    yield ""


def _totals(finding: FindingView) -> str:
    units = f" in {plural(finding.units, 'unit')}" if finding.units else ""
    return f"{plural(finding.count, 'execution')}{units}, {_ms(finding.total_ms)} in all"


def _where(finding: FindingView) -> str:
    unit = finding.unit
    if unit is None:
        return ""
    place = f"; the worst in {unit.kind} {unit.key}" if unit.key else f"; the worst in a {unit.kind}"
    return place + (f" of {unit.route}" if unit.route else "") + (f", at {unit.source}" if unit.source else "")


def _sql(sql: str) -> Iterator[str]:
    text = harmless(" ".join(sql.split()))
    lines: list[str] = []
    for clause in _CLAUSE.split(text):
        lines += textwrap.wrap(clause, WIDTH - 10, subsequent_indent="  ", break_on_hyphens=False)
    for line in lines[:_SQL_LINES]:
        yield f"{_INDENT}    {line}"
    if len(lines) > _SQL_LINES:
        yield f"{_INDENT}    … {plural(len(lines) - _SQL_LINES, 'more line')}"


def _statements(statements: list[StatementView]) -> Iterator[str]:
    if not statements:
        return
    shown = statements[:_TOP]
    of = f" ({len(shown)} of {len(statements)})" if len(statements) > len(shown) else ""
    yield f"Statements by total time{of}"
    yield f"{'total ms':>11} {'calls':>9} {'mean ms':>9} {'p95 ms':>9} {'rows':>9} {'errors':>6}  statement"
    for each in shown:
        row = f"{each.total_ms:>11,.1f} {each.calls:>9,} {each.mean_ms:>9,.2f} {each.p95_ms:>9,.2f} "
        row += f"{each.rows:>9,} {each.errors:>6,}  "
        yield row + _cut(harmless(" ".join(each.sql.split())), max(20, WIDTH - len(row)))


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        harmless(text), WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _ms(ms: float) -> str:
    return f"{ms / 1000:,.1f} s" if ms >= 10_000 else f"{ms:,.1f} ms"
