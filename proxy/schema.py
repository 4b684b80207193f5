"""The API's and the report's wire types, encoded by msgspec. Durations are milliseconds, moments ISO 8601 UTC.

Nothing here holds a value of a user's query unless `--values full` was asked for: `sql` is the normal form and
`parameters` are masked before these records are made.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from pgtattle.proxy.checks import Check

Severity = Literal["info", "low", "medium", "high", "critical"]
Confidence = Literal["candidate", "likely", "proven"]
State = Literal["open", "improved", "gone", "ignored"]
SuggestionStatus = Literal["verified", "partly", "unverified", "confirmed", "refuted", "advice"]
ExplainState = Literal["unknown", "ok", "off", "no_password", "refused", "no_rights", "unreachable"]

SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
CONFIDENCES: tuple[Confidence, ...] = ("candidate", "likely", "proven")
STATES: tuple[State, ...] = ("open", "improved", "gone", "ignored")


class ExecutionView(Struct, frozen=True, kw_only=True):
    """One execution as people see it."""

    id: int
    connection: int
    at: str
    database: str
    user: str
    application: str
    client: str
    fingerprint: str
    sql: str
    command: str
    parameters: list[str | None]
    protocol: str
    tag: str
    rows: int
    bytes: int
    sqlstate: str | None
    transaction: int
    exchange: int
    position: int
    duration_ms: float
    first_row_ms: float | None
    stalled_ms: float
    tags: dict[str, str]


class StatementView(Struct, frozen=True, kw_only=True):
    """A normalized statement with its totals; `fingerprint` is its id."""

    fingerprint: str
    sql: str
    kind: str
    tables: list[str]
    calls: int
    rows: int
    total_ms: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    errors: int


class UnitRef(Struct, frozen=True, kw_only=True):
    """Where a finding was seen: `kind` and `key` of the unit, its route and source line when tagged."""

    kind: str
    key: str
    route: str = ""
    source: str = ""


class Suggestion(Struct, frozen=True, kw_only=True):
    """What to do: words, SQL where there is some, and how far it was proven."""

    text: str
    sql: str = ""
    status: SuggestionStatus = "advice"


class LoopPart(Struct, frozen=True, kw_only=True):
    """One loop of several that are one piece of code; `parent` and `parent_column` of its rows fed `column`."""

    fingerprint: str
    sql: str
    table: str
    executions: int
    distinct: int
    database_ms: float
    parent: str = ""
    parent_column: str = ""
    column: str = ""
    proof: list[str] = []


class LoopEvidence(Struct, frozen=True, kw_only=True, tag="n-plus-one", tag_field="rule"):
    """`n-plus-one`: how often in one unit, how many different values, time in the database and between the queries.

    `parent_column` of the parent's rows fed `column`; `proof` says by which evidence (`key names order sparse scaling`,
    or `walk` where each turn asked for what an earlier one answered), nothing where it is only likely. `coverage` is
    the share of the parent's values that were asked for. `saving_ms` is the time of the loop less its longest
    execution, which stands for the one query in its place. `loops` are all loops, where one change would end several:
    the first is the one that the rest of the evidence is of.
    """

    executions: int
    distinct: int
    units: int
    database_ms: float
    gap_ms: float
    signal: str
    parent: str = ""
    parent_sql: str = ""
    parent_column: str = ""
    column: str = ""
    proof: list[str] = []
    coverage: float = 0.0
    saving_ms: float = 0.0
    loops: list[LoopPart] = []


class RepeatEvidence(Struct, frozen=True, kw_only=True, tag="repeated-read", tag_field="rule"):
    """`repeated-read`: same query and same values, `executions` times in one unit, or `across` many.

    Across units `changes` counts how often its result was another one in the `watched_s` seconds, and `ttl_s` is the
    shortest time that it stayed the same, or all of that time.
    """

    executions: int
    distinct: int
    units: int
    database_ms: float
    signal: str
    across: bool = False
    changes: int = 0
    watched_s: float = 0.0
    ttl_s: float = 0.0


class WriteLoopEvidence(Struct, frozen=True, kw_only=True, tag="row-by-row-write", tag_field="rule"):
    """`row-by-row-write`: how often in one unit, the rows written, time in the database and between the writes.

    `committed_alone`: no transaction holds them together. `checked`: a read of the same table comes before each.
    """

    executions: int
    distinct: int
    units: int
    rows: int
    database_ms: float
    gap_ms: float
    signal: str
    committed_alone: bool = False
    checked: bool = False


class ChattyEvidence(Struct, frozen=True, kw_only=True, tag="chatty-unit", tag_field="rule"):
    """`chatty-unit`: reads and writes of one unit against its budget; `most` are the most frequent statements."""

    queries: int
    statements: int
    units: int
    budget_queries: int
    budget_ms: float
    database_ms: float
    span_ms: float
    most: list[str]
    signal: str


class ChurnEvidence(Struct, frozen=True, kw_only=True, tag="statement-cache-churn", tag_field="rule"):
    """`statement-cache-churn`: texts of one statement that one connection prepared, and in what they differ."""

    application: str
    texts: int
    cause: Literal["comments", "lists", "literals"]


class InjectionEvidence(Struct, frozen=True, kw_only=True, tag="injection-signal", tag_field="rule"):
    """`injection-signal`: what was strange, what the place was like before, and how often it was so.

    `slot` is the literal whose value did it, masked to kind and length; `errors` are those of statements that begin
    alike.
    """

    application: str
    signs: list[str]
    usual_sql: str
    executions: int
    values: int
    errors: int
    slot: str
    source: str = ""
    sqlstate: str = ""


class PastedEvidence(Struct, frozen=True, kw_only=True, tag="unparameterized", tag_field="rule"):
    """`unparameterized`: literals that vary. `bound_share` is the share of the application's executions that bind.

    `examples` are masked to kind and length. `lengths` counts those of a list, where that is what varies.
    """

    application: str
    executions: int
    texts: int
    slots: list[str]
    values: int
    bound_share: float
    statements: int
    examples: list[str]
    lengths: int = 0


class IndexEvidence(Struct, frozen=True, kw_only=True, tag="missing-index", tag_field="rule"):
    """`missing-index`: what the planner said. Costs are in its units, before and after the hypothetical index."""

    table: str
    columns: list[str]
    node: str
    table_rows: int
    plan_rows: int
    cost_before: float
    cost_after: float | None
    executions: int
    mean_ms: float
    note: str = ""


class SlowEvidence(Struct, frozen=True, kw_only=True, tag="slow-query", tag_field="rule"):
    """`slow-query`: executions over the target, with the worst and the middle of them."""

    target_ms: float
    executions: int
    over_target: int
    p50_ms: float
    max_ms: float
    rows: int


Evidence = (
    LoopEvidence
    | RepeatEvidence
    | WriteLoopEvidence
    | ChattyEvidence
    | ChurnEvidence
    | InjectionEvidence
    | PastedEvidence
    | IndexEvidence
    | SlowEvidence
)


class Cost(Struct, frozen=True, kw_only=True):
    """What a unit of work cost in the database, or an execution of a statement: the median of several."""

    queries: int
    ms: float


class FindingView(Struct, frozen=True, kw_only=True):
    """A finding with everything that was seen of it so far; its `id` survives restarts and new literals.

    `count` (executions), `total_ms` and `units` are totals and always current; `units` is 0 where the rule does not
    look at units of work. `title`, `unit`, `evidence` and `suggestion` are of the worst occurrence. `before` is what a
    unit of work, or an execution of the statement, cost with the fault, `after` what it costs since it is `improved` or
    `gone`.
    """

    id: str
    rule: str
    severity: Severity
    confidence: Confidence
    title: str
    fingerprints: list[str]
    sql: str
    count: int
    total_ms: float
    unit: UnitRef | None
    evidence: Evidence
    suggestion: Suggestion
    first_seen: str
    last_seen: str
    units: int = 0
    state: State = "open"
    before: Cost | None = None
    after: Cost | None = None

    @property
    def stands(self) -> bool:
        """True while there is something to mend."""
        return self.state in ("open", "improved")

    @property
    def gravity(self) -> tuple[bool, int, int, float, str]:
        """Sort key: the gravest finding first, what does not stand last."""
        severity, confidence = SEVERITIES.index(self.severity), CONFIDENCES.index(self.confidence)
        return (not self.stands, -severity, -confidence, -self.total_ms, self.id)

    @property
    def change(self) -> str:
        """What a unit of work, or an execution of the statement, cost before and costs now, in words."""
        before, after, unit = self.before, self.after, self.unit
        where = "each execution" if unit is None else unit.route or f"a {unit.kind}"
        if before is None or after is None:
            return f"{where}: no longer found"
        queries = "" if unit is None else f"{before.queries:,} → {after.queries:,} queries, "
        return f"{where}: {queries}{before.ms:,.1f} → {after.ms:,.1f} ms"


class ExplainView(Struct, frozen=True, kw_only=True):
    """Whether the side connection can ask the server's planner: `ok` it can, `unknown` before the first try.

    `off`: not wanted in this mode. `no_password`, `refused`: the login fails. `no_rights`: the role may not plan some
    statements. `unreachable`: no server answers. `reason` and `cure` are for people, empty where there is nothing to
    mend; `hypopg` says that the extension is in the upstream's database.
    """

    state: ExplainState = "unknown"
    reason: str = ""
    cure: str = ""
    hypopg: bool = False


class SessionView(Struct, frozen=True, kw_only=True):
    """The session a report speaks of. `executions` were analyzed, `shed` and `lost` were not: together they are all.

    `connections` are open now, `connections_total` were accepted since the start, `tls_declined` are clients that left
    because they were offered no TLS. `database_url` is that of the upstream's database through the proxy, without a
    password. `explain` is the side connection's state; `checks` say it and more for people. `evicted` counts what fell
    out of the bounded memory: `executions`, `statements` (their totals go to `other`), `findings`.
    """

    id: str
    started_at: str
    seconds: float
    server_version: str
    executions: int
    connections: int
    connections_total: int
    shed: int
    lost: int
    restarts: int
    opaque_connections: int
    tls_declined: int = 0
    listen: str = ""
    upstream: str = ""
    database_url: str = ""
    checks: list[Check] = []
    notes: list[str] = []
    explain: ExplainView = ExplainView()
    evicted: dict[str, int] = {}


class Report(Struct, frozen=True, kw_only=True):
    """The JSON report, version 1."""

    version: int = 1
    session: SessionView
    findings: list[FindingView]
    statements: list[StatementView]


class ExecutionPage(Struct, frozen=True, kw_only=True):
    """A page of executions, oldest first; `after` is the cursor of the next page, None at the end."""

    items: list[ExecutionView]
    after: str | None = None


class StatementPage(Struct, frozen=True, kw_only=True):
    """A page of statements, most total time first."""

    items: list[StatementView]
    after: str | None = None


class FindingPage(Struct, frozen=True, kw_only=True):
    """A page of findings, gravest first."""

    items: list[FindingView]
    after: str | None = None


class UnitView(Struct, frozen=True, kw_only=True):
    """A unit of work that is complete; `signal` says how it was told apart, `confidence` how sure that is.

    `span_ms` is from its first start to its last end, `database_ms` the server's part. `statements` are the
    fingerprints of its most frequent ones.
    """

    id: str
    kind: str
    key: str
    confidence: Literal["strong", "medium", "weak"]
    signal: str
    route: str
    source: str
    started_at: str
    span_ms: float
    database_ms: float
    executions: int
    connections: int
    statements: list[str]


class UnitPage(Struct, frozen=True, kw_only=True):
    """A page of units, latest first; `after` is the cursor of the next page, None at the end."""

    items: list[UnitView]
    after: str | None = None


class UnitDetail(Struct, frozen=True, kw_only=True):
    """A unit with its executions, as far as they are remembered, in the order of their ends."""

    unit: UnitView
    executions: list[ExecutionView]


class ConnectionView(Struct, frozen=True, kw_only=True):
    """A client connection that is open and followed; `backend_pid` is 0 before its login is over."""

    id: int
    client: str
    user: str
    database: str
    application: str
    backend_pid: int
    opened_at: str


class ConnectionPage(Struct, frozen=True, kw_only=True):
    """A page of connections, oldest first; `after` is the cursor of the next page, None at the end."""

    items: list[ConnectionView]
    after: str | None = None


class ScopeMatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which connections are a scope's own: a process's of this machine, or those of an application name."""

    client_pid: int = 0
    application_name: str = ""


class ScopeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /scopes`: `kind` is `test`, `request` or `job`, `key` its name."""

    kind: str
    key: str
    match: ScopeMatch


class ScopeView(Struct, frozen=True, kw_only=True):
    """A scope; `DELETE /scopes/{id}` ends it."""

    id: str
    kind: str
    key: str
    match: ScopeMatch


class ErrorBody(Struct, frozen=True, kw_only=True):
    """What went wrong with a request."""

    code: str
    message: str
    details: dict[str, str] = {}


class ErrorView(Struct, frozen=True, kw_only=True):
    """The body of every answer that is not a success."""

    error: ErrorBody
