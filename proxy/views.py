"""Records of the profiler → wire types of the API.

Enters: executions and the session's clock anchor. Leaves: `schema` records, masked as `--values` asks. Every text that
leaves can be encoded as UTF-8 (lone surrogates are replaced); control characters stay, JSON escapes them.
Out of scope: making text harmless for a terminal, which each screen and report does itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pgtattle.proxy.events import Connection, Parameter
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import ConnectionView, Evidence, ExecutionView, InjectionEvidence, PastedEvidence
from pgtattle.proxy.settings import Values

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LENGTH: Final = re.compile(r"(?<=\w) \d+(?=>)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# pg_type.dat: the types that drivers send. The value's length says nothing about a value of a fixed-length type.
_FIXED: Final = {
    16: "bool",
    18: "char",
    20: "int8",
    21: "int2",
    23: "int4",
    26: "oid",
    700: "float4",
    701: "float8",
    829: "macaddr",
    1082: "date",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    1186: "interval",
    1266: "timetz",
    2950: "uuid",
}
_VARYING: Final = {
    17: "bytea",
    19: "name",
    25: "text",
    114: "json",
    650: "cidr",
    869: "inet",
    1000: "bool[]",
    1005: "int2[]",
    1007: "int4[]",
    1009: "text[]",
    1015: "varchar[]",
    1016: "int8[]",
    1021: "float4[]",
    1022: "float8[]",
    1042: "bpchar",
    1043: "varchar",
    1115: "timestamp[]",
    1182: "date[]",
    1185: "timestamptz[]",
    1231: "numeric[]",
    1700: "numeric",
    2951: "uuid[]",
    3802: "jsonb",
}

_Record = TypeVar("_Record", bound=Struct)


class Anchor(Struct, frozen=True):
    """One moment on both clocks, which dates every other moment of the session."""

    unix_ns: int
    monotonic_ns: int

    def iso(self, monotonic_ns: int) -> str:
        """The moment as ISO 8601 UTC, to the microsecond."""
        since_epoch = timedelta(microseconds=(self.unix_ns + monotonic_ns - self.monotonic_ns) // 1000)
        return (_EPOCH + since_epoch).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clean(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no JSON or UTF-8 encoder takes."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def cleaned(record: _Record) -> _Record:
    """The record with every text in it cleaned."""
    try:
        msgspec.json.encode(record)
    except UnicodeEncodeError:
        return msgspec.convert(_cleaned(msgspec.to_builtins(record)), type(record))
    return record


def connection_view(connection: Connection, anchor: Anchor) -> ConnectionView:
    """The record as the API gives it."""
    return cleaned(
        ConnectionView(
            id=connection.id,
            client=connection.client,
            user=connection.user,
            database=connection.database,
            application=connection.application,
            backend_pid=connection.backend_pid,
            opened_at=anchor.iso(connection.opened_ns),
        )
    )


def masked(parameter: Parameter) -> str | None:
    """What may be said of a value: its type, and its length in characters (bytes if it is binary) where that varies.

    NULL stays NULL. A `+` after the length says that the value was longer than what was kept.
    """
    if parameter.value is None:
        return None
    fixed = _FIXED.get(parameter.oid)
    if fixed is not None:
        return f"<{fixed}>"
    name = _VARYING.get(parameter.oid) or (f"oid {parameter.oid}" if parameter.oid else "unknown")
    size = len(parameter.value if parameter.binary is None else parameter.binary)
    return f"<{name} {size}{'+' if parameter.truncated else ''}>"


def without_lengths(evidence: Evidence) -> Evidence:
    """The evidence with only the kinds of the literals in it."""
    if isinstance(evidence, InjectionEvidence):
        return replace(evidence, slot=_LENGTH.sub("", evidence.slot))
    if isinstance(evidence, PastedEvidence):
        return replace(evidence, examples=[_LENGTH.sub("", example) for example in evidence.examples])
    return evidence


def milliseconds(ns: int) -> float:
    """Nanoseconds as milliseconds, to the microsecond."""
    return round(ns / 1e6, 3)


def execution_view(execution: Execution, anchor: Anchor, values: Values) -> ExecutionView:
    """An execution for people.

    `full` shows the SQL as sent and the bound values; `redacted` the normal form, and of each bound parameter its type
    and length; `hidden` the normal form alone. Tags come from comments and settings; a comment's win.
    """
    connection = execution.connection
    statement = execution.text.statement
    parameters: list[str | None] = []
    sql = statement.sql
    if values == "full":
        sql = execution.text.sql
        parameters = [None if each.value is None else clean(each.value) for each in execution.parameters]
    elif values == "redacted":
        parameters = [masked(each) for each in execution.parameters]
    tags = {**execution.settings, **execution.text.tags}
    return ExecutionView(
        id=execution.id,
        connection=connection.id,
        at=anchor.iso(execution.started_ns),
        database=clean(connection.database),
        user=clean(connection.user),
        application=clean(connection.application),
        client=clean(connection.client),
        fingerprint=statement.fingerprint,
        sql=clean(sql),
        command=clean(statement.command),
        parameters=parameters,
        protocol=execution.protocol,
        tag=clean(execution.command_tag),
        rows=execution.rows,
        bytes=execution.bytes_received,
        sqlstate=execution.sqlstate if execution.sqlstate is None else clean(execution.sqlstate),
        transaction=execution.transaction,
        exchange=execution.exchange,
        position=execution.position,
        duration_ms=milliseconds(execution.duration_ns),
        first_row_ms=milliseconds(execution.first_row_ns - execution.started_ns) if execution.first_row_ns else None,
        stalled_ms=milliseconds(execution.stalled_ns),
        tags={clean(key): clean(value) for key, value in tags.items()} if tags else {},
    )


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    return value
