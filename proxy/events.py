"""Records that flow through the profiler: connections, statements, executions, units of work.

Enters: nothing; these are plain values that nobody changes. Leaves: all that comes after the decoder speaks in them.
Out of scope: the wire types of the API, which are in `schema`.

Times are nanoseconds of the machine's monotonic clock (`time.monotonic_ns`), the same in both processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from mypy_extensions import mypyc_attr

if TYPE_CHECKING:
    from pgtattle.proxy.execution import Execution

Protocol = Literal["simple", "extended"]
UnitKind = Literal["request", "trace", "scope", "transaction", "connection", "burst"]
UnitConfidence = Literal["strong", "medium", "weak"]


NO_TAGS: Final[Mapping[str, str]] = {}


class Connection:
    """One client connection as the server knows it; replaced by a new record when a setting changes."""

    __slots__ = ("application", "backend_pid", "client", "database", "id", "opened_ns", "user")

    def __init__(
        self,
        *,
        id: int,
        client: str,
        opened_ns: int,
        user: str = "",
        database: str = "",
        application: str = "",
        backend_pid: int = 0,
    ) -> None:
        self.id: Final = id
        self.client: Final = client
        self.opened_ns: Final = opened_ns
        self.user: Final = user
        self.database: Final = database
        self.application: Final = application
        self.backend_pid: Final = backend_pid

    def changed(
        self,
        *,
        user: str | None = None,
        database: str | None = None,
        application: str | None = None,
        backend_pid: int | None = None,
    ) -> Connection:
        """The same connection with what is given instead."""
        return Connection(
            id=self.id,
            client=self.client,
            opened_ns=self.opened_ns,
            user=self.user if user is None else user,
            database=self.database if database is None else database,
            application=self.application if application is None else application,
            backend_pid=self.backend_pid if backend_pid is None else backend_pid,
        )

    @property
    def client_host(self) -> str:
        """The client's address without its port, `unix` for a unix socket."""
        return self.client.rsplit(":", 1)[0]


class ConnectionClass(NamedTuple):
    """What "the application" means in a rule."""

    application: str
    database: str
    client_host: str
    binds: bool


@mypyc_attr(acyclic=True)
class Parameter:
    """A bound parameter. `value` is PostgreSQL's text form whatever the wire format was; None is NULL.

    `binary` holds the original bytes where the type has no known text form; `value` is then `\\x…`.
    """

    __slots__ = ("binary", "oid", "truncated", "value")

    def __init__(self, oid: int, value: str | None, binary: bytes | None = None, truncated: bool = False) -> None:
        self.oid: Final = oid
        self.value: Final = value
        self.binary: Final = binary
        self.truncated: Final = truncated

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Parameter)
            and self.oid == other.oid
            and self.value == other.value
            and self.binary == other.binary
            and self.truncated == other.truncated
        )

    def __hash__(self) -> int:
        return hash((self.oid, self.value, self.binary, self.truncated))

    def __repr__(self) -> str:
        return f"Parameter({self.oid}, {self.value!r}, {self.binary!r}, {self.truncated})"


@mypyc_attr(acyclic=True)
class Slot:
    """A place in a statement's text that holds a literal or a `$n`, in the order of the text.

    `number` is the placeholder of the normal form that it became (the members of one IN list or of one VALUES column
    share theirs). `parameter` is n of `$n`, 0 for a literal. `value` is a literal's value, unquoted.
    `where` is the clause: `select from where group order limit values set having on call other`.
    """

    __slots__ = ("kind", "number", "parameter", "value", "where")

    def __init__(
        self,
        number: int,
        parameter: int,
        value: str,
        kind: Literal["parameter", "string", "number", "bits"],
        where: str,
    ) -> None:
        self.number: Final = number
        self.parameter: Final = parameter
        self.value: Final = value
        self.kind: Final = kind
        self.where: Final = where

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Slot)
            and self.number == other.number
            and self.parameter == other.parameter
            and self.value == other.value
            and self.kind == other.kind
            and self.where == other.where
        )

    def __hash__(self) -> int:
        return hash((self.number, self.parameter, self.value, self.kind, self.where))

    def __repr__(self) -> str:
        return f"Slot({self.number}, {self.parameter}, {self.value!r}, {self.kind!r}, {self.where!r})"


@mypyc_attr(acyclic=True)
class Statement:
    """The normalized SQL that executions share; `fingerprint` (16 hex digits) is its id.

    `command` is the leading keyword in capitals (`SELECT` for `WITH … SELECT`; `BEGIN`, `SET`, `EMPTY`, …).
    `kind` is coarser: `read write ddl transaction session copy utility empty`.
    """

    __slots__ = ("command", "fingerprint", "kind", "sql")

    def __init__(
        self,
        fingerprint: str,
        sql: str,
        command: str,
        kind: Literal["read", "write", "ddl", "transaction", "session", "copy", "utility", "empty"],
    ) -> None:
        self.fingerprint: Final = fingerprint
        self.sql: Final = sql
        self.command: Final = command
        self.kind: Final = kind

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Statement)
            and self.fingerprint == other.fingerprint
            and self.sql == other.sql
            and self.command == other.command
            and self.kind == other.kind
        )

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Statement({self.fingerprint!r}, {self.sql!r}, {self.command!r}, {self.kind!r})"


@mypyc_attr(acyclic=True)
class Text:
    """One SQL text as it was sent, lexed: its statement, its slots and the tags of its comments.

    `sql` is the single statement as sent, comments included and possibly cut (`truncated`); secrets are already masked.
    `slots` is bounded (256); `lists` are the lengths of IN and VALUES lists by placeholder number.
    """

    __slots__ = ("lists", "slots", "sql", "statement", "tags", "truncated")

    def __init__(
        self,
        sql: str,
        statement: Statement,
        slots: tuple[Slot, ...] = (),
        lists: tuple[tuple[int, int], ...] = (),
        tags: Mapping[str, str] = NO_TAGS,
        truncated: bool = False,
    ) -> None:
        self.sql: Final = sql
        self.statement: Final = statement
        self.slots: Final = slots
        self.lists: Final = lists
        self.tags: Final = tags
        self.truncated: Final = truncated

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Text)
            and self.sql == other.sql
            and self.statement == other.statement
            and self.slots == other.slots
            and self.lists == other.lists
            and self.tags == other.tags
            and self.truncated == other.truncated
        )

    def __hash__(self) -> int:
        return hash(self.sql)

    def __repr__(self) -> str:
        return f"Text({self.sql!r}, {self.statement!r}, {self.slots!r}, {self.lists!r}, {self.tags!r})"


class Unit:
    """The executions of one request, job or burst, in order of their start; complete when it flows.

    `signal` says to people how it was told apart, such as `comment tag request_id`. `pooled`: a connection of it is a
    pooler's, on which clients take turns.
    """

    __slots__ = ("confidence", "executions", "id", "key", "kind", "pooled", "route", "signal", "source")

    def __init__(
        self,
        *,
        id: str,
        kind: UnitKind,
        key: str,
        confidence: UnitConfidence,
        signal: str,
        executions: tuple[Execution, ...],
        route: str = "",
        source: str = "",
        pooled: bool = False,
    ) -> None:
        self.id: Final = id
        self.pooled: Final = pooled
        self.kind: Final[UnitKind] = kind
        self.key: Final = key
        self.confidence: Final[UnitConfidence] = confidence
        self.signal: Final = signal
        self.executions: Final = executions
        self.route: Final = route
        self.source: Final = source

    @property
    def started_ns(self) -> int:
        """Start of the first execution."""
        return self.executions[0].started_ns

    @property
    def ended_ns(self) -> int:
        """End of the last execution."""
        return max([execution.ended_ns for execution in self.executions])

    def __repr__(self) -> str:
        return f"Unit({self.id!r}, {self.kind!r}, {self.key!r}, {len(self.executions)} executions)"
