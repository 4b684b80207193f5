"""Executions and findings as the decoder and the rules make them, for tests of what comes after."""

from __future__ import annotations

import hashlib
from typing import Any

from pgtattle.analyzers.finding import Finding
from pgtattle.proxy.events import Connection, Parameter, Statement, Text
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import Evidence, LoopEvidence, SessionView, Suggestion, UnitRef

STARTED_UNIX_NS = 1_700_000_000_000_000_000
STARTED_NS = 5_000_000_000

CONNECTION = Connection(
    id=7, client="127.0.0.1:5000", opened_ns=STARTED_NS, user="bob", database="shop", application="web"
)


def text(normal: str, sent: str = "", tags: dict[str, str] | None = None, command: str = "") -> Text:
    fingerprint = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Text(
        sent or normal, Statement(fingerprint, normal, command or normal.split()[0].upper(), "read"), tags=tags or {}
    )


def execution(number: int = 1, normal: str = "SELECT $1", *, ms: float = 1.0, **changes: Any) -> Execution:
    started = STARTED_NS + number * 1_000_000_000
    sent, tags, command = changes.pop("sent", ""), changes.pop("tags", None), changes.pop("command", "")
    fields: dict[str, Any] = {
        "id": number,
        "connection": CONNECTION,
        "text": text(normal, sent, tags, command),
        "rows": 1,
        "started_ns": started,
        "ended_ns": started + round(ms * 1e6),
        "command_tag": "SELECT 1",
    }
    return Execution(**(fields | changes))


def loop(executions: int = 10, units: int = 1, **changes: Any) -> LoopEvidence:
    fields: dict[str, Any] = {
        "executions": executions,
        "distinct": executions,
        "units": units,
        "database_ms": 5.0,
        "gap_ms": 2.0,
        "signal": "comment tag request_id",
    }
    return LoopEvidence(**(fields | changes))


def finding(subject: str = "a", evidence: Evidence | None = None, **changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "rule": "n-plus-one",
        "subject": subject,
        "severity": "medium",
        "confidence": "likely",
        "title": "One query of a unit drove 10 others",
        "fingerprints": ("00112233aabbccdd",),
        "sql": "SELECT * FROM books WHERE author_id = $1",
        "count": 10,
        "total_ns": 5_000_000,
        "unit": UnitRef(kind="request", key="r1", route="/authors"),
        "evidence": evidence or loop(),
        "suggestion": Suggestion(text="Load them with one query."),
        "at_ns": STARTED_NS + 1_000_000_000,
    }
    return Finding(**(fields | changes))


def session(**changes: Any) -> SessionView:
    fields: dict[str, Any] = {
        "id": "s1",
        "started_at": "2023-11-14T22:13:20.000Z",
        "seconds": 12.5,
        "server_version": "18.4",
        "executions": 0,
        "connections": 0,
        "connections_total": 0,
        "shed": 0,
        "lost": 0,
        "restarts": 0,
        "opaque_connections": 0,
    }
    return SessionView(**(fields | changes))


def parameter(value: str | None, oid: int = 25, **changes: Any) -> Parameter:
    return Parameter(oid, value, **changes)
