"""Scopes: a test or a request says by the API where it begins and ends, and which connections are its own.

Enters: openings and ends, with moments. Leaves: the mark of an execution that falls in one. A scope that ended is kept
for a while, because traffic is seen a little later than it happens. Which process a connection is of is asked of the
machine once for each connection and process, by whoever is given to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pgtattle.analyzers.origin import Mark
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.events import Connection
from pgtattle.proxy.schema import ScopeMatch, ScopeRequest, ScopeView

MAX_OPEN: Final = 100
MAX_WORDS: Final = 200
MAX_SPAN_NS: Final = 3_600_000_000_000
"""A scope that nobody closes ends by itself."""
KEPT_NS: Final = 10_000_000_000
MAX_ASKED: Final = 10_000
KINDS: Final = ("test", "request", "job")

IsOf = Callable[[str, int], bool]


class _Scope:
    __slots__ = ("asked", "ended_ns", "id", "mark", "started_ns")

    def __init__(self, id: str, asked: ScopeRequest, started_ns: int) -> None:
        self.id = id
        self.asked = asked
        self.mark = Mark("scope", asked.key, f"scope of a {asked.kind}", True)
        self.started_ns = started_ns
        self.ended_ns = started_ns + MAX_SPAN_NS


class Scopes:
    """All scopes that may still get executions. `is_of(client, pid)` says whether a client's socket is a process's."""

    def __init__(self, is_of: IsOf) -> None:
        self.any = False
        self._is_of = is_of
        self._asked: dict[tuple[int, int], bool] = {}
        self._scopes: dict[str, _Scope] = {}
        self._by_idempotency_key: dict[str, str] = {}
        self._count = 0

    def open(self, asked: ScopeRequest, now_ns: int, idempotency_key: str = "") -> ScopeView:
        """Begin a scope; with the key of an earlier opening, that one. Raises UsageError for what cannot be."""
        self._forget(now_ns)
        known = self._scopes.get(self._by_idempotency_key.get(idempotency_key, ""))
        if known is not None:
            return _view(known)
        if asked.kind not in KINDS:
            raise UsageError(f"kind: give one of {', '.join(KINDS)}")
        if not 0 < len(asked.key) <= MAX_WORDS:
            raise UsageError(f"key: give the name of the test or the id of the request, of {MAX_WORDS} letters at most")
        match = asked.match
        if (match.client_pid > 0) == bool(match.application_name):
            raise UsageError("match: give either client_pid, of a process on this machine, or application_name")
        if sum(scope.ended_ns > now_ns for scope in self._scopes.values()) >= MAX_OPEN:
            raise UsageError(f"{MAX_OPEN} scopes are open: end some with DELETE /api/v1/scopes/ID")
        self._count += 1
        scope = _Scope(f"s{self._count}", asked, now_ns)
        self._scopes[scope.id] = scope
        if idempotency_key:
            self._by_idempotency_key[idempotency_key] = scope.id
        self.any = True
        return _view(scope)

    def close(self, identity: str, now_ns: int) -> bool:
        """End a scope; False where there is none of this id."""
        self._forget(now_ns)
        scope = self._scopes.get(identity)
        if scope is None:
            return False
        scope.ended_ns = min(scope.ended_ns, now_ns)
        return True

    def of(self, connection: Connection, started_ns: int) -> Mark | None:
        """The mark of an execution that began at `started_ns`: of the scopes that it falls in, the latest."""
        for scope in reversed(self._scopes.values()):
            if scope.started_ns <= started_ns <= scope.ended_ns and self._matches(scope.asked.match, connection):
                return scope.mark
        return None

    def _matches(self, match: ScopeMatch, connection: Connection) -> bool:
        if match.application_name:
            return connection.application == match.application_name
        key = (connection.id, match.client_pid)
        known = self._asked.get(key)
        if known is None:
            if len(self._asked) >= MAX_ASKED:
                self._asked.clear()
            known = self._asked[key] = self._is_of(connection.client, match.client_pid)
        return known

    def _forget(self, now_ns: int) -> None:
        for scope in [scope for scope in self._scopes.values() if now_ns - scope.ended_ns > KEPT_NS]:
            del self._scopes[scope.id]
        self._by_idempotency_key = {key: id for key, id in self._by_idempotency_key.items() if id in self._scopes}
        self.any = bool(self._scopes)


def _view(scope: _Scope) -> ScopeView:
    asked = scope.asked
    return ScopeView(id=scope.id, kind=asked.kind, key=asked.key, match=asked.match)
