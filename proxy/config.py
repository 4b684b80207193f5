"""Settings from flags, environment and TOML: checked here, so that nobody downstream has to.

The order of precedence (flag, environment, TOML, default) is click's, which asks this module for the TOML part.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pgtattle.proxy import dsn
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import Address, RuleSettings, Settings, Upstream, Values

DEFAULT_LISTEN = "127.0.0.1:7432"
DEFAULT_API = "127.0.0.1:7433"


def address(text: str, option: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:/path`. Raises UsageError naming the option."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise UsageError(f"{option} {text}: a unix socket needs an absolute path, such as unix:/tmp/pgtattle.sock")
        if len(os.fsencode(path)) > 100:
            raise UsageError(f"{option}: the path of a unix socket may have 100 bytes at most")
        return Address(path=path)
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*):(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise UsageError(f"{option} {text}: write HOST:PORT, [IPV6]:PORT or unix:/path (port 0 is any free one)")
    return Address(host=match[1].strip("[]") or "0.0.0.0", port=int(match[2]))


def same_place(upstream: Address, listen: Address) -> bool:
    """True where what connects to the upstream comes to the listener."""
    if listen.path or upstream.path:
        return listen.path == upstream.path
    everywhere = listen.host in ("0.0.0.0", "::")
    return listen.port == upstream.port and (
        listen.host == upstream.host or (upstream.is_local and (listen.is_local or everywhere))
    )


def find_file(folder: Path) -> Path | None:
    """`pgtattle.toml` of the folder, else its `pyproject.toml` where that has a [tool.pgtattle]."""
    own = folder / "pgtattle.toml"
    if own.exists():
        return own
    project = folder / "pyproject.toml"
    return project if project.exists() and "pgtattle" in _table(_read(project), "tool", project) else None


def load(path: Path, known: Iterable[str]) -> tuple[dict[str, Any], RuleSettings]:
    """The options of a file by name with underscores, and its [rules]. Raises UsageError naming file and key."""
    content = _read(path)
    if path.name == "pyproject.toml":
        content = _table(_table(content, "tool", path), "pgtattle", path)
    rules = content.pop("rules", {})
    names = {name.replace("_", "-") for name in known}
    for key in content:
        if key.replace("_", "-") not in names:
            raise UsageError(f"{path}: unknown key {key!r}{nearest(key, sorted(names | {'rules'}))}")
    try:
        settings = msgspec.convert(rules, RuleSettings)
    except msgspec.ValidationError as error:
        fields = [field.encode_name for field in msgspec.structs.fields(RuleSettings)]
        unknown = re.search(r"unknown field `([^`]*)`", str(error))
        hint = nearest(unknown[1], fields) if unknown else ""
        what = f"unknown key {unknown[1]!r}" if unknown else str(error)
        raise UsageError(f"{path}: [rules] {what}{hint}") from None
    return {key.replace("-", "_"): value for key, value in content.items()}, settings


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the nearest known word, else the list of them."""
    words = list(known)
    close = difflib.get_close_matches(word.replace("_", "-"), words, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(words)}"


def read_token(path: str) -> str:
    """The API's token: the file's first line. Raises UsageError for a file that others may read or that has none."""
    try:
        file = Path(path)
        if file.is_file() and file.stat().st_mode & 0o007:
            raise UsageError(f"--token-file {path}: others may read it; run chmod 600 {path}")
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UsageError(f"--token-file {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"--token-file {path}: a token is ASCII text, on one line") from None
    if len(token) < 16:
        raise UsageError(f"--token-file {path}: a token needs 16 characters or more")
    return token


def settings(options: Mapping[str, Any], upstream: Upstream, rules: RuleSettings) -> Settings:
    """The settings of a session from click's options. Raises UsageError for what would be unsafe or cannot be."""
    listen = tuple(address(text, "--listen") for text in options["listen"])
    api = address(options["api"], "--api")
    metrics = address(options["metrics"], "--metrics") if options.get("metrics") else None
    token = read_token(options["token_file"]) if options.get("token_file") else ""
    values: Values = options["values"]
    cert, key = options.get("tls_cert") or "", options.get("tls_key") or ""
    passthrough = bool(options.get("tls_passthrough"))
    if key and not cert:
        raise UsageError("--tls-key needs --tls-cert FILE, the certificate that belongs to it")
    if cert and passthrough:
        raise UsageError("--tls-cert answers the client's TLS here, --tls-passthrough leaves it to the server: choose")
    if not (options.get("allow_plain") or cert or passthrough):
        for one in listen:
            if not one.is_local:
                raise UsageError(
                    f"--listen {one}: others could reach it and read the traffic, which is not encrypted; listen on "
                    "127.0.0.1, give --tls-cert and --tls-key, or say --allow-plain if the network is yours alone"
                )
    if not api.is_local and not token:
        raise UsageError(
            f"--api {api}: others could reach it; give --token-file, or keep it on 127.0.0.1 (see --metrics)"
        )
    analyze = dsn.analyze_dsn(options["analyze_dsn"], upstream) if options.get("analyze_dsn") else ""
    return Settings(
        upstream=upstream,
        listen=listen,
        api=api,
        metrics=metrics,
        values=values,
        drain_seconds=float(options.get("drain", 30.0)),
        max_connections=options.get("max_connections") or 0,
        mode=options.get("mode") or "profile",
        login_seconds=float(options.get("login_timeout") or 60.0),
        idle_seconds=float(options.get("idle_timeout") or 0.0),
        tls_cert=cert,
        tls_key=key,
        tls_passthrough=passthrough,
        analyze_dsn=analyze,
        allow_plain=bool(options.get("allow_plain")),
        api_token=token,
        log_format=options["log_format"],
        log_file=options.get("log_file") or "",
        behind_pooler=bool(options.get("behind_pooler")),
        rules=rules,
    )


def _table(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {key} must be a table")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
