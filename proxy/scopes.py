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
MAX_KEPT: Final = 1_000
"""Open and ended ones; beyond these the oldest are forgotten sooner."""
MAX_WORDS: Final = 200
MAX_NAME: Final = 63
"""Bytes of an application_name: the server cuts there."""
MAX_PID: Final = 1 << 22
MAX_SPAN_NS: Final = 3_600_000_000_000
"""A scope that nobody closes ends by itself."""
KEPT_NS: Final = 10_000_000_000
SECOND_NS: Final = 1_000_000_000
MAX_ASKED: Final = 10_000
KINDS: Final = ("test", "request", "job")

IsOf = Callable[[str, int], bool]


class _Scope:
    __slots__ = ("asked", "ended_ns", "id", "mark", "started_ns")

    def __init__(self, id: str, asked: ScopeRequest, started_ns: int) -> None:
        self.id = id
        self.asked = asked
        self.mark = Mark("scope", asked.key, f"scope of a {asked.kind}", setting=True, lasts=False)
        self.started_ns = started_ns
        self.ended_ns = started_ns + MAX_SPAN_NS


class Scopes:
    """All scopes that may still get executions. `is_of(client, pid)` says whether a client's socket is a process's."""

    def __init__(self, is_of: IsOf) -> None:
        self.any = False
        self._is_of = is_of
        self._asked: dict[tuple[int, int], bool] = {}
        self._scopes: dict[str, _Scope] = {}
        self._by_name: dict[str, list[_Scope]] = {}
        self._by_process: list[_Scope] = []
        self._by_idempotency_key: dict[str, _Scope] = {}
        self._count = 0
        self._looked_ns = 0

    def open(self, asked: ScopeRequest, now_ns: int, idempotency_key: str = "") -> ScopeView:
        """Begin a scope; with the key of one that is open, that one. Raises UsageError for what cannot be."""
        self._forget(now_ns)
        known = self._by_idempotency_key.get(idempotency_key)
        if known is not None and known.ended_ns > now_ns:
            if known.asked != asked:
                raise UsageError(f"Idempotency-Key: it began another scope, {known.id}; take a new key")
            return _view(known)
        _check(asked)
        if sum(scope.ended_ns > now_ns for scope in self._scopes.values()) >= MAX_OPEN:
            raise UsageError(f"{MAX_OPEN} scopes are open: end some with DELETE /api/v1/scopes/ID")
        self._count += 1
        scope = _Scope(f"s{self._count}", asked, now_ns)
        self._scopes[scope.id] = scope
        if idempotency_key:
            self._by_idempotency_key[idempotency_key] = scope
        self._index()
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
        if started_ns - self._looked_ns > KEPT_NS:
            self._forget(started_ns)
        latest: _Scope | None = None
        for scope in (*self._by_name.get(connection.application, ()), *self._by_process):
            if scope.started_ns <= started_ns <= scope.ended_ns and self._matches(scope.asked.match, connection):
                latest = scope if latest is None or scope.started_ns >= latest.started_ns else latest
        return None if latest is None else latest.mark

    def is_open(self, mark: Mark, now_ns: int) -> bool:
        """True while a scope of this mark may still get executions; whether it ever may, at the moment 0."""
        return any(scope.mark == mark and scope.ended_ns > now_ns for scope in self._scopes.values())

    def _matches(self, match: ScopeMatch, connection: Connection) -> bool:
        if match.application_name:
            return True
        key = (connection.id, match.client_pid)
        known = self._asked.get(key)
        if known is None:
            if len(self._asked) >= MAX_ASKED:
                self._asked.clear()
            known = self._asked[key] = self._is_of(connection.client, match.client_pid)
        return known

    def _forget(self, now_ns: int) -> None:
        """What ended a while ago, looked for once a second."""
        if now_ns - self._looked_ns < SECOND_NS and len(self._scopes) < MAX_KEPT:
            return
        self._looked_ns = now_ns
        kept = [scope for scope in self._scopes.values() if now_ns - scope.ended_ns <= KEPT_NS]
        if len(kept) >= MAX_KEPT:
            over = [scope for scope in kept if scope.ended_ns <= now_ns][: len(kept) - MAX_KEPT // 2]
            kept = [scope for scope in kept if scope not in set(over)]
        if len(kept) < len(self._scopes):
            self._scopes = {scope.id: scope for scope in kept}
            keys = self._by_idempotency_key.items()
            self._by_idempotency_key = {key: scope for key, scope in keys if scope.id in self._scopes}
            self._index()

    def _index(self) -> None:
        self._by_name = {}
        for scope in self._scopes.values():
            name = scope.asked.match.application_name
            if name:
                self._by_name.setdefault(name, []).append(scope)
        self._by_process = [scope for scope in self._scopes.values() if not scope.asked.match.application_name]
        self.any = bool(self._scopes)


def _check(asked: ScopeRequest) -> None:
    """Raises UsageError for a scope that cannot be."""
    match = asked.match
    if asked.kind not in KINDS:
        raise UsageError(f"kind: give one of {', '.join(KINDS)}")
    if not 0 < len(asked.key) <= MAX_WORDS or not asked.key.isprintable():
        raise UsageError(
            f"key: give the name of the test or the id of the request, {MAX_WORDS} printable characters at most"
        )
    if bool(match.client_pid) == bool(match.application_name):
        raise UsageError("match: give either client_pid, of a process on this machine, or application_name")
    if not 0 <= match.client_pid <= MAX_PID:
        raise UsageError(f"match: a client_pid is a number from 1 to {MAX_PID}")
    if len(match.application_name.encode("utf-8", "replace")) > MAX_NAME or not match.application_name.isprintable():
        raise UsageError(f"match: an application_name has at most {MAX_NAME} printable bytes")


def _view(scope: _Scope) -> ScopeView:
    asked = scope.asked
    return ScopeView(id=scope.id, kind=asked.kind, key=asked.key, match=asked.match)
