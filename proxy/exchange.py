"""One connection's exchanges: executions that ended wait here until their ReadyForQuery says the transaction status.

Enters: executions as the decoder sees them end. Leaves: `Execution` records, with siblings, transaction and tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import mypyc_attr

from pgtattle.analyzers.samples import Samples
from pgtattle.proxy.events import Connection, Parameter, Text
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.reading import doubtful
from pgtattle.proxy.tags import SessionTags
from pgtattle.proxy.wire.rows import Sample

NOT_YET: Final = -1
UNSEEN: Final = 0


@mypyc_attr(acyclic=True)
class Prepared:
    """A statement that Parse made, the exchange it was made in, and the body of its RowDescription once it is known.

    `executed` is the exchange of its first execution; `NOT_YET` before it, `UNSEEN` where nobody looked then.
    """

    __slots__ = ("description", "exchange", "executed", "name", "text", "types")

    def __init__(self, name: str, text: Text, types: tuple[int, ...], exchange: int, executed: int = NOT_YET) -> None:
        self.name = name
        self.text = text
        self.types = types
        self.exchange = exchange
        self.executed = executed
        self.description = b""


@mypyc_attr(acyclic=True)
class Running:
    """What is known of an execution while it runs; a suspended portal keeps it, with the time of its latest rows in
    `ended_ns`, and is `paused` until more of them are asked for. `sent` and `received` are bytes.

    `description` is that of a simple query, `copied` the body of a CopyOutResponse; `sampled` are the first rows as
    they passed, and `cut` where that was not whole.
    """

    __slots__ = (
        "copied",
        "cut",
        "description",
        "ended_ns",
        "first_row_ns",
        "paused",
        "received",
        "rows",
        "sampled",
        "sent",
        "stalled_ns",
        "started_ns",
        "suspended",
    )

    def __init__(self, sent: int = 0) -> None:
        self.started_ns = 0
        self.ended_ns = 0
        self.first_row_ns = 0
        self.stalled_ns = 0
        self.rows = 0
        self.sent = sent
        self.received = 0
        self.suspended = False
        self.paused = False
        self.description = b""
        self.copied = b""
        self.cut = False
        self.sampled: list[bytes] | None = None


@mypyc_attr(acyclic=True)
class Portal:
    """A bound statement, the formats of its results, and its execution."""

    __slots__ = ("formats", "parameters", "prepared", "running")

    def __init__(
        self, prepared: Prepared, parameters: tuple[Parameter, ...], formats: tuple[int, ...], running: Running
    ) -> None:
        self.prepared = prepared
        self.parameters = parameters
        self.formats = formats
        self.running = running


@mypyc_attr(acyclic=True)
class Done:
    """An execution that ended, in an exchange that did not yet. `prepared` is None in the simple protocol.

    `rows` is what the command tag says, None where it says nothing. `sample` is of its result.
    """

    __slots__ = ("ended_ns", "parameters", "prepared", "rows", "running", "sample", "sqlstate", "tag", "text")

    def __init__(
        self,
        text: Text,
        parameters: tuple[Parameter, ...],
        prepared: Prepared | None,
        running: Running,
        tag: str,
        sqlstate: str | None,
        ended_ns: int,
        rows: int | None = None,
        sample: Sample | None = None,
    ) -> None:
        self.sample = sample
        self.text = text
        self.parameters = parameters
        self.prepared = prepared
        self.running = running
        self.tag = tag
        self.sqlstate = sqlstate
        self.ended_ns = ended_ns
        self.rows = rows


class Exchanges:
    """The open exchange of a connection, by its `number`, and the transaction that it is in."""

    def __init__(self, number: Callable[[], int], samples: Samples) -> None:
        self.tags = SessionTags()
        self._next = number
        self._samples = samples
        self._done: list[Done] = []
        self.number = 1
        self._status = "I"
        self._transaction = 0

    def add(self, done: Done) -> None:
        """An execution ended."""
        self._done.append(done)

    def doubt(self) -> None:
        """The settings changed by which the texts of the open exchange were read."""
        for one in self._done:
            one.text = doubtful(one.text)

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
        self.number += 1
        return executions

    def _execution(
        self, one: Done, position: int, siblings: int, transaction: int, status: str, connection: Connection
    ) -> Execution:
        running, prepared = one.running, one.prepared
        self.tags.executed(one.text, one.parameters, one.sqlstate is None)
        reused = False
        if prepared is not None:
            if prepared.executed == NOT_YET:
                prepared.executed = self.number
            reused = prepared.executed != self.number
        number = self._next()
        if one.sample is not None:
            self._samples.keep(number, one.sample)
        return Execution(
            id=number,
            connection=connection,
            text=one.text,
            parameters=one.parameters,
            protocol="simple" if prepared is None else "extended",
            prepared="" if prepared is None else prepared.name,
            reused=reused,
            binds=prepared is not None and bool(one.parameters),
            exchange=self.number,
            position=position,
            siblings=siblings,
            transaction=transaction,
            status=status,
            settings=self.tags.now,
            context=self.tags.context,
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
