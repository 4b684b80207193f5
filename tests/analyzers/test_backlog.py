"""Which statement is asked about next depends on how often it ran, never on how long it took."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.backlog import MAX_WAITING, Backlog
from pgtattle.analyzers.missing_index import MAX_OPEN
from pgtattle.analyzers.questions import IndexQuestion
from tests.analyzers.planning import statement
from tests.proxy.traffic import Traffic, index_answer

SECOND = 1_000.0


class Shop:
    """A shop whose people are looked up by one column or another."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.connection = self.traffic.connect()

    def look_up(self, *columns: str, ms: float = 0.05) -> None:
        for column in columns:
            self.traffic.execute(self.connection, f"SELECT id FROM people WHERE {column} = $1", "x", ms=ms)

    def asked(self) -> list[IndexQuestion]:
        """The questions since the last time."""
        found = [one for one in self.traffic.questions if isinstance(one, IndexQuestion)]
        self.traffic.questions.clear()
        return found

    def answer(self, question: IndexQuestion) -> None:
        self.traffic.pipeline.answer(index_answer(question, "people", indexed=False, columns=(column(question),)))

    def drain(self) -> list[str]:
        """Answer until nothing more is asked; what was asked, in order."""
        order: list[str] = []
        while questions := self.asked():
            for question in questions:
                order.append(column(question))
                self.answer(question)
        return order


def column(question: IndexQuestion) -> str:
    return question.uses[0].column


def test_the_statement_that_ran_most_often_is_asked_about_next() -> None:
    shop = Shop()
    shop.look_up("a", "b", "c", "d", "e", "d", "e", "d", "a", "a", "a", "a")
    first = shop.asked()
    assert [column(one) for one in first] == ["a", "b"]
    assert len(first) == MAX_OPEN
    shop.answer(first[1])
    (second,) = shop.asked()
    assert column(second) == "d"
    shop.look_up("f", "c", "c")
    assert shop.asked() == []
    shop.answer(first[0])
    shop.answer(second)
    assert shop.drain() == ["c", "e", "f"]
    assert shop.drain() == []


def test_everything_is_asked_about_however_long_it_took() -> None:
    orders = []
    for ms in (0.001, 0.2, 40.0):
        shop = Shop()
        shop.look_up(*"abcdefgbcgg", ms=ms)
        orders.append((shop.drain(), {(one.id, one.severity) for one in shop.traffic.store.findings()}))
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0][0]) == list("abcdefg")


def test_it_is_asked_with_the_values_of_the_first_execution() -> None:
    shop = Shop()
    shop.look_up("a", "b", "c")
    shop.traffic.execute(shop.connection, "SELECT id FROM people WHERE c = $1", "another")
    for question in shop.asked():
        shop.answer(question)
    (question,) = shop.asked()
    assert [one.value for one in question.parameters] == ["x"]


def test_what_was_not_asked_is_asked_at_the_end() -> None:
    shop = Shop()
    shop.look_up(*"abcd")
    assert len(shop.asked()) == MAX_OPEN
    shop.traffic.pipeline.flush()
    assert shop.drain() == ["c", "d"]


def test_questions_that_nobody_answers_hold_the_others_for_a_minute() -> None:
    shop = Shop()
    shop.look_up(*"abcd")
    assert len(shop.asked()) == MAX_OPEN
    shop.traffic.pause(50 * SECOND)
    assert shop.asked() == []
    shop.traffic.pause(20 * SECOND)
    assert [column(one) for one in shop.asked()] == ["c", "d"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM people",
        "SELECT count(*) FROM people",
        "INSERT INTO people (id) VALUES ($1)",
        "INSERT INTO people (id) VALUES ($1) ON CONFLICT DO NOTHING",
        "SELECT id FROM people WHERE lower(name) = $1",
        "SELECT now() WHERE $1 = 'x'",
    ],
)
def test_what_no_index_could_serve_is_not_asked_about(sql: str) -> None:
    shop = Shop()
    shop.traffic.execute(shop.connection, sql, "x", ms=50)
    shop.look_up("a")
    assert [column(one) for one in shop.asked()] == ["a"]


def test_a_busy_moment_has_nothing_quick_asked_about_again() -> None:
    shop = Shop()
    for ms in (0.02, 0.2, 0.02, 0.25):
        for _ in range(20):
            shop.look_up("a", ms=ms)
            shop.traffic.pause(50)
    assert shop.drain() == ["a"]


def test_the_backlog_is_bounded_and_keeps_what_goes_on() -> None:
    backlog = Backlog(lambda key: 9 if key[1] == "often" else 1)
    often = ("db", "often")
    execution = statement("SELECT 1")
    for number in range(3 * MAX_WAITING):
        backlog.add(("db", str(number)), execution)
        backlog.add(often, execution)
    taken = []
    while (one := backlog.take()) is not None:
        taken.append(one[0])
    assert len(taken) == MAX_WAITING
    assert taken[0] == often


@pytest.mark.parametrize(
    "create",
    [
        "CREATE TEMP TABLE people AS SELECT 1 AS id",
        "create local temporary table if not exists People (id int)",
        "CREATE TEMPORARY TABLE people (id int) ON COMMIT DROP",
        'CREATE TEMP TABLE "people" (id int)',
        "CREATE TABLE pg_temp.people (id int)",
        "CREATE TEMP VIEW people AS SELECT 1 AS id",
    ],
)
def test_a_temporary_table_hides_the_one_of_its_name_from_its_own_connection_only(create: str) -> None:
    shop = Shop()
    shop.traffic.query(shop.connection, create)
    shop.look_up("a", "a")
    assert shop.asked() == []
    shop.traffic.query(shop.connection, "SELECT id FROM public.people WHERE b = 'x'")
    assert [column(one) for one in shop.asked()] == ["b"]
    shop.connection = shop.traffic.connect()
    shop.look_up("a")
    assert [column(one) for one in shop.asked()] == ["a"]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("CREATE TEMP TABLE persons (id int)", ""),
        ("CREATE TABLE people (id int)", ""),
        ("CREATE UNLOGGED TABLE people (id int)", ""),
        ("CREATE TEMP TABLE people (id int)", "42601"),
        ("CREATE TEMP SEQUENCE people", ""),
    ],
)
def test_what_makes_no_temporary_table_of_that_name_hides_nothing(sql: str, error: str) -> None:
    shop = Shop()
    shop.traffic.query(shop.connection, sql, error=error)
    shop.look_up("a")
    assert [column(one) for one in shop.asked()] == ["a"]


@pytest.mark.parametrize(("sql", "asked"), [("DISCARD ALL", ["a"]), ("DISCARD TEMP", ["a"]), ("DISCARD PLANS", [])])
def test_discard_drops_temporary_tables(sql: str, asked: list[str]) -> None:
    shop = Shop()
    shop.traffic.query(shop.connection, "CREATE TEMP TABLE people (id int)")
    shop.traffic.query(shop.connection, sql)
    shop.look_up("a")
    assert [column(one) for one in shop.asked()] == asked
