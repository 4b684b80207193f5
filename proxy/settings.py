"""What the processes are told: plain records, made by `config`, sent from the relay to the profiler as JSON."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

OWN_ROOT: Final = "~/.postgresql/root.crt"
"""Where libpq looks for the authorities to believe."""

Values = Literal["hidden", "redacted", "full"]
Mode = Literal["profile", "opaque"]
Many = Annotated[int, Meta(ge=2)]
"""So many executions that they repeat each other."""
SslMode = Literal["", "disable", "prefer", "require", "verify-ca", "verify-full"]


class Address(Struct, frozen=True):
    """A TCP `host` and `port` (0: any free one), or a unix socket `path`.

    `name` is what a certificate must name, where that is not the host.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """True where only this machine can reach it."""
        return bool(self.path) or self.host in ("localhost", "::1") or self.host.startswith("127.")


class UpstreamTls(Struct, frozen=True, kw_only=True):
    """How the server is spoken to, in libpq's words. An empty `mode` is `disable` on this machine, else `verify-full`.

    Files are paths; an empty `root_cert` is libpq's own place, else the system's certificates.
    """

    mode: SslMode = ""
    root_cert: str = ""
    cert: str = ""
    key: str = ""
    key_password: str = ""
    direct: bool = False


class Upstream(Struct, frozen=True, kw_only=True):
    """Where PostgreSQL is: `addresses` are tried in order at each connect. `dsn` is for libpq, without a password.

    `password` and the rest are for the side connection and for the command of `run`; clients bring their own. `ignored`
    are options of the URL that are a driver's own.
    """

    addresses: tuple[Address, ...]
    dsn: str
    tls: UpstreamTls = UpstreamTls()
    connect_seconds: float = 10.0
    user: str = ""
    password: str = ""
    database: str = ""
    ignored: tuple[str, ...] = ()


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Queries and time in the database of one route; None: as for every other."""

    queries: int | None = None
    ms: float | None = None


class RuleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Thresholds of the rules: `[rules]` in the configuration file."""

    disable: tuple[str, ...] = ()
    n_plus_one_min: Many = 5
    repeated_read_min: Many = 5
    row_by_row_write_min: Many = 10
    chatty_unit_queries: Annotated[int, Meta(ge=0)] = 100
    chatty_unit_ms: Annotated[float, Meta(ge=0)] = 2_000.0
    chatty_unit_routes: dict[str, Budget] = {}
    slow_query_ms: Annotated[float, Meta(gt=0)] = 500.0
    missing_index_min_rows: Annotated[int, Meta(ge=0)] = 10_000


class Settings(Struct, frozen=True, kw_only=True):
    """Everything a session of the proxy is started with."""

    upstream: Upstream
    listen: tuple[Address, ...]
    api: Address
    metrics: Address | None = None
    values: Values = "redacted"
    drain_seconds: float = 30.0
    max_connections: int = 0
    mode: Mode = "profile"
    login_seconds: float = 60.0
    idle_seconds: float = 0.0
    tls_cert: str = ""
    tls_key: str = ""
    tls_passthrough: bool = False
    analyze_dsn: str = ""
    allow_plain: bool = False
    api_token: str = ""
    log_format: Literal["text", "json"] = "text"
    log_file: str = ""
    behind_pooler: bool = False
    rules: RuleSettings = RuleSettings()
