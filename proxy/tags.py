"""Settings that say which request a connection works for: application_name, and `app.request_id`-like names.

Enters: statements as they were executed. Leaves: the tags in force. `SET LOCAL` and `set_config(…, true)` last until
the end of the transaction, the others until they are changed; a rollback undoes both, as the server does.
Source: PostgreSQL, "SET", "RESET", "System Administration Functions: set_config".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pgtattle.proxy.events import Parameter, Text

MAX_TAGS: Final = 32
MAX_VALUE: Final = 200

_WATCHED: Final = re.compile(r"request\.\w+|application_name|[\w.]*\b(?:request|correlation|trace|job)_?id", re.I)
_SET: Final = re.compile(
    r"""\s*(?:/\*.*?\*/\s*)*SET\s+(LOCAL\s+|SESSION\s+)?"?([\w.]+)"?\s*(?:=|\bTO\b)\s*(?:'((?:[^']|'')*)'|([\w.:/-]+))""",
    re.I | re.S,
)
_RESET: Final = re.compile(r"\s*RESET\s+\"?([\w.]+)\"?", re.I)
_SET_CONFIG: Final = re.compile(
    r"set_config\(\s*(?:cast\(\s*)?\$(\d+)(?:::\w+)?\s*,\s*\$(\d+)(?:::\w+)?\s*,\s*(\$\d+|true|false)", re.I
)


class SessionTags:
    """The tags of one connection; `now` is a mapping that is replaced, never changed."""

    def __init__(self) -> None:
        self.now: Mapping[str, str] = {}
        self._before: Mapping[str, str] | None = None
        self._lasting: Mapping[str, str] = {}

    def application(self, name: str, at_login: str) -> None:
        """The server reported an application_name."""
        self._set("application_name", name if name != at_login else "", lasting=True)

    def executed(self, text: Text, parameters: tuple[Parameter, ...], succeeded: bool) -> None:
        """A statement ended."""
        statement = text.statement
        if not succeeded:
            return
        if statement.kind == "read":
            if "set_config" in statement.sql:
                self._set_config(text, parameters)
        elif statement.command == "SET":
            match = _SET.match(text.sql)
            if match is not None and _WATCHED.fullmatch(match[2]):
                value = match[3].replace("''", "'") if match[3] is not None else match[4]
                self._set(match[2].lower(), value, lasting=(match[1] or "").strip().upper() != "LOCAL")
        elif statement.command == "RESET":
            match = _RESET.match(text.sql)
            if match is not None:
                self._reset(match[1].lower())
        elif statement.command == "DISCARD":
            self._reset("all")

    def transaction_ended(self, committed: bool) -> None:
        """Local settings end; a rollback takes the others back too."""
        if self._before is not None:
            self.now = self._lasting if committed else self._before
            self._before = None

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
            if name and value is not None and _WATCHED.fullmatch(name):
                self._set(name.lower(), value, lasting=str(local).lower() not in ("true", "t", "on", "1", "yes"))

    def _set(self, name: str, value: str, *, lasting: bool) -> None:
        if self._before is None:
            # What is set from here on may be undone.
            self._before = self._lasting = self.now
        self.now = _with(self.now, name, value)
        if lasting:
            self._lasting = _with(self._lasting, name, value)

    def _reset(self, name: str) -> None:
        names = list(self.now) if name == "all" else [name]
        for one in names:
            self._set(one, "", lasting=True)


def _with(tags: Mapping[str, str], name: str, value: str) -> Mapping[str, str]:
    """`tags` with one changed; an empty value removes it."""
    changed = {key: old for key, old in tags.items() if key != name}
    if value and len(changed) < MAX_TAGS:
        changed[name] = value[:MAX_VALUE]
    return changed
