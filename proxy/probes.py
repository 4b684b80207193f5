"""Asks PostgreSQL what pgtattle needs to know of it: does it answer, who is it, may EXPLAIN and HypoPG be used.

Enters: the upstream. Leaves: checks. It logs in as the side connection does, reads the catalogue and changes nothing.
It blocks. Source: PostgreSQL, "System Catalogs", "System Views"; PgBouncer's documentation (its cancel keys are its
own).
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import conninfo

from pgtattle.proxy.checks import EXPLAIN, HYPOPG, UPSTREAM, Check, CheckState, places
from pgtattle.proxy.settings import Address, Upstream

OLDEST: Final = 13
CONNECT_SECONDS: Final = 5

_UNREADABLE: Final = """
    SELECT count(*), count(*) FILTER (WHERE hidden), min(name) FILTER (WHERE hidden) FROM (
        SELECT format('%I.%I', n.nspname, c.relname) AS name,
            NOT (has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')) AS hidden
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
        -- Of a partition nobody needs rights who comes by its parent.
        AND NOT c.relispartition
    ) AS of_users
"""
_CATALOGUE: Final = """
    SELECT coalesce(string_agg(one, ', '), '') FROM unnest(array['pg_class', 'pg_index', 'pg_stats', 'pg_constraint'])
    AS one WHERE NOT has_table_privilege('pg_catalog.' || one, 'SELECT')
"""
_EXTENSION: Final = """
    SELECT e.installed_version, v.superuser AND NOT v.trusted AS untrusted,
        (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
        has_database_privilege(current_database(), 'CREATE')
    FROM pg_available_extensions e
    JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version
    WHERE e.name = %s
"""
_Connection = psycopg.Connection[tuple[Any, ...]]


def server(upstream: Upstream, analyze_dsn: str = "") -> list[Check]:
    """Log in to the upstream and to where EXPLAIN is asked, and check both."""
    side = (analyze_dsn, "") if analyze_dsn else (upstream.dsn, upstream.password)
    try:
        with login(upstream.dsn, upstream.password) as connection:
            first = _server(upstream, connection)
            rest = [*_old(connection), *_pooler(upstream, connection), _statements(connection)]
    except psycopg.Error as error:
        return _no_login(upstream, error, side)
    return [first, *_explain(*side), *rest]


def accepts(address: Address, seconds: float = 3.0) -> str:
    """Why nothing accepts a connection there; empty where something does."""
    try:
        if address.path:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(seconds)
                one.connect(address.path)
        else:
            socket.create_connection((address.host, address.port), seconds).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""


# -- the upstream ------------------------------------------------------------------------------------------------------


def login(dsn: str, password: str) -> _Connection:
    """A session as psql would have it. Raises psycopg.Error."""
    more: dict[str, Any] = {"application_name": "pgtattle", "connect_timeout": CONNECT_SECONDS}
    if password:
        more["password"] = password
    return psycopg.connect(conninfo.make_conninfo(dsn, **more), autocommit=True)


def _server(upstream: Upstream, connection: _Connection) -> Check:
    info = connection.info
    tls = ", TLS" if connection.pgconn.ssl_in_use else ""
    words = f"PostgreSQL {_version(connection)} at {places(upstream)}{tls}, user {info.user}, database {info.dbname}"
    return Check(name=UPSTREAM, state="ok", words=words)


def _no_login(upstream: Upstream, error: psycopg.Error, side: tuple[str, str]) -> list[Check]:
    """Why nobody could log in: nothing listens, the server wants a password that we have not, or it refuses."""
    where, user = places(upstream), upstream.user
    reasons = [one for one in map(accepts, upstream.addresses) if one]
    reachable = len(reasons) < len(upstream.addresses)
    password = f"export PGPASSWORD=…  (the password of {user})"
    asked, used = _passwords(error)
    explain = Check(name=EXPLAIN, state="unknown", words="needs a login to the server")
    state: CheckState = "failed"
    if not reachable:
        words = f"nothing accepts connections at {where}: {reasons[-1]}"
        cure = "start PostgreSQL, or name its address: --upstream postgresql://USER@HOST:PORT/DATABASE"
    elif asked:
        state, words, cure = "warn", f"PostgreSQL at {where} asks for the password of {user}", ""
        words_of_it = f"the side connection has no password for {user}; clients bring their own"
        explain = Check(name=EXPLAIN, state="failed", words=words_of_it, cure=password)
    else:
        words = f"{where}: {reason(error)}"
        cure = password if used else "give --upstream a user, database and sslmode that psql can connect with"
    rest = [explain, Check(name=HYPOPG, state="unknown", words="needs a login to the server")]
    if reachable and side[0] != upstream.dsn:
        rest = _explain(*side)
    return [Check(name=UPSTREAM, state=state, words=words, cure=cure), *rest]


def _passwords(error: psycopg.Error) -> tuple[bool, bool]:
    """Whether the server asked for a password that we did not have, and whether we gave one."""
    failed = error.pgconn
    return (False, False) if failed is None else (bool(failed.needs_password), bool(failed.used_password))


def reason(error: psycopg.Error) -> str:
    """What the server or libpq said of a failed login, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "FATAL:" in line), lines[0] if lines else type(error).__name__)
    return said.rpartition("failed: ")[2].replace("FATAL:  ", "")[:300]


def _version(connection: _Connection) -> str:
    return (connection.info.parameter_status("server_version") or "").split(" ")[0]


def _old(connection: _Connection) -> Iterator[Check]:
    major = connection.info.server_version // 10_000
    if major < OLDEST:
        yield Check(
            name="version",
            state="failed",
            words=f"PostgreSQL {_version(connection)} is too old: {OLDEST} is the oldest that pgtattle knows",
            cure=f"upgrade PostgreSQL to {OLDEST} or later",
        )


def _pooler(upstream: Upstream, connection: _Connection) -> Iterator[Check]:
    """A server's cancel key has its backend's own pid; that of a pooler has not."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if row is None or row[0] == connection.info.backend_pid:
        return
    shared = False
    with contextlib.suppress(psycopg.Error), login(upstream.dsn, upstream.password) as second:
        shared = second.execute("SELECT pg_backend_pid()").fetchone() == row
    what = "a pooler that shares server connections between clients (transaction pooling)" if shared else "a pooler"
    yield Check(
        name="pooler",
        state="warn",
        words=f"{what} answers at {places(upstream)}, not PostgreSQL itself; queries are analyzed all the same",
        cure="for EXPLAIN name PostgreSQL itself: export PGTATTLE_ANALYZE_DSN=postgresql://USER@HOST:5432/DATABASE",
    )


def _statements(connection: _Connection) -> Check:
    row = connection.execute("SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'").fetchone()
    words = "installed" if row is not None else "not installed; pgtattle does not need it"
    return Check(name="pg_stat_statements", state="ok", words=words)


# -- the side connection -----------------------------------------------------------------------------------------------


def _explain(dsn: str, password: str) -> list[Check]:
    """Log in as the side connection does, and ask for a plan."""
    try:
        with login(dsn, password) as connection:
            connection.execute("EXPLAIN (FORMAT JSON) SELECT 1")
            return [*_rights(connection), _hypopg(connection)]
    except psycopg.Error as error:
        return [
            Check(
                name=EXPLAIN,
                state="failed",
                words=reason(error),
                cure="set PGTATTLE_ANALYZE_DSN to a user, password and database that psql can connect with",
            ),
            Check(name=HYPOPG, state="unknown", words="not known: EXPLAIN does not work"),
        ]


def _rights(connection: _Connection) -> Iterator[Check]:
    user, database = connection.info.user, connection.info.dbname
    role = _identifier(user)
    hidden = _one(connection, _CATALOGUE)[0]
    if hidden:
        yield Check(
            name="catalogue",
            state="failed",
            words=f"{user} may not read {hidden}",
            cure=f"GRANT SELECT ON {hidden} TO {role};",
        )
    tables, count, example = _one(connection, _UNREADABLE)
    if not count:
        yield Check(name=EXPLAIN, state="ok", words=f"works as {user} in {database}")
        return
    schema = str(example).split(".", 1)[0]
    yield Check(
        name=EXPLAIN,
        state="failed" if count == tables else "warn",
        words=f"{user} may not read {count:,} of {tables:,} tables, such as {example}: their queries cannot be planned",
        cure=f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};"
        if connection.info.server_version < 140_000
        else f"GRANT pg_read_all_data TO {role};  (or a role that may: PGTATTLE_ANALYZE_DSN)",
    )


def _hypopg(connection: _Connection) -> Check:
    """HypoPG proves an index before it exists; without it indexes are suggested by the plan alone."""
    row = connection.execute(_EXTENSION, ["hypopg"]).fetchone()
    without = "without it a suggested index is not tried"
    major = connection.info.server_version // 10_000
    state: CheckState = "warn"
    if row is None:
        words = f"not available on the server: {without}"
        cure = f"apt install postgresql-{major}-hypopg, then CREATE EXTENSION hypopg;"
    elif row[0] is not None:
        state, words, cure = "ok", f"installed, version {row[0]}", ""
    else:
        words = f"available, but not installed in {connection.info.dbname}: {without}"
        may = row[2] or (not row[1] and row[3])
        cure = "CREATE EXTENSION hypopg;" + ("" if may else "  (as a superuser)")
    return Check(name=HYPOPG, state=state, words=words, cure=cure)


def _identifier(name: str) -> str:
    """A name as SQL needs it: in quotes only where it must be."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _one(connection: _Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
