"""What an analyzer says: a finding, as one occurrence of it or as it stands, and what became of an earlier one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec import Struct

from pgtattle.analyzers.tally import Tally
from pgtattle.proxy.schema import Confidence, Cost, Evidence, Severity, State, Suggestion, UnitRef


class Finding(Struct, frozen=True, kw_only=True):
    """`subject` and `route` make the id; `count` and `total_ns` are executions and their time.

    Without a `tally` it is one occurrence: counts of an id add up, and evidence, words and unit are all of the worst.
    `unit_id` is that of the one unit that it is about: until that is complete it may be said anew.
    With a tally it is everything that this source of the finding saw so far: `tally` goes on counting, and `draw` makes
    the finding anew from it. `state`, `before` and `after` are of such a finding only; those of occurrences are found
    by `freshness`.
    """

    rule: str
    subject: str
    route: str = ""
    severity: Severity
    confidence: Confidence
    title: str
    fingerprints: tuple[str, ...] = ()
    sql: str = ""
    count: int
    total_ns: int
    unit: UnitRef | None = None
    evidence: Evidence
    suggestion: Suggestion
    at_ns: int
    unit_id: str = ""
    state: State = "open"
    before: Cost | None = None
    after: Cost | None = None
    tally: Tally | None = None
    draw: Callable[[], Finding] | None = None

    @property
    def id(self) -> str:
        """16 hex digits that survive restarts and new literals."""
        key = "\0".join((self.rule, self.subject, self.route)).encode("utf-8", "replace")
        return hashlib.blake2b(key, digest_size=8).hexdigest()

    @property
    def cumulative(self) -> bool:
        """True where its numbers stand for everything so far."""
        return self.tally is not None


class Progress(Struct, frozen=True, kw_only=True):
    """A finding of occurrences has another state, or other numbers of it."""

    id: str
    state: State
    before: Cost
    after: Cost | None
