"""Traffic for a pipeline, as the relay's tap would send it, and what everyone who reads then sees of it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pgtattle.analyzers.plan.candidates import candidates
from pgtattle.analyzers.plan.model import read
from pgtattle.analyzers.questions import (
    Answer,
    ColumnFacts,
    IndexAnswer,
    IndexQuestion,
    Question,
    RewriteAnswer,
    RewriteQuestion,
    TableFacts,
)
from pgtattle.analyzers.reports import FORMATS
from pgtattle.proxy.api import application
from pgtattle.proxy.claims import Claims
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.pipeline import Pipeline
from pgtattle.proxy.schema import FindingView, StatementView
from pgtattle.proxy.settings import Address, RuleSettings, Settings, Upstream
from pgtattle.proxy.store import Store
from pgtattle.proxy.wire import batch, control
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, session

MS: Final = 1_000_000
OVER: Final = 61_000
"""Milliseconds of silence after which every unit is complete, also one with an id."""
SETTINGS: Final = Settings(
    upstream=Upstream(addresses=(Address("127.0.0.1", 5432),), dsn=""), listen=(), api=Address("127.0.0.1", 7433)
)


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


PARSED, BOUND, NO_DATA, SYNC = frame("1"), frame("2"), frame("n"), frame("S")
READY: Final = {True: frame("Z", b"T"), False: frame("Z", b"I")}


class Traffic:
    """Connections of one application; each statement takes `ms`, and the client a twentieth of one before the next."""

    def __init__(self, **rules: Any) -> None:
        self.now = STARTED_NS
        self.store = Store(STARTED_UNIX_NS, STARTED_NS)
        self.metrics = Metrics(lambda: self.store.evicted, self.store.ledger)
        self.questions: list[Question] = []
        settings = msgspec.structs.replace(SETTINGS, rules=RuleSettings(**rules))
        self.pipeline = Pipeline(settings, self.store, self.metrics, self.questions.append, _give_up, Claims())
        self._connections = 0
        self._in_transaction: set[int] = set()

    def connect(self, application_name: str = "web", database: str = "shop") -> int:
        """A connection that is logged in."""
        self._connections += 1
        number = self._connections
        opened = control.Opened(client=f"127.0.0.1:{40_000 + number}", opened_ns=self.now)
        given = {"user": "alice", "database": database, "application_name": application_name}
        body = b"".join(key.encode() + b"\0" + value.encode() + b"\0" for key, value in given.items()) + b"\0"
        self._send(batch.OPENED, number, msgspec.json.encode(opened))
        self._send(batch.STARTUP, number, struct.pack("!iI", len(body) + 8, 196608) + body)
        self._send(batch.BACKEND, number, frame("R", b"\0\0\0\0") + READY[False])
        return number

    def query(self, connection: int, sql: str, *, rows: int = 1, ms: float = 1.0, error: str = "") -> None:
        """One simple query."""
        self._ask(connection, frame("Q", sql.encode() + b"\0"))
        self._answer(connection, sql, rows, ms, error)

    def execute(
        self, connection: int, sql: str, *values: str, rows: int = 1, ms: float = 1.0, name: str = "", table: int = 0
    ) -> None:
        """One statement with bound parameters; the rows of a `table` are sent, the same each time."""
        parse = name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack("!H", 0)
        bound = b"".join(struct.pack("!i", len(value)) + value.encode() for value in values)
        bind = b"\0" + name.encode() + b"\0" + struct.pack("!HH", 0, len(values)) + bound + struct.pack("!H", 0)
        frames = frame("P", parse) + frame("B", bind) + frame("D", b"P\0") + frame("E", b"\0" + bytes(4)) + SYNC
        self._ask(connection, frames)
        self._answer(connection, sql, rows, ms, "", PARSED + BOUND + (b"" if table else NO_DATA), table)

    def pause(self, ms: float) -> None:
        """Nothing happens for a while. What waits for less than two seconds sees every tenth of one."""
        start = self.now
        end = start + round(ms * MS)
        while self.now < end:
            step = 100 if self.now < start + 2_000 * MS else 5_000
            self.now = min(end, self.now + step * MS)
            self.pipeline.tick(self.now)

    def answer(self, *, table: str, indexed: bool, rows: int = 60_000, columns: tuple[str, ...] = ("mail",)) -> int:
        """Answer the questions about indexes, and those that follow, as a planner without HypoPG would; how many there
        were."""
        answered = 0
        while asked := [one for one in self.questions if isinstance(one, IndexQuestion)]:
            self.questions.clear()
            for question in asked:
                self.pipeline.answer(index_answer(question, table, indexed, rows, columns))
            answered += len(asked)
        self.questions.clear()
        return answered

    def take_rewrites(self, *, all_cost: float, one_cost: float) -> None:
        """Answer the questions about rewrites as a planner that takes all of them."""
        asked = [one for one in self.questions if isinstance(one, RewriteQuestion)]
        self.questions.clear()
        for question in asked:
            before, after = (
                msgspec.json.encode([{"Plan": {"Node Type": "Result", "Total Cost": cost}}])
                for cost in (one_cost, all_cost)
            )
            self.pipeline.answer(RewriteAnswer(question=question, before=before, after=after))

    def finding(self, rule: str) -> FindingView:
        """The one finding of a rule."""
        (found,) = (one for one in self.store.findings() if one.rule == rule)
        return found

    def get(self, path: str) -> Any:
        """What the API answers."""
        return msgspec.json.decode(self._body(f"/api/v1/{path}"))

    def report(self, format: str = "json") -> str:
        """The report as a text."""
        return FORMATS[format](self.store.report(session(executions=self.pipeline.executions)))

    def samples(self) -> dict[tuple[str, ...], float]:
        """The metrics by name and label values."""
        families = text_string_to_metric_families(self._body("/metrics").decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    def statement(self, fingerprint: str) -> StatementView:
        """A statement with its totals."""
        found = self.store.statement(fingerprint)
        assert found is not None
        return found

    def _body(self, path: str) -> bytes:
        async def ready() -> tuple[bool, str]:
            return True, "ready"

        app = application(
            store=self.store,
            session=lambda: session(executions=self.pipeline.executions),
            ready=ready,
            metrics=self.metrics,
            settings=SETTINGS,
            scopes=self.pipeline.scopes,
        )

        async def asked() -> bytes:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7433") as client:
                response = await client.get(path)
                return response.raise_for_status().content

        return asyncio.run(asked())

    def _ask(self, connection: int, frames: bytes) -> None:
        self.now += MS // 20
        self._send(batch.FRONTEND, connection, frames)

    def _answer(
        self, connection: int, sql: str, rows: int, ms: float, error: str, before: bytes = b"", table: int = 0
    ) -> None:
        command = sql.rpartition("*/ ")[2].split()[0].upper()
        if command == "BEGIN":
            self._in_transaction.add(connection)
        elif command in ("COMMIT", "ROLLBACK"):
            self._in_transaction.discard(connection)
        self.now += round(ms * MS)
        tags = {"INSERT": f"INSERT 0 {rows}", "UPDATE": f"UPDATE {rows}", "SELECT": f"SELECT {rows}"}
        tag = tags.get(command, command)
        last = frame("E", b"SERROR\0C" + error.encode() + b"\0\0") if error else frame("C", tag.encode() + b"\0")
        status = READY[connection in self._in_transaction]
        self._send(batch.BACKEND, connection, before + _result(table, rows) + last + status)

    def _send(self, kind: int, connection: int, body: bytes) -> None:
        self.pipeline.records(batch.pack(kind, connection, self.now, body))


def _result(table: int, rows: int) -> bytes:
    """Rows of one column, numbered from 1."""
    if not table:
        return b""
    field = b"id\0" + struct.pack("!IhIhih", table, 1, 23, 4, -1, 0)
    values = [str(number).encode() for number in range(1, rows + 1)]
    sent = [frame("D", struct.pack("!Hi", 1, len(value)) + value) for value in values]
    return frame("T", struct.pack("!H", 1) + field) + b"".join(sent)


def index_answer(
    question: IndexQuestion,
    table: str,
    indexed: bool,
    rows: int = 60_000,
    columns: tuple[str, ...] = ("mail",),
    found: int = 1,
) -> Answer:
    """The plan of a statement that finds some rows of a table, with or without an index on the columns."""
    plan: dict[str, Any] = {
        "Node Type": "Index Scan" if indexed else "Seq Scan",
        "Relation Name": table,
        "Schema": "public",
        "Total Cost": 8.0 if indexed else 1_300.0,
        "Plan Rows": found,
    }
    plan |= {"Index Name": "ix"} if indexed else {"Filter": f"({columns[0]} = 'x'::text)"}
    facts = TableFacts(
        name=table,
        schema="public",
        rows=rows,
        pages=500,
        columns=dict.fromkeys(("id", *columns), ColumnFacts(btree=True)),
        indexes=(("id",), *([columns] if indexed else [])),
    )
    before = msgspec.json.encode([{"Plan": plan}])
    return IndexAnswer(
        question=question,
        before=before,
        candidates=tuple(candidates(question.uses, (facts,), read(before))),
        tables=(facts,),
    )


def _give_up(connection: int, reason: str) -> None:
    raise AssertionError(f"connection {connection}: {reason}")
