"""`pgtattle doctor`: what a set-up needs, and what people get wrong, as checks with what mends each.

Enters: where things should be. Leaves: checks. It asks PostgreSQL directly (`probes`), tries the ports, and asks a
pgtattle that runs at the API's address for what it has seen. Nothing is changed anywhere.
"""

from __future__ import annotations

import platform
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final, Literal, TypeVar

import httpx
import msgspec
import psycopg
from msgspec import Struct

from pgtattle.analyzers.plural import plural
from pgtattle.proxy import probes
from pgtattle.proxy.checks import Check, check_list, places, style
from pgtattle.proxy.schema import ConnectionPage, ConnectionView, SessionView, UnitPage, UnitView
from pgtattle.proxy.settings import Address, Upstream

API_SECONDS: Final = 5.0
KNOWN_SECONDS: Final = 1.0
"""After its login a session is in the profiler's list within so long."""
_View = TypeVar("_View", bound=Struct)

TAGGED: Final = frozenset(("request", "trace", "scope"))
SHOWN: Final = 5
RUNS: Final = "pgtattle"
TOKEN: Final = "token"

_SESSIONS: Final = """
    SELECT pid, coalesce(application_name, ''), coalesce(host(client_addr), 'unix socket') FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND application_name IS DISTINCT FROM 'pgtattle'
"""


class Backend(Struct, frozen=True):
    """A client's session on the server; equal ones are the same session."""

    pid: int
    application: str
    client: str


class Sidecar(Struct, frozen=True, kw_only=True):
    """What a running pgtattle has seen; `units` are its latest."""

    session: SessionView
    units: Sequence[UnitView]


def examine(
    upstream: Upstream | None, listen: Address, api: Address, *, token: str = "", analyze_dsn: str = ""
) -> list[Check]:
    """All checks, in the order in which they are worth reading. `upstream` is None where nobody said where it is."""
    # Before the server: who comes to it by the proxy's own address would be the traffic that is asked for.
    answer = ask(api, token)
    found: list[Check] = []
    if upstream is None:
        found.append(
            Check(
                name="upstream",
                state="failed",
                words="not given: where is PostgreSQL?",
                cure="pgtattle doctor --upstream postgresql://USER@HOST:PORT/DATABASE  (or set DATABASE_URL)",
            )
        )
    else:
        found += probes.server(upstream, analyze_dsn)
    if isinstance(answer, Check):
        if answer.name == TOKEN:
            # It listens, at a port that it does not tell.
            return [*found, answer]
        return [*found, _port("listen", "--listen", listen), answer]
    found.append(Check(name=RUNS, state="ok", words=f"runs: clients at {answer.session.listen}, API at {api}"))
    found += seen(answer)
    if upstream is None:
        return found
    if places(upstream) not in (answer.session.upstream, answer.session.listen):
        words = f"it is in front of {answer.session.upstream}, not of {places(upstream)}"
        return [*found, Check(name="bypass", state="unknown", words=words)]
    return [*found, *bypassing(answer.session, _direct(upstream, api, token))]


def render(found: Sequence[Check], form: Literal["text", "json"], upstream: str, api: Address) -> str:
    """The checks for stdout, and what to do next: `upstream` is the option's value, `api` where a pgtattle would be."""
    release = version("pgtattle")
    if form == "json":
        return msgspec.json.encode({"version": release, "checks": found}).decode()
    bad = sum(one.state == "failed" for one in found)
    if any(one.name == RUNS for one in found):
        then = f"pgtattle tui {api if api.path else f'http://{api}'}"
    else:
        then = f"pgtattle watch --upstream {shlex.quote(upstream)}" if upstream else "pgtattle watch"
    end = f"next: {then}" if not bad else f"{bad} failed: mend what is marked, then {then}"
    lines = [f"pgtattle {release}, Python {platform.python_version()}", *check_list(found, style(sys.stdout)), "", end]
    return "\n".join(lines)


# -- a running pgtattle ------------------------------------------------------------------------------------------------


def ask(api: Address, token: str) -> Sidecar | Check:
    """What the pgtattle at this address has seen; a check where there is none, or none that answers."""
    name = "API"
    if probes.accepts(api):
        return _port(name, "--api", api)
    try:
        with _client(api, token) as client:
            response = client.get("/session")
            if response.status_code == 429:
                wait = response.headers.get("Retry-After", "60")
                words = f"the pgtattle at {api} got too many wrong tokens and refuses all for {wait} s"
                cure = f"sleep {wait}; pgtattle doctor --token-file FILE"
                return Check(name=TOKEN, state="failed", words=words, cure=cure)
            if response.status_code == 401:
                words = f"the pgtattle at {api} asks for its token"
                return Check(name=TOKEN, state="failed", words=words, cure="pgtattle doctor --token-file FILE")
            return Sidecar(
                session=msgspec.json.decode(response.raise_for_status().content, type=SessionView),
                units=_get(client, "/units?limit=1000", UnitPage).items,
            )
    except (httpx.HTTPError, msgspec.MsgspecError, OSError) as error:
        words = f"what answers at {api} is no pgtattle of this version ({type(error).__name__})"
        return Check(name=name, state="failed", words=words, cure="--api 127.0.0.1:PORT, with another port")


def seen(sidecar: Sidecar) -> Iterator[Check]:
    """What a running pgtattle has and has not seen of its clients."""
    session = sidecar.session
    if not session.executions:
        connected = plural(session.connections_total, "connection") if session.connections_total else "no connection"
        yield Check(
            name="traffic",
            state="failed",
            words=f"{connected} and no query has come through pgtattle yet",
            cure=f"in the application's environment: export DATABASE_URL='{session.database_url}'",
        )
    else:
        words = f"{plural(session.executions, 'execution')} over {plural(session.connections_total, 'connection')}"
        yield Check(name="traffic", state="ok", words=f"{words} ({session.connections:,} open)")
        yield _tags(sidecar)
    if session.tls_declined:
        yield Check(
            name="TLS",
            state="failed",
            words=f"{plural(session.tls_declined, 'connection')} ended because pgtattle offers them no TLS",
            cure="set sslmode=disable in the application's URL, or start pgtattle with --tls-cert and --tls-key",
        )
    for note in session.notes:
        yield Check(name="note", state="warn", words=note)
    if session.shed or session.lost:
        shed = plural(session.shed, "execution")
        words = f"not analyzed: {shed} shed under load, {session.lost:,} lost with a profiler that ended"
        yield Check(name="analysis", state="warn", words=f"{words}; they were forwarded, but are in no finding")
    if session.opaque_connections:
        words = f"forwarded but not analyzed: {plural(session.opaque_connections, 'connection')}; the log says why"
        yield Check(name="opaque", state="warn", words=words)
    if session.restarts:
        words = f"the profiler was started again {plural(session.restarts, 'time')}; the log says why"
        yield Check(name="restarts", state="warn", words=words)


def _tags(sidecar: Sidecar) -> Check:
    tagged = sum(one.kind in TAGGED for one in sidecar.units)
    if tagged or not sidecar.units:
        return Check(name="tags", state="ok", words=f"{tagged:,} of the latest {len(sidecar.units):,} units have an id")
    return Check(
        name="tags",
        state="warn",
        words=f"none of the latest {len(sidecar.units):,} units has a request id: what belongs together is guessed",
        cure="send comments such as /*request_id='…',route='/books'*/ (README, What it says)",
    )


def bypassing(session: SessionView, direct: Sequence[Backend] | None) -> Iterator[Check]:
    """Sessions of the database that did not come through pgtattle; `direct` is None where nobody can tell."""
    name = "bypass"
    if direct is None:
        words = "not known: pgtattle cannot look into all of its connections (opaque, TLS passed through, a pooler)"
        yield Check(name=name, state="unknown", words=words)
    elif not direct:
        yield Check(name=name, state="ok", words="every session of this database comes through pgtattle")
    else:
        groups = Counter(f"{one.application or 'no application_name'} from {one.client}" for one in direct)
        listed = [f"{who} ({count:,})" if count > 1 else who for who, count in groups.most_common(SHOWN)]
        rest = f" and {len(groups) - SHOWN:,} more" if len(groups) > SHOWN else ""
        sessions = "1 session does" if len(direct) == 1 else f"{len(direct):,} sessions do"
        yield Check(
            name=name,
            state="warn" if session.executions else "failed",
            words=f"{sessions} not come through pgtattle: {', '.join(listed)}{rest}",
            cure=f"in their environment: export DATABASE_URL='{session.database_url}'",
        )


def _direct(upstream: Upstream, api: Address, token: str) -> Sequence[Backend] | None:
    """Sessions that pgtattle does not know although they are there before and after it is asked; None: nobody knows."""
    try:
        with probes.login(upstream.dsn, upstream.password) as connection, _client(api, token) as client:
            pid = connection.execute("SELECT pg_backend_pid()").fetchone()
            before = _backends(connection)
            time.sleep(KNOWN_SECONDS)
            connections = _connections(client)
            session = _get(client, "/session", SessionView)
            after = _backends(connection)
            if pid != (connection.info.backend_pid,):
                return None
    except (psycopg.Error, httpx.HTTPError, msgspec.MsgspecError, OSError):
        return None
    known = {one.backend_pid for one in connections if one.backend_pid}
    direct = [one for one in before if one in after and one.pid not in known]
    return None if session.opaque_connections or (session.connections and not connections) else direct


def _backends(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Backend]:
    return [Backend(*row) for row in connection.execute(_SESSIONS).fetchall()]


def _connections(client: httpx.Client) -> list[ConnectionView]:
    return _get(client, "/connections?limit=1000", ConnectionPage).items


def _get(client: httpx.Client, path: str, type_: type[_View]) -> _View:
    return msgspec.json.decode(client.get(path).raise_for_status().content, type=type_)


def _client(api: Address, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=("http://localhost" if api.path else f"http://{api}") + "/api/v1",
        transport=httpx.HTTPTransport(uds=api.path) if api.path else None,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=API_SECONDS,
        trust_env=False,
    )


# -- ports -------------------------------------------------------------------------------------------------------------


def _port(name: str, option: str, address: Address) -> Check:
    """Whether a listener could have this address."""
    why = _unusable(address)
    if not why:
        return Check(name=name, state="ok", words=f"{address} is free")
    return Check(
        name=name,
        state="failed",
        words=f"{address} cannot be had: {why}",
        cure=f"{option} {address.host or '127.0.0.1'}:PORT, with another port (0 is any free one)",
    )


def _unusable(address: Address) -> str:
    if address.path:
        return "" if probes.accepts(address) else "something accepts connections there already"
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address.host, address.port))
            one.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""
