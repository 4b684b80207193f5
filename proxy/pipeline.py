"""The profiler's one direction: the tap's records → sessions → executions → units of work → analyzers → store and
metrics.

Enters: batches and moments. Leaves: what the store and the metrics hold, and questions for the planner. No I/O, no
clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.finding import Finding, Progress
from pgtattle.analyzers.freshness import Freshness
from pgtattle.analyzers.questions import Answer, Question
from pgtattle.analyzers.registry import analyzers
from pgtattle.analyzers.samples import Samples
from pgtattle.analyzers.sql.database_ddl import claimed
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.claims import Claims
from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.events import Connection, Text, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.metrics import Metrics
from pgtattle.proxy.processes import is_of
from pgtattle.proxy.scopes import Scopes
from pgtattle.proxy.session import Session
from pgtattle.proxy.settings import Settings
from pgtattle.proxy.store import Store
from pgtattle.proxy.units import Units
from pgtattle.proxy.wire import batch, control

END_OF_TIME_NS: Final = 2**62
TICK_NS: Final = 100_000_000
AWAY_NS: Final = 200_000_000
"""Between two watermarks, which come every 100 ms: more says that the relay was not running."""


class Pipeline:
    """All state of a profiler between its two edges."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        ask: Callable[[Question], None],
        give_up: Callable[[int, str], None],
        claims: Claims,
    ) -> None:
        self.executions = 0
        self.connections = 0
        self.unchallenged: set[str] = set()
        self._store = store
        self._metrics = metrics
        self._ask = ask
        self._give_up = give_up
        self._claims = claims
        self._texts = Texts()
        self._facts = FactsCache()
        self._samples = Samples()
        self.scopes = Scopes(is_of)
        self._units = Units(self.scopes, settings.behind_pooler)
        self._analyzers: list[Analyzer] = analyzers(settings.rules, self._facts, self._samples)
        # Most rules look at units only.
        self._lookers = [one for one in self._analyzers if type(one).execution is not Analyzer.execution]
        self._freshness = Freshness()
        self._sessions: dict[int, Session] = {}
        self._watermark_ns = self._ticked_ns = 0

    @property
    def parse_fallbacks(self) -> dict[str, int]:
        """Statements that sqlglot was not given or could not read, by reason."""
        return self._facts.fallbacks

    def take(self, records: bytes, watermark_ns: int) -> None:
        """Take a batch, and the relay's word that nothing older will come."""
        at_ns = batch.first_ns(records) if records else watermark_ns
        if at_ns - self._watermark_ns > AWAY_NS:
            # The relay itself was not running: nobody knows when what it read now had arrived.
            self._units.resume(at_ns)
        if records:
            self.records(records)
        self._watermark_ns = watermark_ns
        if watermark_ns - self._ticked_ns >= TICK_NS:
            self._ticked_ns = watermark_ns
            self.tick(watermark_ns)

    @property
    def waits(self) -> bool:
        """True while something is open that ends, or is looked at, when time passes without traffic."""
        return self._units.waits(self._busy) or any(analyzer.waits for analyzer in self._analyzers)

    def open_connections(self) -> list[Connection]:
        """The connections that are open and followed, oldest first."""
        return [session.connection for session in self._sessions.values()]

    def records(self, records: bytes) -> None:
        """Take a batch: decoded as a whole first, then looked at by one after another, for the processor's caches."""
        executions: list[Execution] = []
        for kind, connection, at_ns, body in batch.unpack(records):
            if kind == batch.OPENED:
                opened = msgspec.json.decode(body, type=control.Opened)
                self.connections += 1
                record = Connection(id=connection, client=opened.client, opened_ns=opened.opened_ns)
                self._sessions[connection] = Session(record, self._read, self._number, self._samples)
                continue
            session = self._sessions.get(connection)
            if session is None:
                continue
            try:
                if kind == batch.FRONTEND:
                    session.frontend(body, at_ns)
                elif kind == batch.BACKEND:
                    self._answered(session, body, at_ns, executions)
                elif kind in (batch.CLOSED, batch.OPAQUE):
                    executions += session.close(at_ns)
                    self._executed(executions)
                    executions = []
                    self._forget(connection, at_ns)
                else:
                    _told(session, kind, body, at_ns)
            except ProtocolViolation as violation:
                self._executed(executions)
                executions = []
                self._forget(connection, at_ns)
                self._give_up(connection, violation.reason)
        self._executed(executions)

    def tick(self, now_ns: int) -> None:
        """All traffic up to `now_ns` was taken: complete the units that fell silent."""
        self._complete(self._units.tick(now_ns, self._busy))
        for unit in self._units.show(now_ns, self._busy):
            self._show(unit)
        self._judge(now_ns)

    def flush(self) -> None:
        """Nothing more comes: complete all units."""
        self._complete(self._units.flush())
        self._judge(END_OF_TIME_NS)

    def answer(self, answer: Answer) -> None:
        """Bring the planner's answer back to the analyzers."""
        for analyzer in self._analyzers:
            self._take(analyzer.answer(answer))

    def _read(self, sql: str, truncated: bool, escapes: bool) -> tuple[Text, ...]:
        texts = self._texts.read(sql, truncated, escapes)
        for text in texts:
            if text.statement.kind == "ddl":
                for database in claimed(text):
                    self._claims.claim(database)
        return texts

    def _number(self) -> int:
        self.executions += 1
        return self.executions

    def _busy(self, connection: int) -> bool:
        session = self._sessions.get(connection)
        return session is not None and session.busy

    def _answered(self, session: Session, body: bytes, at_ns: int, executions: list[Execution]) -> None:
        authenticated = session.authenticated
        executions += session.backend(body, at_ns)
        if session.authenticated and not authenticated and not session.challenged:
            self._note_unchallenged(session.connection)

    def _forget(self, connection: int, at_ns: int) -> None:
        self._sessions.pop(connection, None)
        self._complete(self._units.closed(connection, at_ns))

    def _note_unchallenged(self, connection: Connection) -> None:
        if len(self.unchallenged) < 100:
            self.unchallenged.add(connection.user)

    def _executed(self, executions: list[Execution]) -> None:
        facts, store, metrics, units = self._facts, self._store, self._metrics, self._units
        tables = [facts.tables(execution.text) for execution in executions]
        for execution, of_it in zip(executions, tables, strict=True):
            store.add_execution(execution, of_it)
        for execution, of_it in zip(executions, tables, strict=True):
            metrics.observe(execution, of_it)
        for looker in self._lookers:
            for execution in executions:
                outcomes = looker.execution(execution)
                if outcomes:
                    self._take(outcomes)
        for execution in executions:
            if execution.text.statement.kind == "ddl":
                self._release(execution)
            complete = units.add(execution)
            if complete:
                self._complete(complete)

    def _release(self, execution: Execution) -> None:
        gone = execution.sqlstate is None and execution.text.statement.command != "CREATE"
        for database in claimed(execution.text):
            self._claims.release(database, gone=gone)

    def _judge(self, now_ns: int) -> None:
        for analyzer in self._analyzers:
            for finding in self._take(analyzer.tick(now_ns)):
                self._progress(self._freshness.occurred(finding))

    def _complete(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self._store.units.add(unit)
            self._store.ledger.end_preview(unit.id)
            occurrences: list[Finding] = []
            for analyzer in self._analyzers:
                outcomes = analyzer.unit(unit)
                if outcomes:
                    occurrences += self._take(outcomes)
            self._progress(self._freshness.unit(unit, occurrences))

    def _show(self, unit: Unit) -> None:
        self._store.units.add(unit)
        self._store.ledger.begin_preview(unit.id)
        for analyzer in self._analyzers:
            self._take(analyzer.preview(unit))

    def _take(self, outcomes: Iterable[Outcome]) -> list[Finding]:
        """Remember findings, and ask what is to be asked; the findings that are occurrences."""
        occurrences: list[Finding] = []
        for outcome in outcomes:
            if isinstance(outcome, Finding):
                self._store.add_finding(outcome)
                if not outcome.cumulative:
                    occurrences.append(outcome)
            else:
                self._ask(outcome)
        return occurrences

    def _progress(self, progress: Iterable[Progress]) -> None:
        for one in progress:
            self._store.ledger.progress(one)


def _told(session: Session, kind: int, body: bytes, at_ns: int) -> None:
    """The rarer records."""
    match kind:
        case batch.STALLED:
            session.stalled(int.from_bytes(body, "big"), at_ns)
        case batch.STARTUP:
            session.startup(body, at_ns)
        case batch.STATEMENT:
            session.statement(body)
        case batch.GAP:
            session.resync(msgspec.json.decode(body, type=control.ShedGap).status, at_ns)
