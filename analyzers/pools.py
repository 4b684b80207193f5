"""What the applications did lately, by the pools of connections that they did it with: the evidence for `fan_out`.

Enters: every execution, and which of them belong to units without a name of their own. Leaves: executions in the order
of their starts. A pool is what shares a client host, an application, a user and a database; it may hide several
processes. Out of scope: what any of it means.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from pgtattle.analyzers.repetition import is_tool
from pgtattle.proxy.events import Connection
from pgtattle.proxy.execution import Execution

MAX_HELD: Final = 2_000
"""Executions of one pool in so short a time: more are many requests at once, of which nothing can be told."""
MAX_POOLS: Final = 50
MAX_KNOWN: Final = 1_000
"""Statements of a pool whose strays are counted, and connections whose pool is known without looking."""
STRAY_SHARE: Final = 0.5
"""For one that no result drove there must be two that one did."""

Seen = tuple[int, int, Execution]
"""An execution with its start and its id before it."""


class Pool:
    """The executions of some seconds by their start; none where it is `ignored`. `drivers` are results whose rows may
    have driven a loop.
    """

    __slots__ = (
        "_driven", "_forgotten_ns", "_hold_ns", "_nameless", "_seen", "_sorted", "_strays", "drivers", "ignored",
        "muted_ns",
    )  # fmt: skip

    def __init__(self, hold_ns: int, ignored: bool) -> None:
        self.ignored = ignored
        self.drivers: list[Execution] = []
        self.muted_ns = 0
        self._forgotten_ns = 0
        self._hold_ns = hold_ns
        self._seen: list[Seen] = []
        self._sorted = True
        self._nameless: set[int] = set()
        self._driven: dict[str, int] = {}
        self._strays: dict[str, int] = {}

    def add(self, execution: Execution) -> None:
        """An execution; with too many of them the pool is mute until all that were under way are past."""
        if self.ignored or execution.started_ns < self.muted_ns:
            return
        if len(self._seen) >= MAX_HELD:
            self._seen.clear()
            self._nameless.clear()
            self.drivers.clear()
            self.muted_ns = execution.ended_ns + self._hold_ns
            return
        self._seen.append((execution.started_ns, execution.id, execution))
        self._sorted = False

    def nameless(self, execution: Execution) -> None:
        """It belongs to a unit that is complete, and has no name of its own."""
        self._nameless.add(execution.id)

    def is_nameless(self, execution: Execution) -> bool:
        """True for those that were named nameless."""
        return execution.id in self._nameless

    def since(self, at_ns: int, until_ns: int) -> Iterator[Execution]:
        """The executions that started from a time on, up to another."""
        if not self._sorted:
            self._seen.sort()
            self._sorted = True
        for number in range(bisect_left(self._seen, at_ns, key=_start), len(self._seen)):
            start, _, execution = self._seen[number]
            if start > until_ns:
                break
            yield execution

    def explain(self, turns: list[Execution]) -> bool:
        """A result drove these: they are nobody else's. False where one of their statements is not driven mostly."""
        ids = {execution.id for execution in turns}
        self._seen = [one for one in self._seen if one[1] not in ids]
        for execution in turns:
            _count(self._driven, execution.text.statement.fingerprint)
        return all(
            self._strays.get(statement, 0) <= STRAY_SHARE * self._driven.get(statement, 0)
            for statement in {execution.text.statement.fingerprint for execution in turns}
        )

    def forget(self, now_ns: int) -> None:
        """Let go of what no driver can claim any more: it strays."""
        if now_ns - self._forgotten_ns < self._hold_ns // 2:
            return
        self._forgotten_ns = now_ns
        kept: list[Seen] = []
        for one in self._seen:
            if one[2].ended_ns >= now_ns - self._hold_ns:
                kept.append(one)
            elif one[2].text.statement.kind == "read":
                _count(self._strays, one[2].text.statement.fingerprint)
        self._seen = kept
        self._nameless &= {one[1] for one in kept}


class Pools:
    """The pools of all applications, each held for `hold_ns`; those of tools are ignored."""

    def __init__(self, hold_ns: int) -> None:
        self._hold_ns = hold_ns
        self._pools: dict[tuple[str, str, str, str], Pool] = {}
        self._known: dict[int, tuple[Connection, Pool]] = {}

    def of(self, connection: Connection) -> Pool:
        """The pool of a connection."""
        known = self._known.get(connection.id)
        if known is not None and known[0] is connection:
            return known[1]
        key = (connection.client_host, connection.application, connection.user, connection.database)
        pool = self._pools.pop(key, None) or Pool(self._hold_ns, is_tool(connection.application))
        if len(self._pools) >= MAX_POOLS:
            del self._pools[next(iter(self._pools))]
            self._known.clear()
        self._pools[key] = pool
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[connection.id] = (connection, pool)
        return pool

    def all(self) -> list[Pool]:
        """Every pool that is known."""
        return list(self._pools.values())

    def forget(self, now_ns: int) -> None:
        """Let go of what is past."""
        for pool in self._pools.values():
            pool.forget(now_ns)


def _start(one: Seen) -> int:
    return one[0]


def _count(counts: dict[str, int], statement: str) -> None:
    if len(counts) >= MAX_KNOWN:
        counts.clear()
    counts[statement] = counts.get(statement, 0) + 1
