"""Who may speak to the API: an ASGI wrapper that refuses before anything is looked at.

Enters: requests. Leaves: the same to the application, with headers that keep browsers from making use of the answers;
or a refusal. Against DNS rebinding the Host must be one that this server goes by; a page of another origin is
refused; where a token is set it must be given, and wrong ones are limited in number. Out of scope: TLS; nothing here
allows CORS.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgtattle.proxy.schema import ErrorBody, ErrorView
from pgtattle.proxy.settings import Address

MAX_QUERY: Final = 4096
MAX_WRONG: Final = 10
WINDOW_SECONDS: Final = 60
_MAX_CLIENTS: Final = 1000
_OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.%]+\]|[^:\[\]]+)(?::\d{1,5})?", re.IGNORECASE)

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def error(
    status: int,
    code: str,
    message: str,
    details: dict[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer that is not a success."""
    body = ErrorView(error=ErrorBody(code=code, message=message, details=details or {}))
    return Response(msgspec.json.encode(body), status, headers, "application/json")


class Access:
    """What a request must bring to an API that listens at `address`.

    Anybody who reaches a unix socket may use any Host. Off this machine the token stands in for the list of hosts,
    which cannot be known there; without one the list is kept.
    """

    def __init__(self, address: Address, token: str, clock: Callable[[], float]) -> None:
        self._token = token.encode()
        self._any_host = bool(address.path) or (bool(token) and not address.is_local)
        self._hosts = {"localhost", "127.0.0.1", "::1", address.host.lower()} - {""}
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is not let in; None where it is."""
        if len(scope["query_string"]) > MAX_QUERY:
            return error(414, "query_too_long", f"a query string has at most {MAX_QUERY} bytes")
        # A header that comes twice counts twice: nobody downstream may read another one than was checked here.
        hosts = headers.getlist("host") or [""]
        if len(hosts) > 1 or not (self._any_host or self._known(hosts[0], scope)):
            names = ", ".join(sorted(self._hosts))
            return error(403, "unknown_host", f"this server goes by {names}: use one of these in the URL, once")
        own = (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower())
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            return error(403, "foreign_origin", "pages of other origins may not use this API")
        if self._token and scope["path"] not in _OPEN_PATHS:
            return self._check(scope, headers.get("authorization", ""))
        return None

    def _known(self, host: str, scope: Scope) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        server = scope.get("server")
        return name in self._hosts or (server is not None and name == server[0])

    def _check(self, scope: Scope, authorization: str) -> Response | None:
        client = scope["client"][0] if scope.get("client") else "unix"
        started, wrong = self._wrong.get(client, (0.0, 0))
        left = started + WINDOW_SECONDS - self._clock()
        if left <= 0:
            wrong = 0
        if wrong >= MAX_WRONG:
            wait = str(int(left) + 1)
            message = f"too many wrong tokens: wait {wait} seconds"
            return error(429, "too_many_failures", message, headers={"Retry-After": wait})
        kind, _, token = authorization.partition(" ")
        given = kind.lower() == "bearer"
        if given and secrets.compare_digest(token.strip().encode("latin-1", "replace"), self._token):
            self._wrong.pop(client, None)
            return None
        if given:
            self._wrong[client] = (started if wrong else self._clock(), wrong + 1)
            if len(self._wrong) > _MAX_CLIENTS:
                self._wrong.popitem(last=False)
        says = "this is not the token" if given else "a token is needed"
        message = f"{says}: send Authorization: Bearer with the content of the server's token file"
        return error(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


class Guard:
    """The wrapper. Without `access` everybody is let in, with the same headers."""

    def __init__(self, app: ASGIApp, access: Access | None = None) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        app = self._app
        if scope["type"] == "http" and self._access is not None:
            app = self._access.refusal(scope, Headers(scope=scope)) or app
        await app(scope, receive, guarded)
