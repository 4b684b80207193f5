"""Groups executions to units of work: the executions of one request, job, transaction or burst.

Enters: executions in the order of their ends, and moments. Leaves: `Unit` records, complete or as they stand. No I/O,
no clock. Out of scope: what a unit means for a rule.

The signals, strongest first; a stronger one overrides:

1. a request, job or correlation id in a fresh comment: the unit may span connections;
2. a trace id in a fresh comment;
3. a watched setting (`app.request_id`, PostgREST's `request.*`, an application_name that is an id);
4. a scope that a test or a request opened by the API;
5. a connection for each request, once an application is known to work so (`habits`);
6. what a pool does when it gives a connection out and takes it back;
7. an explicit transaction; where an application is known to mix them with autocommit, one that is too small to hold a
   loop goes with what is around it, for it may be a turn of one;
8. the idle gap of a connection; a changed route tag or a reset of the session ends the unit at once.

On a connection that a pooler shares among clients only 1 to 4 and 7 count: the rest would mix them.

A unit ends by what told it apart, not by the clock: an id with the next one on its connection, or when the connection
is given back or closed, or not used for a minute; a scope when it is closed; a transaction with its end. Only a burst,
and what is over but may go on elsewhere, ends by silence. What is silent but not over is shown as it stands, and judged
again when it is complete.

Statements without an id go with the id of their transaction; in autocommit only those of the session (SET, DISCARD)
go with the neighbour on their connection, when it is nearer than the gap: a query without an id may be anybody's. Two
connections are joined by the same id only.

A comment is part of a prepared statement's text, so its ids are those of the request that prepared it. Drivers that key
their cache by the text send an id in its own request only; those that key by an object repeat an old id forever. The
latter show themselves by an id other than the last fresh one; from then on the connection's old ids count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pgtattle.analyzers.origin import Mark, route_of, route_of_settings
from pgtattle.proxy.events import Unit, UnitKind
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.habits import Habits, is_ping, is_release
from pgtattle.proxy.scopes import Scopes
from pgtattle.proxy.tracks import GAP_MAX_NS, GAP_NS, MILLISECOND, NAMED_NS, Open, Track

MAX_SPAN_NS: Final = 30_000 * MILLISECOND
"""Of a burst; so long a connection's first unit waits to be its only one."""
FOREVER_NS: Final = 1 << 62
MAX_EXECUTIONS: Final = 10_000
MAX_OPEN: Final = 2_000
MAX_HELD: Final = 200_000


class Units:
    """All open units. Bounded: the oldest is completed when there are too many, or too many executions in them."""

    def __init__(
        self,
        scopes: Scopes | None = None,
        behind_pooler: bool = False,
        max_open: int = MAX_OPEN,
        max_held: int = MAX_HELD,
    ) -> None:
        self._scopes = scopes
        self._behind_pooler = behind_pooler
        self._max_open = max_open
        self._max_held = max_held
        self._held = 0
        self._tracks: dict[int, Track] = {}
        self._open: dict[Open, None] = {}
        self._marked: dict[tuple[str, str, str], Open] = {}
        self._habits = Habits()
        self._resumed_ns = self._ticked_ns = 0

    def add(self, execution: Execution) -> list[Unit]:
        """Take an execution; the units that its arrival completed."""
        tags = execution.text.tags
        if tags and tags.get("pgtattle") == "ignore":
            return []
        complete: list[Unit] = []
        connection = execution.connection
        track = self._tracks.get(connection.id)
        if track is None:
            scope = connection.application or connection.user
            track = self._tracks[connection.id] = Track(scope, self._habits.of(scope), self._behind_pooler)
        pause_ns = execution.started_ns - max(track.ended_ns, self._resumed_ns)
        near = pause_ns <= GAP_NS
        if not near and pause_ns <= GAP_MAX_NS and track.unit is not None and not track.unit.done:
            near = track.unit.goes_on(execution)
        if execution.transaction != track.transaction:
            track.transaction = execution.transaction
            track.mark = None
        statement = execution.text.statement
        if statement.kind in ("read", "write"):
            track.habit.statements += 1
            track.habit.in_transactions += execution.transaction != 0
        if execution.prepared or statement.kind == "session":
            track.pooled.executed(execution)
        mark = track.mark_of(execution) if tags or execution.settings else None
        if mark is None:
            mark = track.mark
        if mark is None and self._scopes is not None and self._scopes.any:
            mark = self._scopes.of(connection, execution.started_ns)
        unit = (
            self._local(track, execution, near, complete)
            if mark is None
            else self._named(track, execution, mark, near, complete)
        )
        track.unit = unit
        self._put(unit, execution)
        unit.pooled = unit.pooled or track.pooled.known
        track.ended_ns = max(track.ended_ns, execution.ended_ns)
        track.begun = execution.transaction != 0 and execution.status != "I"
        if len(unit.executions) >= MAX_EXECUTIONS or (
            unit.ended_ns - unit.started_ns >= MAX_SPAN_NS and unit.mark is None and not track.begun
        ):
            complete.append(self._complete(unit))
        track.released = is_release(execution)
        if track.released or _ended_by_rollback(execution):
            # The connection went back to its pool. A named unit may go on elsewhere.
            track.unit = track.named = None
            if unit.mark is None and not unit.done:
                if unit.checked_out and track.released:
                    _be_checkout(unit)
                complete.append(self._complete(unit))
        while self._held > self._max_held or len(self._open) > self._max_open:
            complete.append(self._complete(next(iter(self._open))))
        return complete

    def resume(self, at_ns: int) -> None:
        """Nobody looked for a while up to `at_ns`: silence counts from there."""
        self._resumed_ns = at_ns

    def waits(self, busy: Callable[[int], bool]) -> bool:
        """True while silence would end a unit or show one; not that of a unit with an unanswered request."""
        return any(
            (unit.shown < len(unit.executions) or self._patience(unit, self._ticked_ns) <= GAP_MAX_NS)
            and not any(map(busy, unit.connections))
            for unit in self._open
        )

    def tick(self, now_ns: int, busy: Callable[[int], bool]) -> list[Unit]:
        """The units that are over. All traffic up to `now_ns` was added; `busy` tells of an unanswered request."""
        self._ticked_ns = now_ns
        over = [
            unit
            for unit in self._silent(now_ns)
            if now_ns - max(unit.ended_ns, self._resumed_ns) > self._patience(unit, now_ns)
            and not any(map(busy, unit.connections))
        ]
        return self._complete_all(over)

    def show(self, now_ns: int, busy: Callable[[int], bool]) -> list[Unit]:
        """The units that are silent but not over, and those that go on for long, as they stand: each state once."""
        found: list[Unit] = []
        for unit in self._open:
            count = len(unit.executions)
            if count == unit.shown or any(map(busy, unit.connections)):
                continue
            silent = now_ns - max(unit.ended_ns, self._resumed_ns) > GAP_MAX_NS
            if silent or (now_ns - unit.started_ns > MAX_SPAN_NS and count >= 2 * unit.shown):
                unit.shown = count
                found.append(unit.as_it_stands())
        return found

    def _silent(self, now_ns: int) -> list[Open]:
        return [unit for unit in self._open if now_ns - max(unit.ended_ns, self._resumed_ns) > GAP_MAX_NS]

    def closed(self, connection_id: int, now_ns: int) -> list[Unit]:
        """A connection ended at `now_ns`: so did its unit, unless that has a name and may go on elsewhere."""
        track = self._tracks.pop(connection_id, None)
        if track is None:
            return []
        unit = self._folded(track.unit) if track.unit is not None else None
        lives = unit is not None and not unit.done and unit.mark is None
        alone = lives and track.units == 1 + (unit is not track.unit)
        # Every connection counts: those that rest before they end are what a pool is made of.
        track.habit.closed += 1
        track.habit.short += alone and unit is not None and now_ns - unit.ended_ns <= GAP_MAX_NS
        if unit is None or not lives:
            return []
        if alone and track.habit.connection_each:
            unit.kind, unit.signal, unit.learned = "connection", "a connection for each request", True
        elif alone:
            unit.kind, unit.signal = "connection", "a connection of its own"
        return [self._complete(unit)]

    def flush(self) -> list[Unit]:
        """All open units, oldest first: nothing more comes."""
        return self._complete_all(list(self._open))

    def _complete_all(self, units: list[Open]) -> list[Unit]:
        for unit in units:
            self._folded(unit)
        return [self._complete(unit) for unit in units if not unit.done]

    def _folded(self, unit: Open) -> Open:
        """The burst that a small transaction became part of, or the unit itself."""
        around = unit.around
        if around is None or around.done or unit.done or unit.mark is not None or not unit.small:
            return unit
        self._join(around, unit)
        return around

    def _named(self, track: Track, execution: Execution, mark: Mark, near: bool, complete: list[Unit]) -> Open:
        """The unit of a name; what the connection did just before without one joins it."""
        if execution.transaction and mark.lasts:
            track.mark = mark
        key = (mark.kind, track.scope, mark.id)
        unit = self._marked.get(key)
        before = track.unit
        if before is not None and (before.done or before.mark is not None):
            before = None
        if before is not None:
            # A setting says where its unit begins; a comment does not.
            same = mark.lasts and (
                before.transaction == execution.transaction
                if execution.transaction
                else before.kind == "burst" and near and not mark.setting and not any(map(_is_work, before.executions))
            )
            if not same:
                complete.append(self._complete(before))
                before = None
        if unit is None:
            unit = before or self._begin(mark.kind, mark.id, mark.signal, execution)
            unit.kind, unit.key, unit.signal = mark.kind, mark.id, mark.signal
            unit.mark, unit.scope, unit.around = mark, track.scope, None
            self._marked[key] = unit
        elif before is not None:
            self._join(unit, before)
        track.named = unit
        if mark.setting and not unit.route:
            unit.route = route_of_settings(execution.settings)
        return unit

    def _local(self, track: Track, execution: Execution, near: bool, complete: list[Unit]) -> Open:
        """The unit of an execution without a name."""
        if track.named is not None and track.named.mark is not None and track.named.mark.setting:
            # The setting is in force no more.
            track.named = None
        unit = track.unit
        around: Open | None = None
        if unit is not None and not unit.done:
            if unit.mark is not None:
                if near and not execution.transaction and not unit.mark.setting and not _is_work(execution):
                    return unit
            elif execution.transaction and unit.transaction == execution.transaction:
                return unit
            else:
                if near and unit.checked_out and is_ping(execution):
                    _be_checkout(unit)
                near = near and not self._leaves_route(unit, execution) and not track.pooled.known
                if near and not unit.transaction and not execution.transaction:
                    return unit
                around = self._left(track, unit, near, complete)
                if around is not None and not execution.transaction:
                    return around
        track.units += 1
        if execution.transaction:
            key = f"{execution.connection.id}/{execution.transaction}"
            signal = "a transaction for each request" if track.habit.transaction_each else "explicit transaction"
            unit = self._begin("transaction", key, signal, execution)
            unit.transaction, unit.around = execution.transaction, around
            return unit
        unit = self._begin("burst", str(execution.connection.id), "idle gap of the connection", execution)
        unit.checked_out = not track.pooled.known and (track.released or is_ping(execution))
        return unit

    def _left(self, track: Track, unit: Open, near: bool, complete: list[Unit]) -> Open | None:
        """The burst that goes on after `unit`, a burst or a transaction, was left for something else; or None.

        Of an application that mixes the two, a small transaction becomes part of it.
        """
        mixes = near and track.habit.mixes
        if not unit.transaction:
            if mixes:
                return unit
            complete.append(self._complete(unit))
            return None
        around = unit.around if unit.around is not None and not unit.around.done else None
        if mixes and unit.small:
            if around is None:
                unit.kind, unit.key, unit.signal = "burst", unit.key.partition("/")[0], "idle gap of the connection"
                unit.transaction = 0
                return unit
            self._join(around, unit)
            return around
        complete.append(self._complete(unit))
        if around is not None and not mixes:
            complete.append(self._complete(around))
            return None
        return around

    def _join(self, unit: Open, part: Open) -> None:
        """Make one unit a part of another."""
        unit.executions += part.executions
        unit.connections |= part.connections
        unit.started_ns = min(unit.started_ns, part.started_ns)
        unit.ended_ns = max(unit.ended_ns, part.ended_ns)
        part.done = True
        del self._open[part]

    @staticmethod
    def _leaves_route(unit: Open, execution: Execution) -> bool:
        """True where the execution begins something else: another route, or a pool's look at an idle connection."""
        if is_ping(execution):
            return True
        if not unit.route or execution.reused or not execution.text.tags:
            return False
        route = route_of(execution.text.tags)
        return bool(route) and route != unit.route

    def _begin(self, kind: UnitKind, key: str, signal: str, execution: Execution) -> Open:
        unit = Open(kind, key, signal, execution.started_ns)
        self._open[unit] = None
        return unit

    def _put(self, unit: Open, execution: Execution) -> None:
        unit.executions.append(execution)
        unit.connections.add(execution.connection.id)
        self._held += 1
        if execution.ended_ns > unit.ended_ns:
            unit.ended_ns = execution.ended_ns
            if unit.around is not None:
                unit.around.ended_ns = execution.ended_ns
        if not unit.route and execution.text.tags:
            unit.route = route_of(execution.text.tags)

    def _patience(self, unit: Open, now_ns: int) -> int:
        """The length of the silence that ends a unit."""
        mark = unit.mark
        if mark is not None and not mark.lasts and self._scopes is not None:
            return FOREVER_NS if self._scopes.is_open(mark, now_ns) else GAP_MAX_NS
        patience = GAP_MAX_NS
        for connection in unit.connections:
            track = self._tracks.get(connection)
            if track is None or (track.unit is not unit and track.named is not unit):
                # The connection went on to something else, was given back or closed.
                continue
            if track.begun and track.unit is unit:
                return FOREVER_NS
            if mark is not None:
                patience = NAMED_NS
            elif track.units == 1 and not track.pooled.known:
                # Where the connection closes after it, it was all that the connection was for.
                patience = MAX_SPAN_NS
        return patience

    def _complete(self, unit: Open) -> Unit:
        unit.done = True
        del self._open[unit]
        self._held -= len(unit.executions)
        if unit.mark is not None:
            self._marked.pop((unit.mark.kind, unit.scope, unit.mark.id), None)
        return unit.as_it_stands()


def _be_checkout(unit: Open) -> None:
    unit.kind, unit.signal = "connection", "a connection taken from the pool and given back"


def _is_work(execution: Execution) -> bool:
    """True for a statement that a request runs, as against those of its session and its transactions."""
    return execution.text.statement.kind not in ("empty", "session", "transaction")


def _ended_by_rollback(execution: Execution) -> bool:
    """True where a transaction that went well was rolled back: what a session does when it is closed."""
    statement = execution.text.statement
    return statement.command == "ROLLBACK" and execution.status == "I" and " TO " not in statement.sql
