"""`missing-index` against real planners: with HypoPG on 15, without on 18; what it suggests is built and used."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.missing_index import MissingIndex, quoted
from pgtattle.analyzers.plan.model import read
from pgtattle.analyzers.questions import IndexQuestion
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.database import Planner
from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.events import Parameter
from pgtattle.proxy.schema import IndexEvidence
from pgtattle.proxy.settings import RuleSettings
from tests import debian
from tests.analyzers.planning import ask, statement
from tests.conftest import Database, fresh_database

SCHEMA = """
    CREATE TABLE people (id int PRIMARY KEY, mail text, city text, born date, "Odd Name" int, state text, friend int);
    INSERT INTO people SELECT g, 'p' || g || '@x', 'city' || g % 500, '1950-01-01'::date + g % 20000, g % 1000,
        CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END, (g * 7) % 60000 FROM generate_series(1, 60000) g;
    CREATE INDEX ON people (born);
    CREATE TABLE few (id int, mail text);
    INSERT INTO few SELECT g, 'm' || g FROM generate_series(1, 500) g;
    CREATE TABLE unanalyzed (id int, mail text) WITH (autovacuum_enabled = false);
    INSERT INTO unanalyzed SELECT g, 'm' || g FROM generate_series(1, 30000) g;
    CREATE TABLE parts (id int, mail text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000000);
    INSERT INTO parts SELECT g, 'm' || g FROM generate_series(1, 30000) g;
    CREATE SCHEMA "other place";
    CREATE TABLE "other place".things (id int, colour text);
    INSERT INTO "other place".things SELECT g, 'c' || g FROM generate_series(1, 30000) g;
    ANALYZE people, few, parts, "other place".things;
"""


@pytest.fixture
def hypothetical(debian_database: Database) -> Database:
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION hypopg")
        connection.execute(SCHEMA)
    return debian_database


@pytest.fixture
def plain(database: Database) -> Database:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
    return database


SPEAKS = [
    ("SELECT * FROM people WHERE mail = 'p7@x'", (), "public.people", ["mail"]),
    ("SELECT * FROM people WHERE mail = $1", (Parameter(25, "p7@x"),), "public.people", ["mail"]),
    (
        "SELECT * FROM people p WHERE p.city = $1 AND p.friend > $2",
        (Parameter(25, "city3"), Parameter(23, "59900")),
        "public.people",
        ["city", "friend"],
    ),
    ('SELECT 1 FROM people WHERE "Odd Name" = 5', (), "public.people", ["Odd Name"]),
    ("UPDATE people SET city = 'x' WHERE mail = 'p9@x'", (), "public.people", ["mail"]),
    ("DELETE FROM people WHERE mail IN ('a', 'b')", (), "public.people", ["mail"]),
    ("SELECT count(*) FROM people WHERE friend = ANY($1)", (Parameter(1007, "{1,2}"),), "public.people", ["friend"]),
    ('SELECT * FROM "other place".things WHERE colour = $1', (Parameter(25, "c7"),), "other place.things", ["colour"]),
    ("WITH q AS (SELECT id FROM people WHERE mail = 'x') SELECT * FROM q", (), "public.people", ["mail"]),
]

SILENT = [
    ("SELECT * FROM people WHERE id = 7", ()),
    ("SELECT * FROM people WHERE born = '1999-01-01'", ()),
    ("SELECT * FROM people WHERE state = 'a'", ()),
    ("SELECT * FROM people WHERE lower(mail) = 'x'", ()),
    ("SELECT * FROM people WHERE mail = 'x' OR city = 'y'", ()),
    ("SELECT * FROM people WHERE mail LIKE '%x'", ()),
    ("SELECT * FROM people", ()),
    ("SELECT count(*) FROM people", ()),
    ("SELECT * FROM few WHERE mail = 'm7'", ()),
    ("SELECT * FROM unanalyzed WHERE mail = 'm7'", ()),
    ("SELECT * FROM parts WHERE mail = 'm7'", ()),
    ("SELECT * FROM pg_class WHERE relname = 'x'", ()),
    ("SELECT * FROM people WHERE mail <> 'x'", ()),
    ("INSERT INTO few VALUES (1, 'x')", ()),
]


@pytest.mark.parametrize(("sql", "parameters", "table", "columns"), SPEAKS)
def test_with_hypopg_the_planner_proves_it(
    hypothetical: Database, sql: str, parameters: tuple[Parameter, ...], table: str, columns: list[str]
) -> None:
    (found,), _ = ask(hypothetical, sql, *parameters)
    evidence = found.evidence
    assert isinstance(evidence, IndexEvidence)
    assert (evidence.table, evidence.columns) == (table, columns)
    assert (found.confidence, found.suggestion.status) == ("proven", "verified")
    assert evidence.cost_after is not None
    assert evidence.cost_after < 0.8 * evidence.cost_before
    assert found.count == 1
    with psycopg.connect(hypothetical.dsn, autocommit=True) as connection:
        connection.execute(found.suggestion.sql.encode())
        connection.execute("SET enable_seqscan = on")
        name = quoted("_".join(("ix", table.split(".")[1], *columns)))
        values = [parameter.value for parameter in parameters]
        plan = connection.cursor().execute(_inlined("EXPLAIN (FORMAT JSON) " + sql, values).encode()).fetchone()
    assert plan is not None
    assert any(node.index == name.strip('"') for node in read(json.dumps(plan[0]).encode()).walk())


def _inlined(sql: str, values: list[str | None]) -> str:
    for number, value in enumerate(values, 1):
        sql = sql.replace(f"${number}", f"'{value}'")
    return sql


@pytest.mark.parametrize(("sql", "parameters"), SILENT)
def test_silence(hypothetical: Database, sql: str, parameters: tuple[Parameter, ...]) -> None:
    assert ask(hypothetical, sql, *parameters)[0] == []


@pytest.mark.parametrize(("sql", "parameters"), SILENT)
def test_silence_without_hypopg(plain: Database, sql: str, parameters: tuple[Parameter, ...]) -> None:
    assert ask(plain, sql, *parameters)[0] == []


def test_without_hypopg_it_is_unverified(plain: Database) -> None:
    (found,), _ = ask(plain, "SELECT * FROM people WHERE mail = $1", Parameter(25, "p7@x"))
    assert (found.confidence, found.suggestion.status) == ("likely", "unverified")
    assert found.suggestion.sql == (
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_people_mail ON public.people USING btree (mail);"
    )


def test_without_hypopg_only_what_the_scan_leaves_rows_out_by_is_believed(plain: Database) -> None:
    """The key finds the rows of the first arm; it is no part of what the second one misses."""
    sql = "SELECT id FROM people WHERE id = 7 AND mail = 'x' UNION SELECT id FROM people WHERE mail = 'id'"
    (found,), _ = ask(plain, sql)
    assert isinstance(found.evidence, IndexEvidence)
    assert found.evidence.columns == ["mail"]


def test_names_of_a_filter_are_not_those_in_its_texts() -> None:
    plan = {"Node Type": "Seq Scan", "Filter": """((p."Odd Name" = 5) AND (city = 'it''s "mail" and id'::text))"""}
    found = read(json.dumps([{"Plan": plan}]).encode()).filter_names
    assert {"Odd Name", "city"} <= found
    assert found.isdisjoint({"mail", "id", "it"})


def test_how_long_it_took_decides_nothing(plain: Database) -> None:
    found = [ask(plain, "SELECT * FROM people WHERE mail = 'x'", ms=ms)[0][0] for ms in (0.001, 0.1, 30.0)]
    assert len({(one.id, one.severity, one.confidence) for one in found}) == 1


def test_no_value_is_in_the_finding(plain: Database) -> None:
    (found,), _ = ask(plain, "SELECT * FROM people WHERE mail = 'geheim'")
    assert "geheim" not in repr(found)


def test_hostile_names_are_quoted(debian_database: Database) -> None:
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION hypopg")
        connection.execute('CREATE TABLE "a""; DROP TABLE x; --" ("b"";" int)')
        connection.execute('INSERT INTO "a""; DROP TABLE x; --" SELECT g FROM generate_series(1, 30000) g; ANALYZE')
        (found,), _ = ask(debian_database, 'SELECT * FROM "a""; DROP TABLE x; --" WHERE "b"";" = 5')
        connection.execute(found.suggestion.sql.encode())
    assert found.suggestion.status == "verified"


def test_the_planner_says_why_it_cannot(database: Database) -> None:
    async def error(planner: Planner, sql: str, name: str = database.name) -> str:
        text = Texts().read(sql)[0]
        question = IndexQuestion(database=name, statement=text.statement, sql=sql, parameters=(), uses=())
        try:
            return (await planner.ask(question)).error
        finally:
            await planner.close()

    def planner(password: str = database.password) -> Planner:
        return Planner(database.dsn_without_password, password, per_second=1000)

    assert "42P01" in asyncio.run(error(planner(), "SELECT * FROM absent WHERE x = 'geheim'"))
    assert "geheim" not in asyncio.run(error(planner(), "SELECT * FROM absent WHERE x = 'geheim'"))
    assert "42601" in asyncio.run(error(planner(), "SELECT 1; SELECT 2"))
    assert "password" in asyncio.run(error(planner("wrong"), "SELECT 1"))
    assert "does not exist" in asyncio.run(error(planner(), "SELECT 1", "no_such_database"))


def test_explaining_runs_nothing(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")

        async def explain() -> str:
            planner = Planner(database.dsn_without_password, database.password)
            (text,) = Texts().read("DELETE FROM kept WHERE id = 1")
            question = IndexQuestion(
                database=database.name, statement=text.statement, sql=text.sql, parameters=(), uses=()
            )
            answer = await planner.ask(question)
            await planner.close()
            return answer.before.decode()

        assert "ModifyTable" in asyncio.run(explain())
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_hypopg_that_is_created_after_a_restart_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it passes the proxy: the questions that go on see the server gone, and then the extension."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    rule = MissingIndex(RuleSettings(), FactsCache())

    async def say(planner: Planner, name: str, second: int) -> list[tuple[str, str, str]]:
        outcomes = rule.execution(
            statement("SELECT * FROM people WHERE mail = $1", Parameter(25, "m7"), database=name, second=second)
        )
        (question,) = [one for one in outcomes if isinstance(one, IndexQuestion)]
        answer = await planner.ask(question)
        findings = [one for one in rule.answer(answer) if isinstance(one, Finding)]
        return [(one.confidence, one.suggestion.status, one.state) for one in findings]

    async def restarted(cluster: Cluster, database: Database) -> None:
        planner = Planner(database.dsn, per_second=1000)
        try:
            await planner.check()
            assert await say(planner, database.name, 1) == [("likely", "unverified", "open")]
            assert not planner.explain.hypopg
            cluster.stop()
            assert await say(planner, database.name, 5) == []
            assert planner.explain.state == "unreachable"
            cluster.start()
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION hypopg")
            await planner.check()
            assert await say(planner, database.name, 16) == [("proven", "verified", "open")]
            assert (planner.explain.state, planner.explain.hypopg) == ("ok", True)
        finally:
            await planner.close()

    with debian.cluster() as cluster, fresh_database(cluster) as database:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE people AS SELECT g AS id, 'm' || g AS mail FROM generate_series(1, 30000) g"
            )
            connection.execute("ANALYZE people")
        asyncio.run(restarted(cluster, database))
