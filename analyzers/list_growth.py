"""`unparameterized`, the lists: IN with a placeholder for each member, so that every length is another text.

Enters: executions. Leaves: one `info` for a statement of an application that binds, when its list came in many lengths.
Each is parsed and planned anew, and is a statement of its own in the driver's cache and in pg_stat_statements. Out of
scope: what `statement-cache-churn` says of named statements; VALUES of many rows, which are meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar, Final

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.repetition import is_tool
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.events import Statement
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import PastedEvidence, Suggestion

MIN_LENGTHS: Final = 10
MAX_LENGTHS: Final = 256
MAX_STATEMENTS: Final = 2_000


class _List:
    __slots__ = ("lengths", "next_at", "tally")

    def __init__(self) -> None:
        self.tally = Tally()
        self.lengths: set[int] = set()
        self.next_at = MIN_LENGTHS


class ListGrowth(Analyzer):
    """Follows the lengths of bound lists."""

    rules: ClassVar[tuple[str, ...]] = ("unparameterized",)

    def __init__(self) -> None:
        self._lists: Bounded[tuple[str, str], _List] = Bounded(MAX_STATEMENTS)

    def execution(self, execution: Execution) -> Iterable[Finding]:
        """Count a length; a finding when there are many, then at each doubling."""
        text = execution.text
        if not text.lists or not execution.binds or text.truncated or text.statement.kind != "read":
            return ()
        number, length = max(text.lists, key=lambda one: one[1])
        application = execution.connection.application or execution.connection.user
        key = (application, text.statement.fingerprint)
        found = self._lists.get(key)
        if found is None:
            found = _List()
            self._lists.put(key, found)
        found.tally.add(execution.duration_ns, execution.ended_ns)
        if length in found.lengths or len(found.lengths) >= MAX_LENGTHS:
            return ()
        found.lengths.add(length)
        if len(found.lengths) < found.next_at or is_tool(application) or text.tags.get("pgtattle") == "ignore":
            return ()
        found.next_at *= 2
        return (_finding(text.statement, application, number, found),)


def _finding(statement: Statement, application: str, number: int, found: _List) -> Finding:
    lengths = len(found.lengths)
    place = re.search(rf"\b(NOT )?IN \(\${number}\b[^()]*\)", statement.sql)
    array = f"<> ALL(${number})" if place is not None and place[1] else f"= ANY(${number})"
    as_array = statement.sql.replace(place[0], array) if place is not None else ""
    return Finding(
        rule="unparameterized",
        subject=f"{statement.fingerprint} lists",
        severity="info",
        confidence="likely",
        title=f"a list of {lengths} different lengths makes as many texts of one {statement.command}",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=found.tally.count,
        total_ns=found.tally.total_ns,
        evidence=PastedEvidence(
            application=application,
            executions=found.tally.count,
            texts=lengths,
            slots=[f"${number}"],
            values=0,
            bound_share=1.0,
            statements=1,
            examples=[],
            lengths=lengths,
        ),
        suggestion=Suggestion(
            text=f"Pass the list as one array: {array}. Then there is one text, planned and remembered once.",
            sql=as_array,
        ),
        at_ns=found.tally.last_ns,
        tally=found.tally,
        draw=lambda: _finding(statement, application, number, found),
    )
