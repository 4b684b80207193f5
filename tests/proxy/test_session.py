"""The decoder, by transcripts: what client and server say, and the executions that come of it."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.samples import SINGLE_ROWS, Samples
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.events import Connection, Parameter
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.named import MAX_STATEMENTS
from pgtattle.proxy.session import Session
from pgtattle.proxy.wire.batch import COUNTED, COUNTED_BODY, PREFIX, PREFIX_HEAD
from pgtattle.proxy.wire.encodings import codec
from pgtattle.proxy.wire.frames import MAX_PENDING
from pgtattle.proxy.wire.rows import Sample, hashed

MS = 1_000_000


def frame(kind: str | int, body: bytes = b"") -> bytes:
    return (bytes((kind,)) if isinstance(kind, int) else kind.encode()) + struct.pack("!i", len(body) + 4) + body


def query(sql: str) -> bytes:
    return frame("Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "", types: tuple[int, ...] = ()) -> bytes:
    body = name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack(f"!H{len(types)}I", len(types), *types)
    return frame("P", body)


def bind(*values: bytes | None, name: str = "", portal: str = "", formats: tuple[int, ...] = ()) -> bytes:
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return frame("B", body + b"\0\0")


def execute(portal: str = "", rows: int = 0) -> bytes:
    return frame("E", portal.encode() + b"\0" + struct.pack("!i", rows))


def describe(name: str = "", kind: bytes = b"S") -> bytes:
    return frame("D", kind + name.encode() + b"\0")


def close(name: str, kind: bytes = b"S") -> bytes:
    return frame("C", kind + name.encode() + b"\0")


def complete(tag: str) -> bytes:
    return frame("C", tag.encode() + b"\0")


def rows(count: int, size: int = 0) -> bytes:
    return frame(COUNTED, COUNTED_BODY.pack(ord("D"), count, size or 10 * count))


def ready(status: str = "I") -> bytes:
    return frame("Z", status.encode())


def error(sqlstate: str = "42601") -> bytes:
    return frame("E", b"SERROR\0C" + sqlstate.encode() + b"\0Mwords\0\0")


SYNC, FLUSH = frame("S"), frame("H")
PARSED, BOUND, CLOSED, NO_DATA, SUSPENDED = frame("1"), frame("2"), frame("3"), frame("n"), frame("s")


class Talk:
    """A connection that is logged in; each call takes a millisecond."""

    def __init__(self, *, startup: dict[str, str] | None = None) -> None:
        numbers = itertools.count(1)
        self.samples = Samples()
        connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
        self.session = Session(connection, Texts().read, lambda: next(numbers), self.samples)
        self.now = 0
        self.executions: list[Execution] = []
        given_ = {"user": "alice", "database": "shop", "application_name": "web", **(startup or {})}
        body = b"".join(key.encode() + b"\0" + value.encode() + b"\0" for key, value in given_.items()) + b"\0"
        self.session.startup(struct.pack("!iI", len(body) + 8, 196608) + body, 0)
        self.server(frame("R", b"\0\0\0\0") + frame(PREFIX, PREFIX_HEAD.pack(ord("K"), 12) + b"\0\0\0\x2a") + ready())

    def client(self, *frames: bytes) -> Talk:
        self.now += MS
        self.session.frontend(b"".join(frames), self.now)
        return self

    def server(self, *frames: bytes) -> Talk:
        self.now += MS
        self.executions += self.session.backend(b"".join(frames), self.now)
        return self

    @property
    def only(self) -> Execution:
        (found,) = self.executions
        return found

    def sqls(self) -> list[str]:
        return [one.text.sql for one in self.executions]


def test_login() -> None:
    connection = Talk().session.connection
    assert (connection.user, connection.database, connection.application, connection.backend_pid) == (
        "alice",
        "shop",
        "web",
        42,
    )


def test_a_password_is_a_challenge() -> None:
    session = Session(Connection(id=1, client="unix", opened_ns=0), Texts().read, lambda: 1, Samples())
    session.backend(frame("R", b"\0\0\0\x0a") + frame("R", b"\0\0\0\0") + ready(), 1)
    assert session.authenticated
    assert session.challenged
    assert not Talk().session.challenged


def test_a_simple_query() -> None:
    talk = Talk().client(query("SELECT 1")).server(frame("T", b"\0\0"), rows(1, 12), complete("SELECT 1"), ready())
    one = talk.only
    assert (one.id, one.text.sql, one.protocol, one.rows, one.command_tag, one.sqlstate) == (
        1,
        "SELECT 1",
        "simple",
        1,
        "SELECT 1",
        None,
    )
    assert (one.transaction, one.status, one.position, one.siblings) == (0, "I", 0, 1)
    assert one.duration_ns == MS
    assert one.first_row_ns == one.ended_ns
    assert one.bytes_received > 12


def test_several_statements_are_executions_of_their_own() -> None:
    talk = Talk().client(query("SELECT 1; INSERT INTO t VALUES (1); SELECT 3"))
    talk.server(rows(1), complete("SELECT 1"), complete("INSERT 0 5"), rows(2), complete("SELECT 2"), ready())
    assert talk.sqls() == ["SELECT 1", "INSERT INTO t VALUES (1)", "SELECT 3"]
    assert [one.rows for one in talk.executions] == [1, 5, 2]
    assert [(one.position, one.siblings, one.exchange) for one in talk.executions] == [(0, 3, 1), (1, 3, 1), (2, 3, 1)]


def test_an_error_ends_a_query_of_several_statements() -> None:
    talk = Talk().client(query("SELECT 1; SELECT 1/0; SELECT 3"))
    talk.server(complete("SELECT 1"), error("22012"), ready())
    assert talk.sqls() == ["SELECT 1", "SELECT 1/0"]
    assert [one.sqlstate for one in talk.executions] == [None, "22012"]


def test_more_answers_than_statements_are_no_trouble() -> None:
    talk = Talk().client(query("NOTIFY x")).server(complete("NOTIFY"), complete("INSERT 0 1"), ready())
    assert talk.sqls() == ["NOTIFY x", "NOTIFY x"]


def test_an_empty_query() -> None:
    talk = Talk().client(query("")).server(frame("I"), ready())
    assert talk.only.statement.command == "EMPTY"


def test_the_extended_protocol_with_parameters() -> None:
    talk = Talk().client(
        parse("SELECT $1, $2, $3", types=(23, 25, 0)), bind(struct.pack("!i", 7), b"", None, formats=(1, 0, 0))
    )
    talk.client(describe(kind=b"P"), execute(), SYNC)
    talk.server(PARSED, BOUND, frame("T", b"\0\0"), rows(1), complete("SELECT 1"), ready())
    assert [one.value for one in talk.only.parameters] == ["7", "", None]
    assert talk.only.values == ("7", "", None)
    assert talk.only.binds
    assert not talk.only.reused
    assert talk.only.protocol == "extended"


def test_types_come_from_the_parameter_description() -> None:
    talk = Talk().client(parse("SELECT $1", "s"), describe("s"), SYNC)
    talk.server(PARSED, frame("t", struct.pack("!HI", 1, 20)), frame("T", b"\0\0"), ready())
    talk.client(bind(struct.pack("!q", -5), name="s", formats=(1,)), execute(), SYNC)
    talk.server(BOUND, rows(1), complete("SELECT 1"), ready())
    assert talk.only.parameters[0].value == "-5"
    assert talk.only.parameters[0].oid == 20
    assert talk.only.prepared == "s"


def test_a_statement_is_reused_from_its_second_execution_on() -> None:
    talk = Talk().client(parse("SELECT $1 /*request_id='r1'*/", "s"), SYNC).server(PARSED, ready())
    for value in (b"1", b"2"):
        talk.client(bind(value, name="s"), execute(), SYNC).server(BOUND, rows(1), complete("SELECT 1"), ready())
    talk.client(parse("SELECT $1 /*request_id='r2'*/", "s"), SYNC).server(PARSED, ready())
    talk.client(bind(b"3", name="s"), execute(), bind(b"4", name="s"), execute(), SYNC)
    talk.server(*[BOUND + rows(1) + complete("SELECT 1")] * 2, ready())
    assert [one.reused for one in talk.executions] == [False, True, False, False]


def test_the_unnamed_statement_is_reused_too() -> None:
    talk = Talk().client(parse("SELECT $1"), describe(), SYNC).server(PARSED, frame("n"), ready())
    for value in (b"1", b"2"):
        talk.client(bind(value), execute(), SYNC).server(BOUND, rows(1), complete("SELECT 1"), ready())
    assert [one.reused for one in talk.executions] == [False, True]


def test_an_execution_that_failed_was_one() -> None:
    talk = Talk().client(parse("SELECT 1 / $1", "s"), SYNC).server(PARSED, ready())
    talk.client(bind(b"0", name="s"), execute(), SYNC).server(BOUND, error("22012"), ready())
    talk.client(bind(b"1", name="s"), execute(), SYNC).server(BOUND, rows(1), complete("SELECT 1"), ready())
    assert [one.reused for one in talk.executions] == [False, True]


def test_a_statement_from_before_anyone_looked_counts_as_reused() -> None:
    talk = Talk()
    talk.session.statement(parse("SELECT $1", "s"))
    talk.client(bind(b"1", name="s"), execute(), SYNC).server(BOUND, rows(1), complete("SELECT 1"), ready())
    assert talk.only.reused


def test_forty_thousand_parameters() -> None:
    talk = Talk().client(parse("SELECT $1"), bind(*[b"1"] * 40_000), execute(), SYNC)
    talk.server(PARSED, BOUND, complete("SELECT 1"), ready())
    assert len(talk.only.parameters) == 40_000


def test_a_pipeline_of_one_sync() -> None:
    talk = Talk()
    for number in range(5):
        talk.client(parse(f"SELECT {number}, $1"), bind(b"x"), execute())
    talk.client(SYNC)
    talk.server(*[PARSED + BOUND + rows(1) + complete("SELECT 1")] * 5, ready())
    assert [one.siblings for one in talk.executions] == [5] * 5
    assert talk.sqls() == [f"SELECT {number}, $1" for number in range(5)]


def test_a_pipeline_of_many_syncs_overlaps_answers_and_requests() -> None:
    talk = Talk().client(*[parse("SELECT $1") + bind(b"1") + execute() + SYNC] * 3)
    talk.server(PARSED + BOUND + complete("SELECT 1") + ready() + PARSED + BOUND)
    talk.client(parse("SELECT 9"), bind(), execute(), SYNC)
    talk.server(complete("SELECT 1") + ready(), PARSED + BOUND + complete("SELECT 1") + ready())
    talk.server(PARSED + BOUND + complete("SELECT 1") + ready())
    assert [one.exchange for one in talk.executions] == [1, 2, 3, 4]
    assert talk.sqls()[-1] == "SELECT 9"
    assert not talk.session.busy


def test_an_error_skips_to_the_sync() -> None:
    talk = Talk().client(parse("SELEC"), bind(), execute(), parse("SELECT 2"), bind(), execute())
    talk.server(error())
    talk.client(parse("SELECT 3"), bind(), execute(), SYNC, query("SELECT 4"))
    talk.server(ready(), complete("SELECT 1"), ready())
    assert talk.sqls() == ["SELEC", "SELECT 4"]
    assert talk.executions[0].sqlstate == "42601"


def test_what_was_skipped_never_prepared_a_statement() -> None:
    talk = Talk().client(parse("SELECT 1/0"), bind(), execute(), parse("SELECT 'skipped'", "s"), SYNC)
    talk.server(PARSED, BOUND, error("22012"), ready())
    talk.client(parse("SELECT 'real'", "s"), SYNC).server(PARSED, ready())
    talk.client(bind(name="s"), execute(), SYNC).server(BOUND, complete("SELECT 1"), ready())
    assert talk.sqls() == ["SELECT 1/0", "SELECT 'real'"]


def test_an_error_of_bind_is_an_execution_and_of_describe_is_none() -> None:
    talk = Talk().client(parse("SELECT $1::int"), bind(b"x"), execute(), SYNC).server(PARSED, error("22P02"), ready())
    assert talk.only.sqlstate == "22P02"
    assert talk.only.parameters[0].value == "x"
    talk.client(describe("absent"), SYNC).server(error("26000"), ready())
    assert len(talk.executions) == 1


def test_flush_without_sync_gives_answers_before_the_end() -> None:
    talk = Talk().client(parse("SELECT 1", "s"), describe("s"), FLUSH).server(PARSED, frame("t", b"\0\0"), NO_DATA)
    talk.client(bind(name="s"), execute(), SYNC).server(BOUND, complete("SELECT 1"), ready())
    assert talk.only.text.sql == "SELECT 1"


def test_the_fetches_of_a_portal_are_one_execution() -> None:
    talk = Talk().client(query("BEGIN")).server(complete("BEGIN"), ready("T"))
    talk.client(parse("SELECT x", "s"), bind(name="s", portal="p"), execute("p", 10), SYNC)
    talk.server(PARSED, BOUND, rows(10), SUSPENDED, ready("T"))
    for _ in range(18):
        talk.client(execute("p", 10), SYNC).server(rows(10), SUSPENDED, ready("T"))
    talk.client(execute("p", 10), SYNC).server(rows(5), complete("SELECT 5"), ready("T"))
    assert [one.rows for one in talk.executions] == [0, 195]
    fetched = talk.executions[1]
    assert fetched.first_row_ns < fetched.ended_ns
    assert fetched.command_tag == "SELECT 5"


def test_a_portal_that_is_left_was_an_execution() -> None:
    talk = Talk().client(query("BEGIN")).server(complete("BEGIN"), ready("T"))
    talk.client(parse("SELECT x"), bind(portal="p"), execute("p", 10), SYNC).server(
        PARSED, BOUND, rows(10), SUSPENDED, ready("T")
    )
    talk.client(close("p", b"P"), SYNC).server(CLOSED, ready("T"))
    assert talk.executions[-1].rows == 10
    talk.client(bind(portal="q"), execute("q", 10), SYNC).server(BOUND, rows(10), SUSPENDED, ready("T"))
    talk.client(query("COMMIT")).server(complete("COMMIT"), ready())
    assert sorted(talk.sqls()) == ["BEGIN", "COMMIT", "SELECT x", "SELECT x"]


def test_a_portal_that_is_left_ended_with_its_last_rows() -> None:
    """asyncpg's fetchval asks for one row, and Sync ends the portal."""
    talk = Talk().client(parse("SELECT x"), bind(), execute("", 1), SYNC)
    began = talk.now
    talk.server(PARSED, BOUND)
    talk.server(rows(1), SUSPENDED)
    ended = talk.now
    talk.server(ready())
    assert (talk.only.started_ns, talk.only.ended_ns) == (began, ended)
    assert talk.only.duration_ns == 2 * MS
    talk.client(bind(), execute("", 1), SYNC).server(BOUND, rows(1), SUSPENDED, ready())
    assert talk.executions[1].duration_ns == MS


def test_what_passes_between_the_fetches_of_a_portal_is_the_clients_time() -> None:
    talk = Talk().client(query("BEGIN")).server(complete("BEGIN"), ready("T"))
    talk.client(parse("SELECT x"), bind(portal="p"), execute("p", 10), SYNC)
    talk.server(PARSED, BOUND, rows(10), SUSPENDED, ready("T"))
    talk.now += 600 * MS
    talk.client(execute("p", 10), SYNC).server(rows(10), SUSPENDED, ready("T"))
    talk.now += 300 * MS
    talk.client(query("SELECT 'between'"))
    talk.now += 50 * MS
    talk.server(complete("SELECT 1"), ready("T"))
    talk.client(execute("p", 10), SYNC).server(rows(3), complete("SELECT 3"), ready("T"))
    fetched = talk.executions[-1]
    assert (fetched.rows, fetched.duration_ns) == (23, 3 * MS)
    assert fetched.stalled_ns == fetched.ended_ns - fetched.started_ns - 3 * MS


def test_fetches_that_were_asked_for_ahead_have_no_pause() -> None:
    talk = Talk().client(parse("SELECT x"), bind(), execute("", 10), execute("", 10), SYNC)
    talk.server(PARSED, BOUND, rows(10), SUSPENDED).server(rows(5), complete("SELECT 5"), ready())
    assert (talk.only.duration_ns, talk.only.stalled_ns) == (2 * MS, 0)


def test_a_name_is_resolved_when_the_server_gets_to_it() -> None:
    talk = Talk().client(parse("SELECT 'one'", "s"), bind(name="s"), execute(), close("s"), parse("SELECT 'two'", "s"))
    talk.client(bind(name="s"), execute(), SYNC)
    talk.server(PARSED, BOUND, complete("SELECT 1"), CLOSED, PARSED, BOUND, complete("SELECT 1"), ready())
    assert talk.sqls() == ["SELECT 'one'", "SELECT 'two'"]


def test_statements_end_with_deallocate_and_discard() -> None:
    talk = Talk()
    for sql in ("DEALLOCATE s", 'DEALLOCATE "s"', "DEALLOCATE ALL", "DISCARD ALL"):
        talk.client(parse("SELECT 1", "s"), SYNC).server(PARSED, ready())
        talk.client(query(sql)).server(complete(sql.split(" ")[0]), ready())
        talk.client(bind(name="s"), execute(), SYNC).server(error("26000"), ready())
        assert talk.executions[-1].text.sql == ""


def test_the_unnamed_statement_ends_with_a_simple_query() -> None:
    talk = Talk().client(parse("SELECT 1"), SYNC).server(PARSED, ready())
    talk.client(query("SELECT 2")).server(complete("SELECT 1"), ready())
    talk.client(bind(), execute(), SYNC).server(error("26000"), ready())
    assert talk.sqls() == ["SELECT 2", ""]


def test_copy_out_and_in() -> None:
    talk = Talk().client(query("COPY t TO STDOUT"))
    talk.server(
        frame("H", b"\0\0\0"),
        frame(COUNTED, COUNTED_BODY.pack(ord("d"), 9, 900)),
        frame("c"),
        complete("COPY 9"),
        ready(),
    )
    talk.client(query("COPY t FROM STDIN")).server(frame("G", b"\0\0\0"))
    talk.client(frame(COUNTED, COUNTED_BODY.pack(ord("d"), 4, 400)), frame("c")).server(complete("COPY 4"), ready())
    assert [one.rows for one in talk.executions] == [9, 4]
    assert talk.executions[0].bytes_received > 900


@pytest.mark.parametrize("early", [True, False])
def test_syncs_before_the_end_of_a_copy_are_ignored(early: bool) -> None:
    talk = Talk().client(parse("COPY t FROM STDIN"), bind(), execute(), SYNC)
    if early:
        talk.server(PARSED, BOUND, frame("G", b"\0\0\0")).client(frame("c"), SYNC)
    else:
        talk.client(frame("c"), SYNC).server(PARSED, BOUND, frame("G", b"\0\0\0"))
    talk.server(complete("COPY 0"), ready())
    talk.client(query("SELECT 1")).server(complete("SELECT 1"), ready())
    assert talk.sqls() == ["COPY t FROM STDIN", "SELECT 1"]
    assert not talk.session.busy


def test_a_failed_copy_with_data_still_on_its_way() -> None:
    talk = Talk().client(query("COPY t FROM STDIN")).server(frame("G", b"\0\0\0"))
    talk.client(frame(COUNTED, COUNTED_BODY.pack(ord("d"), 4, 400))).server(error("22P04"), ready())
    talk.client(frame(COUNTED, COUNTED_BODY.pack(ord("d"), 4, 400)), frame("c"), query("SELECT 1"))
    talk.server(complete("SELECT 1"), ready())
    assert [one.sqlstate for one in talk.executions] == ["22P04", None]


def test_a_function_call_is_no_execution() -> None:
    talk = Talk().client(frame(PREFIX, PREFIX_HEAD.pack(ord("F"), 30))).server(frame("V", b""), ready())
    talk.client(frame(PREFIX, PREFIX_HEAD.pack(ord("F"), 30))).server(error(), ready())
    talk.client(query("SELECT 1")).server(complete("SELECT 1"), ready())
    assert talk.sqls() == ["SELECT 1"]


def test_messages_at_any_moment_belong_to_nobody() -> None:
    talk = Talk().server(frame("N", b"SNOTICE\0\0"), frame("A", b"\0\0\0\1x\0y\0"), frame("S", b"TimeZone\0UTC\0"))
    talk.client(query("SELECT 1")).server(rows(1), frame("N", b"SNOTICE\0\0"), frame("A", b"\0\0\0\1x\0y\0"))
    talk.server(frame("S", b"TimeZone\0UTC\0"), complete("SELECT 1"), ready()).server(error("57P01"))
    assert talk.only.sqlstate is None


def test_transactions_are_numbered() -> None:
    talk = Talk()
    for sql, tag, status in (
        ("SELECT 1", "SELECT 1", "I"), ("BEGIN", "BEGIN", "T"), ("SELECT 2", "SELECT 1", "T"),
        ("COMMIT", "COMMIT", "I"),
        ("SELECT 3", "SELECT 1", "I"), ("START TRANSACTION", "START TRANSACTION", "T"), ("ROLLBACK", "ROLLBACK", "I"),
    ):  # fmt: skip
        talk.client(query(sql)).server(complete(tag), ready(status))
    talk.client(query("BEGIN; SELECT 4; COMMIT")).server(
        complete("BEGIN"), complete("SELECT 1"), complete("COMMIT"), ready()
    )
    assert [one.transaction for one in talk.executions] == [0, 1, 1, 1, 0, 2, 2, 3, 3, 3]
    assert [one.status for one in talk.executions][:4] == ["I", "T", "T", "I"]


def settings_after(talk: Talk, sql: str, tag: str = "SET", status: str = "I") -> dict[str, str]:
    talk.client(query(sql)).server(complete(tag), ready(status))
    return dict(talk.executions[-1].settings)


def test_watched_settings_are_tags_for_as_long_as_they_last() -> None:
    talk = Talk()
    assert settings_after(talk, "SET app.request_id = 'r1'") == {"app.request_id": "r1"}
    assert settings_after(talk, "SELECT 1") == {"app.request_id": "r1"}
    assert settings_after(talk, "BEGIN", "BEGIN", "T") == {"app.request_id": "r1"}
    assert settings_after(talk, "SET LOCAL app.request_id TO 'r2'", "SET", "T") == {"app.request_id": "r2"}
    assert settings_after(talk, "COMMIT", "COMMIT") == {"app.request_id": "r2"}
    assert settings_after(talk, "SELECT 1") == {"app.request_id": "r1"}
    settings_after(talk, "BEGIN", "BEGIN", "T")
    settings_after(talk, "SET app.request_id = 'r3'", "SET", "T")
    settings_after(talk, "ROLLBACK", "ROLLBACK")
    assert settings_after(talk, "SELECT 1") == {"app.request_id": "r1"}
    assert settings_after(talk, "SELECT set_config('request.path', '/x', false)", "SELECT 1") == {
        "app.request_id": "r1",
        "request.path": "/x",
    }
    assert settings_after(talk, "SET LOCAL app.trace_id = 'gone'")["app.trace_id"] == "gone"
    assert "app.trace_id" not in settings_after(talk, "SELECT 1")
    assert settings_after(talk, "RESET request.path", "RESET") == {"app.request_id": "r1"}
    assert settings_after(talk, "SET work_mem = '1MB'") == {"app.request_id": "r1"}
    assert settings_after(talk, "DISCARD ALL", "DISCARD ALL") == {}


def context_after(talk: Talk, sql: str, status: str = "I") -> int:
    talk.client(query(sql)).server(complete(sql.split()[0]), ready(status))
    return talk.executions[-1].context


def test_settings_that_answers_depend_on_make_a_context() -> None:
    talk = Talk()
    first = context_after(talk, "SET app.tenant = 'a'")
    assert first != 0
    assert context_after(talk, "SET app.tenant TO 'b' /* of 'a' */") != first
    assert context_after(talk, "SELECT set_config('app.tenant', 'a', false)") == first
    assert context_after(talk, "SET statement_timeout = 5") == first
    assert context_after(talk, "SET app.request_id = 'r1'") == first
    inside = [context_after(talk, "BEGIN", "T"), context_after(talk, "SET LOCAL ROLE reader", "T")]
    assert inside[0] == first != inside[1]
    assert context_after(talk, "SELECT 1", "T") == inside[1]
    context_after(talk, "COMMIT")
    assert context_after(talk, "SELECT 1") == first
    assert context_after(talk, "RESET app.tenant") == 0


@pytest.mark.parametrize(
    ("set_", "reset"),
    [
        ("SET ROLE a", "SET ROLE NONE"),
        ("SET SESSION ROLE 'a'", "RESET ROLE"),
        ("SET SESSION AUTHORIZATION a", "SET SESSION AUTHORIZATION DEFAULT"),
        ("SET LOCAL SESSION AUTHORIZATION a", "RESET SESSION AUTHORIZATION"),
        ("SET search_path TO a, public", "SET search_path TO DEFAULT"),
        ("SET SCHEMA 'a'", "RESET search_path"),
        ("SET TIME ZONE 'UTC'", "SET TIME ZONE LOCAL"),
        ('SET SESSION "app.user" = 7', "RESET ALL"),
        ("SET ROLE a", "DISCARD ALL"),
        ("SELECT set_config('request.jwt.claims', '{}', false)", "RESET ALL"),
    ],
)
def test_ways_to_set_what_answers_depend_on(set_: str, reset: str) -> None:
    talk = Talk()
    context_after(talk, "BEGIN", "T")
    assert context_after(talk, set_, "T") != 0
    assert context_after(talk, reset, "T") == 0


def test_set_config_with_bound_values() -> None:
    talk = Talk().client(parse("SELECT set_config($1, $2, $3)"), bind(b"app.job_id", b"j7", b"f"), execute(), SYNC)
    talk.server(PARSED, BOUND, complete("SELECT 1"), ready())
    assert talk.only.settings == {"app.job_id": "j7"}


def test_application_name_is_a_tag_once_it_is_changed() -> None:
    talk = Talk().client(query("SET application_name = 'req-1'"))
    talk.server(complete("SET"), frame("S", b"application_name\0req-1\0"), ready())
    assert talk.only.settings == {"application_name": "req-1"}
    assert talk.only.connection.application == "web"


def test_times_of_a_pipeline_follow_each_other_and_stalls_are_apart() -> None:
    talk = Talk().client(query("SELECT 1"), query("SELECT 2"))
    talk.now += 9 * MS
    talk.server(complete("SELECT 1"), ready())
    talk.now += 4 * MS
    talk.session.stalled(3 * MS, talk.now)
    talk.server(complete("SELECT 1"), ready())
    first, second = talk.executions
    assert first.duration_ns == 10 * MS
    assert second.started_ns == first.ended_ns
    assert (second.duration_ns, second.stalled_ns) == (2 * MS, 3 * MS)


def test_a_stall_belongs_to_the_portal_that_was_not_read() -> None:
    talk = Talk().client(parse("SELECT x"), bind(), execute(), SYNC).server(PARSED, BOUND, rows(10))
    talk.now += 4 * MS
    talk.session.stalled(4 * MS, talk.now)
    talk.server(rows(10), complete("SELECT 20"), ready())
    assert (talk.only.duration_ns, talk.only.stalled_ns) == (2 * MS, 4 * MS)


def test_a_stall_after_the_last_answer_is_not_the_next_querys() -> None:
    talk = Talk().client(query("SELECT 1")).server(complete("SELECT 1"), ready())
    talk.session.stalled(500 * MS, talk.now)
    talk.client(query("SELECT 2"))
    talk.now += 9 * MS
    talk.server(complete("SELECT 1"), ready())
    assert (talk.executions[1].duration_ns, talk.executions[1].stalled_ns) == (10 * MS, 0)


def test_client_encoding_and_bytes_that_are_none() -> None:
    talk = Talk().server(frame("S", b"client_encoding\0LATIN1\0"))
    talk.client(frame("Q", "SELECT 'ö'".encode("latin-1") + b"\0")).server(complete("SELECT 1"), ready())
    assert talk.only.text.sql == "SELECT 'ö'"
    talk.server(frame("S", b"client_encoding\0UTF8\0")).client(frame("Q", b"SELECT '\xff'\0"))
    talk.server(complete("SELECT 1"), ready())
    assert talk.executions[-1].text.sql == "SELECT '\ufffd'"


def test_a_cut_statement_is_said_to_be_cut() -> None:
    body = b"SELECT '" + b"x" * 1000
    talk = (
        Talk().client(frame(PREFIX, PREFIX_HEAD.pack(ord("Q"), 5_000_000) + body)).server(complete("SELECT 1"), ready())
    )
    assert talk.only.text.truncated
    assert talk.only.bytes_sent == 5_000_001


def test_after_a_gap_it_is_in_sync_and_knows_the_statements() -> None:
    talk = Talk().client(query("SELECT 'half'"))
    talk.session.statement(parse("SELECT 'known'", "s"))
    talk.session.resync("T", talk.now)
    assert not talk.session.busy
    talk.client(bind(name="s"), execute(), SYNC).server(BOUND, complete("SELECT 1"), ready("T"))
    talk.client(bind(name="unknown"), execute(), SYNC).server(BOUND, complete("SELECT 1"), ready("T"))
    assert talk.sqls() == ["SELECT 'known'", ""]
    assert talk.executions[0].transaction == 1


def test_the_end_of_a_connection_gives_out_what_was_complete() -> None:
    talk = Talk().client(query("SELECT 1; SELECT 2")).server(complete("SELECT 1"))
    (last,) = talk.session.close(talk.now)
    assert (last.text.sql, last.status) == ("SELECT 1", "?")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (ready(), "impossible_answer"),
        (complete("SELECT 1"), "impossible_answer"),
        (PARSED, "impossible_answer"),
        (frame("Z"), "bad_message"),
        (frame("S", b"no end"), "bad_message"),
    ],
)
def test_impossible_answers_are_named(frames: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        Talk().server(frames)
    assert caught.value.reason == reason


def test_a_client_that_never_waits_is_given_up() -> None:
    with pytest.raises(ProtocolViolation) as caught:
        Talk().client(SYNC * (MAX_PENDING + 1))
    assert caught.value.reason == "state_cap"


def test_of_too_many_prepared_statements_the_oldest_is_forgotten() -> None:
    talk = Talk()
    for number in range(MAX_STATEMENTS + 1):
        talk.client(parse("SELECT 1", f"s{number}"), SYNC).server(frame("1"), ready())
    for name in ("s0", f"s{MAX_STATEMENTS}"):
        talk.client(bind(name=name), execute(), SYNC).server(frame("2"), rows(1), complete("SELECT 1"), ready())
    assert [one.text.sql for one in talk.executions] == ["", "SELECT 1"]


def test_what_is_asked_before_the_login_is_over_is_followed() -> None:
    connection = Connection(id=1, client="127.0.0.1:1", opened_ns=0)
    session = Session(connection, Texts().read, itertools.count(1).__next__, Samples())
    session.frontend(query("SELECT 1"), 1)
    assert session.backend(frame("R", b"\0\0\0\0") + ready(), 2) == []
    (execution,) = session.backend(rows(1) + complete("SELECT 1") + ready(), 3)
    assert execution.text.sql == "SELECT 1"


def test_a_bind_cut_among_its_formats_is_an_execution_all_the_same() -> None:
    talk = Talk()
    cut = frame(PREFIX, PREFIX_HEAD.pack(ord("B"), 200_000) + b"\0\0" + struct.pack("!H", 40_000) + b"\0\1" * 100)
    types = frame(PREFIX, PREFIX_HEAD.pack(ord("t"), 200_000) + struct.pack("!H", 40_000) + b"\0\0\0\x17" * 100)
    talk.client(parse("SELECT 1"), describe(), cut, execute(), SYNC)
    talk.server(frame("1"), types, frame("n"), frame("2"), complete("SELECT 1"), ready())
    assert talk.only.parameters == ()


def test_a_sync_in_a_simple_copy_is_ignored() -> None:
    talk = Talk()
    talk.client(query("COPY t FROM STDIN")).server(frame("G", b"\0\0\0"))
    talk.client(SYNC, frame("c")).server(complete("COPY 0"), ready())
    talk.client(query("SELECT 1")).server(rows(1), complete("SELECT 1"), ready())
    assert talk.sqls() == ["COPY t FROM STDIN", "SELECT 1"]


kinds = st.sampled_from([*b"QPBDECSHFcfX", *b"123CIEZTtnsGHWSNAVRKv", COUNTED, PREFIX])
any_frame = st.tuples(kinds, st.binary(max_size=40)).map(lambda pair: frame(*pair))


@given(st.lists(st.tuples(st.booleans(), any_frame), max_size=25))
def test_any_frames_give_executions_or_a_violation(frames: list[tuple[bool, bytes]]) -> None:
    talk = Talk()
    try:
        for from_client, one in frames:
            (talk.client if from_client else talk.server)(one)
    except ProtocolViolation:
        pass
    assert all(one.ended_ns >= one.started_ns for one in talk.executions)


def test_chunks_do_not_matter() -> None:
    requests = parse("SELECT $1", "s", (23,)) + bind(b"1", name="s") + execute() + SYNC + query("SELECT 2; SELECT 3")
    answers = PARSED + BOUND + rows(1) + complete("SELECT 1") + ready()
    answers += rows(1) + complete("SELECT 1") + rows(1) + complete("SELECT 1") + ready()
    whole = Talk().client(requests).server(answers)
    single = Talk()
    for stream, feed in ((requests, single.client), (answers, single.server)):
        position = 0
        while position < len(stream):
            end = position + 1 + int.from_bytes(stream[position + 1 : position + 5], "big")
            feed(stream[position:end])
            position = end
    assert single.sqls() == whole.sqls()
    assert [one.values for one in single.executions] == [one.values for one in whole.executions]


# -- samples ----------------------------------------------------------------------------------------------------------

INT4, TEXT, JSONB = 23, 25, 3802


def described(*columns: tuple[str, int], form: int = 0) -> bytes:
    """RowDescription of columns of table 77."""
    found = [
        name.encode() + b"\0" + struct.pack("!IhIhih", 77, number, oid, 4, -1, form)
        for number, (name, oid) in enumerate(columns, 1)
    ]
    return frame("T", struct.pack("!H", len(columns)) + b"".join(found))


def row(*values: bytes | None) -> bytes:
    cells = [b"\xff\xff\xff\xff" if one is None else struct.pack("!i", len(one)) + one for one in values]
    return frame("D", struct.pack("!H", len(values)) + b"".join(cells))


def sample_of(talk: Talk, execution: int) -> Sample:
    found = talk.samples.of(execution)
    assert found is not None
    return found


def kept(talk: Talk, execution: int = 1) -> dict[str, list[int]]:
    return {column.field.name: list(column.hashes) for column in sample_of(talk, execution).columns}


def test_the_rows_of_a_simple_query_are_sampled_as_hashes() -> None:
    columns = described(("id", INT4), ("name", TEXT), ("extra", JSONB))
    answer = [columns, row(b"7", b"Zo\xc3\xab", b"{}"), row(b"5", None, b"{}"), row(b"6", b"x" * 65, b"{}")]
    talk = Talk().client(query("SELECT * FROM t")).server(*answer, complete("SELECT 3"), ready())
    assert kept(talk) == {"id": [hashed("7"), hashed("5"), hashed("6")], "name": [hashed("Zo\xeb"), 0, 0]}
    sample = sample_of(talk, 1)
    assert (sample.rows, sample.complete, sample.columns[1].field.table, sample.columns[1].field.attribute) == (
        3,
        True,
        77,
        2,
    )
    assert talk.only.rows == 3


def test_binary_rows_of_a_cached_statement_are_sampled_by_their_text() -> None:
    """As asyncpg does: described once, bound with binary results."""
    talk = Talk().client(parse("SELECT id FROM t", "s"), frame("D", b"Ss\0"), SYNC)
    talk.server(PARSED, frame("t", b"\0\0"), described(("id", INT4)), ready())
    for _ in range(2):
        bound = frame("B", b"\0s\0" + struct.pack("!HHHH", 0, 0, 1, 1))
        talk.client(bound, execute(), SYNC)
        talk.server(BOUND, row(struct.pack("!i", 300)), row(struct.pack("!i", -4)), complete("SELECT 2"), ready())
    assert kept(talk, 1) == kept(talk, 2) == {"id": [hashed("300"), hashed("-4")]}


def test_the_formats_of_bind_count_not_those_that_were_described_for_another_portal() -> None:
    talk = Talk().client(parse("SELECT id FROM t", "s"), SYNC).server(PARSED, ready())
    talk.client(frame("B", b"\0s\0" + struct.pack("!HHHH", 0, 0, 1, 1)), frame("D", b"P\0"), execute(), SYNC)
    one = [row(struct.pack("!i", 300))] * 2
    talk.server(BOUND, described(("id", INT4), form=1), *one, complete("SELECT 2"), ready())
    talk.client(frame("B", b"\0s\0" + struct.pack("!HHH", 0, 0, 0)), execute(), SYNC)
    talk.server(BOUND, row(b"300"), row(b"300"), complete("SELECT 2"), ready())
    assert kept(talk, 1) == kept(talk, 2) == {"id": [hashed("300")] * 2}


def test_rows_of_floats_drive_no_loop() -> None:
    talk = Talk()
    talk.client(query("SELECT 2")).server(described(("f", 701)), row(b"1"), row(b"2"), complete("SELECT 2"), ready())
    sample = talk.samples.of(1)
    assert sample is not None
    assert (talk.only.rows, sample.columns) == (2, [])
    assert sample.digest != 0


def test_single_rows_are_sampled_up_to_so_many_a_second() -> None:
    talk = Talk()
    answer = (described(("id", INT4)), row(b"1"), complete("SELECT 1"), ready())
    talk.client(query("SELECT 1")).server(*answer)
    assert kept(talk, 1) == {"id": [hashed("1")]}
    for _ in range(SINGLE_ROWS - 1):
        assert talk.samples.affords(1, talk.now)
    talk.client(query("SELECT 1")).server(*answer)
    assert talk.samples.of(2) is None
    talk.now += 1_000 * MS
    talk.client(query("SELECT 1")).server(*answer)
    assert talk.samples.of(3) is not None


def test_equal_results_have_equal_digests() -> None:
    talk = Talk()
    for value in (b"1", b"1", b"2"):
        answer = (described(("id", INT4)), row(value), row(b"7"), complete("SELECT 2"), ready())
        talk.client(query("SELECT id FROM t")).server(*answer)
    first, second, third = (sample_of(talk, number).digest for number in (1, 2, 3))
    assert first == second != third


def test_rows_that_were_counted_leave_an_incomplete_sample() -> None:
    talk = Talk().client(query("SELECT 1"))
    talk.server(described(("id", INT4)), row(b"1"), row(b"2"), rows(5, 90), complete("SELECT 7"), ready())
    assert (sample_of(talk, 1).rows, sample_of(talk, 1).complete, talk.only.rows) == (2, False, 7)


def test_of_a_long_row_the_short_values_are_sampled() -> None:
    columns = described(("id", INT4), ("body", TEXT), ("author_id", INT4))
    body = struct.pack("!Hi1sii1s", 3, 1, b"7", -2, 1, b"5")
    talk = Talk().client(query("SELECT * FROM t"))
    talk.server(columns, *[frame(PREFIX, PREFIX_HEAD.pack(ord("D"), 2_000) + body)] * 2, complete("SELECT 2"), ready())
    assert kept(talk) == {"id": [hashed("7")] * 2, "body": [0, 0], "author_id": [hashed("5")] * 2}
    assert (sample_of(talk, 1).complete, sample_of(talk, 1).digest) == (True, 0)
    assert talk.only.bytes_received > 4_000


PGCOPY = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def copied(*values: bytes | None, lead: bytes = b"") -> bytes:
    return frame("d", lead + row(*values)[5:])


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("COPY (SELECT b.id, author_id, u AS key, t FROM books b) TO STDOUT (FORMAT binary)", "id author_id key t"),
        ("copy books (id, author_id, key, t) to stdout with binary", "id author_id key t"),
        ("COPY books TO STDOUT BINARY", "column 1,column 2,column 3,column 4"),
    ],
)
def test_the_rows_of_a_binary_copy_are_sampled_by_their_text(sql: str, names: str) -> None:
    key = "0af76519-16cd-43dd-8448-eb211c80319c"
    one = (struct.pack("!i", 7), struct.pack("!q", -5), bytes.fromhex(key.replace("-", "")), b"Zo\xc3\xab")
    two = (struct.pack("!i", 8), None, None, b"x" * 65)
    talk = Talk().client(query(sql)).server(frame("H", b"\1" + struct.pack("!HHHHH", 4, 1, 1, 1, 1)))
    talk.server(copied(*one, lead=PGCOPY), copied(*two), frame("d", b"\xff\xff"), frame("c"))
    talk.server(complete("COPY 2"), ready())
    found = [[hashed("7"), hashed("8")], [hashed("-5"), 0], [hashed(key), 0], [hashed("Zo\xeb"), 0]]
    assert kept(talk) == dict(zip(names.split("," if "," in names else " "), found, strict=True))
    assert talk.only.rows == 2


def test_the_rows_of_a_copy_in_text_are_sampled() -> None:
    talk = Talk().client(query("COPY (SELECT id, name, count(*) FROM t) TO STDOUT")).server(frame("H", bytes(3)))
    talk.server(frame("d", b"7\tZo\xc3\xab\t1\n"), frame("d", b"8\t\\N\t2\n"), frame("d", b"9\ta\\tb\t3\n"))
    talk.server(frame("c"), complete("COPY 3"), ready())
    assert kept(talk) == {
        "id": [hashed("7"), hashed("8"), hashed("9")],
        "name": [hashed("Zo\xeb"), 0, 0],
        "column 3": [hashed("1"), hashed("2"), hashed("3")],
    }


@pytest.mark.parametrize("options", ["CSV", "(FORMAT csv)", "WITH DELIMITER ';'", "(NULL '')"])
def test_the_rows_of_another_format_are_not(options: str) -> None:
    talk = Talk().client(query(f"COPY t TO STDOUT {options}")).server(frame("H", bytes(3)), frame("d", b"7,8\n") * 2)
    talk.server(frame("c"), complete("COPY 2"), ready())
    assert (talk.samples.of(1), talk.only.rows) == (None, 2)


def test_a_binary_copy_that_is_none_hurts_nobody() -> None:
    for body in (b"", b"\0", b"\0\3", PGCOPY, PGCOPY[:15] + b"\x7f\xff\xff\xff", b"\0\2\0\0\0\7ab"):
        talk = Talk().client(query("COPY t TO STDOUT BINARY")).server(frame("H", b"\1\0\0"), frame("d", body) * 2)
        talk.server(frame("c"), complete("COPY 2"), ready())
        assert talk.only.rows == 2


def test_a_description_of_very_many_columns_is_cut_and_hurts_nobody() -> None:
    many = described(*((f"column_{number}_{'x' * 40}", INT4) for number in range(1_600)))
    kept_ = frame(PREFIX, PREFIX_HEAD.pack(ord("T"), len(many) - 1) + many[5 : 5 + 65_536])
    one = row(*[b"7"] * 1_600)
    talk = Talk().client(query("SELECT *")).server(kept_, one, one, complete("SELECT 2"), ready())
    assert len(kept(talk)) == 32
    assert talk.only.rows == 2


def test_a_row_that_cannot_be_is_a_violation() -> None:
    for bad in (b"\0\1\0\0", struct.pack("!Hi", 1, 60) + b"short"):
        talk = Talk().client(query("SELECT 1"))
        talk.server(described(("id", INT4)), frame("D", bad), frame("D", bad))
        with pytest.raises(ProtocolViolation):
            talk.server(complete("SELECT 2"), ready())


# -- what SQL and values mean, as the server reports it ----------------------------------------------------------------


def report(name: str, value: str) -> bytes:
    return frame("S", name.encode() + b"\0" + value.encode() + b"\0")


OFF, ON = report("standard_conforming_strings", "off"), report("standard_conforming_strings", "on")
ESCAPED = r"SELECT 'a\' zq ', 'b'"
"""One literal and another where backslashes escape; where they do not, quotes that do not match."""
DONE = complete("SELECT 1") + ready()


def forms(talk: Talk) -> list[str]:
    return [one.statement.sql for one in talk.executions]


def test_strings_are_read_as_the_server_last_said() -> None:
    talk = Talk().server(ON).client(query(ESCAPED)).server(DONE)
    talk.client(query("SET standard_conforming_strings = off")).server(complete("SET"), OFF, ready())
    talk.client(query(ESCAPED)).server(DONE)
    talk.client(query("SET standard_conforming_strings = on")).server(complete("SET"), ON, ready())
    talk.client(query(ESCAPED)).server(DONE)
    settings = "SET standard_conforming_strings = $1"
    assert forms(talk) == ["SELECT $1 …", settings, "SELECT $1, $2", settings, "SELECT $1 …"]


def test_a_pipeline_is_read_as_the_server_comes_to_each_of_it() -> None:
    talk = Talk().client(query("SET standard_conforming_strings = off"), query(ESCAPED), parse(ESCAPED, "s"), SYNC)
    talk.server(complete("SET"), OFF, ready(), DONE, PARSED, ready())
    talk.client(bind(name="s"), execute(), SYNC).server(BOUND, DONE)
    assert forms(talk)[1:] == ["SELECT $1, $2", "SELECT $1, $2"]


def test_settings_of_a_transaction_end_with_it() -> None:
    talk = Talk()
    for sql, tag, reported, status in (
        ("BEGIN", "BEGIN", b"", "T"),
        ("SET LOCAL standard_conforming_strings = off", "SET", OFF, "T"),
        (ESCAPED, "SELECT 1", b"", "T"),
        ("ROLLBACK", "ROLLBACK", ON, "I"),
        (ESCAPED, "SELECT 1", b"", "I"),
    ):
        talk.client(query(sql)).server(complete(tag), reported, ready(status))
    assert forms(talk)[2::2] == ["SELECT $1, $2", "SELECT $1 …"]


@pytest.mark.parametrize("early", [True, False])
def test_what_may_be_read_in_two_ways_is_not_shown(early: bool) -> None:
    """Servers up to 13 report a setting at once, later ones at the end of the exchange."""
    talk = Talk().client(
        parse("SET standard_conforming_strings = off"), bind(), execute(),
        parse(ESCAPED, "s"), bind(name="s"), execute(),
        parse("SELECT 'plain'"), bind(), execute(), SYNC,
    )  # fmt: skip
    talk.server(PARSED, BOUND, OFF if early else b"", complete("SET"), PARSED, BOUND, complete("SELECT 1"))
    talk.server(PARSED, BOUND, complete("SELECT 1"), b"" if early else OFF, ready())
    talk.client(bind(name="s"), execute(), SYNC).server(BOUND, DONE)
    hidden = "SELECT (text beside a change of its encoding or syntax, 21 bytes)"
    seen = "SELECT $1, $2" if early else hidden
    assert forms(talk)[1:] == [seen, "SELECT $1", seen]
    assert "zq" not in " ".join(forms(talk))


def test_a_query_is_read_by_the_settings_at_its_start() -> None:
    talk = Talk().client(query(f"SET standard_conforming_strings = off; {ESCAPED}"))
    talk.server(OFF, error(), ready())
    assert "zq" not in " ".join(forms(talk))
    talk = Talk().client(query(r"SELECT set_config('standard_conforming_strings', 'off', false); SELECT '\', 'zq'"))
    talk.server(complete("SELECT 1"), OFF, complete("SELECT 1"), ready())
    assert "zq" not in " ".join(one.text.sql for one in talk.executions)
    assert [one.statement.command for one in talk.executions] == ["SELECT", "SELECT"]


ENCODED = [
    ("LATIN1", "é", "SELECT $1, $2"),
    ("WIN1252", "€œ", "SELECT $1, $2"),
    ("EUC_JP", "日本", "SELECT $1, $2"),
    ("EUC_KR", "한국", "SELECT $1, $2"),
    ("SJIS", "表ソ能", "SELECT $1, $2"),
    ("SHIFT_JIS_2004", "表ソ能\\\\~", "SELECT $1, $2"),
    ("BIG5", "功許蓋", "SELECT $1, $2"),
    ("GBK", "誠刓", "SELECT $1, $2"),
    ("GB18030", "誠刓€𠀀", "SELECT $1, $2"),
    ("UHC", "뢔한", "SELECT $1, $2"),
    ("JOHAB", "한국", "SELECT $1, $2"),
    ("UNICODE", "é日", "SELECT $1, $2"),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "text", "form"), ENCODED)
def test_a_byte_of_another_character_is_no_quote(encoding: str, text: str, form: str) -> None:
    talk = Talk().server(report("client_encoding", encoding))
    name = codec(encoding).name
    raw = text.encode(name) if encoding != "SHIFT_JIS_2004" else text[:3].encode(name) + text[3:].encode()
    talk.client(frame("Q", b"SELECT E'" + raw + b"', 'zq'\0")).server(DONE)
    talk.client(frame("P", b"\0SELECT $1\0\0\0"), bind(raw), execute(), SYNC).server(PARSED, BOUND, DONE)
    one, other = talk.executions
    assert one.statement.sql == form
    assert one.values == (text.replace("\\\\", "\\"), "zq")
    assert other.values == (text,)


@pytest.mark.parametrize("encoding", ["MULE_INTERNAL", "EUC_TW", "of the future"])
def test_of_an_unknown_encoding_no_text_leaves(encoding: str) -> None:
    talk = Talk().server(report("client_encoding", encoding))
    talk.client(frame("Q", b"SELECT '\x8e\xa1', zq\0")).server(DONE)
    talk.client(frame("P", b"\0SELECT $1 /* \x8e */\0\0\0"), bind(b"\x8ezq"), execute(), SYNC).server(
        PARSED, BOUND, DONE
    )
    talk.client(query("COMMIT")).server(DONE)
    one, other, ascii_only = talk.executions
    assert one.text.sql == one.statement.sql == "SELECT (text in an unknown encoding, 15 bytes)"
    assert other.parameters == (Parameter(0, "\\x8e7a71", b"\x8ezq"),)
    assert ascii_only.statement.command == "COMMIT"


def test_bytes_that_the_server_refuses_hide_their_text() -> None:
    """Python's codecs take a few sequences that PostgreSQL does not, and these may swallow a quote."""
    talk = Talk().server(report("client_encoding", "SJIS"))
    talk.client(frame("Q", b"SELECT E'\x80\\', ' zq '\0")).server(error("22021"), ready())
    talk.client(frame("Q", b"SELECT E'\xfe\x20\\', ' zq '\0")).server(error("22021"), ready())
    talk.client(frame("Q", b"SELECT '\x95'zq\0")).server(error("22021"), ready())
    assert "zq" not in " ".join(one.text.sql for one in talk.executions)


def test_bytes_of_sql_ascii_are_kept() -> None:
    talk = Talk().server(report("client_encoding", "SQL_ASCII"))
    for raw in (b"\xff", b"\xfe"):
        talk.client(frame("P", b"\0SELECT $1 AS a\xff\0\0\0"), bind(raw), execute(), SYNC).server(PARSED, BOUND, DONE)
    assert [one.values[0].encode("utf-8", "surrogateescape") for one in talk.executions] == [b"\xff", b"\xfe"]  # type: ignore[union-attr]
    assert len(set(forms(talk))) == 1
