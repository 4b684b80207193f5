"""Prometheus metrics of one session: everything of the contract's list, with a bound on every label.

Enters: executions, the ledger of findings, what the relay counts. Leaves: a registry and its exposition, OpenMetrics
where it is asked for. Out of scope: HTTP. One collector draws all families when it is scraped; observing is plain
arithmetic on slotted records, since a prometheus_client counter costs a lock and a look-up each.

What strangers send (database names, SQLSTATEs, commands, tables) enters a label after it was admitted, up to a cap; the
rest is `other`. Fingerprints are admitted for good: a member that came and went would leave a new series at each turn.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from pgtattle.analyzers.reports.harmless import harmless
from pgtattle.analyzers.sql.comments import TRACE_KEY, trace_id
from pgtattle.proxy.collector import Families
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.ledger import Ledger
from pgtattle.proxy.wire.control import RelayCounters

OTHER: Final = "other"
MAX_FINGERPRINTS: Final = 200
MAX_VALUES: Final = 100
MAX_PLACES: Final = 500
MAX_TRANSACTIONS: Final = 10_000
_MAX_VALUE_LENGTH: Final = 80
_SUMMARY_TABLES: Final = 3

_MILLISECONDS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
_BOUNDS_NS: Final = tuple(int(ms * 1e6) for ms in _MILLISECONDS)
_BOUNDS: Final = (*(str(ms / 1000) for ms in _MILLISECONDS), "+Inf")


class Metrics:
    """The metrics of this process; `evicted` gives what fell out of bounded memory, by what it was."""

    def __init__(self, evicted: Callable[[], Mapping[str, int]] = dict, findings: Ledger | None = None) -> None:
        self.registry = CollectorRegistry()
        self._evicted = evicted
        self._ledger = findings
        self._relay = RelayCounters()
        self.task_failures = 0
        self._explain_available = False
        self._fallbacks: Mapping[str, int] = {}
        self._commands = _Admitted(MAX_VALUES)
        self._databases = _Admitted(MAX_VALUES)
        self._sqlstates = _Admitted(MAX_VALUES)
        self._queries: dict[tuple[str, str], _Queries] = {}
        self._errors: dict[str, int] = {}
        self._statements: dict[str, _Statement] = {}
        self._other = _Statement("")
        self._transactions = {"commit": 0, "rollback": 0}
        self._transaction_times = _Histogram()
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.registry.register(Families(self.families))

    def observe(self, execution: Execution, tables: Sequence[str] = ()) -> None:
        """Count an execution; `tables` of its statement name it in `pgtattle_statement_info`."""
        text = execution.text
        statement = text.statement
        place = (statement.command, execution.connection.database)
        queries = self._queries.get(place)
        if queries is None:
            queries = self._place(place)
        duration = execution.duration_ns
        trace = trace_id(text.tags[TRACE_KEY]) if TRACE_KEY in text.tags and not execution.reused else ""
        queries.rows += execution.rows
        queries.durations.add(duration, trace)
        if execution.first_row_ns:
            queries.first_rows.add(max(0, execution.first_row_ns - execution.started_ns), trace)
        if execution.sqlstate is not None:
            queries.errors += 1
            state = self._sqlstates.admit(execution.sqlstate)
            self._errors[state] = self._errors.get(state, 0) + 1
        totals = self._statements.get(statement.fingerprint)
        if totals is None:
            totals = self._statement(execution, tables)
        totals.calls += 1
        totals.total_ns += duration
        if execution.transaction:
            self._in_transaction(execution)

    def relay(self, counters: RelayCounters) -> None:
        """Take what the relay counts; its counters outlive this process."""
        self._relay = counters

    def explain(self, available: bool) -> None:
        """Take whether the side connection can ask the planner."""
        self._explain_available = available

    def parse_fallbacks(self, fallbacks: Mapping[str, int]) -> None:
        """Take how many statements were not parsed, by reason."""
        self._fallbacks = fallbacks

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type, in the format that the Accept header prefers."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _place(self, place: tuple[str, str]) -> _Queries:
        admitted = (self._commands.admit(place[0]), self._databases.admit(place[1]))
        if admitted not in self._queries and len(self._queries) >= MAX_PLACES:
            admitted = (OTHER, OTHER)
        return self._queries.setdefault(admitted, _Queries())

    def _statement(self, execution: Execution, tables: Sequence[str]) -> _Statement:
        if len(self._statements) >= MAX_FINGERPRINTS:
            return self._other
        statement = execution.text.statement
        summary = " ".join((statement.command, *tables[:_SUMMARY_TABLES]))
        totals = self._statements[statement.fingerprint] = _Statement(_label(summary))
        return totals

    def _in_transaction(self, execution: Execution) -> None:
        connection = execution.connection.id
        number, started_ns = self._open.get(connection, (0, 0))
        if number != execution.transaction:
            started_ns = execution.started_ns
            self._open[connection] = (execution.transaction, started_ns)
            if len(self._open) > MAX_TRANSACTIONS:
                self._open.popitem(last=False)
        if execution.status == "I" and execution.position == execution.siblings - 1:
            del self._open[connection]
            self._transactions["commit" if execution.command_tag == "COMMIT" else "rollback"] += 1
            self._transaction_times.add(max(0, execution.ended_ns - started_ns))

    def families(self) -> Iterator[Metric]:
        """All families as they stand; what the registry asks for at a scrape."""
        yield from self._query_families()
        yield from self._statement_families()
        yield from self._finding_families()
        yield from self._relay_families()
        fallbacks = list(self._fallbacks.items())[:MAX_VALUES]
        yield _counter(
            "pgtattle_parse_fallback",
            "Statements that were not parsed and are judged by their words alone, by reason.",
            ["reason"],
            [((_label(reason),), count) for reason, count in fallbacks],
        )
        yield _counter(
            "pgtattle_evicted",
            "Records that fell out of bounded memory, by what they were.",
            ["what"],
            [((what,), count) for what, count in self._evicted().items()],
        )
        available = "1 while the server's planner can be asked (EXPLAIN over the side connection), else 0."
        yield _gauge("pgtattle_explain_available", available, [], [((), int(self._explain_available))])
        yield _gauge(
            "pgtattle_build_info",
            "Version of pgtattle and of Python.",
            ["version", "python"],
            [((version("pgtattle"), platform.python_version()), 1)],
        )

    def _query_families(self) -> Iterator[Metric]:
        places = list(self._queries.items())
        yield _counter(
            "pgtattle_queries",
            "Executions by command, database and status (ok or error).",
            ["command", "database", "status"],
            [
                ((*place, status), count)
                for place, each in places
                for status, count in (("ok", each.durations.count() - each.errors), ("error", each.errors))
                if count or status == "ok"
            ],
        )
        yield _histogram(
            "pgtattle_query_duration_seconds",
            "Server time of executions: from the request's last byte to the answer's, less what the client stalled.",
            ["command", "database"],
            [(place, each.durations) for place, each in places],
        )
        yield _histogram(
            "pgtattle_query_first_row_seconds",
            "Time from the request to the first row, of executions that gave rows.",
            ["command", "database"],
            [(place, each.first_rows) for place, each in places],
        )
        yield _counter(
            "pgtattle_rows",
            "Rows read or written, by command and database.",
            ["command", "database"],
            [(place, each.rows) for place, each in places],
        )
        yield _counter(
            "pgtattle_errors",
            "Failed executions by SQLSTATE.",
            ["sqlstate"],
            [((state,), count) for state, count in self._errors.items()],
        )
        yield _counter(
            "pgtattle_transactions",
            "Transaction blocks that ended, by outcome (commit or rollback); autocommit is none.",
            ["outcome"],
            [((outcome,), count) for outcome, count in self._transactions.items()],
        )
        yield _histogram(
            "pgtattle_transaction_duration_seconds",
            "Length of transaction blocks, from BEGIN to their end.",
            [],
            [((), self._transaction_times)],
        )

    def _statement_families(self) -> Iterator[Metric]:
        statements = [*self._statements.items(), (OTHER, self._other)]
        yield _counter(
            "pgtattle_statement_seconds",
            "Server time by statement; the first fingerprints seen have a series each, the rest is other.",
            ["fingerprint"],
            [((fingerprint,), each.total_ns / 1e9) for fingerprint, each in statements],
        )
        yield _counter(
            "pgtattle_statement_calls",
            "Executions by statement.",
            ["fingerprint"],
            [((fingerprint,), each.calls) for fingerprint, each in statements],
        )
        yield _gauge(
            "pgtattle_statement_info",
            "Command and tables of a fingerprint.",
            ["fingerprint", "summary"],
            [((fingerprint, each.summary), 1) for fingerprint, each in self._statements.items()],
        )

    def _finding_families(self) -> Iterator[Metric]:
        active = self._ledger.active() if self._ledger is not None else {}
        reached = self._ledger.reached if self._ledger is not None else {}
        labels = ["rule", "severity"]
        yield _counter(
            "pgtattle_findings",
            "Findings, each counted once for every severity that it reached.",
            labels,
            list(reached.items()),
        )
        yield _gauge("pgtattle_findings_active", "Findings that are open or improved.", labels, list(active.items()))

    def _relay_families(self) -> Iterator[Metric]:
        relay = self._relay
        yield _gauge(
            "pgtattle_client_connections",
            "Client connections now, by state.",
            ["state"],
            [(("open",), relay.connections_open)],
        )
        yield _counter(
            "pgtattle_connections",
            "Client connections by result (accepted, refused, failed, declined) and TLS on the client's side.",
            ["result", "tls"],
            [
                (tuple(kind.split("/")), count)
                for kind, count in ({"accepted/off": 0} | relay.connections_total).items()
            ],
        )
        yield _counter(
            "pgtattle_bytes",
            "Bytes forwarded.",
            ["direction"],
            [(("to_server",), relay.bytes_to_server), (("to_client",), relay.bytes_to_client)],
        )
        shed = "Executions that were forwarded but not looked at, because the analysis lagged."
        yield _counter("pgtattle_tap_shed_executions", shed, [], [((), relay.shed)])
        lost = "Executions whose analysis was lost with a profiler that died."
        yield _counter("pgtattle_tap_lost_executions", lost, [], [((), relay.lost)])
        yield _gauge("pgtattle_tap_queue_bytes", "Bytes that wait for analysis.", [], [((), relay.queue_bytes)])
        yield _counter(
            "pgtattle_opaque_connections",
            "Connections that are forwarded unobserved, by reason.",
            ["reason"],
            [((_label(reason),), count) for reason, count in list(relay.opaque.items())[:MAX_VALUES]],
        )
        yield _counter("pgtattle_profiler_restarts", "Restarts of the profiler process.", [], [((), relay.restarts)])
        failures = "Background tasks of the relay and the profiler that failed; the log has a line for each."
        failed = relay.task_failures + self.task_failures
        yield _counter("pgtattle_task_failures", failures, [], [((), failed)])


class _Admitted:
    """The label values that came first, up to a cap; the rest is `other`."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._values: set[str] = set()

    def admit(self, value: str) -> str:
        value = _label(value)
        if value in self._values:
            return value
        if len(self._values) >= self._cap:
            return OTHER
        self._values.add(value)
        return value


class _Histogram:
    """Counts by bucket, the sum, and the latest exemplar of each bucket."""

    __slots__ = ("_counts", "_exemplars", "_sum_ns")

    def __init__(self) -> None:
        self._counts = [0] * len(_BOUNDS)
        self._exemplars: dict[int, Exemplar] = {}
        self._sum_ns = 0

    def add(self, ns: int, trace: str = "") -> None:
        bucket = bisect_left(_BOUNDS_NS, ns)
        self._counts[bucket] += 1
        self._sum_ns += ns
        if trace:
            self._exemplars[bucket] = Exemplar({"trace_id": trace}, ns / 1e9)

    def count(self) -> int:
        return sum(self._counts)

    def draw(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        total = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for index, (bound, count) in enumerate(zip(_BOUNDS, self._counts, strict=True)):
            total += count
            exemplar = self._exemplars.get(index)
            buckets.append((bound, total, exemplar) if exemplar else (bound, total))
        family.add_metric(labels, buckets, self._sum_ns / 1e9)


class _Queries:
    """Totals of one command in one database."""

    __slots__ = ("durations", "errors", "first_rows", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.errors = 0
        self.durations = _Histogram()
        self.first_rows = _Histogram()


class _Statement:
    __slots__ = ("calls", "summary", "total_ns")

    def __init__(self, summary: str) -> None:
        self.summary = summary
        self.calls = 0
        self.total_ns = 0


_Samples = Sequence[tuple[Sequence[str], float]]


def _counter(name: str, help_text: str, labels: Sequence[str], samples: _Samples) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(name: str, help_text: str, labels: Sequence[str], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histogram(
    name: str, help_text: str, labels: Sequence[str], samples: Sequence[tuple[Sequence[str], _Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, histogram in samples:
        histogram.draw(family, values)
    return family


def _label(value: str) -> str:
    return harmless(value[:_MAX_VALUE_LENGTH])
