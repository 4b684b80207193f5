"""What on the wire may change a plan: indexes, columns, statistics, extensions.

Enters: executions that are neither reads nor writes. Leaves: changes that are committed, each with the words of its
statement, among which are the tables that it is about. Out of scope: changes that pass by another way.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pgtattle.proxy.execution import Execution

MAX_OPEN: Final = 1_000
MAX_WORDS: Final = 500

_COMMANDS: Final = frozenset(("CREATE", "ALTER", "DROP", "ANALYZE", "VACUUM", "CLUSTER", "REINDEX", "TRUNCATE"))
_WHAT: Final = re.compile(
    r"(?:(?P<table>CREATE\s+(?:UNIQUE\s+)?INDEX|ALTER\s+TABLE|CREATE\s+STATISTICS|CREATE\s+TABLE|DROP\s+TABLE"
    r"|TRUNCATE|CLUSTER\s+\w|REINDEX\s+TABLE)"
    r"|(?P<every>DROP\s+(?:INDEX|STATISTICS|SCHEMA)|ALTER\s+(?:INDEX|STATISTICS)|(?:CREATE|ALTER|DROP)\s+EXTENSION"
    r"|REINDEX|CLUSTER)"
    r"|(?P<look>ANALYZE|VACUUM))\b",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"\w+")
_OPTIONS: Final = frozenset(("analyze", "vacuum", "verbose", "full", "freeze", "skip_locked"))


class Change(NamedTuple):
    """A change in a database: of all tables, or of those that are among the words."""

    database: str
    words: frozenset[str]
    every: bool

    def concerns(self, tables: frozenset[str]) -> bool:
        """True where it may be about one of these tables: names in small letters, without a schema."""
        return self.every or not self.words.isdisjoint(tables)


class SchemaChanges:
    """Tells changes when they are committed."""

    def __init__(self) -> None:
        self._open: dict[int, list[Change]] = {}

    def see(self, execution: Execution) -> list[Change]:
        """The changes that an execution made, or committed."""
        command = execution.text.statement.command
        connection = execution.connection
        if command in _COMMANDS and execution.sqlstate is None:
            change = _change(connection.database, execution.text.statement.sql)
            if change is None:
                return []
            if execution.transaction:
                if len(self._open) >= MAX_OPEN:
                    self._open.clear()
                self._open.setdefault(connection.id, []).append(change)
                return []
            return [change]
        if self._open and command in ("COMMIT", "ROLLBACK") and " TO " not in execution.text.statement.sql:
            changes = self._open.pop(connection.id, [])
            return changes if execution.command_tag == "COMMIT" else []
        return []


def _change(database: str, sql: str) -> Change | None:
    match = _WHAT.match(sql)
    if match is None:
        return None
    words = frozenset([word.lower() for word in _WORD.findall(sql)[:MAX_WORDS]])
    every = match["every"] is not None or (match["look"] is not None and words <= _OPTIONS)
    return Change(database, words, every)


def words_of(tables: tuple[str, ...]) -> frozenset[str]:
    """Tables as a change names them; of a name of several words, each."""
    names = [table.rpartition(".")[2] for table in tables]
    return frozenset([word.lower() for name in names for word in _WORD.findall(name)])
