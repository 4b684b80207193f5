"""The record that everything downstream of the decoder speaks of: one execution of a statement.

It is read dozens of times by rules, store and metrics: a plain class, so that a compiled pgtattle reads its attributes
without a look-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mypy_extensions import mypyc_attr

from pgtattle.proxy.events import Connection, Parameter, Protocol, Statement, Text

NO_SETTINGS: Final[Mapping[str, str]] = {}


@mypyc_attr(acyclic=True)
class Execution:
    """A statement that the server began, and how it ended. Nobody changes one.

    `id` counts up from 1 in a session. `exchange` numbers the connection's exchanges, `position` counts from 0 in it
    and `siblings` is the number of executions of the whole exchange. `reused` is true when this prepared statement was
    executed in an earlier exchange, too: dynamic tags of its comment may then be stale. `transaction` is 0 in
    autocommit, else a number that is unique on its connection; `status` is the server's answer at the end of the
    exchange: `I`, `T`, `E`, or `?` when the connection ended before. `settings` are tags from application_name and
    set_config in force at the start, `context` is a number for the settings that its answer may depend on
    (`proxy.tags`). `stalled_ns` is the part of `ended_ns - started_ns` in which the client took no rows; `duration_ns`
    is the rest: server time, from the last byte of the request to the last of the answer.
    """

    __slots__ = (
        "binds",
        "bytes_received",
        "bytes_sent",
        "command_tag",
        "connection",
        "context",
        "duration_ns",
        "ended_ns",
        "exchange",
        "first_row_ns",
        "id",
        "parameters",
        "position",
        "prepared",
        "protocol",
        "reused",
        "rows",
        "settings",
        "siblings",
        "sqlstate",
        "stalled_ns",
        "started_ns",
        "status",
        "text",
        "transaction",
    )

    def __init__(
        self,
        *,
        id: int,
        connection: Connection,
        text: Text,
        parameters: tuple[Parameter, ...] = (),
        protocol: Protocol = "simple",
        prepared: str = "",
        reused: bool = False,
        binds: bool = False,
        exchange: int = 0,
        position: int = 0,
        siblings: int = 1,
        transaction: int = 0,
        status: str = "I",
        settings: Mapping[str, str] = NO_SETTINGS,
        context: int = 0,
        command_tag: str = "",
        rows: int = 0,
        bytes_sent: int = 0,
        bytes_received: int = 0,
        sqlstate: str | None = None,
        started_ns: int,
        first_row_ns: int = 0,
        ended_ns: int,
        stalled_ns: int = 0,
    ) -> None:
        self.id: Final = id
        self.connection: Final = connection
        self.text: Final = text
        self.parameters: Final = parameters
        self.protocol: Final = protocol
        self.prepared: Final = prepared
        self.reused: Final = reused
        self.binds: Final = binds
        self.exchange: Final = exchange
        self.position: Final = position
        self.siblings: Final = siblings
        self.transaction: Final = transaction
        self.status: Final = status
        self.settings: Final = settings
        self.context: Final = context
        self.command_tag: Final = command_tag
        self.rows: Final = rows
        self.bytes_sent: Final = bytes_sent
        self.bytes_received: Final = bytes_received
        self.sqlstate: Final = sqlstate
        self.started_ns: Final = started_ns
        self.first_row_ns: Final = first_row_ns
        self.ended_ns: Final = ended_ns
        self.stalled_ns: Final = stalled_ns
        duration_ns = ended_ns - started_ns - stalled_ns
        self.duration_ns: Final = duration_ns if duration_ns > 0 else 0

    @property
    def statement(self) -> Statement:
        """The normalized statement."""
        return self.text.statement

    @property
    def values(self) -> tuple[str | None, ...]:
        """The values of all slots in the order of the text, literals and bound parameters alike."""
        parameters = self.parameters
        return tuple(
            [
                (parameters[slot.parameter - 1].value if slot.parameter <= len(parameters) else None)
                if slot.parameter
                else slot.value
                for slot in self.text.slots
            ]
        )
