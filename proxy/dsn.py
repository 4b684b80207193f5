"""Where PostgreSQL is: libpq connection strings and PG* variables in, an `Upstream` out.

Source: PostgreSQL, "Connection Strings" and "Environment Variables" of libpq. The strings are read here because the
relay process never loads libpq; whatever is not an address, a name or a password goes to the side connection as it is.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from typing import Final, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from pgtattle.proxy.errors import UpstreamNotGiven, UsageError
from pgtattle.proxy.settings import OWN_ROOT, Address, SslMode, Upstream, UpstreamTls

DEFAULT_PORT: Final = "5432"
SOCKET_FOLDER: Final = "/var/run/postgresql"
CONNECT_SECONDS: Final = 10.0

_VARIABLES: Final = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGUSER": "user",
    "PGDATABASE": "dbname",
    "PGPASSWORD": "password",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGOPTIONS": "options",
}
_PLACES: Final = ("PGHOST", "PGHOSTADDR", "PGPORT")
_KEYWORD = re.compile(r"\s*(?:([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*)))(?=\s|$)", re.S)


def parse(dsn: str) -> dict[str, str]:
    """The parameters of a connection string, URI or keywords. Raises UsageError without repeating the string."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", dsn):
        return _parse_uri(dsn)
    parameters: dict[str, str] = {}
    position = 0
    while dsn[position:].strip():
        match = _KEYWORD.match(dsn, position)
        if match is None:
            raise UsageError(
                "this is no connection string: write postgresql://USER@HOST:PORT/DATABASE "
                "or host=… port=… user=… dbname=…"
            )
        value = match[2] if match[2] is not None else match[3]
        parameters[match[1]] = re.sub(r"\\(.)", r"\1", value)
        position = match.end()
    return parameters


def upstream(dsn: str, environment: Mapping[str, str], *, database_url: bool = False) -> Upstream:
    """The upstream of `dsn`, else of PGTATTLE_UPSTREAM, the PG* variables or (when asked) DATABASE_URL.

    What the string leaves out comes from the PG* variables, as with libpq. Raises UsageError when nothing says where it
    is.
    """
    dsn = dsn or environment.get("PGTATTLE_UPSTREAM", "")
    if not dsn and not any(environment.get(name) for name in _PLACES) and database_url:
        dsn = environment.get("DATABASE_URL", "")
    if not dsn and not any(environment.get(name) for name in _PLACES):
        also = ", DATABASE_URL" if database_url else ""
        raise UpstreamNotGiven(
            "where is PostgreSQL? Give --upstream postgresql://USER@HOST:PORT/DATABASE, "
            f"or set PGTATTLE_UPSTREAM{also} or PGHOST"
        )
    parameters = {key: environment[name] for name, key in _VARIABLES.items() if environment.get(name)}
    given = parse(dsn)
    if "service" in given:
        raise UsageError("service files are not read: write the service's host=… port=… dbname=… user=… out")
    if "host" in given or "hostaddr" in given:
        for key in ("host", "hostaddr", "port"):
            parameters.pop(key, None)
    parameters.update(given)
    user = parameters.get("user") or _own_name()
    database = parameters.get("dbname") or user
    rest = {key: value for key, value in parameters.items() if key != "password"}
    rest.update(user=user, dbname=database)
    addresses = _addresses(parameters)
    tls = _tls(parameters)
    if not tls.mode and not all(address.is_local for address in addresses):
        # The side connection must not be content with less than the relay.
        rest["sslmode"] = "verify-full"
        if not tls.root_cert and not os.path.exists(os.path.expanduser(OWN_ROOT)):
            rest["sslrootcert"] = "system"
    return Upstream(
        addresses=addresses,
        tls=tls,
        connect_seconds=_seconds(parameters),
        dsn=" ".join(f"{key}={quote(value)}" for key, value in rest.items()),
        user=user,
        password=parameters.get("password", ""),
        database=database,
    )


def _tls(parameters: Mapping[str, str]) -> UpstreamTls:
    mode = parameters.get("sslmode", "")
    # `allow` tries plain first and TLS when the server refuses that: only who holds the password can log in twice.
    mode = "prefer" if mode == "allow" else mode
    if mode not in get_args(SslMode):
        raise UsageError(f"sslmode={mode}: it is one of {', '.join(one for one in get_args(SslMode) if one)}")
    if parameters.get("sslrootcert") == "system":
        if mode not in ("", "verify-full"):
            raise UsageError(f"sslmode={mode} is too weak for sslrootcert=system, as libpq says too; use verify-full")
        mode = "verify-full"
    for key in ("sslrootcert", "sslcert", "sslkey"):
        path = parameters.get(key, "")
        if path and path != "system" and not os.path.exists(path):
            raise UsageError(f"{key}={path}: there is no such file")
    return UpstreamTls(
        mode=cast(SslMode, mode),
        root_cert=parameters.get("sslrootcert", ""),
        cert=parameters.get("sslcert", ""),
        key=parameters.get("sslkey", ""),
        key_password=parameters.get("sslpassword", ""),
        direct=parameters.get("sslnegotiation") == "direct",
    )


def _seconds(parameters: Mapping[str, str]) -> float:
    given = parameters.get("connect_timeout", "")
    if given and not given.strip().isdigit():
        raise UsageError(f"connect_timeout={given}: write whole seconds")
    return float(given) if given and float(given) > 0 else CONNECT_SECONDS


def _own_name() -> str:
    """Who runs this, as libpq takes it for the default."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError(
            "which user? This account has no name: put one into the connection string or set PGUSER"
        ) from None


def quote(value: str) -> str:
    """A value as libpq's keyword form needs it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return escaped if escaped and re.fullmatch(r"[^\s'\\]+", value) else f"'{escaped}'"


def _parse_uri(dsn: str) -> dict[str, str]:
    scheme, rest = dsn.split("://", 1)
    if scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise UsageError(f"{scheme}:// is not PostgreSQL; write postgresql://USER@HOST:PORT/DATABASE")
    authority, _, tail = rest.partition("/") if "/" in rest.split("?")[0] else (rest.split("?")[0], "", "")
    if not tail and "?" in rest and "/" not in rest.split("?")[0]:
        tail = "?" + rest.split("?", 1)[1]
    credentials, at, places = authority.rpartition("@")
    parameters: dict[str, str] = {}
    if at:
        user, colon, password = credentials.partition(":")
        if user:
            parameters["user"] = unquote(user)
        if colon:
            parameters["password"] = unquote(password)
    hosts, ports = [], []
    for place in places.split(","):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", place)
        if match is None:
            raise UsageError("a host of the connection string is not HOST, HOST:PORT or [IPV6]:PORT")
        hosts.append(unquote(match[1].strip("[]")))
        ports.append(match[2] or "")
    if any(hosts):
        parameters["host"] = ",".join(hosts)
    if any(ports):
        parameters["port"] = ",".join(ports)
    split = urlsplit("//x/" + tail)
    if split.path.strip("/"):
        parameters["dbname"] = unquote(split.path.lstrip("/"))
    for key, value in parse_qsl(split.query, keep_blank_values=True):
        parameters[key] = value
    return parameters


def _addresses(parameters: Mapping[str, str]) -> tuple[Address, ...]:
    names = (parameters.get("host") or "").split(",")
    hosts = parameters["hostaddr"].split(",") if parameters.get("hostaddr") else names
    if names != [""] and len(names) != len(hosts):
        raise UsageError(f"{len(names)} hosts but {len(hosts)} hostaddrs in the connection string: give one each")
    names = names if len(names) == len(hosts) and hosts is not names else [""] * len(hosts)
    ports = (parameters.get("port") or DEFAULT_PORT).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise UsageError(
            f"{len(hosts)} hosts but {len(ports)} ports in the connection string: give one port, or one each"
        )
    addresses = []
    for host, name, port in zip(hosts, names, ports, strict=True):
        number = port or DEFAULT_PORT
        if not number.isdigit() or not 0 < int(number) < 65536:
            raise UsageError(f"{number!r} is no port")
        if not host:
            folder = SOCKET_FOLDER if os.path.exists(f"{SOCKET_FOLDER}/.s.PGSQL.{number}") else ""
            host = folder or "localhost"
        if host.startswith("/"):
            addresses.append(Address(path=f"{host}/.s.PGSQL.{number}"))
        else:
            addresses.append(Address(host=host, port=int(number), name=name))
    return tuple(addresses)
