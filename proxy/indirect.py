"""Executions that run a statement which another one made: EXECUTE of a PREPARE, FETCH of a DECLARE.

Enters: what PREPARE, EXECUTE, DECLARE, FETCH, CLOSE, DEALLOCATE and DISCARD came to. Leaves: the executions of an
EXECUTE, and the first FETCH of a cursor, as those of the statement that they ran, with its values. Each further FETCH
goes on with that one: it has its fingerprint, so that rows and time add up there, but is no query of its own.
Source: PostgreSQL, "SQL Commands"; SQL and protocol share the names of prepared statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pgtattle.analyzers.sql.indirect import Argument, executed, held, named
from pgtattle.proxy.asked import Asked
from pgtattle.proxy.events import NO_TAGS, Parameter, Statement, Text
from pgtattle.proxy.exchange import NOT_YET, Done, Prepared
from pgtattle.proxy.named import Cursor, Named
from pgtattle.proxy.wire.values import MAX_VALUE

INDIRECT: Final = frozenset(("PREPARE", "EXECUTE", "DECLARE", "FETCH", "CLOSE", "DEALLOCATE", "DISCARD"))
"""The commands to be looked at here."""


class Indirect:
    """What runs what on one connection; `named` holds it by its names."""

    def __init__(self, named: Named, asked: Asked) -> None:
        self._named = named
        self._asked = asked

    def finish(self, done: Done, exchange: int) -> None:
        """One of these commands ended, in an exchange: resolve it, or take what it says."""
        command = done.text.statement.command
        if command == "EXECUTE":
            self._execute(done, exchange)
        elif command == "FETCH":
            self._fetch(done)
        elif done.sqlstate is not None:
            return
        elif command == "PREPARE":
            self._prepare(done.text, exchange)
        elif command == "DECLARE":
            self._declare(done)
        else:
            self._end(command, done.text)

    def _end(self, command: str, text: Text) -> None:
        """CLOSE, DEALLOCATE or DISCARD."""
        name = named(text.sql)
        statements, cursors = self._named.statements, self._named.cursors
        if name is not None:
            if command == "CLOSE":
                cursors.pop(self._name(name), None)
            elif command == "DEALLOCATE":
                statements.pop(self._name(name), None)
            return
        if command != "CLOSE":
            statements.clear()
        if command != "DEALLOCATE":
            cursors.clear()

    def _prepare(self, text: Text, exchange: int) -> None:
        found = held(text.sql)
        if found is not None:
            inner = self._asked.reading.part(found.sql, text.truncated)
            self._named.keep(self._name(found.name), Prepared(found.name, inner, found.types, exchange))

    def _execute(self, done: Done, exchange: int) -> None:
        found = executed(done.text.sql)
        prepared = self._named.statements.get(self._name(found[0])) if found is not None else None
        if found is None or prepared is None or not prepared.text.sql:
            return
        fresh = prepared.executed == NOT_YET
        if fresh:
            prepared.executed = exchange
        # The comment of a PREPARE is that of the request that sent it; the one of an EXECUTE is its own.
        tags = prepared.text.tags if fresh or "pgtattle" in prepared.text.tags else NO_TAGS
        done.parameters = () if done.text.truncated else _parameters(found[1], prepared.types)
        done.text = _tagged(prepared.text, prepared.text.statement, done.text.tags or tags)
        done.prepared = None

    def _declare(self, done: Done) -> None:
        found = held(done.text.sql)
        if found is not None:
            inner = self._asked.reading.part(found.sql, done.text.truncated)
            text = _tagged(inner, inner.statement, done.text.tags)
            self._named.declare(self._name(found.name), Cursor(text, done.parameters, found.hold))

    def _fetch(self, done: Done) -> None:
        name = named(done.text.sql)
        cursor = self._named.cursors.get(self._name(name)) if name is not None else None
        if cursor is None:
            return
        text = cursor.text
        statement = text.statement
        if cursor.fetched:
            statement = Statement(statement.fingerprint, statement.sql, "FETCH", "utility")
        cursor.fetched = True
        done.text = _tagged(text, statement, done.text.tags or text.tags)
        done.parameters = cursor.parameters

    def _name(self, name: str) -> bytes:
        return name.encode(self._asked.reading.codec.name or "ascii", "replace")


def _tagged(text: Text, statement: Statement, tags: Mapping[str, str]) -> Text:
    return Text(text.sql, statement, text.slots, text.lists, tags, text.truncated)


def _parameters(arguments: tuple[Argument, ...], types: tuple[int, ...]) -> tuple[Parameter, ...]:
    """The values of an EXECUTE as bound ones; of an expression it is not known which one it is."""
    found: list[Parameter] = []
    for number, (value, known) in enumerate(arguments):
        oid = types[number] if number < len(types) else 0
        cut = not known or len(value or "") > MAX_VALUE
        found.append(Parameter(oid, value if value is None else value[:MAX_VALUE], None, cut))
    return tuple(found)
