"""One connection's exchanges: executions that ended wait here until their ReadyForQuery says the transaction status.

Enters: executions as the decoder sees them end. Leaves: `Execution` records, with siblings, transaction and tags.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from pgtattle.proxy.events import Connection, Execution, Parameter, Text
from pgtattle.proxy.tags import SessionTags


class Prepared(Struct, gc=False):
    """A statement that Parse made, and the exchange it was made in."""

    name: str
    text: Text
    types: tuple[int, ...]
    exchange: int


class Running(Struct, gc=False):
    """What is known of an execution while it runs; a suspended portal keeps it."""

    started_ns: int = 0
    first_row_ns: int = 0
    stalled_ns: int = 0
    rows: int = 0
    sent: int = 0
    received: int = 0
    suspended: bool = False


class Portal(Struct, gc=False):
    """A bound statement; `begun` when an Execute of it was answered."""

    prepared: Prepared
    parameters: tuple[Parameter, ...]
    running: Running


class Request(Struct, gc=False):
    """A message that waits for its answer; `name` is an Execute's portal, a Parse's statement."""

    kind: int
    at_ns: int
    size: int
    exchange: int = 0
    body: bytes = b""
    name: bytes = b""
    texts: tuple[Text, ...] = ()
    prepared: Prepared | None = None
    done: int = 0


class Done(Struct, gc=False):
    """An execution that ended, in an exchange that did not yet. `prepared` is None in the simple protocol.

    `rows` is what the command tag says.
    """

    text: Text
    parameters: tuple[Parameter, ...]
    prepared: Prepared | None
    running: Running
    tag: str
    sqlstate: str | None
    ended_ns: int
    rows: int | None = None


class Exchanges:
    """The open exchange of a connection, and the transaction that it is in."""

    def __init__(self, number: Callable[[], int]) -> None:
        self.tags = SessionTags()
        self._number = number
        self._done: list[Done] = []
        self._exchange = 1
        self._status = "I"
        self._transaction = 0

    def add(self, done: Done) -> None:
        """An execution ended."""
        self._done.append(done)

    def restart(self, status: str) -> None:
        """After a gap: forget the open exchange; the transaction status is `status` from here on."""
        self._done.clear()
        if status != "I":
            self._transaction += 1
        self._status = status

    def end(self, status: str, connection: Connection) -> list[Execution]:
        """ReadyForQuery with `status`, or `?` for the end of the connection: the exchange's executions."""
        done, self._done = self._done, []
        transaction = self._transaction_of(status, done)
        executions = [
            self._execution(one, position, len(done), transaction, status, connection)
            for position, one in enumerate(done)
        ]
        if status == "I":
            self.tags.transaction_ended(committed=not done or done[-1].tag != "ROLLBACK")
        self._status = status
        self._exchange += 1
        return executions

    def _execution(
        self, one: Done, position: int, siblings: int, transaction: int, status: str, connection: Connection
    ) -> Execution:
        running, prepared = one.running, one.prepared
        self.tags.executed(one.text, one.parameters, one.sqlstate is None)
        return Execution(
            id=self._number(),
            connection=connection,
            text=one.text,
            parameters=one.parameters,
            protocol="simple" if prepared is None else "extended",
            prepared="" if prepared is None else prepared.name,
            reused=prepared is not None and prepared.exchange != self._exchange,
            binds=bool(one.parameters),
            exchange=self._exchange,
            position=position,
            siblings=siblings,
            transaction=transaction,
            status=status,
            settings=self.tags.now,
            command_tag=one.tag,
            rows=running.rows if one.rows is None or running.suspended else one.rows,
            bytes_sent=running.sent,
            bytes_received=running.received,
            sqlstate=one.sqlstate,
            started_ns=running.started_ns,
            first_row_ns=running.first_row_ns,
            ended_ns=one.ended_ns,
            stalled_ns=running.stalled_ns,
        )

    def _transaction_of(self, status: str, done: list[Done]) -> int:
        """The transaction's number for the executions of an exchange; 0 in autocommit."""
        if self._status == "I":
            if status in "I?" and "BEGIN" not in [one.text.statement.command for one in done]:
                return 0
            self._transaction += 1
        return self._transaction
