"""The API through a real server: over TCP and a unix socket, with readers that are slow, gone, strange or unwelcome."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.api import application, metrics_application
from pgtattle.proxy.events import Connection, Unit
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.schema import (
    ConnectionPage,
    ConnectionView,
    ErrorView,
    ExecutionPage,
    ExecutionView,
    FindingPage,
    FindingView,
    Report,
    ScopeView,
    SessionView,
    StatementPage,
    UnitDetail,
    UnitPage,
)
from pgtattle.proxy.scopes import MAX_OPEN, Scopes
from pgtattle.proxy.settings import Address, Settings, Upstream, Values
from pgtattle.proxy.store import Limits, Store
from pgtattle.proxy.streams import MAX_STREAMS
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, execution, finding, parameter, session
from tests.waiting import PATIENCE, wait_for

TOKEN = "correct horse"


class Server:
    """An application behind uvicorn on a socket of its own, and a client for it."""

    def __init__(self, app: ASGIApp, listening: socket.socket, path: str = "") -> None:
        config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=1, ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        base = "http://localhost" if path else f"http://127.0.0.1:{listening.getsockname()[1]}"
        transport = httpx.HTTPTransport(uds=path) if path else None
        self.client = httpx.Client(base_url=base, transport=transport, timeout=PATIENCE)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class World:
    """What the profiler would hold: a store, metrics, settings; it starts servers over them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(STARTED_UNIX_NS, STARTED_NS, Limits(executions=100))
        self.scopes = Scopes(lambda client, pid: False)
        self.metrics = Metrics(lambda: self.store.evicted, self.store.ledger)
        self.connections: list[Connection] = []
        self.ready = (True, "ready")
        self.session_id = "s1"
        self.now = 1000.0
        self._folder = folder
        self._servers: list[Server] = []

    def serve(
        self,
        *,
        over: str = "tcp",
        token: str = "",
        values: Values = "redacted",
        host: str = "127.0.0.1",
        generation: str = "g1",
    ) -> Server:
        listening, path = _listen(over, self._folder)
        address = Address(path=path) if path else Address(host, listening.getsockname()[1])
        upstream = Upstream(addresses=(Address("127.0.0.1", 5432),), dsn="")
        app = application(
            store=self.store,
            session=lambda: session(id=self.session_id, executions=self.store.newest),
            ready=self.is_ready,
            metrics=self.metrics,
            settings=Settings(upstream=upstream, listen=(), api=address, values=values, api_token=token),
            scopes=self.scopes,
            connections=lambda: self.connections,
            clock=lambda: self.now,
            generation=generation,
        )
        return self._started(Server(app, listening, path))

    def serve_metrics(self) -> Server:
        listening, _ = _listen("tcp", self._folder)
        return self._started(Server(metrics_application(metrics=self.metrics, ready=self.is_ready), listening))

    async def is_ready(self) -> tuple[bool, str]:
        return self.ready

    def fill(self, count: int) -> None:
        for number in range(self.store.newest + 1, self.store.newest + 1 + count):
            one = execution(number, f"SELECT {'even' if number % 2 == 0 else 'odd'}", ms=number)
            self.store.add_execution(one, ("users",))
            self.metrics.observe(one)

    def _started(self, server: Server) -> Server:
        self._servers.append(server)
        return server

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


def _listen(over: str, folder: Path) -> tuple[socket.socket, str]:
    """It listens already: whoever connects before the server's thread runs waits for it."""
    path = str(folder / "api.sock") if over == "unix" else ""
    listening = socket.socket(socket.AF_UNIX) if path else socket.socket()
    listening.bind(path or ("127.0.0.1", 0))
    listening.listen()
    return listening, path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stop()


def problem(response: httpx.Response) -> tuple[int, str, str]:
    body = msgspec.json.decode(response.content, type=ErrorView).error
    return response.status_code, body.code, body.message


class Events:
    """A reader of an event stream."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.id = ""

    def next(self) -> tuple[str, Any]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                self.id = fields["id"]
                return fields["event"], json.loads(fields["data"])
        raise EOFError

    def until(self, *names: str) -> tuple[str, Any]:
        while True:
            name, data = self.next()
            if name in names:
                return name, data

    def executions(self, count: int) -> list[int]:
        """Ids of the next `count` executions."""
        ids: list[int] = []
        while len(ids) < count:
            _, data = self.until("executions")
            ids += [each["id"] for each in data]
        return ids


@contextlib.contextmanager
def reading(server: Server, query: str = "", **headers: str) -> Iterator[Events]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.client.stream("GET", f"/api/v1/events{query}", headers=given) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response.iter_lines())


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_every_resource_has_its_type(world: World, over: str) -> None:
    world.fill(4)
    view = world.store.add_finding(finding())
    server = world.serve(over=over)
    page = msgspec.json.decode(server.get("/api/v1/executions").content, type=ExecutionPage)
    assert [each.id for each in page.items] == [1, 2, 3, 4]
    statements = msgspec.json.decode(server.get("/api/v1/statements").content, type=StatementPage).items
    assert [each.sql for each in statements] == ["SELECT even", "SELECT odd"]
    one = server.get(f"/api/v1/statements/{statements[0].fingerprint}")
    assert one.content == msgspec.json.encode(statements[0])
    assert msgspec.json.decode(server.get("/api/v1/findings").content, type=FindingPage).items == [view]
    assert msgspec.json.decode(server.get(f"/api/v1/findings/{view.id}").content, type=FindingView) == view
    report = msgspec.json.decode(server.get("/api/v1/report").content, type=Report)
    assert (report.session.executions, len(report.findings), len(report.statements)) == (4, 1, 2)
    assert msgspec.json.decode(server.get("/api/v1/session").content, type=SessionView).id == "s1"


def test_executions_are_paged(world: World) -> None:
    world.fill(10)
    server = world.serve()
    seen: list[int] = []
    after: str | None = ""
    while after is not None:
        query = f"?limit=4&after={after}" if after else "?limit=4"
        page = msgspec.json.decode(server.get(f"/api/v1/executions{query}").content, type=ExecutionPage)
        seen += [each.id for each in page.items]
        after = page.after
    assert seen == list(range(1, 11))


def test_statements_and_findings_are_paged(world: World) -> None:
    for number in range(5):
        world.store.add_execution(execution(number + 1, f"SELECT {number}", ms=number + 1), ())
        world.store.add_finding(finding(str(number), total_ns=number))
    server = world.serve()
    for noun, key in (("statements", "fingerprint"), ("findings", "id")):
        everything = [each[key] for each in server.get(f"/api/v1/{noun}").json()["items"]]
        first = server.get(f"/api/v1/{noun}?limit=2").json()
        second = server.get(f"/api/v1/{noun}?limit=3&after={first['after']}").json()
        assert [each[key] for each in first["items"] + second["items"]] == everything
        assert second["after"] is None
        assert len(everything) == 5


def test_statements_are_sorted_as_asked(world: World) -> None:
    world.fill(3)
    server = world.serve()
    assert server.get("/api/v1/statements?sort=calls").json()["items"][0]["sql"] == "SELECT odd"
    assert [each["sql"] for each in server.get("/api/v1/statements?sort=mean").json()["items"]] == [
        "SELECT odd",
        "SELECT even",
    ]


def test_executions_are_filtered(world: World) -> None:
    world.fill(10)
    server = world.serve()
    found = server.get("/api/v1/executions", params={"filter": "even dur>5ms table:users"}).json()
    assert [each["id"] for each in found["items"]] == [6, 8, 10]


def test_units_are_paged_and_have_their_executions(world: World) -> None:
    world.fill(6)
    for number in (1, 3, 5):
        both = tuple(execution(one, "SELECT odd") for one in (number, number + 1))
        signal = "comment tag request_id"
        world.store.units.add(
            Unit(id=f"u{number}", kind="request", key=f"r{number}", confidence="strong", signal=signal, executions=both)
        )
    server = world.serve()
    first = msgspec.json.decode(server.get("/api/v1/units?limit=2").content, type=UnitPage)
    assert [(unit.id, unit.key, unit.signal, unit.executions) for unit in first.items] == [
        ("u5", "r5", "comment tag request_id", 2),
        ("u3", "r3", "comment tag request_id", 2),
    ]
    rest = msgspec.json.decode(server.get(f"/api/v1/units?after={first.after}").content, type=UnitPage)
    assert [unit.id for unit in rest.items] == ["u1"]
    assert rest.after is None
    detail = msgspec.json.decode(server.get("/api/v1/units/u3").content, type=UnitDetail)
    assert [one.id for one in detail.executions] == [3, 4]
    assert detail.unit.database_ms == 2.0
    assert problem(server.get("/api/v1/units/u9"))[:2] == (404, "not_found")


def test_connections_are_paged(world: World) -> None:
    for number in (4, 9):
        one = Connection(id=number, client=f"10.0.0.1:{number}", opened_ns=STARTED_NS, user="app", backend_pid=700)
        world.connections.append(one.changed(database="shop", application="web\udce9"))
    server = world.serve()
    first = msgspec.json.decode(server.get("/api/v1/connections?limit=1").content, type=ConnectionPage)
    assert first.items == [
        ConnectionView(
            id=4, client="10.0.0.1:4", user="app", database="shop", application="web\ufffd", backend_pid=700,
            opened_at="2023-11-14T22:13:20.000000Z",
        )
    ]  # fmt: skip
    rest = msgspec.json.decode(server.get(f"/api/v1/connections?after={first.after}").content, type=ConnectionPage)
    assert ([one.id for one in rest.items], rest.after) == ([9], None)
    assert server.get("/api/v1/connections?after=77").status_code == 400


def test_a_scope_begins_and_ends(world: World) -> None:
    client = world.serve().client
    body = {"kind": "test", "key": "test_books", "match": {"application_name": "web"}}
    opened = client.post("/api/v1/scopes", json=body, headers={"Idempotency-Key": "k1"})
    assert opened.status_code == 201
    view = msgspec.json.decode(opened.content, type=ScopeView)
    assert (view.kind, view.key, view.match.application_name) == ("test", "test_books", "web")
    again = client.post("/api/v1/scopes", json=body, headers={"Idempotency-Key": "k1"})
    assert again.json()["id"] == view.id
    assert client.post("/api/v1/scopes", json=body).json()["id"] != view.id
    assert client.delete(f"/api/v1/scopes/{view.id}").status_code == 204
    assert problem(client.delete("/api/v1/scopes/s99"))[:2] == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body cannot be used"),
        (b"[]", "the body cannot be used"),
        (b'{"kind": "test"}', "key"),
        (b'{"kind": "test", "key": "\xff", "match": {"client_pid": 1}}', "the body cannot be used"),
        (b'{"kind": "lunch", "key": "k", "match": {"client_pid": 1}}', "kind: give one of test, request, job"),
        (b'{"kind": "test", "key": "", "match": {"client_pid": 1}}', "key: give the name"),
        (b'{"kind": "test", "key": "k", "match": {}}', "match: give either"),
        (b'{"kind": "test", "key": "k", "match": {"client_pid": 1, "application_name": "a"}}', "match: give either"),
        (b'{"kind": "test", "key": "k", "match": {"client_pid": 1}, "more": 1}', "more"),
    ],
)
def test_a_scope_that_cannot_be_is_explained(world: World, body: bytes, says: str) -> None:
    answer = world.serve().client.post("/api/v1/scopes", content=body, headers={"Content-Type": "application/json"})
    status, code, message = problem(answer)
    assert (status, code) == (400, "bad_parameter")
    assert says in message


def test_a_scope_takes_json_of_a_bounded_size(world: World) -> None:
    client = world.serve().client
    assert problem(client.post("/api/v1/scopes", content=b"{}"))[:2] == (415, "bad_content_type")
    headers = {"Content-Type": "application/json"}
    assert problem(client.post("/api/v1/scopes", content=b" " * 70_000, headers=headers))[:2] == (413, "body_too_long")


def test_so_many_scopes_are_open_at_once(world: World) -> None:
    client = world.serve().client
    body = {"kind": "test", "key": "k", "match": {"application_name": "web"}}
    for _ in range(MAX_OPEN):
        assert client.post("/api/v1/scopes", json=body).status_code == 201
    assert "are open" in problem(client.post("/api/v1/scopes", json=body))[2]


@pytest.mark.parametrize(
    ("values", "sql", "parameters"),
    [("full", "SELECT 'sesame'", ["open"]), ("redacted", "SELECT $1", ["<text 4>"]), ("hidden", "SELECT $1", [])],
)
def test_values_are_masked_everywhere(world: World, values: Values, sql: str, parameters: list[str]) -> None:
    world.store.add_execution(execution(1, "SELECT $1", sent="SELECT 'sesame'", parameters=(parameter("open"),)), ())
    server = world.serve(values=values)
    item = server.get("/api/v1/executions").json()["items"][0]
    assert (item["sql"], item["parameters"]) == (sql, parameters)
    with reading(server, "?history=1") as events:
        _, data = events.until("executions")
        assert (data[0]["sql"], data[0]["parameters"]) == (sql, parameters)
    probe = server.get("/api/v1/executions", params={"filter": "sesame"}).json()["items"]
    assert len(probe) == (1 if values == "full" else 0)


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/", 404, "not_found", "/api/v1/executions"),
        ("/api/v1/executions/", 404, "not_found", "nothing at"),
        ("/api/v1/statements/nope", 404, "not_found", "no statement nope"),
        ("/api/v1/findings/nope", 404, "not_found", "no finding nope"),
        ("/api/v1/executions?limit=0", 400, "bad_parameter", "from 1 to 1000"),
        ("/api/v1/executions?limit=1001", 400, "bad_parameter", "from 1 to 1000"),
        ("/api/v1/executions?limit=ten", 400, "bad_parameter", "from 1 to 1000"),
        ("/api/v1/executions?limit=5&limit=6", 400, "bad_parameter", "once"),
        ("/api/v1/executions?after=x", 400, "bad_parameter", "a number from 0"),
        ("/api/v1/executions?after=1", 400, "bad_parameter", "from 0 to 0"),
        ("/api/v1/executions?after=9999999999999999999", 400, "bad_parameter", "a number from 0"),
        ("/api/v1/executions?after=-1", 400, "bad_parameter", "a number from 0"),
        ("/api/v1/executions?after=%D9%A1", 400, "bad_parameter", "a number from 0"),
        ("/api/v1/executions?after=%00", 400, "bad_parameter", "a number from 0"),
        ("/api/v1/executions?page=2", 400, "bad_parameter", "limit, after, filter"),
        ("/api/v1/executions?filter=foo:1", 400, "bad_filter", "column 1"),
        ("/api/v1/statements?sort=size", 400, "bad_parameter", "total, calls, mean"),
        ("/api/v1/statements?after=nope", 400, "bad_parameter", "earlier page"),
        ("/api/v1/session?x=1", 400, "bad_parameter", "no parameter"),
        ("/api/v1/report?settle=61", 400, "bad_parameter", "from 0 to 60"),
        ("/api/v1/events?after=nope", 400, "bad_parameter", "id of an event"),
        ("/api/v1/events?history=99999", 400, "bad_parameter", "from 0 to 10000"),
        ("/api/v1/events?filter=dur>x", 400, "bad_filter", "column 5"),
        ("/api/v1/report?" + "x" * 5000, 414, "query_too_long", "4096"),
    ],
)
def test_mistakes_are_explained(world: World, path: str, status: int, code: str, says: str) -> None:
    response = world.serve().get(path)
    assert problem(response)[:2] == (status, code)
    assert says in problem(response)[2]
    assert response.headers["content-type"] == "application/json"


def test_a_filters_mistake_says_its_column(world: World) -> None:
    body = world.serve().get("/api/v1/executions", params={"filter": "op:select nope:1"}).json()
    assert body["error"]["details"] == {"parameter": "filter", "column": "11"}


def test_other_methods_are_refused(world: World) -> None:
    server = world.serve()
    response = server.client.post("/api/v1/findings", json={})
    assert problem(response)[:2] == (405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert server.client.head("/api/v1/events").status_code == 200


def test_a_failure_inside_is_an_error_body_too(world: World) -> None:
    async def broken() -> tuple[bool, str]:
        raise RuntimeError("no")

    world.is_ready = broken  # type: ignore[method-assign]
    response = world.serve().get("/readyz")
    assert problem(response)[:2] == (500, "internal_error")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/api/v1/report", "/metrics", "/livez", "/nothing"])
def test_security_headers_are_on_every_answer(world: World, path: str) -> None:
    headers = world.serve().get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7433", "[::1]:7433", "LOCALHOST:1"])
def test_hosts_it_goes_by_are_let_in(world: World, host: str) -> None:
    assert world.serve().get("/api/v1/report", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7433", "127.0.0.1.evil.example", "localhost:x", "a:b:c", "[::1"]
)
@pytest.mark.parametrize("path", ["/api/v1/report", "/api/v1/events", "/metrics"])
def test_other_hosts_are_refused(world: World, host: str, path: str) -> None:
    assert problem(world.serve().get(path, headers={"Host": host}))[:2] == (403, "unknown_host")


def test_the_bound_host_is_let_in(world: World) -> None:
    assert world.serve(host="db.internal").get("/livez", headers={"Host": "db.internal:1"}).status_code == 200


def test_a_unix_socket_takes_any_host(world: World) -> None:
    assert world.serve(over="unix").get("/api/v1/report", headers={"Host": "whatever"}).status_code == 200


def test_pages_of_other_origins_are_refused(world: World) -> None:
    server = world.serve()
    own = str(server.client.base_url).rstrip("/")
    assert server.get("/api/v1/report", headers={"Origin": own}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "file://"):
        assert problem(server.get("/api/v1/report", headers={"Origin": origin}))[:2] == (403, "foreign_origin")


def test_every_origin_and_every_host_is_looked_at(world: World) -> None:
    server = world.serve()
    own = str(server.client.base_url).rstrip("/")
    for origins in ((own, "http://evil.example"), ("http://evil.example", own), ("", own), (own, "null")):
        headers = [("oRiGiN", origin) for origin in origins]
        assert problem(server.get("/api/v1/report", headers=headers))[:2] == (403, "foreign_origin")
    assert server.get("/api/v1/report", headers=[("Origin", own), ("Origin", own.upper())]).status_code == 200
    for origin in ("", f"{own}, http://evil.example", f"{own} http://evil.example", f"{own}.evil.example"):
        assert problem(server.get("/api/v1/report", headers={"Origin": origin}))[:2] == (403, "foreign_origin")
    for one, other in (("localhost", "evil.example"), ("evil.example", "localhost"), ("localhost", "localhost")):
        answer = raw(server, f"GET /api/v1/report HTTP/1.1\r\nHost: {one}\r\nhost: {other}\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), answer


def raw(server: Server, request: bytes) -> bytes:
    """The beginning of the answer to a request as it is."""
    url = server.client.base_url
    with socket.create_connection((url.host, url.port or 80), 60) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_token_is_needed_where_one_is_set(world: World, over: str) -> None:
    server = world.serve(over=over, token=TOKEN)
    assert server.get("/livez").status_code == 200
    assert server.get("/readyz").status_code == 200
    for path in ("/api/v1/report", "/api/v1/events", "/metrics", "/nothing"):
        response = server.get(path)
        assert problem(response)[:2] == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert server.get("/api/v1/report", headers=right).status_code == 200
    assert server.get("/metrics", headers=right).status_code == 200


def test_off_this_machine_the_token_stands_in_for_the_list_of_hosts(world: World) -> None:
    server = world.serve(host="0.0.0.0", token=TOKEN)
    headers = {"Host": "pgtattle.internal", "Authorization": f"Bearer {TOKEN}"}
    assert server.get("/api/v1/report", headers=headers).status_code == 200


def test_wrong_tokens_are_limited(world: World) -> None:
    server = world.serve(token=TOKEN)
    wrong, right = {"Authorization": "Bearer guess"}, {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(20):
        assert server.get("/api/v1/report").status_code == 401
    for _ in range(10):
        assert server.get("/api/v1/report", headers=wrong).status_code == 401
    response = server.get("/api/v1/report", headers=wrong)
    assert problem(response)[:2] == (429, "too_many_failures")
    assert response.headers["retry-after"] == "61"
    assert server.get("/api/v1/report", headers=right).status_code == 429
    world.now += 61
    assert server.get("/api/v1/report", headers=right).status_code == 200
    assert server.get("/api/v1/report", headers=wrong).status_code == 401


def test_probes(world: World) -> None:
    server = world.serve()
    assert (server.get("/livez").text, server.get("/readyz").text) == ("ok\n", "ready\n")
    world.ready = (False, "PostgreSQL does not answer at 127.0.0.1:5432")
    assert problem(server.get("/readyz")) == (503, "not_ready", "PostgreSQL does not answer at 127.0.0.1:5432")
    assert server.get("/livez").status_code == 200


def test_metrics_are_negotiated(world: World) -> None:
    world.fill(2)
    server = world.serve()
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    response = server.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")


def test_the_small_application_serves_scrapers_from_anywhere_and_nothing_else(world: World) -> None:
    world.fill(2)
    server = world.serve_metrics()
    for path in ("/metrics", "/livez", "/readyz"):
        assert server.get(path, headers={"Host": "10.1.2.3:9187"}).status_code == 200
    assert "SELECT even" not in server.get("/metrics").text
    assert problem(server.get("/api/v1/report"))[:2] == (404, "not_found")


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_stream_tells_what_happens_as_it_happens(world: World, over: str) -> None:
    world.fill(3)
    with reading(world.serve(over=over)) as events:
        name, data = events.next()
        assert (name, data["id"], data["executions"]) == ("session", "s1", 3)
        world.fill(2)
        assert events.executions(2) == [4, 5]
        view = world.store.add_finding(finding())
        name, data = events.until("finding")
        assert msgspec.convert(data, FindingView) == view
        name, data = events.until("session")
        assert data["executions"] == 5


def test_a_stream_tells_of_totals_that_went_on_counting(world: World) -> None:
    tally = Tally()

    def drawn() -> Finding:
        return finding(count=tally.count, total_ns=tally.total_ns, tally=tally, draw=drawn)

    with reading(world.serve()) as events:
        events.until("session")
        for _ in range(403):
            tally.add(1_000_000, STARTED_NS)
            if tally.count == 1:
                world.store.add_finding(drawn())
        while events.until("finding")[1]["count"] != 403:
            pass
        tally.add(1_000_000, STARTED_NS)
        assert events.until("finding")[1]["count"] == 404


def test_history_replays_executions_and_findings(world: World) -> None:
    world.fill(10)
    world.store.add_finding(finding())
    with reading(world.serve(), "?history=4") as events:
        _, data = events.until("executions")
        assert [msgspec.convert(each, ExecutionView).id for each in data] == [7, 8, 9, 10]
        assert events.until("finding")[1]["id"] == finding().id


def test_a_stream_resumes_where_it_broke_off(world: World) -> None:
    server = world.serve()
    with reading(server) as events:
        world.fill(3)
        world.store.add_finding(finding("a"))
        events.until("finding")
        left_off = events.id
    assert left_off == "s1~g1.3.1"
    world.fill(4)
    world.store.add_finding(finding("b"))
    for query, headers in (("", {"Last_Event_ID": left_off}), (f"?after={left_off}&history=50", {})):
        with reading(server, query, **headers) as events:
            assert events.executions(4) == [4, 5, 6, 7]
            assert events.until("finding", "reset")[1]["id"] == finding("b").id


def test_every_position_can_be_resumed_without_loss_or_repetition(world: World) -> None:
    server = world.serve()
    with reading(server) as events:
        events.next()
        left_off = events.id
    seen: list[int] = []
    for _ in range(5):
        world.fill(7)
        with reading(server, Last_Event_ID=left_off) as events:
            seen += events.executions(7)
            left_off = events.id
    assert seen == list(range(1, 36))


@pytest.mark.parametrize(
    "left_off",
    [
        *("s0~g1.1.0", "s1~g0.1.0", "s1~g1.999.0", "s1~g1.1.9", "garbage", "..", "s1~g1.-1.0"),
        *(f"s1~g1.{10**17}.0", f"s1~g1.{10**30}.0", f"s1~g1.0.{10**30}"),
    ],
)
def test_a_reader_of_another_stream_is_reset(world: World, left_off: str) -> None:
    world.fill(5)
    with reading(world.serve(), "?history=2", Last_Event_ID=left_off) as events:
        assert events.next() == ("reset", {"reason": "session"})
        assert events.executions(2) == [4, 5]


def test_a_reader_whose_place_fell_out_is_reset(world: World) -> None:
    world.fill(150)
    with reading(world.serve(), Last_Event_ID="s1~g1.49.0") as events:
        assert events.next() == ("reset", {"reason": "expired"})
    with reading(world.serve(), Last_Event_ID="s1~g1.50.0") as events:
        assert events.until("reset", "executions")[1][0]["id"] == 51


def test_a_slow_reader_is_told_what_it_missed(world: World) -> None:
    with reading(world.serve()) as events:
        events.next()
        world.fill(1)
        assert events.executions(1) == [1]
        world.fill(500)
        assert events.until("skipped") == ("skipped", {"executions": 400})
        assert events.executions(100) == list(range(402, 502))


def test_a_stream_is_filtered(world: World) -> None:
    world.fill(10)
    with reading(world.serve(), "?history=3&filter=even") as events:
        assert events.executions(3) == [6, 8, 10]
        world.fill(4)
        assert events.executions(2) == [12, 14]


def test_streams_are_bounded_and_given_back(world: World) -> None:
    server = world.serve()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(reading(server)) for _ in range(MAX_STREAMS)]
        assert {stream.next()[0] for stream in streams} == {"session"}
        response = server.get("/api/v1/events")
        assert problem(response)[:2] == (503, "too_many_streams")
        assert response.headers["retry-after"] == "5"
        assert server.get("/api/v1/report").status_code == 200

    def is_let_in() -> bool:
        with server.client.stream("GET", "/api/v1/events") as response:
            return response.status_code == 200

    wait_for(is_let_in)


ABSURD = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["", "0", "-1", str(10**30), str(2**63), "\0", "٣", "²", "1e5", "0x1", "s1~g1.1.1", f"s1~g1.{10**17}.0"]
    ),
    st.text(max_size=20),
)
PATHS = ("executions", "statements", "findings", "units", "events", "report", "session", "statements/{}", "findings/{}")


def test_no_parameter_is_a_failure_of_the_server(world: World) -> None:
    world.fill(5)
    world.store.add_finding(finding())
    client = world.serve().client

    @given(
        st.sampled_from((*PATHS, "units/{}", "scopes/{}")),
        st.dictionaries(st.sampled_from(("after", "limit", "history", "filter", "sort", "x")), ABSURD, max_size=3),
        ABSURD,
        st.sampled_from(("GET", "DELETE", "POST")),
    )
    def ask(path: str, query: dict[str, str], name: str, method: str) -> None:
        url = f"/api/v1/{path.format(quote(name, safe='', errors='replace'))}"
        header = name.encode("utf-8", "replace")
        given = {"Last-Event-ID": header} if name.isprintable() and name.strip() == name else {}
        params = {key: value.encode("utf-8", "replace") for key, value in query.items()}
        with client.stream(method, url, params=params, headers=given) as response:
            assert response.status_code != 500, response.read()

    ask()
