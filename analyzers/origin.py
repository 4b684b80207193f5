"""Where an execution came from, as its tags and settings tell: a request, a route, a line of source.

Enters: the tags of one comment, or the watched settings in force. Leaves: a `Mark` that names one request, job or
trace, and words for people. Out of scope: the parsing of comments, and which executions belong together
(`proxy.units`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from pgtattle.analyzers.sql.comments import REQUEST_KEYS, TRACE_KEY, trace_id

MAX_WORDS: Final = 200

_REQUEST_SETTINGS: Final = frozenset(key.replace("_", "") for key in REQUEST_KEYS)
# What loggers and frameworks write where there is no id.
_NO_ID: Final = frozenset(("", "-", "0", "none", "null", "nil", "undefined", "unknown", "n/a", "false"))
# An application_name that can only be an id: most are a constant name set when the connection was made.
_NAME_IS_ID: Final = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"
    r"|(?:^|[^a-z])(?:req|request|correlation|trace|job_id|request_id|correlation_id|trace_id)[-_:=/ #]+"
    r"(?=[a-f-]*[0-9])[0-9a-f-]+$",
    re.IGNORECASE,
)
_PATH_ID: Final = re.compile(r"(?<=/)(?:\d+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?=/|$)", re.I)


class Mark(NamedTuple):
    """The name of one request, job, trace or scope, and the signal that gave it; `kind` and `id` say which one.

    `lasts`: what the connection does in the same transaction is of it too.
    """

    kind: Literal["request", "trace", "scope"]
    id: str
    signal: str
    setting: bool = False
    lasts: bool = True


def mark_of_tags(tags: Mapping[str, str]) -> Mark | None:
    """The request or trace that a comment names. The caller knows whether the comment is fresh."""
    for key in REQUEST_KEYS:
        value = tags.get(key)
        if value is not None and value.lower() not in _NO_ID:
            return Mark("request", value[:MAX_WORDS], f"comment tag {key}")
    for key in (TRACE_KEY, "trace_id"):
        value = tags.get(key)
        trace = _trace(value) if value else ""
        if trace:
            return Mark("trace", trace, f"comment tag {key}")
    return None


def mark_of_settings(settings: Mapping[str, str], transaction: str) -> Mark | None:
    """The request, trace or scope that settings name; `transaction` is a key of the transaction, empty in autocommit.

    `request.*` is how PostgREST and its kin describe an HTTP request, one a transaction.
    """
    found: Mark | None = None
    for name, value in settings.items():
        key = name.rpartition(".")[2].replace("_", "").lower()
        if value.lower() in _NO_ID:
            continue
        if key in _REQUEST_SETTINGS:
            return Mark("request", value[:MAX_WORDS], f"setting {name}", True)
        if key == "traceid" or (key == "applicationname" and value.startswith("_DD_")):
            trace = _trace(value.removeprefix("_DD_"))
            if trace:
                found = Mark("trace", trace, f"setting {name}", True)
        elif key == "applicationname" and found is None:
            if _NAME_IS_ID.search(value):
                found = Mark("scope", value[:MAX_WORDS], f"setting {name}", True)
        elif name.startswith("request.") and transaction and (found is None or found.kind == "scope"):
            found = Mark("request", transaction, "settings request.*", True)
    return found


def route_of(tags: Mapping[str, str]) -> str:
    """The route, `controller#action` or job that static tags name, ids in its path taken out; empty where none does."""
    route = tags.get("route") or tags.get("endpoint_id")
    if not route:
        controller = tags.get("controller", "")
        action = tags.get("action", "")
        route = f"{controller}#{action}" if controller and action else controller or action or tags.get("job", "")
    return _PATH_ID.sub(":id", route[:MAX_WORDS]) if "/" in route else route[:MAX_WORDS]


def route_of_settings(settings: Mapping[str, str]) -> str:
    """Method and path of the HTTP request that `request.*` settings describe."""
    path = settings.get("request.path", "")
    return _PATH_ID.sub(":id", f"{settings.get('request.method', '')} {path}".strip()[:MAX_WORDS]) if path else ""


def source_of(tags: Mapping[str, str]) -> str:
    """File, line and function that static tags name, such as `shop/views.py:12 in books`; empty where none does."""
    source = tags.get("source_location") or ""
    file, line = tags.get("file") or tags.get("filepath") or "", tags.get("line") or tags.get("lineno") or ""
    if not source and file:
        source = f"{file}:{line}" if line else file
    if not source and ":" in line:
        source = line  # marginalia puts the whole place there
    function = tags.get("func_name") or tags.get("function") or ""
    if function:
        source = f"{source} in {function}" if source else function
    return source[:MAX_WORDS]


def _trace(value: str) -> str:
    """The trace id of a traceparent, or a bare id; empty where it is none or all zeros."""
    trace = trace_id(value) if value.count("-") == 3 else value.lower()[:MAX_WORDS]
    return "" if trace in _NO_ID or not trace.strip("0-") else trace
