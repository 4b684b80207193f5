"""Findings follow a real server: an extension, an index that comes and goes, and numbers that agree everywhere."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from pgtattle.proxy.schema import FindingPage, FindingView, StatementView
from tests.conftest import Database, Serve, Served

PEOPLE = """
    CREATE TABLE people (id int PRIMARY KEY, mail text);
    INSERT INTO people SELECT g, 'p' || g || '@x' FROM generate_series(1, 200000) g;
    ANALYZE people;
"""
MOST = 3_000
"""Executions after which a state that has not come does not come."""


def finding(served: Served) -> FindingView | None:
    """The finding about the index, where there is one."""
    page = msgspec.json.decode(served.get("/api/v1/findings").content, type=FindingPage)
    return next((one for one in page.items if one.rule == "missing-index"), None)


def until(served: Served, client: psycopg.Connection, condition: Callable[[FindingView | None], bool]) -> FindingView:
    """Look people up until the finding is as it should be."""
    for number in range(MOST):
        client.execute("SELECT * FROM people WHERE mail = %s", [f"p{number}@x"]).fetchall()
        found = finding(served)
        if condition(found):
            assert found is not None
            return found
    raise AssertionError(found)


def test_a_finding_follows_the_server(serve: Serve, debian_database: Database) -> None:
    with psycopg.connect(debian_database.dsn, autocommit=True) as direct:
        direct.execute(PEOPLE)
        served = serve(debian_database)
        with psycopg.connect(served.database.dsn, autocommit=True) as client:
            found = until(served, client, lambda one: one is not None)
            assert (found.state, found.confidence) == ("open", "likely")
            client.execute("CREATE EXTENSION hypopg")
            found = until(served, client, lambda one: one is not None and one.confidence == "proven")
            assert (found.state, found.suggestion.status) == ("open", "verified")
            direct.execute(found.suggestion.sql)
            gone = until(served, client, lambda one: one is not None and one.state == "gone")
            assert (gone.id, gone.before is not None) == (found.id, True)
            direct.execute("DROP INDEX ix_people_mail")
            again = until(served, client, lambda one: one is not None and one.state == "open")
            assert again.count >= gone.count


def test_the_numbers_of_a_finding_are_those_of_its_statement(serve: Serve, database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as direct:
        direct.execute(PEOPLE)
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as client:
        until(served, client, lambda one: one is not None)
        for number in range(37):
            client.execute("SELECT * FROM people WHERE mail = %s", [f"q{number}@x"]).fetchall()
    report = served.report()
    found = finding(served)
    assert found is not None
    assert found in report.findings
    (fingerprint,) = found.fingerprints
    statement = msgspec.json.decode(served.get(f"/api/v1/statements/{fingerprint}").content, type=StatementView)
    assert (found.count, found.total_ms) == (statement.calls, statement.total_ms)
    samples = [one for family in text_string_to_metric_families(served.get("/metrics").text) for one in family.samples]
    calls = [
        one.value
        for one in samples
        if one.name == "pgtattle_statement_calls_total" and one.labels["fingerprint"] == fingerprint
    ]
    active = [
        one.value for one in samples if one.name == "pgtattle_findings_active" and one.labels["rule"] == "missing-index"
    ]
    assert (calls, sum(active)) == ([found.count], 1)
