"""Whether what was found in units of work is still there: later units of the same entry show it.

Enters: complete units with the findings of each. Leaves: `Progress` of those findings: `gone` when several units in a
row run without it, `improved` when it has shrunk by half or more, `open` when it is seen again; with what a unit cost
before and after. The entry of a unit is its route, or its first statement over a table. Units are counted, never
seconds. Out of scope: what is found by statement (the rules know), and loops whose turns ran on several connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from pgtattle.analyzers.finding import Finding, Progress
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.proxy.events import Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.schema import ChattyEvidence, Cost, LoopEvidence, State, WriteLoopEvidence

ENOUGH: Final = 3
"""Units in a row that show a cure; where such rows ended in another occurrence, twice the longest but one of them."""
MOST: Final = 50
HALF: Final = 0.5
KEPT: Final = 9
"""Units whose cost is kept, before and after."""
MAX_ENTRIES: Final = 2_000
MAX_FINDINGS: Final = 20
"""Findings of one entry that are followed."""


class _Followed:
    """One finding. `before` and `sizes` are of units with it, `after` of the units in a row without it, or with less.

    `clean` units in a row had nothing of it, `small` ones half of it at most; `pauses` are the two longest rows of
    clean ones that ended with another occurrence: one of them is code that was mended and broken again.
    """

    __slots__ = ("after", "before", "clean", "id", "pauses", "shown", "sizes", "small", "state", "worst")

    def __init__(self, finding: Finding) -> None:
        self.id = finding.id
        self.worst = finding
        self.state: State = "open"
        self.before: list[tuple[int, int]] = []
        self.after: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.clean = self.small = 0
        self.pauses = (0, 0)
        self.shown: Progress | None = None

    @property
    def size(self) -> float:
        """How big it was before."""
        return float(median(self.sizes)) if self.sizes else 0.0

    def occurred(self, finding: Finding, size: int, cost: tuple[int, int]) -> None:
        longest, second = self.pauses
        self.pauses = (max(longest, self.clean), max(second, min(longest, self.clean)))
        self.clean = 0
        if self.sizes and size <= HALF * self.size:
            self._shrunk(cost)
            if self.state == "gone":
                self.state = "open"
            return
        self.worst = finding
        self.state, self.small, self.after = "open", 0, []
        _keep(self.before, cost)
        self.sizes = [*self.sizes, size][-KEPT:]

    def was_clean(self, cost: tuple[int, int]) -> None:
        self.clean += 1
        self._shrunk(cost)
        if self.clean >= self._enough:
            self.state = "gone"

    def was_small(self, cost: tuple[int, int]) -> None:
        """It is there, but too small to be found."""
        self.clean = 0
        if self.state == "gone":
            self.state = "improved"
        self._shrunk(cost)

    def _shrunk(self, cost: tuple[int, int]) -> None:
        self.small += 1
        if len(self.after) < KEPT:
            self.after.append(cost)
        if self.small >= self._enough and self.state == "open":
            self.state = "improved"

    @property
    def _enough(self) -> int:
        return min(MOST, max(ENOUGH, 2 * self.pauses[1]))

    def progress(self) -> Progress | None:
        """What there is to say, if it is news."""
        told = self.state != "open"
        now = Progress(
            id=self.id,
            state=self.state,
            before=_cost(self.before),
            after=_cost(self.after) if told else None,
        )
        if now == self.shown or (self.shown is None and not told):
            return None
        self.shown = now
        return now


class Freshness:
    """Follows the findings of units of work."""

    def __init__(self) -> None:
        self._followed: Bounded[str, _Followed] = Bounded(MAX_ENTRIES)
        self._entries: Bounded[str, list[_Followed]] = Bounded(MAX_ENTRIES)

    def unit(self, unit: Unit, findings: Sequence[Finding]) -> list[Progress]:
        """A complete unit, and what was found in it."""
        if not findings and not len(self._entries):
            return []
        entry = _entry(unit)
        followed = self._entries.get(entry) if entry else None
        if followed is None:
            if not findings or not entry:
                return []
            followed = []
            self._entries.put(entry, followed)
        executions = [one for one in unit.executions if one.text.statement.kind in ("read", "write", "copy")]
        cost = (len(executions), sum([one.duration_ns for one in executions]))
        changed: list[Progress] = []
        found = {finding.id: finding for finding in findings}
        for finding in found.values():
            one = self._follow(finding, followed)
            one.occurred(finding, _size(finding, executions), cost)
            _add(changed, one.progress())
        for one in followed:
            if one.id not in found:
                _without(one, executions, cost, bool(unit.route))
                _add(changed, one.progress())
        return changed

    def occurred(self, finding: Finding) -> list[Progress]:
        """A finding that no single unit shows."""
        one = self._followed.get(finding.id)
        changed: list[Progress] = []
        if one is not None and one.state == "gone":
            one.state, one.clean, one.small, one.after = "open", 0, 0, []
            _add(changed, one.progress())
        return changed

    def _follow(self, finding: Finding, followed: list[_Followed]) -> _Followed:
        one = self._followed.get(finding.id)
        if one is None:
            one = _Followed(finding)
            self._followed.put(finding.id, one)
        if one not in followed and len(followed) < MAX_FINDINGS:
            followed.append(one)
        return one


def _entry(unit: Unit) -> str:
    """What the units of one piece of work have in common; empty where nothing tells."""
    if unit.route:
        return f"{unit.route}\0{unit.executions[0].connection.database}"
    for execution in unit.executions:
        statement = execution.text.statement
        if statement.kind == "write" or (statement.kind == "read" and " FROM " in statement.sql):
            return statement.fingerprint
    return ""


def _without(one: _Followed, executions: Sequence[Execution], cost: tuple[int, int], routed: bool) -> None:
    """A unit of the entry in which the finding was not: it may be cured, or the unit had nothing to do."""
    size = _size(one.worst, executions)
    if not _had_reason(one, executions, routed or (size > 0 and bool(one.worst.fingerprints))):
        return
    if size <= 1 or isinstance(one.worst.evidence, ChattyEvidence):
        one.was_clean(cost)
    elif size <= HALF * one.size:
        one.was_small(cost)


def _had_reason(one: _Followed, executions: Sequence[Execution], same: bool) -> bool:
    """False where a unit would have been without it anyway: few rows drove the loop, or few were written.

    Where neither a route nor the statement itself says that it is the `same` piece of work, the parent must.
    """
    evidence = one.worst.evidence
    least = HALF * one.size
    if isinstance(evidence, LoopEvidence) and evidence.parent_sql:
        rows = [each.rows for each in executions if each.text.statement.sql == evidence.parent_sql]
        return max(rows) >= least if rows else same
    if isinstance(evidence, WriteLoopEvidence):
        return sum([each.rows for each in executions if each.text.statement.kind != "read"]) >= least
    return same


def _size(finding: Finding, executions: Sequence[Execution]) -> int:
    """The round trips of a finding's statement in a unit; of a whole unit where the finding is of all statements."""
    if not finding.fingerprints:
        return len(executions)
    statement = finding.fingerprints[0]
    return len({(one.connection.id, one.exchange) for one in executions if one.text.statement.fingerprint == statement})


def _keep(costs: list[tuple[int, int]], cost: tuple[int, int]) -> None:
    costs.append(cost)
    if len(costs) > KEPT:
        del costs[0]


def _cost(costs: Sequence[tuple[int, int]]) -> Cost:
    """The medians."""
    queries = median([one[0] for one in costs]) if costs else 0
    return Cost(queries=round(queries), ms=round(median([one[1] for one in costs]) / 1e6, 3) if costs else 0.0)


def _add(changed: list[Progress], progress: Progress | None) -> None:
    if progress is not None:
        changed.append(progress)
