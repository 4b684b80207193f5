"""The settings of a connection that matter here, and what was last set.

Enters: statements as they were executed. Leaves: tags that say which request the connection works for
(application_name, `app.request_id`-like names, PostgREST's `request.*`), and a number for the settings that the answer
to a query may depend on: the role, the search path, the time zone, and the custom settings that row policies and
functions read. `SET LOCAL` and `set_config(…, true)` last until the end of the transaction, the others until they are
changed; a rollback undoes both, as the server does.
Source: PostgreSQL, "SET", "RESET", "SET ROLE", "System Administration Functions: set_config".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from pgtattle.proxy.events import Parameter, Text

MAX_SETTINGS: Final = 32
MAX_VALUE: Final = 200

_TAG: Final = re.compile(r"request\.\w+|application_name|[\w.]*\b(?:request|correlation|trace|job)_?id", re.I)
_CLAIM: Final = re.compile(r"request\.(?:jwt|claim)", re.I)
_ASKED: Final = frozenset(("role", "session_authorization", "search_path", "row_security", "timezone"))
"""Settings of the server's own that are part of a question."""
_ROLES: Final = frozenset(("role", "session_authorization"))
"""Settings that RESET ALL leaves as they are."""

_SET: Final = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*SET\s+(LOCAL\s+|SESSION\s+(?!AUTHORIZATION\b))?"
    r"(ROLE\b|SESSION\s+AUTHORIZATION\b|TIME\s+ZONE\b|SCHEMA\b|\"?[\w.]+\"?)\s*(?:=|\bTO\b)?\s*(.*)",
    re.I | re.S,
)
_RESET: Final = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*RESET\s+(SESSION\s+AUTHORIZATION|TIME\s+ZONE|\"?[\w.]+\"?)", re.I | re.S
)
_COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*", re.S)
_LITERAL: Final = re.compile(r"'((?:[^']|'')*)'")
_NAMES: Final = {
    "session authorization": "session_authorization",
    "time zone": "timezone",
    "schema": "search_path",
}
_SET_CONFIG: Final = re.compile(
    r"set_config\(\s*(?:cast\(\s*)?\$(\d+)(?:::\w+)?\s*,\s*(?:cast\(\s*)?\$(\d+)(?:::\w+)?(?:\s+as\s+\w+\s*\))?\s*,"
    r"\s*(\$\d+|true|false)",
    re.I,
)


class SessionTags:
    """The settings of one connection. `now` is a mapping of its tags that is replaced, never changed; `context` is a
    number that is another one where the answer to the same query may be, 0 where nothing of that kind is set.
    """

    def __init__(self) -> None:
        self.now: Mapping[str, str] = {}
        self.context = 0
        self._settings: Mapping[str, str] = {}
        self._published: Mapping[str, str] = self._settings
        self._before: Mapping[str, str] | None = None
        self._lasting: Mapping[str, str] = {}

    def application(self, name: str, at_login: str) -> None:
        """The server reported an application_name."""
        self._set("application_name", name if name != at_login else "", lasting=True)
        self._publish()

    def executed(self, text: Text, parameters: tuple[Parameter, ...], succeeded: bool) -> None:
        """A statement ended."""
        statement = text.statement
        if not succeeded:
            return
        if statement.kind == "read":
            if "set_config" in statement.sql:
                self._set_config(text, parameters)
                self._publish()
        elif statement.kind == "session":
            self._session(text)
            self._publish()

    def transaction_ended(self, committed: bool) -> None:
        """Local settings end; a rollback takes the others back too."""
        if self._before is not None:
            self._settings = self._lasting if committed else self._before
            self._before = None
            self._publish()

    def _session(self, text: Text) -> None:
        command = text.statement.command
        if command == "SET":
            match = _SET.match(text.sql)
            if match is not None:
                self._set_to(_name(match[2]), match[3], lasting=(match[1] or "").strip().upper() != "LOCAL")
        elif command == "RESET":
            match = _RESET.match(text.sql)
            if match is not None:
                self._reset(_name(match[1]))
        elif command == "DISCARD":
            if text.statement.sql == "DISCARD ALL":
                self._reset("session_authorization")
                self._reset("role")
            self._reset("all")

    def _set_to(self, name: str, rest: str, lasting: bool) -> None:
        if not (_is_tag(name) or _is_asked(name)):
            return
        written = _COMMENT.sub("", rest).strip().rstrip(";").rstrip() if "/*" in rest or "--" in rest else rest.strip()
        literal = _LITERAL.fullmatch(written)
        value = literal[1].replace("''", "'") if literal is not None else written
        if literal is None and value.lower() in ("default", "none", "local"):
            value = ""
        self._set(name, value, lasting=lasting)

    def _set_config(self, text: Text, parameters: tuple[Parameter, ...]) -> None:
        values: dict[int, str | None] = {}
        for slot in text.slots:
            if not slot.parameter:
                values[slot.number] = slot.value
            elif slot.parameter <= len(parameters):
                values[slot.number] = parameters[slot.parameter - 1].value
        for match in _SET_CONFIG.finditer(text.statement.sql):
            name, value = values.get(int(match[1])), values.get(int(match[2]))
            local = values.get(int(match[3][1:])) if match[3].startswith("$") else match[3]
            if name and value is not None and (_is_tag(name.lower()) or _is_asked(name.lower())):
                self._set(name.lower(), value, lasting=str(local).lower() not in ("true", "t", "on", "1", "yes"))

    def _set(self, name: str, value: str, *, lasting: bool) -> None:
        if self._before is None:
            # What is set from here on may be undone.
            self._before = self._lasting = self._settings
        self._settings = _with(self._settings, name, value)
        if lasting:
            self._lasting = _with(self._lasting, name, value)

    def _reset(self, name: str) -> None:
        names = [one for one in self._settings if one not in _ROLES] if name == "all" else [name]
        for one in names:
            self._set(one, "", lasting=True)

    def _publish(self) -> None:
        """Settings may have changed."""
        if self._settings is self._published:
            return
        settings = self._published = self._settings
        now = {name: value[:MAX_VALUE] for name, value in settings.items() if _is_tag(name)}
        if now != self.now:
            self.now = now
        asked = [(name, value) for name, value in settings.items() if _is_asked(name)]
        self.context = hash(frozenset(asked)) if asked else 0


@lru_cache(1024)
def _is_tag(name: str) -> bool:
    return _TAG.fullmatch(name) is not None


@lru_cache(1024)
def _is_asked(name: str) -> bool:
    """True for a setting that is part of a question: of the custom ones all but those that name a request."""
    if _TAG.fullmatch(name):
        return _CLAIM.match(name) is not None
    return "." in name or name in _ASKED


def _name(written: str) -> str:
    name = " ".join(written.strip('"').lower().split())
    return _NAMES.get(name, name)


def _with(settings: Mapping[str, str], name: str, value: str) -> Mapping[str, str]:
    """`settings` with one changed; an empty value removes it."""
    changed = {key: old for key, old in settings.items() if key != name}
    if value and len(changed) < MAX_SETTINGS:
        changed[name] = value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]} {hash(value)}"
    return changed
