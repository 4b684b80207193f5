"""Metrics: names, labels with bounds, and an exposition that Prometheus's own tools accept."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pgtattle.proxy.events import Connection
from pgtattle.proxy.metrics import MAX_FINGERPRINTS, MAX_PLACES, MAX_VALUES, Metrics
from pgtattle.proxy.store import Store
from pgtattle.proxy.wire.control import RelayCounters
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, execution, finding

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

CONTRACT = {
    "pgtattle_queries_total": {"command", "database", "status"},
    "pgtattle_query_duration_seconds_bucket": {"command", "database", "le"},
    "pgtattle_query_first_row_seconds_bucket": {"command", "database", "le"},
    "pgtattle_rows_total": {"command", "database"},
    "pgtattle_errors_total": {"sqlstate"},
    "pgtattle_transactions_total": {"outcome"},
    "pgtattle_transaction_duration_seconds_bucket": {"le"},
    "pgtattle_client_connections": {"state"},
    "pgtattle_connections_total": {"result", "tls"},
    "pgtattle_bytes_total": {"direction"},
    "pgtattle_findings_total": {"rule", "severity"},
    "pgtattle_findings_active": {"rule", "severity"},
    "pgtattle_statement_seconds_total": {"fingerprint"},
    "pgtattle_statement_calls_total": {"fingerprint"},
    "pgtattle_statement_info": {"fingerprint", "summary"},
    "pgtattle_tap_shed_executions_total": set(),
    "pgtattle_tap_lost_executions_total": set(),
    "pgtattle_tap_queue_bytes": set(),
    "pgtattle_opaque_connections_total": {"reason"},
    "pgtattle_parse_fallback_total": {"reason"},
    "pgtattle_profiler_restarts_total": set(),
    "pgtattle_task_failures_total": set(),
    "pgtattle_build_info": {"version", "python"},
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, _ = metrics.exposition()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def busy() -> Metrics:
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    store.add_finding(finding())
    metrics = Metrics(lambda: {"executions": 3}, store.ledger)
    metrics.observe(
        execution(1, "SELECT a", first_row_ns=STARTED_NS + 1_000_300_000, tags={"traceparent": TRACEPARENT}), ("t", "u")
    )
    metrics.observe(execution(2, "SELECT a", ms=20_000, rows=5, sqlstate="57014"), ("t", "u"))
    metrics.observe(execution(3, "COMMIT", transaction=1, command_tag="COMMIT"))
    metrics.relay(RelayCounters(connections_open=2, connections_total={"accepted/off": 5}, opaque={"gss": 1}, shed=4))
    metrics.parse_fallbacks({"depth": 2})
    return metrics


def test_every_name_of_the_contract_is_there_with_its_labels() -> None:
    found: dict[str, set[str]] = {}
    for name, labels in samples(busy()):
        found[name] = {label for label, _ in labels}
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT


def test_executions_are_counted() -> None:
    metrics = busy()
    place = {"command": "SELECT", "database": "shop"}
    assert value(metrics, "pgtattle_queries_total", **place, status="ok") == 1
    assert value(metrics, "pgtattle_queries_total", **place, status="error") == 1
    assert value(metrics, "pgtattle_rows_total", **place) == 6
    assert value(metrics, "pgtattle_errors_total", sqlstate="57014") == 1
    assert value(metrics, "pgtattle_query_duration_seconds_count", **place) == 2
    assert value(metrics, "pgtattle_query_duration_seconds_sum", **place) == pytest.approx(20.001)
    assert value(metrics, "pgtattle_query_duration_seconds_bucket", **place, le="0.001") == 1
    assert value(metrics, "pgtattle_query_duration_seconds_bucket", **place, le="10.0") == 1
    assert value(metrics, "pgtattle_query_duration_seconds_bucket", **place, le="+Inf") == 2
    assert value(metrics, "pgtattle_query_first_row_seconds_count", **place) == 1
    fingerprint = execution(1, "SELECT a").statement.fingerprint
    assert value(metrics, "pgtattle_statement_calls_total", fingerprint=fingerprint) == 2
    assert value(metrics, "pgtattle_statement_seconds_total", fingerprint=fingerprint) == pytest.approx(20.001)
    assert value(metrics, "pgtattle_statement_info", fingerprint=fingerprint, summary="SELECT t u") == 1
    assert value(metrics, "pgtattle_evicted_total", what="executions") == 3


def test_buckets_reach_from_a_quarter_millisecond_to_ten_seconds() -> None:
    bounds = [
        float(dict(labels)["le"])
        for name, labels in samples(busy())
        if name == "pgtattle_transaction_duration_seconds_bucket"
    ]
    assert bounds[:2] == [0.00025, 0.0005]
    assert bounds[-2:] == [10.0, float("inf")]
    assert len(bounds) == 16


def test_transactions_are_timed_from_their_first_statement_to_their_end() -> None:
    metrics = Metrics()
    second = 1_000_000_000
    begin = STARTED_NS + second
    for number, (sql, tag, status) in enumerate(
        (("BEGIN", "BEGIN", "T"), ("SELECT a", "SELECT 1", "T"), ("COMMIT", "COMMIT", "I")), start=1
    ):
        metrics.observe(execution(number, sql, transaction=1, command_tag=tag, status=status))
    metrics.observe(execution(4, "BEGIN", transaction=2, command_tag="BEGIN", status="T"))
    metrics.observe(execution(5, "COMMIT", transaction=2, command_tag="ROLLBACK", status="I"))
    metrics.observe(execution(6, "SELECT a", transaction=0))
    assert value(metrics, "pgtattle_transactions_total", outcome="commit") == 1
    assert value(metrics, "pgtattle_transactions_total", outcome="rollback") == 1
    ended = begin + 2 * second + 1_000_000
    total = value(metrics, "pgtattle_transaction_duration_seconds_sum")
    assert total == pytest.approx((ended - begin) / 1e9 + 1.001)


def test_a_transaction_sent_in_one_exchange_ends_once() -> None:
    metrics = Metrics()
    for position, sql in enumerate(("BEGIN", "SELECT a", "COMMIT")):
        metrics.observe(
            execution(position + 1, sql, transaction=1, command_tag=sql, position=position, siblings=3, status="I")
        )
    assert value(metrics, "pgtattle_transactions_total", outcome="commit") == 1


def test_what_the_relay_counts_goes_on_where_it_stood() -> None:
    metrics = Metrics()
    for sent, queued in ((10, 7), (11, 3)):
        metrics.relay(
            RelayCounters(
                bytes_to_server=sent, bytes_to_client=20, lost=1, restarts=1, queue_bytes=queued, task_failures=2
            )
        )
    assert value(metrics, "pgtattle_bytes_total", direction="to_server") == 11
    assert value(metrics, "pgtattle_bytes_total", direction="to_client") == 20
    assert value(metrics, "pgtattle_tap_lost_executions_total") == 1
    assert value(metrics, "pgtattle_profiler_restarts_total") == 1
    assert value(metrics, "pgtattle_task_failures_total") == 2
    assert value(metrics, "pgtattle_tap_queue_bytes") == 3


def test_a_finding_counts_once_for_each_severity() -> None:
    store = Store(STARTED_UNIX_NS, STARTED_NS)
    metrics = Metrics(findings=store.ledger)
    for severity in ("low", "low", "high", "high"):
        store.add_finding(finding("a", severity=severity))
    store.add_finding(finding("b", severity="high"))
    assert value(metrics, "pgtattle_findings_total", rule="n-plus-one", severity="low") == 1
    assert value(metrics, "pgtattle_findings_total", rule="n-plus-one", severity="high") == 2
    assert value(metrics, "pgtattle_findings_active", rule="n-plus-one", severity="low") == 0
    assert value(metrics, "pgtattle_findings_active", rule="n-plus-one", severity="high") == 2


def test_fingerprints_are_sticky_and_the_rest_is_other() -> None:
    metrics = Metrics()
    for number in range(MAX_FINGERPRINTS + 50):
        metrics.observe(execution(1, f"SELECT {number}"))
    first = execution(1, "SELECT 0").statement.fingerprint
    metrics.observe(execution(1, "SELECT 0"))
    assert value(metrics, "pgtattle_statement_calls_total", fingerprint=first) == 2
    assert value(metrics, "pgtattle_statement_calls_total", fingerprint="other") == 50
    series = [name for name, _ in samples(metrics) if name == "pgtattle_statement_calls_total"]
    assert len(series) == MAX_FINGERPRINTS + 1


def test_labels_that_strangers_send_are_capped() -> None:
    metrics = Metrics()
    for number in range(MAX_VALUES + 20):
        stranger = Connection(id=1, client="c", opened_ns=0, database=f"db{number}")
        metrics.observe(execution(1, connection=stranger, sqlstate=f"X{number}"))
    assert value(metrics, "pgtattle_errors_total", sqlstate="other") == 20
    assert value(metrics, "pgtattle_queries_total", command="SELECT", database="other", status="error") == 20
    for number in range(200):
        for database in range(20):
            stranger = Connection(id=1, client="c", opened_ns=0, database=f"db{database}")
            metrics.observe(execution(1, f"SELECT {number}", command=f"C{number}", connection=stranger))
    rows = [name for name, _ in samples(metrics) if name == "pgtattle_rows_total"]
    assert len(rows) <= MAX_PLACES + 1
    place = {"command": "other", "database": "other"}
    assert value(metrics, "pgtattle_query_duration_seconds_count", **place) > 0


def test_openmetrics_has_exemplars_with_the_trace() -> None:
    body, content_type = busy().exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    exemplars = [
        (family.name, sample.exemplar.labels)
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar
    ]
    trace = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert exemplars == [("pgtattle_query_duration_seconds", trace), ("pgtattle_query_first_row_seconds", trace)]


def test_a_stale_trace_of_a_reused_statement_is_no_exemplar() -> None:
    metrics = Metrics()
    metrics.observe(execution(tags={"traceparent": TRACEPARENT}, reused=True))
    assert b"trace_id" not in metrics.exposition(OPENMETRICS)[0]


@pytest.mark.parametrize(
    "accept",
    ["", "text/plain;version=1.0.0;escaping=allow-utf-8", "application/openmetrics-text;version=x.y", "a/b;;=,"],
)
def test_any_accept_header_gets_an_answer(accept: str) -> None:
    body, content_type = busy().exposition(accept)
    assert b"pgtattle_queries_total" in body
    assert content_type


def test_hostile_labels_cannot_break_the_exposition() -> None:
    metrics = Metrics()
    stranger = Connection(id=1, client="c", opened_ns=0, database='a"} 1\npgtattle_x{b="\\\udc80')
    metrics.observe(execution(1, connection=stranger, sqlstate='"\n'), ('t"\n',))
    for body, _ in (metrics.exposition(), metrics.exposition(OPENMETRICS)):
        assert not any(line.startswith(b"pgtattle_x") for line in body.splitlines())
    assert any(
        dict(labels).get("database", "").startswith('a"} 1\N{SYMBOL FOR LINE FEED}') for _, labels in samples(metrics)
    )


def test_control_characters_of_names_stay_out() -> None:
    metrics = Metrics()
    controls = [*range(1, 32), *range(127, 160), 0xAD, 0x61C, 0x202E, 0x2066, 0x200B, 0x2028, 0xFEFF, 0xD800, 0xDCFF]
    for number, code in enumerate([*controls, 0xE0001]):
        name = f"a{chr(code)}b"
        stranger = Connection(id=1, client="c", opened_ns=0, database=name)
        metrics.observe(execution(number, connection=stranger), (name,))
    body = metrics.exposition()[0].decode()
    assert not set(map(chr, [*controls, 0xE0001])) - {"\n"} & set(body)
    assert 'database="a\N{SYMBOL FOR START OF HEADING}b"' in body
    assert 'database="a\N{REPLACEMENT CHARACTER}b"' in body


def test_promtool_has_no_complaints() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("Debian's Prometheus is not installed")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=busy().exposition()[0], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
