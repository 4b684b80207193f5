"""What is checked of a session, for people: the banner of a start, `doctor` and the API's `/session` share it.

Enters: what others found out. Leaves: records, and their lines for a terminal. No I/O, and never a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TextIO
from urllib.parse import quote, urlencode

from msgspec import Struct

from pgtattle.proxy.settings import Settings, Upstream

CheckState = Literal["ok", "warn", "failed", "unknown"]

UPSTREAM: Final = "upstream"
EXPLAIN: Final = "EXPLAIN"
HYPOPG: Final = "HypoPG"
BASIC: Final = (UPSTREAM, EXPLAIN, HYPOPG)
"""What a banner says in any case; other checks only where they are not ok."""

_GLYPHS: Final[dict[CheckState, str]] = {"ok": "✓", "warn": "!", "failed": "✗", "unknown": "?"}
_ASCII: Final[dict[CheckState, str]] = {"ok": "+", "warn": "!", "failed": "x", "unknown": "?"}
_COLOURS: Final[dict[CheckState, str]] = {"ok": "32", "warn": "33", "failed": "31", "unknown": "33"}
_SOCKET: Final = ".s.PGSQL."


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was checked: `words` say what was found, `cure` is what mends it, a command where there is one."""

    name: str
    state: CheckState
    words: str
    cure: str = ""


class Start(Struct, frozen=True, kw_only=True):
    """Where a session is reached and what its checks found; `metrics` is empty without `--metrics`."""

    version: str
    listen: str
    upstream: str
    database_url: str
    needs_password: bool
    """True where whoever uses `database_url` has to give a password besides."""
    api: str
    metrics: str = ""
    checks: Sequence[Check] = ()


class Style(Struct, frozen=True):
    """What a stream can show."""

    colour: bool = False
    ascii: bool = False

    def glyph(self, state: CheckState) -> str:
        """The mark of a state, one column wide."""
        mark = (_ASCII if self.ascii else _GLYPHS)[state]
        return f"\x1b[{_COLOURS[state]}m{mark}\x1b[0m" if self.colour else mark


def style(stream: TextIO) -> Style:
    """Colours on a terminal only, and not where NO_COLOR is set; ASCII where the encoding has no more."""
    encoding = stream.encoding or "ascii"
    try:
        "".join(_GLYPHS.values()).encode(encoding)
    except (LookupError, UnicodeEncodeError):
        narrow = True
    else:
        narrow = False
    return Style(colour=stream.isatty() and not os.environ.get("NO_COLOR"), ascii=narrow)


def places(upstream: Upstream) -> str:
    """The addresses of the upstream."""
    return ", ".join(map(str, upstream.addresses))


def database_url(settings: Settings, listen: str) -> str:
    """The URL of the upstream's database through the proxy that listens at `listen`, without a password.

    Empty for a unix socket that libpq cannot be told of: its file has to be named `.s.PGSQL.PORT`.
    """
    upstream = settings.upstream
    user, database = quote(upstream.user, safe=""), quote(upstream.database, safe="")
    if listen.startswith("unix:"):
        folder, _, name = listen.removeprefix("unix:").rpartition("/")
        port = name.removeprefix(_SOCKET)
        if not (name.startswith(_SOCKET) and port.isdecimal()):
            return ""
        return f"postgresql://{user}@/{database}?{urlencode({'host': folder, 'port': port}, safe='/')}"
    host, _, port = listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    mode = "require" if settings.tls_cert else "disable"
    # With TLS passed through the mode is the application's and the server's own affair.
    options = "" if settings.tls_passthrough else f"?sslmode={mode}"
    return f"postgresql://{user}@{host}:{port}/{database}{options}"


def banner(start: Start, style: Style) -> list[str]:
    """The lines of a start."""
    api = start.api if start.api.startswith("unix:") else f"http://{start.api}"
    connect = f"DATABASE_URL={_quoted(start.database_url)}" if start.database_url else f"by {start.listen}"
    if start.needs_password:
        connect += "  (and PGPASSWORD)"
    metrics = f"http://{start.metrics}/metrics" if start.metrics else f"{api}/metrics" if api != start.api else ""
    facts = [
        ("listen", f"{start.listen}, forwards to {start.upstream}"),
        ("connect", connect),
        ("API", api),
        ("metrics", metrics),
    ]
    shown = [one for one in start.checks if one.name in BASIC or one.state != "ok"]
    width = max(len(name) for name, _ in [*facts, *((one.name, "") for one in shown)])
    lines = [f"pgtattle {start.version}"]
    lines += [f"  {name:{width}}  {words}" for name, words in facts if words]
    return lines + check_list(shown, style, width)


def short_banner(start: Start, style: Style) -> list[str]:
    """The start in one line, and a line for each check that is not ok."""
    basic = [one for one in start.checks if one.name in BASIC]
    # Of a server that answers its version is the news, of the rest whether it works.
    named = [(one, printable(one.words) if one.name == UPSTREAM and one.state == "ok" else one.name) for one in basic]
    marks = "  ".join(f"{style.glyph(one.state)} {name}" for one, name in named)
    lines = [f"pgtattle {start.version} at {start.listen}  {marks}"]
    for one in start.checks:
        if one.state in ("warn", "failed"):
            cure = f" (fix: {printable(one.cure)})" if one.cure else ""
            lines.append(f"pgtattle: {one.name}: {printable(one.words)}{cure}")
    return lines


def check_list(checks: Sequence[Check], style: Style, width: int = 0) -> list[str]:
    """A line for each check, and one below it for its cure."""
    width = width or max((len(one.name) for one in checks), default=0)
    lines = []
    for one in checks:
        lines.append(f"{style.glyph(one.state)} {one.name:{width}}  {printable(one.words)}")
        if one.cure:
            lines.append(f"  {'':{width}}  fix: {printable(one.cure)}")
    return lines


def failed(checks: Iterable[Check]) -> bool:
    """True where one of them failed."""
    return any(one.state == "failed" for one in checks)


def printable(text: str) -> str:
    """Text of a server or a client for a terminal: nothing in it acts on the terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _quoted(url: str) -> str:
    """A URL as a shell takes it."""
    return f"'{url}'" if "&" in url or "'" in url else url
