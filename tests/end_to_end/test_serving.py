"""What the sidecar serves about real traffic: the API, its events and both metrics ports."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import jsonschema
import msgspec
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgtattle.analyzers.reports.json_schema import PATH
from pgtattle.proxy.schema import ExecutionPage, Report
from tests.conftest import Database, Serve, Served
from tests.waiting import PATIENCE

LOOP = 20


def traffic(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE books (id int, title text)")
        for number in range(LOOP):
            connection.execute("SELECT title FROM books WHERE id = %s", (number,))
        with connection.transaction():
            connection.execute("INSERT INTO books VALUES (%s, %s)", (1, "sesame"))
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM nowhere")


def metric(body: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def served(serve: Serve, database: Database) -> Served:
    return serve(database, "--metrics", "127.0.0.1:0")


def test_executions_of_real_traffic_are_served_masked(served: Served) -> None:
    traffic(served.database.dsn)
    served.report()
    page = msgspec.json.decode(served.get("/api/v1/executions?limit=1000").content, type=ExecutionPage)
    reads = [each for each in page.items if each.sql.startswith("SELECT title")]
    assert len(reads) == LOOP
    assert {each.command for each in reads} == {"SELECT"}
    insert = next(each for each in page.items if each.command == "INSERT")
    assert insert.parameters[0] is not None
    assert insert.parameters[0].startswith("<int")
    assert insert.parameters[1] in ("<text 6>", "<unknown 6>")
    assert insert.transaction > 0
    assert b"sesame" not in served.get("/api/v1/executions?limit=1000").content
    failed = served.get("/api/v1/executions?filter=err").json()["items"]
    assert [each["sqlstate"] for each in failed] == ["42P01"]


def test_the_report_of_real_traffic_is_valid_and_adds_up(served: Served) -> None:
    traffic(served.database.dsn)
    report = served.report()
    jsonschema.validate(msgspec.to_builtins(report), json.loads(PATH.read_text(encoding="utf-8")))
    assert sum(each.calls for each in report.statements) == report.session.executions == LOOP + 5
    again = msgspec.json.decode(served.get("/api/v1/report").content, type=Report)
    assert again.findings == report.findings


def test_events_tell_of_queries(served: Served) -> None:
    url = f"http://{served.addresses['api']}/api/v1/events?filter=books"
    with httpx.stream("GET", url, timeout=PATIENCE) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: session"
        traffic(served.database.dsn)
        assert next(line for line in lines if line == "event: executions")
        assert next(lines).startswith("id: ")
        first = json.loads(next(lines).removeprefix("data: "))[0]
    assert first["sql"].startswith("CREATE TABLE books")
    assert first["database"] == served.database.name


def test_an_end_with_an_open_stream_is_no_error(serve: Serve, database: Database, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        served = serve(database, stderr=stderr)
    with httpx.stream("GET", f"http://{served.addresses['api']}/api/v1/events", timeout=PATIENCE) as response:
        # Kept: what reads the lines ends the stream when it is forgotten.
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: session"
        assert served.stop() == 0
        del lines
    assert "Traceback" not in log.read_text()


def test_metrics_of_real_traffic_on_both_ports(served: Served) -> None:
    traffic(served.database.dsn)
    executions = served.report().session.executions
    body = served.get("/metrics").text
    assert metric(body, "pgtattle_queries_total") == executions
    assert metric(body, "pgtattle_queries_total", status="error") == 1
    assert metric(body, "pgtattle_errors_total", sqlstate="42P01") == 1
    assert metric(body, "pgtattle_transactions_total", outcome="commit") == 1
    assert metric(body, "pgtattle_query_duration_seconds_count", command="SELECT") == LOOP + 1
    assert metric(body, "pgtattle_connections_total", result="accepted") == 1
    assert metric(body, "pgtattle_bytes_total", direction="to_server") > 1000
    assert metric(body, "pgtattle_tap_lost_executions_total") == 0
    assert metric(body, "pgtattle_statement_info", summary="SELECT books") == 1
    small = f"http://{served.addresses['metrics']}"
    other = httpx.get(f"{small}/metrics").text
    assert metric(other, "pgtattle_queries_total") == executions
    assert httpx.get(f"{small}/readyz").status_code == 200
    assert httpx.get(f"{small}/api/v1/report").status_code == 404


def test_promtool_has_no_complaints_about_real_metrics(served: Served, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("Debian's Prometheus is not installed")
    traffic(served.database.dsn)
    served.report()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=served.get("/metrics").content, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
