"""Records that flow through the profiler: connections, statements, executions, units of work.

Enters: nothing; these are plain frozen values. Leaves: everything downstream of the decoder speaks in them.
Out of scope: the wire types of the API, which are in `schema`.

Times are nanoseconds of the machine's monotonic clock (`time.monotonic_ns`), the same in both processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from pgtattle.proxy.execution import Execution

Protocol = Literal["simple", "extended"]
UnitKind = Literal["request", "trace", "scope", "transaction", "connection", "burst"]
UnitConfidence = Literal["strong", "medium", "weak"]


class Connection(Struct, frozen=True, kw_only=True, gc=False):
    """One client connection as the server knows it; replaced by a new record when a setting changes."""

    id: int
    client: str
    opened_ns: int
    user: str = ""
    database: str = ""
    application: str = ""
    backend_pid: int = 0

    @property
    def client_host(self) -> str:
        """The client's address without its port, `unix` for a unix socket."""
        return self.client.rsplit(":", 1)[0]


class ConnectionClass(Struct, frozen=True, order=True):
    """What "the application" means in a rule."""

    application: str
    database: str
    client_host: str
    binds: bool


class Parameter(Struct, frozen=True, gc=False):
    """A bound parameter. `value` is PostgreSQL's text form whatever the wire format was; None is NULL.

    `binary` holds the original bytes where the type has no known text form; `value` is then `\\x…`.
    """

    oid: int
    value: str | None
    binary: bytes | None = None
    truncated: bool = False


class Slot(Struct, frozen=True, gc=False):
    """A place in a statement's text that holds a literal or a `$n`, in the order of the text.

    `number` is the placeholder of the normal form that it became (the members of one IN list or of one VALUES column
    share theirs). `parameter` is n of `$n`, 0 for a literal. `value` is a literal's value, unquoted.
    `where` is the clause: `select from where group order limit values set having on call other`.
    """

    number: int
    parameter: int
    value: str
    kind: Literal["parameter", "string", "number", "bits"]
    where: str


class Statement(Struct, frozen=True, gc=False):
    """The normalized SQL that executions share; `fingerprint` (16 hex digits) is its id.

    `command` is the leading keyword in capitals (`SELECT` for `WITH … SELECT`; `BEGIN`, `SET`, `EMPTY`, …).
    `kind` is coarser: `read write ddl transaction session copy utility empty`.
    """

    fingerprint: str
    sql: str
    command: str
    kind: Literal["read", "write", "ddl", "transaction", "session", "copy", "utility", "empty"]


class Text(Struct, frozen=True, gc=False):
    """One SQL text as it was sent, lexed: its statement, its slots and the tags of its comments.

    `sql` is the single statement as sent, comments included and possibly cut (`truncated`); secrets are already masked.
    `slots` is bounded (256); `lists` are the lengths of IN and VALUES lists by placeholder number.
    """

    sql: str
    statement: Statement
    slots: tuple[Slot, ...] = ()
    lists: tuple[tuple[int, int], ...] = ()
    tags: Mapping[str, str] = {}
    truncated: bool = False


class Unit(Struct, frozen=True, kw_only=True):
    """The executions of one request, job or burst, in order of their start; complete when it flows.

    `signal` says to people how it was told apart, such as `comment tag request_id`.
    """

    id: str
    kind: UnitKind
    key: str
    confidence: UnitConfidence
    signal: str
    route: str = ""
    source: str = ""
    executions: tuple[Execution, ...]

    @property
    def started_ns(self) -> int:
        """Start of the first execution."""
        return self.executions[0].started_ns

    @property
    def ended_ns(self) -> int:
        """End of the last execution."""
        return max(execution.ended_ns for execution in self.executions)


class Gap(Struct, frozen=True):
    """What the tap did not look at on one connection while it was shed."""

    connection: int
    exchanges: int
    executions: Mapping[str, int]
