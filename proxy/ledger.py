"""The findings of a session: one record each, which the API, the report, the event streams and the metrics read.

Enters: findings as the rules say them, and what became of them. Leaves: views with totals that are current whenever
they are read: those of occurrences are added up here, the others are drawn anew from the tallies that their rules
keep. What is said of a unit that is not complete (a preview) holds until it is said anew, or the unit is complete.
Bounded: the finding that has not been heard of for longest falls out. No I/O and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

from msgspec.structs import replace

from pgtattle.analyzers.finding import Finding, Progress
from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.schema import (
    CONFIDENCES,
    SEVERITIES,
    STATES,
    ChattyEvidence,
    Evidence,
    FindingView,
    LoopEvidence,
    RepeatEvidence,
    Suggestion,
    WriteLoopEvidence,
)
from pgtattle.proxy.views import Anchor, cleaned, milliseconds, without_lengths

MAX_PARTS: Final = 500
"""Sources of one finding whose tallies are followed, such as the statements that want one index."""
_MAX_FINGERPRINTS: Final = 20

Place = tuple[str, str]
"""A rule and a severity."""


class _Part:
    """One source of a finding: its tally, how it is drawn, and how it was when it was drawn last."""

    __slots__ = ("draw", "tally", "turn", "view")

    def __init__(self, tally: Tally, draw: Callable[[], Finding] | None, view: FindingView) -> None:
        self.tally = tally
        self.draw = draw
        self.turn = tally.turn
        self.view = view


class _Entry:
    """One finding. `total_ns` is of its occurrences, `weight` of the worst of them; what has parts is their sum.

    `settled` is what it is without previews, while there are some; empty where it is nothing without them.
    """

    __slots__ = ("parts", "revision", "settled", "total_ns", "view", "weight")

    def __init__(self, view: FindingView) -> None:
        self.view = view
        self.weight = _weight(view)
        self.revision = 0
        self.total_ns = 0
        self.parts: list[_Part] = []
        self.settled: list[_Settled] | None = None

    def occurred(self, view: FindingView, total_ns: int) -> None:
        """Count one more occurrence."""
        if self.settled:
            self.settled[0] = self.settled[0].occurred(view, total_ns)
        elif self.settled is not None:
            self.settled.append(_first_of(view, total_ns))
        self.show(_Settled(self.view, self.total_ns, self.weight).occurred(view, total_ns))

    def show(self, settled: _Settled) -> None:
        """Be this, with previews or without."""
        self.view, self.total_ns, self.weight = settled


class _Settled(NamedTuple):
    """The occurrences of a finding, added up."""

    view: FindingView
    total_ns: int
    weight: tuple[int, int, int]

    def occurred(self, view: FindingView, total_ns: int) -> _Settled:
        """With one more."""
        weight = _weight(view)
        merged = _merged(self.view, view, weight >= self.weight)
        sum_ns = self.total_ns + total_ns
        merged = _with_units(replace(merged, total_ms=milliseconds(sum_ns)))
        return _Settled(merged, sum_ns, max(weight, self.weight))

    def previewed(self, view: FindingView, total_ns: int) -> _Settled:
        """With one more of a unit that is not complete: what was gone is there again."""
        one = self.occurred(view, total_ns)
        return one._replace(view=replace(one.view, state="open", after=None)) if one.view.state == "gone" else one


class Ledger:
    """All findings by id. `reached` counts them by rule and severity, once for each severity that they reached.

    Each change of a finding gets the next `revision`.
    """

    def __init__(self, anchor: Anchor, limit: int, hidden: bool) -> None:
        self.revision = 0
        self.evicted = 0
        self.reached: dict[Place, int] = {}
        self._anchor = anchor
        self._limit = limit
        self._hidden = hidden
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._previews: dict[str, list[tuple[FindingView, int]]] = {}
        self._counted: set[tuple[str, str]] = set()

    def add(self, finding: Finding) -> FindingView:
        """Take what a rule says, and give what is known of that finding now.

        Severity and confidence take the greatest so far; words and evidence are those of the worst occurrence, the
        latest of equals.
        """
        view = self._view(finding)
        entry = self._entries.get(view.id)
        before = entry.view if entry is not None else None
        preview = self._previews.get(finding.unit_id)
        if finding.tally is not None:
            if entry is None:
                entry = self._entries[view.id] = _Entry(view)
            _follow(entry, finding, view)
            view = _combined(entry, before)
        else:
            entry = self._occurred(entry, view, finding.total_ns, preview)
            view = entry.view
        self._changed(view.id, entry, view)
        if len(self._entries) > self._limit:
            identity, _ = self._entries.popitem(last=False)
            self._counted -= {(identity, severity) for severity in SEVERITIES}
            self.evicted += 1
        return view

    def begin_preview(self, unit: str) -> None:
        """What is said of this unit from here on holds until it is said anew, or the unit is complete."""
        self.end_preview(unit)
        self._previews[unit] = []

    def end_preview(self, unit: str) -> None:
        """Forget what was said of a unit before it was complete."""
        for identity in dict.fromkeys(view.id for view, _ in self._previews.pop(unit, ())):
            entry = self._entries.get(identity)
            if entry is None or entry.settled is None:
                continue
            others = [one for preview in self._previews.values() for one in preview if one[0].id == identity]
            standing = entry.settled[0] if entry.settled else None
            for view, total_ns in others:
                standing = _first_of(view, total_ns) if standing is None else standing.previewed(view, total_ns)
            if not others:
                entry.settled = None
            if standing is None:
                del self._entries[identity]
            else:
                entry.show(standing)
                self._changed(identity, entry, entry.view)

    def _occurred(
        self, entry: _Entry | None, view: FindingView, total_ns: int, preview: list[tuple[FindingView, int]] | None
    ) -> _Entry:
        """One more occurrence, counted for good or for as long as its preview holds."""
        if entry is None:
            entry = self._entries[view.id] = _Entry(view)
            entry.show(_first_of(view, total_ns))
            if preview is not None:
                entry.settled = []
        elif preview is None:
            entry.occurred(view, total_ns)
        else:
            standing = _Settled(entry.view, entry.total_ns, entry.weight)
            if entry.settled is None:
                entry.settled = [standing]
            entry.show(standing.previewed(view, total_ns))
        if preview is not None:
            preview.append((view, total_ns))
        return entry

    def progress(self, progress: Progress) -> None:
        """Take what became of a finding."""
        entry = self._entries.get(progress.id)
        if entry is not None:
            changes = {"state": progress.state, "before": progress.before, "after": progress.after}
            if entry.settled:
                settled = entry.settled[0]
                entry.settled[0] = settled._replace(view=replace(settled.view, **changes))
            self._changed(progress.id, entry, replace(entry.view, **changes))

    def recount(self) -> None:
        """Draw what has gone on counting since it was drawn."""
        changed = [
            (identity, entry)
            for identity, entry in self._entries.items()
            if any(part.turn != part.tally.turn for part in entry.parts)
        ]
        for identity, entry in changed:
            for part in entry.parts:
                if part.turn != part.tally.turn and part.draw is not None:
                    part.turn = part.tally.turn
                    part.view = self._view(part.draw())
            self._changed(identity, entry, _combined(entry, entry.view))

    def all(self) -> list[FindingView]:
        """All findings: those that stand first, by severity, confidence and time."""
        self.recount()
        return sorted([entry.view for entry in self._entries.values()], key=attrgetter("gravity"))

    def one(self, identity: str) -> FindingView | None:
        """A finding by its id; None when there is none."""
        self.recount()
        entry = self._entries.get(identity)
        return entry.view if entry is not None else None

    def since(self, revision: int) -> list[tuple[int, FindingView]]:
        """The findings that changed after a revision, each with its own, in the order of their changes.

        What only went on counting counts as changed when somebody has read it, or had it counted anew.
        """
        changed: list[tuple[int, FindingView]] = []
        for entry in reversed(self._entries.values()):
            if entry.revision <= revision:
                break
            changed.append((entry.revision, entry.view))
        return changed[::-1]

    def active(self) -> dict[Place, int]:
        """The findings that stand, by rule and severity; 0 where there were some."""
        self.recount()
        counts = dict.fromkeys(self.reached, 0)
        for entry in self._entries.values():
            if entry.view.stands:
                counts[entry.view.rule, entry.view.severity] += 1
        return counts

    def _view(self, finding: Finding) -> FindingView:
        view = cleaned(_first(finding, self._anchor))
        return replace(view, evidence=without_lengths(view.evidence)) if self._hidden else view

    def _changed(self, identity: str, entry: _Entry, view: FindingView) -> None:
        self.revision += 1
        entry.view = view
        entry.revision = self.revision
        self._entries.move_to_end(identity)
        if (identity, view.severity) not in self._counted:
            self._counted.add((identity, view.severity))
            place = (view.rule, view.severity)
            self.reached[place] = self.reached.get(place, 0) + 1


def _first_of(view: FindingView, total_ns: int) -> _Settled:
    return _Settled(_with_units(replace(view, total_ms=milliseconds(total_ns))), total_ns, _weight(view))


def _first(finding: Finding, anchor: Anchor) -> FindingView:
    at = anchor.iso(finding.at_ns)
    return FindingView(
        id=finding.id,
        rule=finding.rule,
        severity=finding.severity,
        confidence=finding.confidence,
        title=finding.title,
        fingerprints=list(finding.fingerprints[:_MAX_FINGERPRINTS]),
        sql=finding.sql,
        count=finding.count,
        total_ms=milliseconds(finding.total_ns),
        units=finding.tally.units if finding.tally is not None else int(finding.count > 0),
        unit=finding.unit,
        evidence=finding.evidence,
        suggestion=finding.suggestion,
        state=finding.state,
        before=finding.before,
        after=finding.after,
        first_seen=at,
        last_seen=at,
    )


def _follow(entry: _Entry, finding: Finding, view: FindingView) -> None:
    """Take a source of a finding, or what a known one says anew."""
    tally = finding.tally
    assert tally is not None
    for part in entry.parts:
        if part.tally is tally:
            part.draw, part.turn, part.view = finding.draw, tally.turn, view
            return
    if len(entry.parts) < MAX_PARTS:
        entry.parts.append(_Part(tally, finding.draw, view))


def _combined(entry: _Entry, before: FindingView | None) -> FindingView:
    """The sum of the parts, in the words of the worst one; as open as the most open of them."""
    if not entry.parts:
        return entry.view
    views = [part.view for part in entry.parts]
    worst = max(views, key=_part_weight)
    known = [before, *views] if before is not None else views
    fingerprints = dict.fromkeys([one for view in (worst, *known) for one in view.fingerprints])
    return replace(
        worst,
        severity=max([one.severity for one in known], key=SEVERITIES.index),
        confidence=max([one.confidence for one in known], key=CONFIDENCES.index),
        fingerprints=list(fingerprints)[:_MAX_FINGERPRINTS],
        count=sum([part.tally.count for part in entry.parts]),
        total_ms=milliseconds(sum([part.tally.total_ns for part in entry.parts])),
        units=sum([part.tally.units for part in entry.parts]),
        first_seen=min([one.first_seen for one in known]),
        last_seen=max([one.last_seen for one in views]),
    )


def _part_weight(view: FindingView) -> tuple[int, int, int, int]:
    """Which part speaks for the finding: one that is open, then the surest, gravest and most frequent."""
    sure, grave = CONFIDENCES.index(view.confidence), SEVERITIES.index(view.severity)
    return (-STATES.index(view.state), sure, grave, view.count)


def _merged(known: FindingView, fresh: FindingView, is_worst: bool) -> FindingView:
    """The finding with one more occurrence."""
    worst = fresh if is_worst else known
    fingerprints = dict.fromkeys((*known.fingerprints, *fresh.fingerprints))
    return replace(
        worst,
        severity=max(known.severity, fresh.severity, key=SEVERITIES.index),
        confidence=max(known.confidence, fresh.confidence, key=CONFIDENCES.index),
        fingerprints=list(fingerprints)[:_MAX_FINGERPRINTS],
        count=known.count + fresh.count,
        units=known.units + fresh.units,
        suggestion=_suggestion(worst, known, fresh),
        state=known.state,
        before=known.before,
        after=known.after,
        first_seen=min(known.first_seen, fresh.first_seen),
        last_seen=max(known.last_seen, fresh.last_seen),
    )


def _suggestion(worst: FindingView, known: FindingView, fresh: FindingView) -> Suggestion:
    """That of the worst occurrence; SQL that only the other one has goes with it."""
    own = worst.suggestion
    other = (known if worst is fresh else fresh).suggestion
    return own if own.sql or not other.sql else replace(own, sql=other.sql, status=other.status)


def _weight(view: FindingView) -> tuple[int, int, int]:
    """How bad an occurrence is; of the loops, the longest."""
    evidence = view.evidence
    length = 0
    if isinstance(evidence, LoopEvidence | RepeatEvidence | WriteLoopEvidence):
        length = evidence.executions
    elif isinstance(evidence, ChattyEvidence):
        length = evidence.queries
    return (CONFIDENCES.index(view.confidence), SEVERITIES.index(view.severity), length)


def _with_units(view: FindingView) -> FindingView:
    """The evidence says in how many units so far, too."""
    evidence = view.evidence
    if isinstance(evidence, LoopEvidence | RepeatEvidence | WriteLoopEvidence | ChattyEvidence):
        told: Evidence = replace(evidence, units=view.units)
        return replace(view, evidence=told)
    return view
