"""Tags in SQL comments: sqlcommenter, marginalia and plain `key=value`.

Source: the sqlcommenter specification; marginalia's README. Comments that are none of these are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote

MAX_COMMENT: Final = 4_096
MAX_TAGS: Final = 32
MAX_KEY: Final = 100
MAX_VALUE: Final = 200

REQUEST_KEYS: Final = ("request_id", "requestid", "correlation_id", "job_id", "jobid", "jid")
TRACE_KEY: Final = "traceparent"
DYNAMIC_KEYS: Final = frozenset((*REQUEST_KEYS, TRACE_KEY, "tracestate"))
"""Keys that differ from request to request: stale in a statement that was prepared by an earlier one."""

_QUOTED: Final = re.compile(r"([^\s,'=]+)\s*=\s*'((?:[^'\\]|\\.)*)'\s*(?:,|$)", re.S)
_PLAIN: Final = re.compile(r"([A-Za-z_][\w.\-]*)\s*[=:]\s*([^,'\s]*)\s*(?:,|$)")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_SECRET: Final = re.compile(r"pass|pwd|secret|token|credential|api_?key", re.I)
"""In a key: its value is shown to nobody."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def tags(comments: Iterable[str]) -> Mapping[str, str]:
    """The tags of a statement's comments (with their delimiters); the first of a key counts."""
    found: dict[str, str] = {}
    for comment in comments:
        body = _body(comment)
        if ("=" not in body and ":" not in body) or len(body) > MAX_COMMENT:
            continue
        for raw, value in _pairs(body):
            key = _CONTROL.sub("", raw)[:MAX_KEY]
            if len(found) < MAX_TAGS and key not in found and not _SECRET.search(key):
                found[key] = _CONTROL.sub("", value)[:MAX_VALUE]
    return found


def trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent; empty where it is none."""
    match = _TRACEPARENT.fullmatch(traceparent.strip().lower())
    return match[1] if match else ""


def _body(comment: str) -> str:
    if comment.startswith("--"):
        return comment[2:].strip()
    return comment.removeprefix("/*").removesuffix("*/").lstrip("+").strip()


def _pairs(body: str) -> list[tuple[str, str]]:
    """All of the comment must be pairs: prose with a colon in it is no tag."""
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(body):
        match = _QUOTED.match(body, position)
        if match:
            pairs.append((_decoded(match[1]), _decoded(match[2].replace("\\'", "'"))))
        else:
            match = _PLAIN.match(body, position)
            if not match:
                return []
            pairs.append((match[1], _decoded(match[2])))
        position = match.end()
        while position < len(body) and body[position].isspace():
            position += 1
    return pairs


def _decoded(text: str) -> str:
    return unquote(text.replace("%%", "%"))
