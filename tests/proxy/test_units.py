"""Units of work: what ends one, what joins two, that memory is bounded. What rules make of them: `tests/cases`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.habits import LEARNED, STATEMENTS
from pgtattle.proxy.schema import ScopeMatch, ScopeRequest
from pgtattle.proxy.scopes import Scopes
from pgtattle.proxy.tracks import GAP_MAX_NS, GAP_NS
from pgtattle.proxy.units import MAX_EXECUTIONS, MAX_SPAN_NS, Units

MS = 1_000_000
A, B = 1, 2


class Traffic:
    """Makes executions one after the other, 1 ms each, 1 ms apart."""

    def __init__(self, **options: Any) -> None:
        self.units = Units(**options)
        self.texts = Texts()
        self.now = 1_000 * MS
        self.count = 0
        self.connections = {
            number: Connection(id=number, client=f"10.0.0.1:{number}", opened_ns=0, user="app", application="shop")
            for number in (A, B)
        }

    def __call__(self, sql: str, connection: int = A, gap_ms: float = 1, **fields: Any) -> list[Unit]:
        self.now += int(gap_ms * MS)
        started, self.now = self.now, self.now + MS
        self.count += 1
        return self.units.add(
            Execution(
                id=self.count,
                connection=self.connections[connection],
                text=self.texts.read(sql)[0],
                started_ns=started,
                ended_ns=self.now,
                **fields,
            )
        )

    def tick(self, later_ms: float = 0, busy: Callable[[int], bool] = lambda connection: False) -> list[Unit]:
        return self.units.tick(self.now + int(later_ms * MS), busy)

    def show(self, later_ms: float = 0) -> list[Unit]:
        return self.units.show(self.now + int(later_ms * MS), lambda connection: False)

    def earlier(self) -> None:
        """The connection has done something else before."""
        self("SELECT 0")
        self.now += 1_000 * MS
        self.tick()


def texts(unit: Unit) -> list[str]:
    return [execution.text.sql.partition(" /*")[0] for execution in unit.executions]


@pytest.fixture
def send() -> Traffic:
    return Traffic()


def test_a_gap_ends_a_burst(send: Traffic) -> None:
    assert send("SELECT 1 FROM a") == []
    assert send("SELECT 1 FROM b", gap_ms=GAP_NS / MS) == []
    (unit,) = send("SELECT 1 FROM a", gap_ms=GAP_NS / MS + 1)
    assert (unit.kind, unit.confidence, texts(unit)) == ("burst", "weak", ["SELECT 1 FROM a", "SELECT 1 FROM b"])
    (last,) = send.units.flush()
    assert texts(last) == ["SELECT 1 FROM a"]


def test_a_longer_gap_ends_no_burst_that_goes_on_as_it_went_before(send: Traffic) -> None:
    for table in ("a", "b", "a"):
        send(f"SELECT 1 FROM {table}")
    assert send("SELECT 2 FROM b", gap_ms=GAP_MAX_NS / MS) == []
    (unit,) = send("SELECT 2 FROM b", gap_ms=GAP_MAX_NS / MS)
    assert len(unit.executions) == 4
    send("SELECT 3 FROM b")
    assert len(send("SELECT 2 FROM b", gap_ms=GAP_MAX_NS / MS + 1)) == 1


def test_silence_ends_a_burst_but_a_request_under_way_does_not(send: Traffic) -> None:
    send.earlier()
    send("SELECT 1 FROM a")
    assert send.tick(GAP_MAX_NS / MS) == []
    assert send.tick(900, busy=lambda connection: connection == A) == []
    (unit,) = send.tick(900, busy=lambda connection: connection == B)
    assert texts(unit) == ["SELECT 1 FROM a"]
    assert send.tick(2_000) == []


def test_a_relay_that_was_away_says_nothing_about_silence(send: Traffic) -> None:
    send.earlier()
    send("SELECT 1 FROM a")
    send.now += 2_000 * MS
    send.units.resume(send.now)
    assert send.tick(GAP_MAX_NS / MS) == []
    assert send("SELECT 1 FROM b") == []
    (unit,) = send.units.flush()
    assert texts(unit) == ["SELECT 1 FROM a", "SELECT 1 FROM b"]


@pytest.mark.parametrize(
    ("sql", "transaction", "status"),
    [("SELECT 1 FROM a", 0, "I"), ("SELECT 1 /*request_id='r1'*/", 0, "I"), ("COMMIT", 1, "I"), ("BEGIN", 1, "T")],
)
def test_every_unit_is_shown_two_thirds_of_a_second_after_its_end(
    send: Traffic, sql: str, transaction: int, status: str
) -> None:
    send(sql, transaction=transaction, status=status)
    assert send.show(GAP_MAX_NS / MS) == []
    (unit,) = [*send.tick(GAP_MAX_NS / MS + 1), *send.show(GAP_MAX_NS / MS + 1)]
    assert len(unit.executions) == 1
    assert send.show(2_000) == []


def test_what_goes_on_is_shown_again_under_the_same_id(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/")
    (first,) = send.show(1_000)
    send("SELECT 2 /*request_id='r1'*/", gap_ms=2_000)
    (second,) = send.show(1_000)
    (complete,) = send.units.flush()
    assert [len(unit.executions) for unit in (first, second, complete)] == [1, 2, 2]
    assert first.id == second.id == complete.id


@pytest.mark.parametrize("pause_ms", [500, 5_000, 59_000])
def test_an_id_goes_on_after_a_pause(send: Traffic, pause_ms: int) -> None:
    for number in range(5):
        assert send(f"SELECT {number} /*request_id='r1'*/", gap_ms=pause_ms) == []
        assert send.tick(pause_ms - 1) == []
    (unit,) = send.units.flush()
    assert len(unit.executions) == 5


def test_an_id_goes_on_after_pauses_with_untagged_transactions_around_its_turns(send: Traffic) -> None:
    for number in range(1, 6):
        send("BEGIN", gap_ms=2_000, transaction=number, status="T")
        assert send.tick() == []
        send(f"SELECT {number} FROM a /*request_id='r1'*/", transaction=number, status="T")
        send("COMMIT", transaction=number)
    (unit,) = send.units.flush()
    assert (unit.key, len(unit.executions)) == ("r1", 15)


def test_a_minute_of_silence_ends_an_id(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/")
    (unit,) = send.tick(60_001)
    assert unit.key == "r1"


@pytest.mark.parametrize("end", ["SELECT 2 /*request_id='r2'*/", "DISCARD ALL", "close"])
def test_an_id_ends_when_its_connection_goes_on_is_given_back_or_closed(send: Traffic, end: str) -> None:
    send("SELECT 1 /*request_id='r1'*/")
    if end == "close":
        send.units.closed(A, send.now)
    else:
        send(end)
    done = [unit.key for unit in send.tick(GAP_MAX_NS / MS + 1)]
    assert "r1" in done
    assert "r2" not in done


def test_a_setting_that_is_no_longer_in_force_ends_its_unit(send: Traffic) -> None:
    send("SELECT 1", settings={"app.request_id": "r1"})
    send("SELECT 2 FROM a")
    assert [unit.key for unit in send.tick(1_000)][:1] == ["r1"]


def test_a_transaction_ends_with_its_end(send: Traffic) -> None:
    send("BEGIN", transaction=1, status="T")
    for number in range(5):
        send(f"SELECT {number} FROM a", gap_ms=100_000, transaction=1, status="T")
        assert send.tick(90_000) == []
    (unit,) = send("COMMIT", transaction=1)
    assert (unit.kind, len(unit.executions)) == ("transaction", 7)


def test_a_transaction_is_a_unit(send: Traffic) -> None:
    send("SELECT 0")
    (burst,) = send("BEGIN", transaction=1)
    assert texts(burst) == ["SELECT 0"]
    send("SELECT 1", transaction=1)
    send("COMMIT", transaction=1)
    (unit,) = send("SELECT 2")
    assert (unit.kind, unit.key, unit.confidence) == ("transaction", "1/1", "medium")
    assert texts(unit) == ["BEGIN", "SELECT 1", "COMMIT"]


def test_two_transactions_are_two_units(send: Traffic) -> None:
    send("BEGIN", transaction=1)
    send("COMMIT", transaction=1)
    (unit,) = send("BEGIN", transaction=2)
    assert unit.key == "1/1"


def test_a_tag_gives_the_whole_transaction_its_name(send: Traffic) -> None:
    send("BEGIN", transaction=1)
    send("SELECT 1", transaction=1)
    send("SELECT 2 /*request_id='r1',route='/books/7'*/", transaction=1)
    send("COMMIT", transaction=1)
    (unit,) = send.units.flush()
    assert (unit.kind, unit.key, unit.confidence, unit.route) == ("request", "r1", "strong", "/books/:id")
    assert texts(unit) == ["BEGIN", "SELECT 1", "SELECT 2", "COMMIT"]


def test_the_next_request_keeps_its_untagged_begin(send: Traffic) -> None:
    for number in (1, 2):
        send("BEGIN", transaction=number)
        send(f"SELECT {number} /*request_id='r{number}'*/", transaction=number)
        send("COMMIT", transaction=number)
    first, second = send.units.flush()
    assert texts(first) == ["BEGIN", "SELECT 1", "COMMIT"]
    assert texts(second) == ["BEGIN", "SELECT 2", "COMMIT"]


def test_what_a_session_does_goes_with_the_tag_beside_it(send: Traffic) -> None:
    send("SET TIME ZONE 'UTC'")
    send("SELECT 2 /*request_id='r1'*/")
    send("RESET TIME ZONE")
    (unit,) = send.units.flush()
    assert (unit.key, len(unit.executions)) == ("r1", 3)


def test_untagged_queries_in_autocommit_are_not_those_of_the_tag_beside_them(send: Traffic) -> None:
    """They may be a worker's, or a fixture's: an id claims what carries it."""
    send("SELECT 1 FROM a")
    send("SELECT 2 FROM b /*request_id='r1'*/")
    send("SELECT 3 FROM c")
    found = {unit.kind: texts(unit) for unit in send.units.flush()}
    assert found["request"] == ["SELECT 2 FROM b"]
    assert "SELECT 2 FROM b" not in found["burst"]


def test_two_ids_on_one_connection_always_split(send: Traffic) -> None:
    for number in (1, 2, 1):
        send(f"SELECT {number} /*request_id='r{number}'*/")
    first, second = send.units.flush()
    assert texts(first) == ["SELECT 1", "SELECT 1"]
    assert texts(second) == ["SELECT 2"]


def test_one_id_joins_connections_in_the_order_of_start(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/", A)
    send("SELECT 2 /*request_id='r1'*/", B)
    (unit,) = send.units.flush()
    assert [execution.connection.id for execution in unit.executions] == [A, B]


def test_nothing_else_joins_connections(send: Traffic) -> None:
    for connection in (A, B, A, B):
        send("SELECT 1 /*route='/a'*/", connection)
    assert [len(unit.executions) for unit in send.units.flush()] == [2, 2]


def test_a_tag_in_a_comment_overrides_a_setting(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/", settings={"app.request_id": "r2"})
    (unit,) = send.units.flush()
    assert (unit.key, unit.signal) == ("r1", "comment tag request_id")


def test_a_request_outranks_a_trace(send: Traffic) -> None:
    send(
        "SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',correlation_id='c1'*/",
    )
    (unit,) = send.units.flush()
    assert (unit.kind, unit.key) == ("request", "c1")


def test_a_setting_that_is_gone_ends_its_unit(send: Traffic) -> None:
    for sql in ("BEGIN", "SELECT 1", "COMMIT"):
        send(sql, transaction=1, settings={} if sql == "BEGIN" else {"app.request_id": "r1"})
    send("SELECT 2")
    first, second = send.units.flush()
    assert (first.key, texts(first)) == ("r1", ["BEGIN", "SELECT 1", "COMMIT"])
    assert (second.kind, texts(second)) == ("burst", ["SELECT 2"])


def test_an_old_id_in_a_prepared_statement_joins_nothing(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/")
    send("SELECT 2 /*request_id='r2'*/")
    send("SELECT 1 /*request_id='r1'*/", reused=True)
    assert [texts(unit) for unit in send.units.flush()] == [["SELECT 1"], ["SELECT 2"], ["SELECT 1"]]


def test_an_old_id_goes_with_its_transaction(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/")
    send("BEGIN", transaction=1)
    send("SELECT 2 /*request_id='r2'*/", transaction=1)
    send("SELECT 1 /*request_id='r1'*/", transaction=1, reused=True)
    assert [texts(unit) for unit in send.units.flush()] == [["SELECT 1"], ["BEGIN", "SELECT 2", "SELECT 1"]]


def test_another_route_ends_a_burst(send: Traffic) -> None:
    send("SELECT 1 /*controller='books',action='index',file='b.py',line='3'*/")
    send("SELECT 2 /*controller='books',action='index'*/")
    (unit,) = send("SELECT 3 /*controller='books',action='show'*/")
    assert (unit.route, unit.source, texts(unit)) == ("books#index", "b.py:3", ["SELECT 1", "SELECT 2"])


def test_a_reset_of_the_session_ends_its_unit(send: Traffic) -> None:
    send("SELECT 1")
    (unit,) = send("DISCARD ALL")
    assert texts(unit) == ["SELECT 1", "DISCARD ALL"]


def test_the_life_of_a_connection_is_a_unit(send: Traffic) -> None:
    send("SELECT 1")
    send("SELECT 2")
    (unit,) = send.units.closed(A, send.now)
    assert (unit.kind, unit.confidence, len(unit.executions)) == ("connection", "medium", 2)
    assert send.units.closed(A, send.now) == []


def test_the_last_burst_of_a_used_connection_stays_a_burst(send: Traffic) -> None:
    send.earlier()
    send("SELECT 2 FROM a")
    (unit,) = send.units.closed(A, send.now)
    assert unit.kind == "burst"


def test_the_life_of_a_connection_is_a_unit_also_where_it_rests_before_it_closes(send: Traffic) -> None:
    send("SELECT 2 FROM a")
    assert send.tick(5_000) == []
    (shown,) = send.show(5_000)
    (unit,) = send.units.closed(A, send.now + 5_000 * MS)
    assert (shown.kind, unit.kind, shown.id) == ("burst", "connection", unit.id)


def test_a_request_outlives_one_of_its_connections(send: Traffic) -> None:
    send("SELECT 1 /*request_id='r1'*/", A)
    assert send.units.closed(A, send.now) == []
    send("SELECT 2 /*request_id='r1'*/", B)
    (unit,) = send.units.flush()
    assert len(unit.executions) == 2


def test_ignored_executions_are_in_no_unit(send: Traffic) -> None:
    send("SELECT 1 /*pgtattle='ignore'*/")
    assert send.units.flush() == []


def test_a_unit_is_cut_at_its_greatest_size(send: Traffic) -> None:
    sizes = [len(unit.executions) for _ in range(MAX_EXECUTIONS + 5) for unit in send("SELECT 2", gap_ms=0)]
    assert sizes == [MAX_EXECUTIONS]
    assert [len(unit.executions) for unit in send.units.flush()] == [5]


def test_a_burst_is_cut_at_its_greatest_length(send: Traffic) -> None:
    begun = send.now
    done: list[Unit] = []
    while not done:
        done = send("SELECT 2", gap_ms=30)
    assert MAX_SPAN_NS <= send.now - begun <= MAX_SPAN_NS + 100 * MS


def test_an_id_that_goes_on_for_long_is_shown_now_and_then(send: Traffic) -> None:
    shown = 0
    for _ in range(4_000):
        send("SELECT 1 /*request_id='r1'*/", gap_ms=30)
        shown += len(send.show())
    assert shown == 3


def test_too_many_open_units_complete_the_oldest() -> None:
    send = Traffic(max_open=3)
    done = [unit.key for number in range(5) for unit in send(f"SELECT 1 /*request_id='r{number}'*/", gap_ms=0)]
    assert done == ["r0", "r1"]


def test_too_many_executions_held_complete_the_oldest_unit() -> None:
    send = Traffic(max_held=10)
    done = [unit.key for number in range(12) for unit in send(f"SELECT 1 /*request_id='r{number // 5}'*/", gap_ms=0)]
    assert done == ["r0"]
    assert sum(len(unit.executions) for unit in send.units.flush()) == 7


def test_nothing_is_lost_and_nothing_is_told_twice() -> None:
    send = Traffic(max_open=4, max_held=40)
    done: list[Unit] = []
    for number in range(2_000):
        connection = (A, B)[number % 2]
        tag = ("", " /*request_id='r1'*/", " /*request_id='r2'*/", " /*route='/x'*/")[number // 7 % 4]
        transaction = number // 11 % 3 and number // 11
        done += send(
            f"SELECT {number}{tag}", connection, gap_ms=(0, 1, 3, 120)[number // 5 % 4], transaction=transaction
        )
        if number % 50 == 0:
            done += send.tick(number % 7 * 100)
        if number % 333 == 0:
            done += send.units.closed(connection, send.now)
    done += send.units.flush()
    ids = sorted(execution.id for unit in done for execution in unit.executions)
    assert ids == list(range(1, 2_001))
    assert all(unit.executions for unit in done)


# -- habits ------------------------------------------------------------------------------------------------------------


def mixed(send: Traffic) -> None:
    """From here on the application is known to use autocommit and transactions."""
    for _ in range(STATEMENTS):
        send("SELECT 2", gap_ms=500)


def transaction(send: Traffic, number: int, *inside: str, end: str = "COMMIT") -> list[Unit]:
    done = []
    for sql in ("BEGIN", *inside):
        done += send(sql, transaction=number, status="T")
    return done + send(end, transaction=number, status="I")


def test_small_transactions_go_with_what_is_around_them_where_they_are_mixed(send: Traffic) -> None:
    mixed(send)
    (last,) = send("SELECT 0", gap_ms=500)
    assert texts(last) == ["SELECT 2"]
    for number in range(1, 5):
        assert transaction(send, number, f"SELECT {number}0") == []
    assert send("SELECT 5") == []
    (unit,) = send.tick(GAP_MAX_NS / MS + 1)
    assert (unit.kind, unit.confidence, len(unit.executions)) == ("burst", "weak", 14)


def test_a_transaction_that_may_hold_a_loop_is_a_unit_also_where_they_are_mixed(send: Traffic) -> None:
    mixed(send)
    send("SELECT 0", gap_ms=500)
    assert transaction(send, 1, "SELECT 10", "SELECT 11", "SELECT 12") == []
    (inner,) = send("SELECT 5")
    assert (inner.kind, inner.key, len(inner.executions)) == ("transaction", "1/1", 5)
    (around,) = send.units.flush()
    assert texts(around) == ["SELECT 0", "SELECT 5"]


def test_transactions_are_units_where_nothing_else_is_seen(send: Traffic) -> None:
    for number in range(1, STATEMENTS + 1):
        transaction(send, number, "SELECT 2")
    transaction(send, STATEMENTS + 1, "SELECT 3")
    (unit,) = send.units.flush()
    assert (unit.kind, unit.confidence, unit.signal) == ("transaction", "medium", "a transaction for each request")


def test_a_rollback_that_nothing_went_wrong_before_closes_a_session(send: Traffic) -> None:
    mixed(send)
    send("SELECT 0", gap_ms=500)
    assert [texts(unit) for unit in transaction(send, 1, "SELECT 10", end="ROLLBACK")] == [
        ["BEGIN", "SELECT 10", "ROLLBACK"]
    ]


def test_what_stands_between_two_resets_is_a_checkout(send: Traffic) -> None:
    send("DISCARD ALL")
    send("SELECT 2")
    send("SELECT 3")
    (unit,) = send("DISCARD ALL")
    assert (unit.kind, unit.confidence) == ("connection", "medium")
    assert unit.signal == "a connection taken from the pool and given back"
    assert texts(unit) == ["SELECT 2", "SELECT 3", "DISCARD ALL"]


def test_what_stands_between_two_questions_of_a_pool_is_a_checkout(send: Traffic) -> None:
    send("SELECT 1")
    send("SELECT 2")
    (unit,) = send("SELECT 1")
    assert (unit.kind, texts(unit)) == ("connection", ["SELECT 1", "SELECT 2"])


def test_a_question_after_a_rest_says_nothing_of_what_was_before(send: Traffic) -> None:
    send("SELECT 1")
    send("SELECT 2")
    (unit,) = send("SELECT 1", gap_ms=GAP_MAX_NS / MS + 1)
    assert unit.kind == "burst"


def test_a_small_transaction_goes_with_what_is_around_it_at_the_end_too(send: Traffic) -> None:
    mixed(send)
    send("SELECT 0", gap_ms=500)
    transaction(send, 1, "SELECT 10")
    (unit,) = send.units.closed(A, send.now)
    assert (unit.kind, len(unit.executions)) == ("burst", 4)


def test_a_connection_with_one_transaction_is_one_for_a_request(send: Traffic) -> None:
    kinds = []
    for number in range(10, LEARNED + 12):
        send.connections[number] = Connection(id=number, client=f"10.0.0.1:{number}", opened_ns=0, application="shop")
        send("BEGIN", number, transaction=1, status="T")
        send("SELECT 2", number, transaction=1, status="T")
        send("COMMIT", number, transaction=1)
        (unit,) = send.units.closed(number, send.now)
        kinds.append((unit.kind, unit.confidence))
    assert kinds[0] == ("connection", "medium")
    assert kinds[-1] == ("connection", "strong")


def test_a_transaction_that_gets_a_name_is_part_of_no_burst(send: Traffic) -> None:
    mixed(send)
    send("SELECT 0", gap_ms=500)
    send("BEGIN", transaction=1, status="T")
    send("SELECT 1 /*request_id='r9'*/", transaction=1, status="T")
    send("COMMIT", transaction=1)
    (burst,) = send.tick(700)
    assert send.tick(59_000) == []
    done = {"burst": burst} | {unit.kind: unit for unit in send.tick(60_001)}
    assert (done["request"].key, len(done["request"].executions)) == ("r9", 3)
    assert texts(done["burst"]) == ["SELECT 0"]
    send("SELECT 3 /*request_id='r9'*/", gap_ms=2_000)
    (unit,) = send.units.flush()
    assert texts(unit) == ["SELECT 3"]


@pytest.mark.parametrize("seed", range(60))
def test_every_execution_is_in_one_unit_whatever_comes(seed: int) -> None:
    choose = random.Random(seed)
    send = Traffic(max_open=choose.choice([3, 2_000]), max_held=choose.choice([20, 200_000]))
    mixed(send)
    before = send.count
    done: list[Unit] = send.units.flush()
    done.clear()
    begun: dict[int, int] = {}
    for number in range(150):
        connection, gap = choose.choice([A, A, B]), choose.choice([0, 1, 1, 10, 60, 300])
        tag = f" /*request_id='r{choose.randint(1, 3)}'*/" if choose.random() < 0.2 else ""
        open_ = begun.get(connection, 0)
        what = choose.random()
        if what < 0.2 and not open_:
            begun[connection] = number + 1
            done += send(f"BEGIN{tag}", connection, gap, transaction=number + 1, status="T")
        elif what < 0.35 and open_:
            begun[connection] = 0
            done += send(choose.choice(["COMMIT", "ROLLBACK"]) + tag, connection, gap, transaction=open_)
        elif what < 0.4 and not open_:
            done += send(choose.choice(["DISCARD ALL", "SELECT 1"]), connection, gap)
        elif what < 0.42:
            begun[connection] = 0
            done += send.units.closed(connection, send.now)
        elif what < 0.55:
            send.now += choose.choice([10, 100, 100, 500]) * MS
            done += send.tick()
        else:
            reused = choose.random() < 0.2
            status = "T" if open_ else "I"
            sql = f"SELECT {number} FROM t{tag}"
            done += send(sql, connection, gap, transaction=open_, status=status, reused=reused)
    done += send.units.flush()
    ids = [execution.id for unit in done for execution in unit.executions]
    assert sorted(ids) == list(range(before + 1, send.count + 1))
    assert (send.units._held, send.units._marked, send.units._open) == (0, {}, {})


def test_a_pause_tells_nothing_on_a_connection_of_a_pooler(send: Traffic) -> None:
    send("SELECT 2", prepared="PGBOUNCER_7")
    (unit,) = send("SELECT 3")
    assert texts(unit) == ["SELECT 2"]
    (unit,) = send("BEGIN", transaction=1)
    send("SELECT 4", transaction=1)
    send("COMMIT", transaction=1)
    (unit,) = send("SELECT 5")
    assert (unit.kind, len(unit.executions)) == ("transaction", 3)


def test_a_pooler_is_known_by_the_settings_that_it_puts_back(send: Traffic) -> None:
    for name in ("a", "b", "a"):
        send(f"SET application_name='{name}'", siblings=1)
    send("SELECT 2")
    assert len(send("SELECT 3")) == 1


@pytest.mark.parametrize("sql", ["SET application_name = 'GET /{n}'", "SET application_name TO 'x{n}'"])
def test_an_application_that_names_itself_is_no_pooler(send: Traffic, sql: str) -> None:
    for n in range(5):
        send(sql.format(n=n))
    send("SELECT 2")
    assert send("SELECT 3") == []


def test_a_pooler_may_be_told_by_a_setting() -> None:
    send = Traffic(behind_pooler=True)
    send("SELECT 2")
    (unit,) = send("SELECT 3")
    assert unit.pooled


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_a_scope_is_a_unit_of_all_its_connections() -> None:
    scopes = Scopes(lambda client, pid: False)
    send = Traffic(scopes=scopes)
    send("SELECT 1")
    asked = ScopeRequest(kind="test", key="test_books", match=ScopeMatch(application_name="shop"))
    scope = scopes.open(asked, send.now)
    send("SELECT 2")
    send("SELECT 3", B, transaction=1)
    scopes.close(scope.id, send.now)
    send("SELECT 4")
    units = {unit.kind: unit for unit in send.units.flush()}
    unit = units["scope"]
    assert (unit.key, unit.confidence, unit.signal) == ("test_books", "strong", "scope of a test")
    assert texts(unit) == ["SELECT 2", "SELECT 3"]


def test_scopes_in_one_transaction_are_units_of_their_own() -> None:
    scopes = Scopes(lambda client, pid: False)
    send = Traffic(scopes=scopes)
    send("BEGIN", transaction=1, status="T")
    for name in ("test_a", "test_b"):
        asked = ScopeRequest(kind="test", key=name, match=ScopeMatch(application_name="shop"))
        scope = scopes.open(asked, send.now)
        send("SAVEPOINT s", transaction=1, status="T")
        send("SELECT 2", transaction=1, status="T")
        scopes.close(scope.id, send.now)
    send("ROLLBACK", transaction=1)
    assert [(unit.key, len(unit.executions)) for unit in send.units.flush() if unit.kind == "scope"] == [
        ("test_a", 2),
        ("test_b", 2),
    ]


def test_a_request_in_a_scope_has_its_own_name() -> None:
    scopes = Scopes(lambda client, pid: True)
    send = Traffic(scopes=scopes)
    scopes.open(ScopeRequest(kind="job", key="nightly", match=ScopeMatch(client_pid=7)), send.now)
    send("SELECT 2 /*request_id='r1'*/")
    assert [unit.key for unit in send.units.flush()] == ["r1"]
