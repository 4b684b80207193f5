"""Helpers of the dashboard's tests: records, a server with faults, and the screen as text."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pgtattle.proxy.schema import (
    ExecutionView,
    FindingPage,
    FindingView,
    LoopEvidence,
    SessionView,
    StatementPage,
    StatementView,
    Suggestion,
    UnitRef,
)
from pgtattle.tui.app import Dashboard

HOSTILE = "\x1b]0;owned\x07 \x1b]52;c;b3du\x07 \x1b[2J \x9b31m [/b] x[1] [red] \u202eevil \x00 \x7f \ud7ff\u2028end"


def execution(number: int, sql: str = "SELECT 1", **more: Any) -> ExecutionView:
    given = {
        "id": number, "connection": 1, "at": "2024-01-01T12:00:00.123Z", "database": "shop", "user": "me",
        "application": "web", "client": "127.0.0.1:1", "fingerprint": "f" * 16, "sql": sql, "command": "SELECT",
        "parameters": ["7", None], "protocol": "extended", "tag": "SELECT 1", "rows": 1, "bytes": 10, "sqlstate": None,
        "transaction": 0, "exchange": 1, "position": 0, "duration_ms": 1.5, "first_row_ms": 1.0, "stalled_ms": 0.0,
        "tags": {"route": "/x"}, **more,
    }  # fmt: skip
    return ExecutionView(**given)


def statement(fingerprint: str, sql: str, total: float, calls: int = 3) -> StatementView:
    return StatementView(
        fingerprint=fingerprint, sql=sql, kind="read", tables=["t"], calls=calls, rows=1, total_ms=total, mean_ms=1.0,
        p50_ms=1.0, p95_ms=1.0, p99_ms=1.0, max_ms=1.0, errors=0,
    )  # fmt: skip


def finding(
    id_: str, title: str = "12 executions of one query", severity: Any = "high", sql: str = "SELECT $1"
) -> FindingView:
    return FindingView(
        id=id_, rule="n-plus-one", severity=severity, confidence="likely", title=title, sql=sql,
        fingerprints=["f"], count=12, total_ms=3.0, unit=UnitRef(kind="request", key="r1", route="/books"),
        evidence=LoopEvidence(executions=12, distinct=12, units=1, database_ms=1, gap_ms=2, signal="comment tag"),
        suggestion=Suggestion(text="Load all of them at once.", sql="SELECT 1 = ANY($1)"),
        first_seen="a", last_seen="b",
    )  # fmt: skip


SESSION = SessionView(
    id="s", started_at="", seconds=1.0, server_version="18", executions=2, connections=1, connections_total=3, shed=0,
    lost=0, restarts=0, opaque_connections=0,
)  # fmt: skip


class Server:
    """Serves prepared records; its fields are its faults."""

    def __init__(self) -> None:
        self.session = SESSION
        self.history: list[ExecutionView] = []
        self.findings: list[FindingView] = []
        self.statements: list[StatementView] = []
        self.status = 200
        self.token = ""
        self.refused_filter = ""
        self.slow = 0.0
        self.body: bytes | None = None
        self.asked: list[tuple[dict[str, str], str]] = []
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    def send(self, name: str, record: object, id_: str = "") -> None:
        head = f"id: {id_}\n" if id_ else ""
        self.queue.put_nowait(f"{head}event: {name}\ndata: ".encode() + msgspec.json.encode(record) + b"\n\n")

    def cut(self) -> None:
        """End the stream that is open."""
        self.queue.put_nowait(b"")

    async def start(self, port: int = 0) -> None:
        listening = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        routes = [
            Route("/api/v1/events", self._events),
            Route("/api/v1/executions", self._executions),
            Route("/api/v1/findings", self._findings),
            Route("/api/v1/statements", self._statements),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._server is not None
        assert self._task is not None
        self.cut()
        self._server.should_exit = True
        await self._task

    async def _events(self, request: Request) -> Response:
        self.asked.append((dict(request.query_params), request.headers.get("last-event-id", "")))
        if self.body is not None:
            return Response(self.body, status_code=self.status, media_type="text/html")
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, "a token is needed")
        if self.status != 200:
            return _error(self.status, "16 event streams are open already")

        async def stream() -> AsyncIterator[bytes]:
            if self.history:
                yield b"id: s.1.1\nevent: executions\ndata: " + msgspec.json.encode(self.history) + b"\n\n"
            yield b"event: session\ndata: " + msgspec.json.encode(self.session) + b"\n\n"
            while chunk := await self.queue.get():
                yield chunk

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _executions(self, request: Request) -> Response:
        if self.refused_filter and request.query_params["filter"] == self.refused_filter:
            return _error(400, f"column 3: no such filter: {self.refused_filter}")
        return Response(b'{"items": []}', media_type="application/json")

    async def _findings(self, request: Request) -> Response:
        return Response(msgspec.json.encode(FindingPage(items=self.findings)), media_type="application/json")

    async def _statements(self, request: Request) -> Response:
        await asyncio.sleep(self.slow)
        key = {"total": "total_ms", "calls": "calls"}[request.query_params["sort"]]
        items = sorted(self.statements, key=lambda one: getattr(one, key), reverse=True)
        return Response(msgspec.json.encode(StatementPage(items=items)), media_type="application/json")


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"code": "x", "message": message, "details": {}}}, status_code=status)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def screen(app: Dashboard) -> str:
    """What is on the screen, as lines of text."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line)[:width].rstrip() for line in lines[:height])
