"""The shop in each ORM of Python, under a real WSGI or ASGI server that this program sends its own requests.

    python -m tests.orm.python ORM DRIVER SCENARIO TWIN

Enters and leaves: what `tests/orm/matrix.py` says of every shop's program. Only the module of that ORM is imported.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, Final
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tests.orm.python.tags import REQUEST, ROUTE
from tests.waiting import PATIENCE

Page = Callable[[], Any]
AsyncPage = Callable[[], Awaitable[Any]]

MODULES: Final = {
    "django": "django_shop",
    "sqlalchemy": "sqlalchemy_shop",
    "sqlalchemy-async": "sqlalchemy_async_shop",
    "peewee": "peewee_shop",
    "tortoise": "tortoise_shop",
}
ON_ASGI: Final = {"sqlalchemy-async", "tortoise"}

_numbers = itertools.count(1)


@contextmanager
def request() -> Iterator[None]:
    """A request: what is sent inside carries its id, if it is to be tagged."""
    token = REQUEST.set(f"r{os.getpid()}-{next(_numbers)}" if os.environ.get("SHOP_TAGGED") else "")
    try:
        yield
    finally:
        REQUEST.reset(token)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def visit(port: int) -> None:
    """Send the requests, print the answers, and be a server without requests until the standard input ends."""
    with ThreadPoolExecutor(int(os.environ["SHOP_AT_ONCE"])) as pool:
        for answer in pool.map(lambda _: _answer(port), range(int(os.environ["SHOP_REQUESTS"]))):
            print(answer, flush=True)
    sys.stdin.read()


def _answer(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        body: str = answer.read().decode()
    return body


def serve(page: Page) -> None:
    """A WSGI server, a thread for each request."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with request():
            body = json.dumps(page())
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body.encode()]

    with make_server("127.0.0.1", 0, application, _Server, _Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        visit(server.server_port)


def serve_async(page: AsyncPage) -> None:
    """An ASGI server, one loop for all requests."""
    import uvicorn

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with request():
            body = json.dumps(await page())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body.encode()})

    config = uvicorn.Config(application, host="127.0.0.1", port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)

    def client() -> None:
        while not server.started:
            threading.Event().wait(0.01)
        try:
            visit(server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True

    threading.Thread(target=client, daemon=True).start()
    server.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("orm", choices=MODULES)
    for name in ("driver", "scenario", "twin"):
        parser.add_argument(name)
    options = parser.parse_args()
    ROUTE.append(f"/{options.scenario}")
    shop = importlib.import_module(f"tests.orm.python.{MODULES[options.orm]}")
    page = shop.pages(options.driver)[options.scenario, options.twin]
    if options.orm in ON_ASGI:
        serve_async(page)
    else:
        serve(page)


if __name__ == "__main__":
    main()
