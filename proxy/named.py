"""The statements and portals of one connection, by name, for as long as the server has them.

Enters: what Parse and Bind, or PREPARE and DECLARE, made, and what ends them: Close, the end of a transaction. Leaves:
the executions of suspended portals that go without their end.
Source: PostgreSQL, "Message Flow: Extended Query".
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from pgtattle.proxy.events import Parameter, Text
from pgtattle.proxy.exchange import Done, Exchanges, Portal, Prepared
from pgtattle.proxy.reading import doubtful

MAX_STATEMENTS: Final = 10_000
"""Of a connection with more, the oldest are forgotten: their later executions count, as ones of an unknown text."""
MAX_CURSORS: Final = 1_000


@mypyc_attr(acyclic=True)
class Cursor:
    """What DECLARE made: its query, bound values, whether it outlives the transaction, and was fetched from."""

    __slots__ = ("fetched", "hold", "parameters", "text")

    def __init__(self, text: Text, parameters: tuple[Parameter, ...], hold: bool) -> None:
        self.text = text
        self.parameters = parameters
        self.hold = hold
        self.fetched = False


class Named:
    """All kinds of names; `exchanges` takes the executions of portals that end early."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.statements: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Portal] = {}
        self.cursors: dict[bytes, Cursor] = {}
        self._exchanges = exchanges

    def keep(self, name: bytes, prepared: Prepared) -> None:
        """The server took a Parse."""
        self.statements[name] = prepared
        if len(self.statements) > MAX_STATEMENTS:
            del self.statements[next(iter(self.statements))]

    def close(self, body: bytes) -> None:
        """The server took a Close, whose body is given."""
        name = body[1:-1]
        if body[:1] == b"S":
            self.statements.pop(name, None)
        else:
            self.end_portal(name)

    def doubt(self, exchange: int) -> None:
        """The settings changed by which the statements of an exchange were read."""
        self.cursors.clear()
        for prepared in self.statements.values():
            if prepared.exchange == exchange:
                prepared.text = doubtful(prepared.text)

    def declare(self, name: bytes, cursor: Cursor) -> None:
        """The server took a DECLARE."""
        self.cursors[name] = cursor
        if len(self.cursors) > MAX_CURSORS:
            del self.cursors[next(iter(self.cursors))]

    def end_portal(self, name: bytes) -> None:
        """A suspended portal that goes without its end was an execution all the same; it ended with its latest rows."""
        portal = self.portals.pop(name, None)
        if portal is not None:
            self._end(portal)

    def end_transaction(self) -> None:
        """All portals end, with their transaction; so do cursors, but for those that are held."""
        for portal in self.portals.values():
            self._end(portal)
        self.portals.clear()
        if self.cursors:
            self.cursors = {name: cursor for name, cursor in self.cursors.items() if cursor.hold}

    def _end(self, portal: Portal) -> None:
        running, prepared = portal.running, portal.prepared
        if running.suspended:
            self._exchanges.add(Done(prepared.text, portal.parameters, prepared, running, "", None, running.ended_ns))
