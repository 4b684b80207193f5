"""The temporary tables of each connection. They hide tables of the same name, and no other connection sees them.

Enters: executions that are neither reads nor writes. Leaves: whether a statement may be about such a table. Out of
scope: those that SELECT INTO and functions make; one that was dropped counts until its connection is closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.proxy.execution import Execution

MAX_CONNECTIONS: Final = 10_000
MAX_NAMES: Final = 1_000

_CREATE: Final = re.compile(
    r"CREATE\s+(?:(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\s+(?:RECURSIVE\s+)?(?:TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    r"(?:pg_temp\s*\.\s*)?|(?:TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?pg_temp\s*\.\s*)"
    r'(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^\W\d][\w$]*))',
    re.IGNORECASE,
)


class TemporaryTables:
    """Names by connection."""

    def __init__(self) -> None:
        self._names: Bounded[int, set[str]] = Bounded(MAX_CONNECTIONS)

    def see(self, execution: Execution) -> None:
        """Note what a CREATE made, and that DISCARD drops all."""
        statement = execution.text.statement
        if statement.command not in ("CREATE", "DISCARD") or execution.sqlstate is not None:
            return
        names = self._names.get(execution.connection.id)
        if statement.command == "DISCARD":
            if names is not None and statement.sql.upper() in ("DISCARD ALL", "DISCARD TEMP", "DISCARD TEMPORARY"):
                names.clear()
        elif (made := _CREATE.match(statement.sql)) is not None:
            if names is None:
                names = set()
                self._names.put(execution.connection.id, names)
            if len(names) < MAX_NAMES:
                names.add(made["quoted"].replace('""', '"') if made["quoted"] else made["plain"].lower())

    def among(self, execution: Execution, tables: Iterable[str]) -> bool:
        """True where one of these tables, as a statement names them, may be temporary for who executed it."""
        names = self._names.get(execution.connection.id)
        return names is not None and any(table in names for table in tables)
