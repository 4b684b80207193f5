"""What an analyzer says: a finding, as one occurrence of it. The store adds occurrences of one id up."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from pgtattle.proxy.schema import Confidence, Evidence, Severity, Suggestion, UnitRef


class Finding(Struct, frozen=True, kw_only=True):
    """One occurrence. `subject` and `route` make the id; `count` and `total_ns` are executions and their time.

    A `cumulative` finding's count, time and evidence stand for everything so far and replace the earlier ones; the
    others add up.
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
    cumulative: bool = False

    @property
    def id(self) -> str:
        """16 hex digits that survive restarts and new literals."""
        key = "\0".join((self.rule, self.subject, self.route)).encode("utf-8", "replace")
        return hashlib.blake2b(key, digest_size=8).hexdigest()
