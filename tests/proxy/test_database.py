"""The side connection: open while a question is asked, out of the application's way, and honest about what it lacks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgtattle.analyzers.questions import Answer, KeysQuestion, RewriteQuestion
from pgtattle.proxy.claims import CLAIM_SECONDS, RELEASE_SECONDS, WAIT_SECONDS, Claims
from pgtattle.proxy.database import FAILURES, Planner
from tests import debian
from tests.conftest import Database
from tests.end_to_end.test_pooler import bouncer


def keys(name: str) -> KeysQuestion:
    return KeysQuestion(database=name)


def with_planner(
    database: Database, use: Callable[[Planner], Awaitable[Any]], *, password: str | None = None, dsn: str = ""
) -> Any:
    async def all_() -> Any:
        given = database.password if password is None else password
        planner = Planner(dsn or database.dsn_without_password, given, per_second=1000)
        try:
            return await use(planner)
        finally:
            await planner.close()

    return asyncio.run(all_())


@contextlib.contextmanager
def role(database: Database, options: str) -> Iterator[str]:
    """A role, and the DSN by which it connects."""
    name = f"{database.name}_role"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} {options}")
        yield f"postgresql://{name}@{database.host}:{database.port}/{database.name}"
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def sessions(database: Database) -> int:
    with psycopg.connect(database.cluster.dsn(), autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [database.name]).fetchone()
    assert row is not None
    return int(row[0])


def test_nothing_is_left_in_the_database_after_a_question(database: Database) -> None:
    async def use(planner: Planner) -> None:
        for _ in range(3):
            assert (await planner.ask(keys(database.name))).error == ""
        while sessions(database):
            # The server's process takes its moment to end.
            await asyncio.sleep(0.05)

    with_planner(database, use)


def test_a_question_waits_while_the_application_needs_its_database(database: Database) -> None:
    async def use(planner: Planner) -> None:
        planner.claims.claim(database.name)
        waiting = asyncio.create_task(planner.ask(keys(database.name)))
        assert (await planner.ask(keys("postgres"))).error == ""
        assert not waiting.done()
        assert sessions(database) == 0
        planner.claims.release(database.name, gone=False)
        assert (await waiting).error == ""

    with_planner(database, use)


def test_a_question_about_a_database_that_was_dropped_since_is_not_asked(database: Database) -> None:
    async def use(planner: Planner) -> tuple[Answer, Answer]:
        planner.claims.claim(database.name)
        waiting = asyncio.create_task(planner.ask(keys(database.name)))
        await asyncio.sleep(0)
        planner.claims.release(database.name, gone=True)
        before = await waiting
        return before, await planner.ask(keys(database.name))

    before, after = with_planner(database, use)
    assert (before.error, after.error) == ("the database was dropped", "")


def test_a_question_that_runs_gives_way_at_the_next_statement(database: Database) -> None:
    rewrite = RewriteQuestion(database=database.name, sql="SELECT 1", parameters=(), rewritten="SELECT 2", values=())

    async def use(planner: Planner) -> Answer:
        asked = asyncio.create_task(planner.ask(rewrite))
        await asyncio.sleep(0)
        planner.claims.claim(database.name)
        while sessions(database):
            await asyncio.sleep(0.02)
        assert not asked.done()
        planner.claims.release(database.name, gone=False)
        return await asked

    assert with_planner(database, use).error == ""


def test_templates_are_left_alone(database: Database) -> None:
    async def use(planner: Planner) -> list[str]:
        return [(await planner.ask(keys(name))).error for name in ("template0", "template1")]

    assert with_planner(database, use) == ["template databases are not asked"] * 2


def test_databases_that_are_gone_are_no_failure_of_the_side_connection(database: Database) -> None:
    async def use(planner: Planner) -> None:
        for number in range(2 * FAILURES):
            answer = await planner.ask(keys("no_such_database"))
            assert "does not exist" in answer.error or number >= FAILURES
        assert planner.explain.state == "ok"
        assert (await planner.ask(keys(database.name))).error == ""

    with_planner(database, use)


# -- claims ----------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_ends_with_its_statement_and_a_moment_or_by_itself() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.claim("shop")
    assert (claims.holds("shop"), claims.holds("other")) == (True, False)
    clock.now += CLAIM_SECONDS - 0.1
    assert claims.holds("shop")
    claims.release("shop", gone=False)
    assert claims.holds("shop")
    clock.now += RELEASE_SECONDS
    assert not claims.holds("shop")
    claims.claim("shop")
    clock.now += CLAIM_SECONDS
    assert not claims.holds("shop")


def test_who_waits_too_long_is_told() -> None:
    clock = Clock()
    claims = Claims(clock)
    claims.claim("shop")
    asked_at = clock.now
    clock.now += WAIT_SECONDS + 1
    claims.claim("shop")
    assert "keep coming" in asyncio.run(claims.wait("shop", asked_at))
    assert asyncio.run(claims.wait("other", asked_at)) == ""


# -- what the side connection says of itself -------------------------------------------------------------------------


async def checked(planner: Planner) -> Any:
    await planner.check()
    return planner.explain


def test_the_state_of_a_side_connection_that_works(database: Database) -> None:
    async def use(planner: Planner) -> None:
        assert planner.explain.state == "unknown"
        await planner.check()
        assert (planner.explain.state, planner.explain.reason, planner.explain.cure) == ("ok", "", "")
        assert planner.server_version.startswith("18")

    with_planner(database, use)


def test_hypopg_is_seen(debian_database: Database) -> None:
    assert not with_planner(debian_database, checked).hypopg
    with psycopg.connect(debian_database.dsn) as connection:
        connection.execute("CREATE EXTENSION hypopg")
    assert with_planner(debian_database, checked).hypopg


def test_hypopg_that_is_created_later_is_seen_by_the_next_question(debian_database: Database) -> None:
    async def use(planner: Planner) -> None:
        await planner.check()
        seen = [planner.explain.hypopg]
        with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
            for change in ("CREATE", "DROP"):
                connection.execute(f"{change} EXTENSION hypopg".encode())
                assert (await planner.ask(keys(debian_database.name))).error == ""
                seen.append(planner.explain.hypopg)
        assert seen == [False, True, False]

    with_planner(debian_database, use)


def test_no_password(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    explain = with_planner(database, checked, password="")
    assert explain.state == "no_password"
    assert "PGPASSWORD" in explain.cure
    assert "password" in explain.reason


def test_a_wrong_password(database: Database) -> None:
    explain = with_planner(database, checked, password="wrong")
    assert explain.state == "refused"
    assert "password authentication failed" in explain.reason
    assert "wrong" not in explain.reason


def test_no_server() -> None:
    planner = Planner("host=127.0.0.1 port=1 user=u dbname=d", "")
    assert asyncio.run(checked(planner)).state == "unreachable"


def test_a_role_without_rights_until_it_has_them(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE secret (id int)")
        question = RewriteQuestion(
            database=database.name, sql="SELECT id FROM secret", parameters=(), rewritten="SELECT 1", values=()
        )
        with role(database, "LOGIN PASSWORD 'x'") as dsn:

            async def use(planner: Planner) -> None:
                await planner.check()
                assert planner.explain.state == "ok"
                assert "42501" in (await planner.ask(question)).error
                assert (await planner.ask(keys(database.name))).error == ""
                assert planner.explain.state == "no_rights"
                assert "1 statement could not be planned" in planner.explain.reason
                connection.execute(f"GRANT SELECT ON secret TO {database.name}_role")
                assert (await planner.ask(question)).error == ""
                assert planner.explain.state == "ok"

            with_planner(database, use, password="x", dsn=dsn)


def test_a_login_that_is_refused_is_tried_again_by_check_alone(database: Database) -> None:
    with role(database, "LOGIN PASSWORD 'x'") as dsn, psycopg.connect(database.dsn, autocommit=True) as connection:
        name = f"{database.name}_role"

        async def use(planner: Planner) -> None:
            await planner.check()
            connection.execute(f"ALTER ROLE {name} NOLOGIN")
            assert "not permitted" in (await planner.ask(keys(database.name))).error
            assert planner.explain.state == "refused"
            assert planner.explain.cure
            connection.execute(f"ALTER ROLE {name} LOGIN")
            assert "not permitted" in (await planner.ask(keys(database.name))).error
            await planner.check()
            assert planner.explain.state == "ok"
            assert (await planner.ask(keys(database.name))).error == ""

        with_planner(database, use, password="x", dsn=dsn)


def test_the_database_of_the_upstream_may_not_be_there_yet(database: Database) -> None:
    dsn = f"postgresql://{database.user}@{database.host}:{database.port}/made_by_the_tests"
    assert with_planner(database, checked, dsn=dsn).state == "ok"


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_a_pooler_questions_are_asked_and_nothing_stays_in_its_sessions(mode: str) -> None:
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed")
    with debian.cluster() as trusting:
        direct = Database("postgres", trusting.host, trusting.port, trusting.user, "", trusting)
        with psycopg.connect(direct.dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION hypopg")
            connection.execute("ALTER ROLE postgres SET statement_timeout = '7s'")
        with bouncer(direct, mode) as pooled:

            async def use(planner: Planner) -> None:
                for _ in range(3):
                    assert (await planner.ask(keys(direct.name))).error == ""
                assert planner.explain.state == "ok"

            with_planner(pooled, use)
            with psycopg.connect(pooled.dsn, autocommit=True) as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
                assert connection.execute("SELECT count(*) FROM hypopg_list_indexes").fetchone() == (0,)
