"""`statement-cache-churn`: prepared statements whose texts differ only by literals, lists or comments.

Enters: executions. Leaves: a finding per statement when one connection has prepared many texts of it. Each is planned
and kept by the server, and pushes another out of the driver's cache. Out of scope: unnamed statements, which nobody
keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final, Literal

from pgtattle.analyzers.analyzer import Analyzer
from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.repetition import is_tool
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.analyzers.tally import Tallies, Tally
from pgtattle.proxy.events import Statement
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import ChurnEvidence, Suggestion

MIN_TEXTS: Final = 50
MAX_TEXTS: Final = 1_000
MAX_FOLLOWED: Final = 5_000
"""Statements of connections."""

Cause = Literal["comments", "lists", "literals"]

_WORDS: Final[dict[Cause, str]] = {
    "comments": "comments that differ",
    "lists": "lists of different lengths",
    "literals": "values pasted into them",
}
_HOW: Final[dict[Cause, str]] = {
    "comments": "Keep ids of requests out of the comments of prepared statements: send them by set_config, or tag only "
    "what is sent unprepared.",
    "lists": "Pass the list as one array: = ANY($1).",
    "literals": "Bind the values as parameters: then there is one text, prepared once.",
}


class _Followed:
    """One statement on one connection: its first text, and hashes of all; a `tally` once it was found."""

    __slots__ = ("causes", "lists", "next_at", "tally", "texts", "total_ns", "values")

    def __init__(self, execution: Execution) -> None:
        self.values = execution.values
        self.lists = execution.text.lists
        self.texts: set[int] = set()
        self.total_ns = 0
        self.tally: Tally | None = None
        self.causes: dict[Cause, int] = {"comments": 0, "lists": 0, "literals": 0}
        self.next_at = MIN_TEXTS


class CacheChurn(Analyzer):
    """Follows what each connection prepares."""

    rules: ClassVar[tuple[str, ...]] = ("statement-cache-churn",)

    def __init__(self) -> None:
        self._followed: Bounded[tuple[int, str], _Followed] = Bounded(MAX_FOLLOWED)
        # Of a statement, on whichever connections.
        self._tallies = Tallies(MAX_FOLLOWED)

    def execution(self, execution: Execution) -> Iterable[Finding]:
        """Count a text that was prepared; a finding when there are many, then at each doubling."""
        if not execution.prepared or execution.reused:
            return ()
        text = execution.text
        if text.truncated or text.statement.kind not in ("read", "write") or is_tool(execution.connection.application):
            return ()
        key = (execution.connection.id, text.statement.fingerprint)
        followed = self._followed.get(key)
        if followed is None:
            followed = _Followed(execution)
            self._followed.put(key, followed)
        this = hash(text.sql)
        if this in followed.texts or len(followed.texts) >= MAX_TEXTS:
            return ()
        followed.texts.add(this)
        followed.total_ns += execution.duration_ns
        if followed.tally is not None:
            followed.tally.add(execution.duration_ns, execution.ended_ns)
        if text.lists != followed.lists:
            followed.causes["lists"] += 1
        elif any(slot.value for slot in text.slots if not slot.parameter) and execution.values != followed.values:
            followed.causes["literals"] += 1
        else:
            followed.causes["comments"] += 1
        if len(followed.texts) < followed.next_at or text.tags.get("pgtattle") == "ignore":
            return ()
        followed.next_at *= 2
        record, statement = execution.connection, text.statement
        if followed.tally is None:
            followed.tally = self._tallies.of(statement.fingerprint)
            followed.tally.add(followed.total_ns, execution.ended_ns, len(followed.texts))
        return (_finding(statement, record.application or record.user, followed, followed.tally),)


def _finding(statement: Statement, application: str, followed: _Followed, tally: Tally) -> Finding:
    texts = len(followed.texts)
    cause = max(followed.causes, key=lambda one: followed.causes[one])
    return Finding(
        rule="statement-cache-churn",
        subject=statement.fingerprint,
        severity="low",
        confidence="likely",
        title=f"{texts} texts of one {statement.command} prepared on one connection: {_WORDS[cause]}",
        fingerprints=(statement.fingerprint,),
        sql=statement.sql,
        count=tally.count,
        total_ns=tally.total_ns,
        evidence=ChurnEvidence(application=application, texts=texts, cause=cause),
        suggestion=Suggestion(
            text=f"{_HOW[cause]} Each text is planned anew and kept by the server until the connection ends."
        ),
        at_ns=tally.last_ns,
        tally=tally,
        draw=lambda: _finding(statement, application, followed, tally),
    )
