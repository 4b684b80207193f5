"""The HTTP API over the store, and the small one that scrapers and probes may use from elsewhere.

Enters: requests. Leaves: `schema` records as JSON, events, metrics; errors as `schema.ErrorView`. Out of scope: who
may ask (`guard`), what is remembered (`store`), the listening socket (the relay's).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pgtattle.proxy.errors import FilterError, UsageError
from pgtattle.proxy.events import Connection
from pgtattle.proxy.filters import parse
from pgtattle.proxy.guard import Access, Guard, error
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.schema import (
    STATES,
    ConnectionPage,
    ExecutionPage,
    FindingPage,
    ScopeRequest,
    SessionView,
    StatementPage,
    UnitDetail,
    UnitPage,
)
from pgtattle.proxy.scopes import Scopes
from pgtattle.proxy.settings import Settings
from pgtattle.proxy.store import SORTS, Predicate, Store
from pgtattle.proxy.streams import Streams, position
from pgtattle.proxy.views import connection_view, execution_view

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
MAX_HISTORY: Final = 10_000
MAX_BODY: Final = 64 * 1024
MAX_KEY: Final = 200
MAX_SETTLE_SECONDS: Final = 60

_Body = TypeVar("_Body", bound=msgspec.Struct)
_View = TypeVar("_View", bound=msgspec.Struct)

_CODES: Final = {
    400: "bad_parameter",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_long",
    415: "bad_content_type",
}

Ready = Callable[[], Awaitable[tuple[bool, str]]]
Settle = Callable[[float], Awaitable[None]]
"""Waits until all traffic so far is analyzed, so many seconds at most."""


async def _at_once(_: float) -> None:
    """There is no traffic to wait for."""


def application(
    *,
    store: Store,
    session: Callable[[], SessionView],
    ready: Ready,
    metrics: Metrics,
    settings: Settings,
    scopes: Scopes,
    settle: Settle = _at_once,
    connections: Callable[[], Sequence[Connection]] = tuple,
    clock: Callable[[], float] = time.monotonic,
    generation: str | None = None,
) -> ASGIApp:
    """The API. `ready` says whether the upstream answers and why not; `generation` names this process's memory."""
    streams = Streams(store, session, settings.values, generation or secrets.token_hex(4))
    api = _Api(store, session, settings, streams, settle, connections)
    scope = _Scopes(scopes)
    routes = [
        Route("/api/v1/session", api.session),
        Route("/api/v1/executions", api.executions),
        Route("/api/v1/statements", api.statements),
        Route("/api/v1/statements/{fingerprint}", api.statement),
        Route("/api/v1/findings", api.findings),
        Route("/api/v1/findings/{id}", api.finding),
        Route("/api/v1/units", api.units),
        Route("/api/v1/units/{id}", api.unit),
        Route("/api/v1/connections", api.connections),
        Route("/api/v1/scopes", scope.open, methods=["POST"]),
        Route("/api/v1/scopes/{id}", scope.close, methods=["DELETE"]),
        Route("/api/v1/report", api.report),
        Route("/api/v1/events", api.events),
        *_probes(metrics, ready),
    ]
    return Guard(_starlette(routes), Access(settings.api, settings.api_token, clock))


def metrics_application(*, metrics: Metrics, ready: Ready) -> ASGIApp:
    """`/metrics`, `/livez` and `/readyz` only: no SQL text, no token."""
    return Guard(_starlette(_probes(metrics, ready)))


class _Api:
    def __init__(
        self,
        store: Store,
        session: Callable[[], SessionView],
        settings: Settings,
        streams: Streams,
        settle: Settle,
        connections: Callable[[], Sequence[Connection]],
    ) -> None:
        self._store = store
        self._session = session
        self._values = settings.values
        self._streams = streams
        self._settle = settle
        self._connections = connections

    async def session(self, request: Request) -> Response:
        _parameters(request, ())
        return _json(self._store.session(self._session()))

    async def executions(self, request: Request) -> Response:
        given = _parameters(request, ("limit", "after", "filter"))
        store = self._store
        after = _number(given, "after", 0, 0, store.newest)
        changes = store.executions(after, _limit(given), self._filter(given))
        views = [execution_view(each, store.anchor, self._values) for each in changes.executions]
        more = changes.cursor < store.newest
        return _json(ExecutionPage(items=views, after=str(changes.cursor) if more else None))

    async def statements(self, request: Request) -> Response:
        given = _parameters(request, ("limit", "after", "sort"))
        sort = given.get("sort", "total")
        if sort not in SORTS:
            raise _Bad("sort", sort, f"one of {', '.join(SORTS)}")
        fingerprints, after = _page(given, self._store.statements(sort))
        found = [self._store.statement(fingerprint) for fingerprint in fingerprints]
        return _json(StatementPage(items=[each for each in found if each is not None], after=after))

    async def statement(self, request: Request) -> Response:
        _parameters(request, ())
        fingerprint = request.path_params["fingerprint"]
        return _json(_existing(self._store.statement(fingerprint), "statement", fingerprint))

    async def findings(self, request: Request) -> Response:
        given = _parameters(request, ("limit", "after", "settle", "state"))
        state = given.get("state")
        if state is not None and state not in STATES:
            raise _Bad("state", state, f"one of {', '.join(STATES)}")
        await self._settled(given)
        findings = {each.id: each for each in self._store.findings() if state in (None, each.state)}
        chosen, after = _page(given, list(findings))
        return _json(FindingPage(items=[findings[each] for each in chosen], after=after))

    async def finding(self, request: Request) -> Response:
        _parameters(request, ())
        identity = request.path_params["id"]
        return _json(_existing(self._store.finding(identity), "finding", identity))

    async def units(self, request: Request) -> Response:
        units = self._store.units
        given = _parameters(request, ("limit", "after", "settle"))
        await self._settled(given)
        chosen, after = _page(given, units.ids())
        found = [units.unit(each) for each in chosen]
        return _json(UnitPage(items=[each for each in found if each is not None], after=after))

    async def unit(self, request: Request) -> Response:
        _parameters(request, ())
        identity, store = request.path_params["id"], self._store
        unit = _existing(store.units.unit(identity), "unit", identity)
        found = [store.execution(each) for each in store.units.executions(identity)]
        views = [execution_view(each, store.anchor, self._values) for each in found if each is not None]
        return _json(UnitDetail(unit=unit, executions=views))

    async def connections(self, request: Request) -> Response:
        found = {str(one.id): one for one in self._connections()}
        chosen, after = _page(_parameters(request, ("limit", "after")), list(found))
        views = [connection_view(found[each], self._store.anchor) for each in chosen]
        return _json(ConnectionPage(items=views, after=after))

    async def report(self, request: Request) -> Response:
        await self._settled(_parameters(request, ("settle",)))
        return _json(self._store.report(self._session()))

    async def events(self, request: Request) -> Response:
        given = _parameters(request, ("after", "history", "filter"))
        after = given.get("after")
        if after is not None and position(after) is None:
            raise _Bad("after", after, "the id of an event of this stream")
        history = _number(given, "history", 0, 0, MAX_HISTORY)
        response = self._streams.open(request.headers.get("last-event-id") or after, history, self._filter(given))
        return Response(media_type="text/event-stream") if request.method == "HEAD" else response

    async def _settled(self, given: dict[str, str]) -> None:
        seconds = _number(given, "settle", 0, 0, MAX_SETTLE_SECONDS)
        if seconds:
            await self._settle(seconds)

    def _filter(self, given: dict[str, str]) -> Predicate | None:
        text = given.get("filter", "")
        return parse(text, self._values) if text.strip() else None


class _Scopes:
    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes

    async def open(self, request: Request) -> Response:
        _parameters(request, ())
        asked = await _body(request, ScopeRequest)
        key = request.headers.get("idempotency-key", "")[:MAX_KEY]
        try:
            view = self._scopes.open(asked, time.monotonic_ns(), key)
        except UsageError as refused:
            raise HTTPException(400, str(refused)) from None
        return Response(msgspec.json.encode(view), 201, media_type="application/json")

    async def close(self, request: Request) -> Response:
        _parameters(request, ())
        identity = request.path_params["id"]
        if not self._scopes.close(identity, time.monotonic_ns()):
            raise _Missing("scope", identity)
        return Response(status_code=204)


async def _body(request: Request, type_: type[_Body]) -> _Body:
    """The JSON body of a request. Raises HTTPException for what is no such thing."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send a body with Content-Type: application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a body has at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body cannot be used: {error}") from None


class _Bad(HTTPException):
    """A parameter that cannot be used as it is."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(400, f"{name}={value[:100]} is not allowed: give {allowed}")
        self.details = {"parameter": name, "allowed": allowed}


def _probes(metrics: Metrics, ready: Ready) -> list[Route]:
    async def exposition(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        is_ready, words = await ready()
        return PlainTextResponse(f"{words}\n") if is_ready else error(503, "not_ready", words)

    return [Route("/metrics", exposition), Route("/livez", livez), Route("/readyz", readyz)]


def _starlette(routes: Sequence[Route]) -> Starlette:
    paths = ", ".join(route.path for route in routes)

    def refused(request: Request, exception: HTTPException) -> Response:
        status, message = exception.status_code, exception.detail
        code = _CODES.get(status, "http_error")
        details = exception.details if isinstance(exception, _Bad) else None
        if status == 404 and not isinstance(exception, _Missing):
            message = f"there is nothing at {request.url.path[:100]}: known are {paths}"
        elif status == 405:
            message = f"this takes {(exception.headers or {}).get('Allow', 'GET')} only"
        return error(status, code, message, details, exception.headers)

    handlers: dict[Any, Callable[[Request, Any], Response]] = {
        HTTPException: refused,
        FilterError: _filter_error,
        Exception: _internal_error,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


class _Missing(HTTPException):
    """A statement or finding that is not there."""

    def __init__(self, noun: str, identity: str) -> None:
        super().__init__(404, f"no {noun} {identity[:100]} is remembered")


def _filter_error(_: Request, exception: FilterError) -> Response:
    return error(400, "bad_filter", str(exception), {"parameter": "filter", "column": str(exception.column)})


def _internal_error(_: Request, exception: Exception) -> Response:
    return error(500, "internal_error", "pgtattle failed to answer; its log says why")


def _parameters(request: Request, allowed: Collection[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise _Bad(name[:100], value, f"only {', '.join(allowed)}" if allowed else "no parameter here")
        if name in given:
            raise _Bad(name, value, "each parameter once")
        given[name] = value
    return given


def _number(given: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    allowed = f"a number from {least} to {most}"
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Bad(name, text, allowed)
    number = int(text)
    if not least <= number <= most:
        raise _Bad(name, text, allowed)
    return number


def _limit(given: dict[str, str]) -> int:
    return _number(given, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)


def _page(given: dict[str, str], keys: list[str]) -> tuple[list[str], str | None]:
    """The keys of the page asked for, and the cursor of the next: the last key of this one."""
    limit = _limit(given)
    start = 0
    after = given.get("after")
    if after is not None:
        if after not in keys:
            raise _Bad("after", after, "the `after` of an earlier page, or nothing to start anew")
        start = keys.index(after) + 1
    page = keys[start : start + limit]
    return page, page[-1] if start + limit < len(keys) else None


def _existing(view: _View | None, noun: str, identity: str) -> _View:
    if view is None:
        raise _Missing(noun, identity)
    return view


def _json(view: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(view), media_type="application/json")
