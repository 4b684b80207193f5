"""What only a server can answer: is a rewrite taken and cheaper, and which columns refer to which. Real servers."""

from __future__ import annotations

import psycopg
import pytest

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.questions import KeysAnswer, KeysQuestion, RewriteAnswer, RewriteQuestion
from pgtattle.analyzers.registry import analyzers
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Parameter, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings
from tests.analyzers.planning import asked
from tests.conftest import Database

SCHEMA = """
    CREATE TABLE people (no int PRIMARY KEY, name text);
    CREATE SCHEMA "Odd";
    CREATE TABLE "Odd"."Books" (id int PRIMARY KEY, "Writer" int REFERENCES people, UNIQUE (id, "Writer"));
    CREATE TABLE prints (book int, writer int, FOREIGN KEY (book, writer) REFERENCES "Odd"."Books" (id, "Writer"));
    INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, 5000) n;
    ANALYZE people;
"""


@pytest.fixture
def shop(each_database: Database) -> Database:
    with psycopg.connect(each_database.dsn) as connection:
        connection.execute(SCHEMA)
    return each_database


def rewrite(database: Database, rewritten: str, *values: str) -> RewriteAnswer:
    question = RewriteQuestion(
        database=database.name,
        sql="SELECT name FROM people WHERE no = $1",
        parameters=(Parameter(23, "7"),),
        rewritten=rewritten,
        values=tuple(Parameter(0, value) for value in values),
    )
    (answer,) = asked(database, question)
    assert isinstance(answer, RewriteAnswer)
    return answer


def test_a_rewrite_is_planned_beside_the_statement(shop: Database) -> None:
    answer = rewrite(shop, "SELECT no, name FROM people WHERE no = ANY($1)", '{"7","9","11"}')
    assert (answer.error, answer.refused) == ("", False)
    assert b"Index" in answer.before
    assert b"Total Cost" in answer.after


def test_a_rewrite_that_the_server_does_not_take_is_refused(shop: Database) -> None:
    answer = rewrite(shop, "SELECT nothing FROM people WHERE no = ANY($1)", '{"7"}')
    assert (answer.error, answer.refused, answer.after) == ("", True, b"")


def test_parameters_that_the_rewrite_has_no_place_for_are_no_error(shop: Database) -> None:
    loop = looped(shop, "SELECT name FROM people WHERE no = $1 AND 1 = 1 LIMIT $2 OFFSET $3", "1", "0")
    every = analyzers(RuleSettings())
    first = [outcome for analyzer in every for outcome in analyzer.execution(loop.executions[0])]
    (about_keys,) = (outcome for outcome in first if isinstance(outcome, KeysQuestion))
    (answer,) = asked(shop, about_keys)
    assert [outcome for analyzer in every for outcome in analyzer.answer(answer)] == []
    outcomes = [outcome for analyzer in every for outcome in analyzer.unit(loop)]
    (question,) = (outcome for outcome in outcomes if isinstance(outcome, RewriteQuestion))
    assert question.rewritten == "SELECT no, name FROM people WHERE no = ANY($1) AND $2 = $3"
    (answer,) = asked(shop, question)
    assert isinstance(answer, RewriteAnswer)
    assert (answer.error, answer.refused) == ("", False)


def test_a_rewrite_that_writes_is_planned_and_not_done(shop: Database) -> None:
    answer = rewrite(shop, "DELETE FROM people WHERE no = ANY($1)", '{"7"}')
    assert (answer.error, answer.refused) == ("", False)
    with psycopg.connect(shop.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM people").fetchone() == (5000,)


def test_more_than_one_statement_is_refused(shop: Database) -> None:
    assert rewrite(shop, "SELECT 1; DROP TABLE people").refused


def test_where_nobody_can_be_asked_every_question_is_answered_with_why(shop: Database) -> None:
    keys = KeysQuestion(database=shop.name)
    change = RewriteQuestion(database=shop.name, sql="SELECT 1", parameters=(), rewritten="SELECT 2", values=())
    answers = asked(shop, keys, change, password="wrong")
    assert [bool(answer.error) for answer in answers] == [True, True]


def test_foreign_keys_are_known_by_oid_and_by_name(shop: Database) -> None:
    (answer,) = asked(shop, KeysQuestion(database=shop.name))
    assert isinstance(answer, KeysAnswer)
    names = {(key.column_name, key.referred_name) for key in answer.keys}
    assert names == {
        (("Books", "Writer"), ("people", "no")),
        (("prints", "book"), ("Books", "id")),
        (("prints", "writer"), ("Books", "Writer")),
    }
    with psycopg.connect(shop.dsn) as connection:
        row = connection.execute("SELECT 'people'::regclass::oid::int8").fetchone()
    assert row is not None
    assert {("public", "people", "no"), ("", "people", "no"), ("Odd", "Books", "id")} <= set(answer.unique)
    assert not {table for _, table, _ in answer.unique} & {"prints"}
    keys = Keys()
    (question,) = keys.execution(made(shop, 1, "SELECT 1"))
    assert question == KeysQuestion(database=shop.name)
    assert not keys.linked(shop.name, (row[0], 1), "writer", ("prints",))
    keys.answer(answer)
    assert keys.linked(shop.name, (row[0], 1), "writer", ("prints",))
    assert keys.linked(shop.name, (row[0], 1), 'b."Writer"', ('"Odd"."Books"',))
    assert not keys.linked(shop.name, (row[0], 2), "writer", ("prints",))
    assert not keys.linked(shop.name, (row[0], 1), "book", ("prints",))
    assert keys.unique(shop.name, ("people",)) == {"no"}
    assert keys.unique(shop.name, ('"Odd"."Books"',)) == {"id"}
    assert keys.unique(shop.name, ("people", "prints")) == keys.unique("another", ("people",)) == frozenset()
    assert not keys.linked("another", (row[0], 1), "writer", ("prints",))


def test_a_unique_key_is_one_of_every_table_of_that_name(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection:
        connection.execute("""
            CREATE TABLE "Odd".people (no int, name text UNIQUE); CREATE TABLE same (a int UNIQUE, b int UNIQUE);
            CREATE TABLE "Odd".same (a int UNIQUE, b int); CREATE VIEW "Odd".prints AS SELECT 1 AS no;
            CREATE TABLE parent (no int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
            CREATE TABLE parts (no int PRIMARY KEY) PARTITION BY RANGE (no);
            CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (9);
            CREATE TABLE late (no int UNIQUE DEFERRABLE, "No" int UNIQUE);
        """)
    (answer,) = asked(shop, KeysQuestion(database=shop.name))
    keys = Keys()
    list(keys.execution(made(shop, 1, "SELECT 1")))
    keys.answer(answer)

    def unique(table: str) -> frozenset[str]:
        return keys.unique(shop.name, (table,))

    assert unique("people") == frozenset()
    assert (unique("public.people"), unique('"Odd".people')) == ({"no"}, {"name"})
    assert (unique("same"), unique("public.same"), unique("Odd.same")) == ({"a"}, {"a", "b"}, {"a"})
    assert (unique("parent"), unique("child")) == (frozenset(), frozenset())
    assert (unique("parts"), unique("part")) == ({"no"}, {"no"})
    assert unique("late") == {"No"}


def test_keys_are_asked_for_again_after_ddl(shop: Database) -> None:
    keys = Keys()
    (question,) = keys.execution(made(shop, 1, "SELECT 1"))
    assert isinstance(question, KeysQuestion)
    keys.answer(KeysAnswer(question=question))
    assert list(keys.execution(made(shop, 2, "CREATE TABLE a (b int)"))) == []
    assert list(keys.execution(made(shop, 3, "SELECT 1"))) == []
    assert len(list(keys.execution(made(shop, 20, "SELECT 1")))) == 1
    assert list(keys.execution(made(shop, 40, "SELECT 1"))) == []


def test_keys_are_asked_for_again_where_nobody_answered(shop: Database) -> None:
    keys = Keys()
    (question,) = keys.execution(made(shop, 1, "SELECT 1"))
    assert isinstance(question, KeysQuestion)
    keys.answer(KeysAnswer(question=question, error="the server is not up"))
    assert list(keys.execution(made(shop, 30, "SELECT 1"))) == []
    assert len(list(keys.execution(made(shop, 70, "SELECT 1")))) == 1


def test_a_finding_shows_its_rewrite_when_the_planner_took_it(shop: Database) -> None:
    every = analyzers(RuleSettings())
    loop = looped(shop, "SELECT name FROM people WHERE no = $1")
    outcomes = [outcome for analyzer in every for outcome in analyzer.unit(loop)]
    (finding,) = (outcome for outcome in outcomes if isinstance(outcome, Finding))
    (question,) = (outcome for outcome in outcomes if isinstance(outcome, RewriteQuestion))
    assert (finding.suggestion.sql, finding.suggestion.status, finding.count) == ("", "advice", 8)
    (answer,) = asked(shop, question)
    (again,) = (outcome for analyzer in every for outcome in analyzer.answer(answer))
    assert isinstance(again, Finding)
    assert (again.id, again.count, again.total_ns) == (finding.id, 0, 0)
    assert again.suggestion.status == "verified"
    assert again.suggestion.sql == "SELECT no, name FROM people WHERE no = ANY($1)"
    assert "The planner expects" in again.suggestion.text


def made(database: Database, number: int, sql: str, *values: str) -> Execution:
    connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0, user="u", database=database.name)
    (text,) = Texts().read(sql)
    at_ns = number * 1_000_000_000
    return Execution(
        id=number,
        connection=connection,
        text=text,
        parameters=tuple(Parameter(23, value) for value in values),
        exchange=number,
        started_ns=at_ns,
        ended_ns=at_ns + 1_000_000,
    )


def looped(database: Database, sql: str, *more: str) -> Unit:
    """A request that asks for eight people one by one."""
    return Unit(
        id="u1",
        kind="request",
        key="r1",
        confidence="strong",
        signal="comment tag request_id",
        executions=tuple(made(database, n, sql, str(n), *more) for n in range(1, 9)),
    )
