"""A finding is as fresh as the server: its state follows the schema and the later units of its route."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.questions import IndexAnswer, IndexQuestion
from pgtattle.proxy.schema import Cost
from tests.proxy.traffic import OVER, Traffic, index_answer

BY_MAIL = "SELECT * FROM people WHERE mail = $1"
SECOND = 1_000.0


class Site:
    """A shop whose people are looked up by mail; `indexed` is what its server would say."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.connection = self.traffic.connect()
        self.indexed = False
        self.asked = 0

    def look_up(self, times: int = 1, *, every: float = 0.0, rows: int = 60_000) -> int:
        """Look people up; how many questions there were."""
        before = self.asked
        for _ in range(times):
            self.traffic.execute(self.connection, BY_MAIL, "x", ms=0.2 if self.indexed else 30)
            self.asked += self.traffic.answer(table="people", indexed=self.indexed, rows=rows)
            if every:
                self.traffic.pause(every)
        return self.asked - before

    def command(self, *sqls: str) -> None:
        """Say something on another connection."""
        other = self.traffic.connect("psql")
        for sql in sqls:
            self.traffic.query(other, sql, ms=50)

    @property
    def state(self) -> str:
        return self.traffic.finding("missing-index").state


def test_an_index_that_is_made_through_the_proxy_is_seen_by_the_next_execution() -> None:
    site = Site()
    site.look_up(5, every=SECOND)
    assert site.state == "open"
    count = site.traffic.finding("missing-index").count
    site.indexed = True
    site.command("CREATE INDEX CONCURRENTLY ix_people_mail ON public.people USING btree (mail)")
    site.look_up(3, every=SECOND)
    found = site.traffic.finding("missing-index")
    assert (found.state, found.stands) == ("gone", False)
    assert found.before == Cost(queries=1, ms=30.0)
    assert found.after == Cost(queries=1, ms=0.2)
    # One execution is counted until the planner was asked.
    assert found.count == count + 1
    active = site.traffic.samples()["pgtattle_findings_active", "missing-index", found.severity]
    assert active == 0


def test_an_index_that_is_made_past_the_proxy_is_seen_within_ten_seconds_of_traffic() -> None:
    for before in (1, 5, 60, 600):
        site = Site()
        site.look_up(before, every=SECOND)
        assert site.state == "open"
        site.indexed = True
        site.look_up(18, every=SECOND / 2)
        assert site.state == "gone", before


def test_an_index_that_is_dropped_is_missing_again_and_counts_go_on() -> None:
    site = Site()
    site.look_up(5, every=SECOND)
    site.indexed = True
    site.command("CREATE INDEX ix_people_mail ON people (mail)")
    site.look_up(5, every=SECOND)
    count = site.traffic.finding("missing-index").count
    site.indexed = False
    site.command("DROP INDEX ix_people_mail")
    site.look_up(4, every=SECOND)
    found = site.traffic.finding("missing-index")
    assert (found.state, found.before, found.after, found.count) == ("open", None, None, count + 3)


def test_an_index_that_is_dropped_past_the_proxy_is_missing_again() -> None:
    site = Site()
    site.look_up(5, every=SECOND)
    site.indexed = True
    site.look_up(40, every=SECOND)
    assert site.state == "gone"
    site.indexed = False
    site.look_up(20, every=SECOND / 2)
    assert site.state == "open"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE EXTENSION hypopg",
        "ANALYZE",
        "ANALYZE public.people",
        "VACUUM (ANALYZE) people",
        "vacuum analyze verbose",
        "ALTER TABLE people ALTER COLUMN mail TYPE varchar(200)",
        "CREATE STATISTICS s ON mail, city FROM people",
        'CREATE INDEX "Odd" ON public."people" (mail)',
        "DROP INDEX whatever",
        "REINDEX TABLE people",
    ],
)
def test_no_verdict_is_final(sql: str) -> None:
    site = Site()
    site.indexed = True
    site.traffic.execute(site.connection, BY_MAIL, "x", ms=30)
    assert site.traffic.answer(table="people", indexed=True) == 1
    site.traffic.pause(2 * SECOND)
    assert site.look_up(3) == 0
    site.command(sql)
    site.indexed = False
    assert site.look_up() == 1
    assert site.state == "open"


@pytest.mark.parametrize(
    "sqls",
    [
        ("CREATE INDEX ix ON orders (mail)",),
        ("ANALYZE orders",),
        ("CREATE TEMP TABLE scratch (a int)",),
        ("CREATE VIEW v AS SELECT * FROM people",),
        ("BEGIN", "CREATE INDEX ix ON people (mail)"),
        ("BEGIN", "CREATE INDEX ix ON people (mail)", "ROLLBACK"),
        ("GRANT SELECT ON people TO bob",),
    ],
)
def test_what_does_not_change_the_plan_asks_nothing(sqls: tuple[str, ...]) -> None:
    site = Site()
    site.look_up()
    site.command(*sqls)
    site.traffic.pause(1.5 * SECOND)
    assert site.look_up(5) == 0


def test_a_change_in_a_transaction_counts_when_it_is_committed() -> None:
    site = Site()
    site.look_up()
    site.indexed = True
    site.command("BEGIN", "CREATE INDEX ix ON people (mail)", "COMMIT")
    site.traffic.pause(1.5 * SECOND)
    assert site.look_up() == 1
    assert site.state == "gone"


def test_a_change_in_another_database_asks_nothing() -> None:
    site = Site()
    site.look_up()
    other = site.traffic.connect(database="another")
    site.traffic.query(other, "CREATE INDEX ix ON people (mail)", ms=50)
    site.traffic.pause(1.5 * SECOND)
    assert site.look_up(5) == 0


def test_silence_is_asked_about_again_as_its_traffic_goes_on() -> None:
    """A table grew: nobody said so on the wire."""
    site = Site()
    site.look_up(rows=50)
    asked = site.look_up(600, every=SECOND, rows=50)
    assert 4 <= asked <= 8
    site.look_up(700, every=SECOND, rows=60_000)
    assert site.state == "open"


def test_an_error_says_nothing_and_is_asked_again() -> None:
    site = Site()
    site.look_up()
    refused = 0
    for _ in range(60):
        site.traffic.execute(site.connection, BY_MAIL, "x", ms=30)
        for question in site.traffic.questions:
            if isinstance(question, IndexQuestion):
                site.traffic.pipeline.answer(IndexAnswer(question=question, error="the server is not up"))
                refused += 1
        site.traffic.questions.clear()
        site.traffic.pause(SECOND)
    assert 2 <= refused <= 5
    assert site.state == "open"


def test_a_value_that_no_index_helps_with_cures_nothing() -> None:
    site = Site()
    site.look_up(2)
    site.traffic.pause(4 * SECOND)
    site.traffic.execute(site.connection, BY_MAIL, "most of them", ms=30)
    (question,) = (one for one in site.traffic.questions if isinstance(one, IndexQuestion))
    answer = index_answer(question, "people", indexed=False, found=50_000)
    site.traffic.pipeline.answer(answer)
    assert site.state == "open"


def test_the_server_is_not_asked_more_than_it_can_bear() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    columns = [f"c{number}" for number in range(300)]
    asked: list[int] = []
    for _ in range(30):
        started = traffic.now
        for column in columns:
            traffic.execute(connection, f"SELECT * FROM people WHERE {column} = $1", "x", ms=6)
        asked.append(traffic.answer(table="people", indexed=False, columns=("mail",)))
        traffic.pause(max(0.0, 2 * SECOND - (traffic.now - started) / 1e6))
    assert asked[0] == 300
    assert sum(asked[1:]) <= 3 * 60 + 16


def loop(traffic: Traffic, connection: int, turns: int, route: str = "route='/bestsellers',", rows: int = -1) -> None:
    number = traffic.now
    tag = f"/*request_id='r{number}',{route}*/"
    traffic.query(connection, f"{tag} SELECT id FROM books ORDER BY sold", rows=turns if rows < 0 else rows, ms=2)
    for book in range(turns):
        traffic.query(connection, f"{tag} SELECT * FROM authors WHERE id = {book}", ms=3.6)
    traffic.pause(OVER)


def batch(traffic: Traffic, connection: int, rows: int = 25) -> None:
    tag = f"/*request_id='r{traffic.now}',route='/bestsellers'*/"
    traffic.query(connection, f"{tag} SELECT id FROM books ORDER BY sold", rows=rows, ms=2)
    traffic.query(connection, f"{tag} SELECT * FROM authors WHERE id IN (1, 2, 3)", rows=rows, ms=2)
    traffic.pause(OVER)


def joined(traffic: Traffic, connection: int) -> None:
    tag = f"/*request_id='r{traffic.now}',route='/bestsellers'*/"
    traffic.query(connection, f"{tag} SELECT * FROM books JOIN authors USING (id)", rows=25, ms=4)
    traffic.pause(OVER)


def started(turns: int = 25, times: int = 4) -> tuple[Traffic, int]:
    traffic = Traffic()
    connection = traffic.connect()
    for _ in range(times):
        loop(traffic, connection, turns)
    assert traffic.finding("n-plus-one").state == "open"
    return traffic, connection


def test_a_cured_loop_is_gone_after_three_units_with_its_numbers() -> None:
    traffic, connection = started()
    for _ in range(2):
        batch(traffic, connection)
        assert traffic.finding("n-plus-one").state != "gone"
    batch(traffic, connection)
    found = traffic.finding("n-plus-one")
    assert found.state == "gone"
    assert (found.before, found.after) == (Cost(queries=26, ms=92.0), Cost(queries=2, ms=4.0))
    assert (found.count, found.units) == (100, 4)
    report = " ".join(traffic.report("text").split())
    assert "/bestsellers: 26 → 2 queries, 92.0 → 4.0 ms" in report


def test_a_join_in_its_place_cures_it_too() -> None:
    traffic, connection = started()
    for _ in range(3):
        joined(traffic, connection)
    assert traffic.finding("n-plus-one").state == "gone"


def test_a_loop_that_is_seen_again_is_open_and_counts_go_on() -> None:
    traffic, connection = started()
    for _ in range(3):
        batch(traffic, connection)
    loop(traffic, connection, 25)
    found = traffic.finding("n-plus-one")
    assert (found.state, found.count, found.units, found.after) == ("open", 125, 5, None)


def test_a_loop_that_is_seen_again_is_open_before_its_request_is_over() -> None:
    traffic, connection = started()
    for _ in range(3):
        batch(traffic, connection)
    assert traffic.finding("n-plus-one").state == "gone"
    tag = f"/*request_id='r{traffic.now}',route='/bestsellers'*/"
    traffic.query(connection, f"{tag} SELECT id FROM books ORDER BY sold", rows=25)
    for book in range(25):
        traffic.query(connection, f"{tag} SELECT * FROM authors WHERE id = {book}")
    traffic.pause(1_000)
    found = traffic.finding("n-plus-one")
    assert (found.state, found.count, found.after) == ("open", 125, None)
    traffic.pause(OVER)
    assert (traffic.finding("n-plus-one").state, traffic.finding("n-plus-one").count) == ("open", 125)


def test_a_loop_of_half_the_turns_is_improved() -> None:
    traffic, connection = started()
    for _ in range(3):
        loop(traffic, connection, 10, rows=25)
    found = traffic.finding("n-plus-one")
    assert found.state == "improved"
    assert (found.before, found.after) == (Cost(queries=26, ms=92.0), Cost(queries=11, ms=38.0))
    assert found.count == 130
    loop(traffic, connection, 24)
    assert traffic.finding("n-plus-one").state == "open"


def test_a_loop_below_the_threshold_is_improved_not_gone() -> None:
    traffic, connection = started()
    for _ in range(5):
        loop(traffic, connection, 3, rows=25)
    assert traffic.finding("n-plus-one").state == "improved"


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_short_list_cures_nothing(rows: int) -> None:
    traffic, connection = started()
    for _ in range(9):
        loop(traffic, connection, rows)
    assert traffic.finding("n-plus-one").state == "open"


def test_a_route_that_is_healthy_now_and_then_is_believed_after_longer() -> None:
    traffic, connection = started()
    for _ in range(2):
        for _ in range(4):
            batch(traffic, connection)
        assert traffic.finding("n-plus-one").state == "gone"
        loop(traffic, connection, 25)
    for _ in range(7):
        batch(traffic, connection)
        assert traffic.finding("n-plus-one").state != "gone"
    batch(traffic, connection)
    assert traffic.finding("n-plus-one").state == "gone"


def test_another_route_cures_nothing() -> None:
    traffic, connection = started()
    for number in range(9):
        traffic.query(
            connection, f"/*request_id='x{number}',route='/other'*/ SELECT id FROM books ORDER BY sold", rows=25
        )
        traffic.pause(OVER)
    assert traffic.finding("n-plus-one").state == "open"


def test_without_a_route_the_first_statement_is_the_entry() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for _ in range(3):
        loop(traffic, connection, 25, route="")
    for _ in range(3):
        traffic.query(connection, f"/*request_id='r{traffic.now}'*/ SELECT id FROM books ORDER BY sold", rows=25)
        traffic.query(connection, f"/*request_id='r{traffic.now}'*/ SELECT * FROM authors WHERE id IN (1, 2)", rows=25)
        traffic.pause(OVER)
    assert traffic.finding("n-plus-one").state == "gone"


def test_without_a_route_other_work_that_begins_alike_cures_nothing() -> None:
    """Every request of a framework begins with the session."""
    traffic = Traffic()
    connection = traffic.connect()

    def request(*sqls: str) -> None:
        tag = f"/*request_id='r{traffic.now}'*/"
        for sql in ("SELECT * FROM sessions WHERE id = 7", *sqls):
            traffic.query(connection, f"{tag} {sql}", rows=12)
        traffic.pause(OVER)

    books = [f"SELECT * FROM books WHERE author_id = {number}" for number in range(12)]
    for _ in range(3):
        request("SELECT id FROM authors", *books)
        request(*["SELECT * FROM settings WHERE id = 1"] * 12)
    for _ in range(9):
        request("SELECT count(*) FROM orders")
    assert {traffic.finding(rule).state for rule in ("n-plus-one", "repeated-read")} == {"open"}
    for _ in range(6):
        request("SELECT id FROM authors", "SELECT * FROM books WHERE author_id IN (1, 2)")
        request("SELECT * FROM settings WHERE id = 1")
    assert {traffic.finding(rule).state for rule in ("n-plus-one", "repeated-read")} == {"gone"}


def test_the_state_is_the_same_at_every_pace() -> None:
    seen = []
    for pause in (OVER, 2 * OVER, 4 * OVER):
        traffic = Traffic()
        connection = traffic.connect()
        states = []
        for cured in (False, False, True, True, True, False, True):
            tag = f"/*request_id='r{traffic.now}',route='/b'*/"
            traffic.query(connection, f"{tag} SELECT id FROM books ORDER BY sold", rows=8)
            for book in range(0 if cured else 8):
                traffic.query(connection, f"{tag} SELECT * FROM authors WHERE id = {book}", ms=pause / 100_000)
            traffic.pause(pause)
            states.append(traffic.finding("n-plus-one").state)
        seen.append(states)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][4:] == ["gone", "open", "open"]


def writes(traffic: Traffic, connection: int, statements: int, rows_each: int = 1) -> None:
    tag = f"/*request_id='r{traffic.now}',route='/import'*/"
    for number in range(statements):
        values = ", ".join(f"({number}, {row})" for row in range(rows_each))
        traffic.query(connection, f"{tag} INSERT INTO lines (a, b) VALUES {values}", rows=rows_each)
    traffic.pause(OVER)


def test_rows_that_are_written_at_once_cure_a_loop_of_writes() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for _ in range(3):
        writes(traffic, connection, 40)
    for _ in range(5):
        writes(traffic, connection, 1)
    assert traffic.finding("row-by-row-write").state == "open"
    for _ in range(3):
        writes(traffic, connection, 1, 40)
    found = traffic.finding("row-by-row-write")
    assert (found.state, found.before, found.after) == ("gone", Cost(queries=40, ms=40.0), Cost(queries=1, ms=1.0))


def test_a_read_that_is_kept_for_the_request_is_cured() -> None:
    traffic = Traffic()
    connection = traffic.connect()
    for times in (12, 12, 1, 1, 1):
        for _ in range(times):
            traffic.query(
                connection, f"/*request_id='r{traffic.now // 10**9}',route='/s'*/ SELECT * FROM settings WHERE id = 1"
            )
        traffic.pause(OVER)
    found = traffic.finding("repeated-read")
    assert (found.state, found.count) == ("gone", 24)
    assert found.before is not None
    assert found.after is not None
    assert (found.before.queries, found.after.queries) == (12, 1)


def test_what_is_gone_is_last_and_can_be_asked_for() -> None:
    traffic, connection = started()
    for _ in range(3):
        batch(traffic, connection)
    traffic.execute(connection, "SELECT * FROM orders", ms=900)
    assert [one["state"] for one in traffic.get("findings")["items"]] == ["open", "gone"]
    assert [one["rule"] for one in traffic.get("findings?state=gone")["items"]] == ["n-plus-one"]
    assert [one["rule"] for one in traffic.get("findings?state=open")["items"]] == ["slow-query"]
    assert traffic.get("findings?state=improved")["items"] == []
