"""What is learned of how an application uses its connections: enough to know what a pause, or an end, means.

Enters: what became of connections, and the share of statements in transactions, by application. Leaves: whether it
opens a connection, or a transaction, for each request; and of one connection, whether a pooler shares it. Learned from
enough only; until then nothing is known.
Source: PgBouncer, "config.ini: server_reset_query"; `src/varcache.c` (the settings that it puts back).
"""

from __future__ import annotations

import re
from typing import Final

from pgtattle.analyzers.repetition import is_tool
from pgtattle.proxy.execution import Execution

MAX_SCOPES: Final = 1_000
LEARNED: Final = 20
"""Connections of an application from which it is known whether it opens one for each request."""
MOST: Final = 0.8
STATEMENTS: Final = 100
"""Statements from which it is known whether all are in transactions."""
NEARLY_ALL: Final = 0.9
RENAMED: Final = 3
"""Times that a pooler tells the server the name of yet another client, until it passes for one."""

# PgBouncer puts settings back in this form, alone in its exchange.
_PUT_BACK: Final = re.compile(r"(?:SET \w+='[^']*';)*SET application_name='([^']*)';(?:SET \w+='[^']*';)*")


class Habit:
    """What one application does."""

    __slots__ = ("closed", "in_transactions", "short", "statements", "tool")

    def __init__(self, tool: bool) -> None:
        self.tool = tool
        self.closed = self.short = 0
        self.statements = self.in_transactions = 0

    @property
    def connection_each(self) -> bool:
        """True where nearly every connection served one unit of work and ended."""
        return self.closed > LEARNED and self.short >= MOST * self.closed and not self.tool

    @property
    def mixes(self) -> bool:
        """True where a good part of the statements is in no transaction: a transaction is then no request."""
        return self.statements >= STATEMENTS and self.in_transactions < NEARLY_ALL * self.statements

    @property
    def transaction_each(self) -> bool:
        """True where nearly all statements are in transactions."""
        return self.statements >= STATEMENTS and not self.mixes


class Habits:
    """The habits of all applications, by name. Bounded: beyond so many nothing more is learned."""

    def __init__(self) -> None:
        self._habits: dict[str, Habit] = {}

    def of(self, scope: str) -> Habit:
        """The habit of an application, to be read and added to."""
        habit = self._habits.get(scope)
        if habit is None:
            habit = Habit(is_tool(scope))
            if len(self._habits) < MAX_SCOPES:
                self._habits[scope] = habit
        return habit


class Pooled:
    """Whether one connection is a pooler's, that many clients take turns on."""

    __slots__ = ("_names", "_renamed", "known")

    def __init__(self, known: bool) -> None:
        self.known = known
        self._renamed = 0
        self._names: set[str] = set()

    def executed(self, execution: Execution) -> None:
        """Learn from an execution: its statement's name, or a setting put back."""
        if execution.prepared.startswith("PGBOUNCER_"):
            self.known = True
        elif execution.text.statement.command == "SET" and not execution.transaction:
            found = _PUT_BACK.fullmatch(f"{execution.text.sql.strip().rstrip(';')};")
            if found is not None and execution.siblings == execution.position + 1:
                self._renamed += 1
                if len(self._names) < RENAMED:
                    self._names.add(found[1])
                self.known = self._renamed >= RENAMED and len(self._names) > 1


def is_ping(execution: Execution) -> bool:
    """True for what a pool asks a connection that it gives out: nothing, or `SELECT 1`."""
    statement = execution.text.statement
    return statement.kind == "empty" or (
        statement.sql == "SELECT $1" and execution.text.sql.strip(" \n;").upper() == "SELECT 1"
    )


def is_release(execution: Execution) -> bool:
    """True for what a pool sends when it takes a connection back."""
    statement = execution.text.statement
    return statement.kind == "session" and statement.sql in ("DISCARD ALL", "RESET ALL")
