"""The statements and portals of one connection, by name, for as long as the server has them.

Enters: what Parse and Bind made, and what ends them: Close, DEALLOCATE, DISCARD, the end of a transaction. Leaves: the
executions of suspended portals that go without their end.
Source: PostgreSQL, "Message Flow: Extended Query".
"""

from __future__ import annotations

from typing import Final

from pgtattle.proxy.events import Text
from pgtattle.proxy.exchange import Done, Exchanges, Portal, Prepared
from pgtattle.proxy.reading import doubtful
from pgtattle.proxy.wire.encodings import Codec

MAX_STATEMENTS: Final = 10_000
"""Of a connection with more, the oldest are forgotten: their later executions count, as ones of an unknown text."""


class Named:
    """Both kinds of names; `exchanges` takes the executions of portals that end early."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.statements: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Portal] = {}
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
        for prepared in self.statements.values():
            if prepared.exchange == exchange:
                prepared.text = doubtful(prepared.text)

    def deallocate(self, text: Text, codec: Codec) -> None:
        """DEALLOCATE or DISCARD was executed."""
        words = text.sql.rstrip(" ;\n\t").split()
        target = words[-1].strip('"') if words else ""
        if target.upper() in ("ALL", "PLANS"):
            if target.upper() == "ALL":
                self.statements.clear()
        else:
            self.statements.pop(target.encode(codec.name or "ascii", "replace"), None)

    def end_portal(self, name: bytes) -> None:
        """A suspended portal that goes without its end was an execution all the same; it ended with its latest rows."""
        portal = self.portals.pop(name, None)
        if portal is not None:
            self._end(portal)

    def end_portals(self) -> None:
        """All portals end, with their transaction."""
        for portal in self.portals.values():
            self._end(portal)
        self.portals.clear()

    def _end(self, portal: Portal) -> None:
        running, prepared = portal.running, portal.prepared
        if running.suspended:
            self._exchanges.add(Done(prepared.text, portal.parameters, prepared, running, "", None, running.ended_ns))
