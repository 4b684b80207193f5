"""The environment of the command that `pgtattle run` starts: every usual way to find PostgreSQL leads to the proxy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, urlencode

from pgtattle.proxy.dsn import SCHEMES
from pgtattle.proxy.settings import Upstream

_REMOVED = ("PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGTATTLE_UPSTREAM", "PGREQUIRESSL", "PGSSLNEGOTIATION")
_URL = re.compile(rf"((?:{'|'.join(SCHEMES)})(?:\+(\w+))?)://([^/?]*)(/[^?]*)?(?:\?(.*))?")


def is_url(text: str) -> bool:
    """True for the URL of a PostgreSQL database."""
    return _URL.fullmatch(text) is not None


def child_environment(
    environment: Mapping[str, str], upstream: Upstream, host: str, port: int, rewritten: Iterable[str] = ()
) -> dict[str, str]:
    """The variables for a command whose PostgreSQL is the proxy at `host:port`.

    DATABASE_URL and the variables of `rewritten` keep their scheme, user, password, database and options.
    """
    result = {name: value for name, value in environment.items() if name not in _REMOVED}
    result |= {"PGHOST": host, "PGPORT": str(port), "PGUSER": upstream.user, "PGDATABASE": upstream.database}
    result |= {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
    if upstream.password:
        result["PGPASSWORD"] = upstream.password
    if "DATABASE_URL" not in result:
        secret = f":{quote(upstream.password, safe='')}" if upstream.password else ""
        database = quote(upstream.database, safe="")
        result["DATABASE_URL"] = f"postgresql://{quote(upstream.user, safe='')}{secret}@{host}:{port}/{database}"
        result["DATABASE_URL"] += "?sslmode=disable"
    else:
        rewritten = {"DATABASE_URL", *rewritten}
    for name in rewritten:
        if name in result:
            result[name] = rewrite_url(result[name], host, port)
    return result


def rewrite_url(url: str, host: str, port: int) -> str:
    """A database URL with another host and port and without TLS; anything that is no PostgreSQL URL comes back
    unchanged.

    `sslmode` is set where the driver knows it (libpq's), `ssl` where it was given (asyncpg, pg8000).
    """
    match = _URL.fullmatch(url)
    if match is None:
        return url
    scheme, driver, authority, path, query = match.groups()
    credentials, at, _ = authority.rpartition("@")
    options = [
        (key, value)
        for key, value in parse_qsl(query or "", keep_blank_values=True)
        if key not in ("host", "hostaddr", "port", "sslmode", "ssl", "sslrootcert", "sslcert", "sslkey", "gssencmode")
    ]
    if driver in ("asyncpg", "pg8000"):
        if driver == "asyncpg":
            options.append(("ssl", "disable"))
    else:
        options.append(("sslmode", "disable"))
    place = f"[{host}]" if ":" in host else host
    tail = f"?{urlencode(options)}" if options else ""
    return f"{scheme}://{credentials}{at}{place}:{port}{path or ''}{tail}"
