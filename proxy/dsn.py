"""Where PostgreSQL is: libpq connection strings and PG* variables in, an `Upstream` out.

Source: PostgreSQL, "Connection Strings" and "Environment Variables" of libpq. The strings are read here because the
relay process never loads libpq; whatever is not an address, a name or a password goes to the side connection as it is.
"""

from __future__ import annotations

import difflib
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
_PLACE_KEYS: Final = ("host", "hostaddr", "port")
SCHEMES: Final = ("postgresql", "postgres", "postgresql_psycopg2", "pgsql", "psql", "postgis", "timescale", "ecto")
"""What libpq and the frameworks call PostgreSQL in a URL; a driver may follow, as in `postgresql+asyncpg`."""
_LIBPQ: Final = frozenset(
    """application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version options passfile password port replication
    require_auth requirepeer scram_client_key scram_server_key service sslcert sslcertmode sslcompression sslcrl
    sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni ssl_max_protocol_version
    ssl_min_protocol_version target_session_attrs tcp_user_timeout user""".split()
)
"""libpq 18, "Parameter Key Words"."""
_SSL: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
"""What asyncpg and others say by `ssl=`; else it is an sslmode."""
_KEYWORD = re.compile(r"\s*(?:([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*)))(?=\s|$)", re.S)


def parse(dsn: str) -> dict[str, str]:
    """The parameters of a connection string, URI or keywords. Raises UsageError without repeating the string."""
    if re.match(r"[A-Za-z][A-Za-z0-9_+.-]*://", dsn):
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


def holds_password(dsn: str) -> bool:
    """True for a string with a secret in it, that of a key file too."""
    parameters = parse(dsn)
    return any(parameters.get(key) for key in ("password", "sslpassword"))


def source(dsn: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Where the upstream is given, as people name it, and the connection string there: of the option `dsn`, else of
    PGTATTLE_UPSTREAM, of DATABASE_URL, or none with the PG* variables. Raises UsageError where nothing says it.
    """
    if dsn:
        return "--upstream", dsn
    for name in ("PGTATTLE_UPSTREAM", "DATABASE_URL"):
        if environment.get(name):
            return name, environment[name]
    if any(environment.get(name) for name in _PLACES):
        return "PGHOST and PGPORT", ""
    raise UpstreamNotGiven(
        "where is PostgreSQL? Give --upstream postgresql://USER@HOST:PORT/DATABASE, "
        "or set PGTATTLE_UPSTREAM, DATABASE_URL or PGHOST"
    )


def upstream(dsn: str, environment: Mapping[str, str]) -> Upstream:
    """The upstream of `source`.

    What the string leaves out comes from the PG* variables, as with libpq. Raises UsageError, which names the variable
    and repeats nothing of a string that cannot be read.
    """
    name, dsn = source(dsn, environment)
    try:
        return _upstream(dsn, environment)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def analyze_dsn(dsn: str, server: Upstream) -> str:
    """The side connection's own string for libpq: what it leaves out is the upstream's, but for user and password. Of
    another server only the database's name is the same.
    """
    given = _known(dsn)[0]
    elsewhere = "host" in given or "hostaddr" in given
    parameters = {"dbname": server.database} if elsewhere else parse(server.dsn)
    if "user" in given:
        parameters.pop("user", None)
    completed = _upstream(_keywords(parameters | given), {})
    secret = {"password": completed.password} if completed.password else {}
    return _keywords(parse(completed.dsn) | secret)


def _upstream(dsn: str, environment: Mapping[str, str]) -> Upstream:
    parameters = {key: environment[name] for name, key in _VARIABLES.items() if environment.get(name)}
    given, ignored = _known(dsn)
    if "service" in given:
        raise UsageError("service files are not read: write the service's host=… port=… dbname=… user=… out")
    if "host" in given or "hostaddr" in given:
        for key in _PLACE_KEYS:
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
        dsn=_keywords(rest),
        user=user,
        password=parameters.get("password", ""),
        database=database,
        ignored=ignored,
    )


def _known(dsn: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The parameters that libpq knows, and the names of others in a URL, which are a driver's own."""
    given = parse(dsn)
    ssl = given.pop("ssl", "")
    if ssl:
        given.setdefault("sslmode", _SSL.get(ssl.lower(), ssl))
    unknown = [key for key in given if key not in _LIBPQ]
    for key in unknown:
        if not key.isidentifier():
            raise UsageError("an option of the URL has no name; write the signs of a password as %-escapes")
        # What is meant for TLS must not be left out; what else a URL holds may be a driver's own.
        words = [word for word in _LIBPQ if word.startswith("ssl")] if "://" in dsn else _LIBPQ
        close = difflib.get_close_matches(key.lower(), words, n=1, cutoff=0.8)
        if close or "://" not in dsn:
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"there is no option {key!r} in a connection string{hint}")
        del given[key]
    return given, tuple(unknown)


def _keywords(parameters: Mapping[str, str]) -> str:
    return " ".join(f"{key}={quote(value)}" for key, value in parameters.items())


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
    if scheme.split("+")[0] not in SCHEMES:
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
