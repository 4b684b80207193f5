"""The API's client: history, then live events, over TCP or a unix socket, reconnecting by itself.

Enters: the address of a server. Leaves: typed events; what happens to the connection is an event too, so that there is
one stream to consume. Out of scope: what is kept of them (`model`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.schema import (
    ErrorView,
    ExecutionView,
    FindingPage,
    FindingView,
    SessionView,
    StatementPage,
    StatementView,
)

HISTORY: Final = 1_000
STATEMENTS: Final = 500
FINDINGS: Final = 1_000
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0)
MAX_LINE: Final = 16 * 1024 * 1024


class Connected(Struct, frozen=True):
    """The stream is open; what follows is history and then live. `fresh` says that nothing from before counts."""

    fresh: bool


class Disconnected(Struct, frozen=True):
    """The stream broke or never came, and is tried again."""

    reason: str


class Refused(Struct, frozen=True):
    """The server will not serve this: trying again is no use until something changes."""

    reason: str


class Executions(Struct, frozen=True):
    """Executions, oldest first."""

    items: list[ExecutionView]


class Findings(Struct, frozen=True):
    """All findings, at the beginning."""

    items: list[FindingView]


class Skipped(Struct, frozen=True):
    """So many executions were not sent because this client was too slow."""

    count: int


class _Skip(Struct, frozen=True):
    executions: int


Event = Connected | Disconnected | Refused | Executions | Findings | Skipped | FindingView | SessionView


class Client:
    """One server. `url` is `http://HOST:PORT`, `HOST:PORT` or `unix:/path`; raises UsageError for anything else."""

    def __init__(self, url: str, token: str = "") -> None:
        transport = None
        if url.startswith("unix:"):
            transport = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix:"))
            base = "http://localhost"
        else:
            base = url if "://" in url else f"http://{url}"
            if not _is_http(base):
                raise UsageError(f"{url}: write http://HOST:PORT or unix:/path of a running pgtattle's API")
        self.url = url
        headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
        timeout = httpx.Timeout(10.0, read=15.0)
        self._http = httpx.AsyncClient(
            base_url=f"{base.rstrip('/')}/api/v1",
            transport=transport,
            headers=headers,
            timeout=timeout,
            trust_env=False,
        )
        self._last_id = ""

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def statements(self, sort: str) -> list[StatementView] | None:
        """The first statements by `sort` (`total`, `calls`, …); None when the server does not answer now."""
        try:
            response = await self._http.get("/statements", params={"limit": STATEMENTS, "sort": sort})
            return msgspec.json.decode(response.raise_for_status().content, type=StatementPage).items
        except (httpx.HTTPError, msgspec.MsgspecError, OSError):
            return None

    async def refusal(self, filter_: str) -> str:
        """Why the server will not take this filter; empty when it does, or when it cannot be asked now."""
        try:
            response = await self._http.get("/executions", params={"limit": 1, "filter": filter_})
        except (httpx.HTTPError, OSError):
            return ""
        return _refusal(response.status_code, response.content) if response.is_client_error else ""

    async def events(self, filter_: str = "") -> AsyncIterator[Event]:
        """Everything that happens, for ever; ends after `Refused`."""
        failures = 0
        self._last_id = ""
        while True:
            try:
                async for event in self._stream(filter_):
                    failures = 0
                    yield event
                    if isinstance(event, Refused):
                        return
                reason = "the server ended the stream"
            except (httpx.HTTPError, OSError) as error:
                reason = f"{self.url}: {_words(error)}"
            except msgspec.MsgspecError as error:
                reason = f"{self.url} does not speak this version of pgtattle's API: {error}"
            yield Disconnected(reason)
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
            failures += 1

    async def _stream(self, filter_: str) -> AsyncIterator[Event]:
        # The server heeds `history` when it cannot go on after the id, too: after a restart of its profiler.
        params: dict[str, str | int] = {"history": HISTORY, **({"filter": filter_} if filter_ else {})}
        headers = {"Accept": "text/event-stream"}
        fresh = not self._last_id
        if not fresh:
            headers["Last-Event-ID"] = self._last_id
        async with self._http.stream("GET", "/events", params=params, headers=headers) as response:
            if response.status_code in (400, 401, 403, 404):
                yield Refused(_refusal(response.status_code, await response.aread()))
                return
            if not response.is_success:
                raise httpx.ReadError(_refusal(response.status_code, await response.aread()))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield Refused(f"{self.url} does not speak pgtattle's API")
                return
            yield Connected(fresh)
            findings = await self._http.get("/findings", params={"limit": FINDINGS})
            yield Findings(msgspec.json.decode(findings.raise_for_status().content, type=FindingPage).items)
            async for name, data, id_ in _messages(response):
                if name == "reset":
                    yield Connected(True)
                event = _event(name, data)
                if event is not None:
                    yield event
                self._last_id = id_ or self._last_id


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _event(name: str, data: bytes) -> Event | None:
    match name:
        case "executions":
            return Executions(msgspec.json.decode(data, type=list[ExecutionView]))
        case "finding":
            return msgspec.json.decode(data, type=FindingView)
        case "session":
            return msgspec.json.decode(data, type=SessionView)
        case "skipped":
            return Skipped(msgspec.json.decode(data, type=_Skip).executions)
        case _:
            return None


async def _messages(response: httpx.Response) -> AsyncIterator[tuple[str, bytes, str]]:
    """Server-sent events as (event, data, id)."""
    buffer = bytearray()
    name, id_, data = "", "", bytearray()
    async for chunk in response.aiter_bytes():
        buffer += chunk
        start = 0
        while (end := buffer.find(b"\n", start)) >= 0:
            row = bytes(buffer[start:end]).rstrip(b"\r")
            start = end + 1
            if not row:
                if name or data:
                    yield name, bytes(data), id_
                name, id_, data = "", "", bytearray()
            elif row.startswith(b"data:"):
                data += row[5:].lstrip(b" ")
            elif row.startswith(b"event:"):
                name = row[6:].strip().decode("utf-8", "replace")
            elif row.startswith(b"id:"):
                id_ = row[3:].strip().decode("utf-8", "replace")
        del buffer[:start]
        if len(buffer) > MAX_LINE:
            raise httpx.ReadError("a line of the stream is too long")


def _refusal(status: int, body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=ErrorView).error.message
    except msgspec.MsgspecError:
        return f"this does not speak pgtattle's API (status {status})"
    return f"{message} (give --token-file)" if status == 401 and "--token-file" not in message else message


def _words(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError | FileNotFoundError):
        return "nothing answers; is pgtattle running there?"
    return str(error) or type(error).__name__
