"""The tap's promises: nothing half, nothing uncounted, and the profiler told anew after a gap or a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from pgtattle.proxy.tap import Line, Tap
from pgtattle.proxy.wire import batch, control
from pgtattle.proxy.wire.control import BATCH_HEAD, Splitter
from tests.waiting import eventually

STARTUP = b"\0\0\0\x10\0\3\0\0user\0a\0\0"
LOGIN = b"R\0\0\0\x08\0\0\0\0" + b"K\0\0\0\x0c\0\0\0\x2a\1\2\3\4" + b"Z\0\0\0\x05I"
READY = b"Z\0\0\0\x05I"
QUERY = b"Q\0\0\0\x0dselect 1\0"
ANSWER = b"T\0\0\0\x06\0\0" + b"D\0\0\0\x06\0\0" + b"C\0\0\0\x0dSELECT 1\0" + b"Z\0\0\0\x05I"


def parse(name: bytes, sql: bytes) -> bytes:
    body = name + b"\0" + sql + b"\0\0\0"
    return b"P" + (len(body) + 4).to_bytes(4, "big") + body


class Pipe:
    """A transport that holds what was written; `waiting` is what it pretends not to have sent."""

    def __init__(self) -> None:
        self.splitter = Splitter()
        self.records: list[tuple[int, int, bytes]] = []
        self.sequence = 0
        self.waiting = 0
        self.watermarks: list[int] = []

    def write(self, data: bytes) -> None:
        for _, payload in self.splitter.feed(data):
            self.sequence, watermark = BATCH_HEAD.unpack_from(payload)
            self.watermarks.append(watermark)
            for kind, line, at_ns, body in batch.unpack(payload[BATCH_HEAD.size :]):
                assert at_ns <= watermark
                assert at_ns >= self.watermarks[-2] if len(self.watermarks) > 1 else True
                self.records.append((kind, line, body))

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def kinds(self) -> list[int]:
        return [kind for kind, _, _ in self.records]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def tap(loop: asyncio.AbstractEventLoop) -> Tap:
    return Tap(loop, limit=1000)


@pytest.fixture
def pipe(tap: Tap) -> Pipe:
    made = Pipe()
    tap.connect(made)  # type: ignore[arg-type]
    return made


def logged_in(tap: Tap) -> Line:
    line = Line(tap, 1, "127.0.0.1:1")
    line.startup(STARTUP)
    line.backend(LOGIN)
    return line


def exchange(line: Line) -> None:
    line.frontend(QUERY)
    line.backend(ANSWER)


def acknowledge(tap: Tap, pipe: Pipe) -> None:
    """As the profiler does, once it has seen everything that was sent."""
    tap.acknowledge(pipe.sequence, tap.unacknowledged)


def gap(pipe: Pipe) -> control.ShedGap:
    (body,) = [body for kind, _, body in pipe.records if kind == batch.GAP]
    return msgspec.json.decode(body, type=control.ShedGap)


def test_an_exchange_is_sent_and_acknowledged(tap: Tap, pipe: Pipe) -> None:
    exchange(logged_in(tap))
    tap.flush()
    assert pipe.kinds() == [batch.OPENED, batch.STARTUP, batch.BACKEND, batch.FRONTEND, batch.BACKEND]
    assert tap.executions == 0
    acknowledge(tap, pipe)
    assert (tap.executions, tap.shed, tap.lost) == (1, 0, 0)
    assert tap.unacknowledged == 0


def test_time_passes_without_traffic_and_a_profiler_that_does_not_answer_is_noticed(
    tap: Tap, pipe: Pipe, loop: asyncio.AbstractEventLoop
) -> None:
    tap.acknowledge(pipe.sequence, 0)
    assert tap.unanswered_seconds == 0
    loop.run_until_complete(eventually(lambda: len(pipe.watermarks) >= 4))
    assert pipe.records == []
    assert pipe.watermarks == sorted(pipe.watermarks)
    assert tap.unanswered_seconds > 0
    tap.acknowledge(pipe.sequence, 0)
    assert tap.unanswered_seconds == 0
    tap.disconnect()


def test_a_full_tap_sheds_whole_exchanges_and_tells_what(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.frontend(parse(b"s1", b"select 2"))
    line.frontend(b"S\0\0\0\4")
    line.backend(b"1\0\0\0\4" + b"Z\0\0\0\x05I")
    line.frontend(QUERY)
    pipe.waiting = 2000
    tap.flush()
    assert tap.full
    line.backend(ANSWER)
    exchange(line)
    assert tap.shed == 2
    pipe.waiting = 0
    acknowledge(tap, pipe)
    sent = len(pipe.records)
    exchange(line)
    tap.flush()
    assert pipe.kinds()[sent:] == [batch.BACKEND, batch.STATEMENT, batch.GAP, batch.FRONTEND, batch.BACKEND]
    assert gap(pipe) == control.ShedGap(2, {"SELECT": 2}, "I")
    acknowledge(tap, pipe)
    assert (tap.executions, tap.shed, tap.lost) == (1, 2, 0)


def test_shedding_does_not_end_inside_an_exchange(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.frontend(QUERY + QUERY)
    pipe.waiting = 2000
    tap.flush()
    line.backend(ANSWER)
    pipe.waiting = 0
    acknowledge(tap, pipe)
    line.frontend(QUERY)
    line.backend(ANSWER)
    tap.flush()
    assert batch.GAP not in pipe.kinds()
    line.backend(ANSWER)
    line.frontend(QUERY)
    line.backend(ANSWER)
    tap.flush()
    assert gap(pipe).exchanges == 3
    acknowledge(tap, pipe)
    assert (tap.executions, tap.shed) == (1, 3)


def test_what_a_dead_profiler_did_not_acknowledge_is_lost_and_counted(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    exchange(line)
    tap.flush()
    acknowledge(tap, pipe)
    exchange(line)
    tap.flush()
    exchange(line)
    line.frontend(QUERY)
    tap.disconnect()
    assert (tap.executions, tap.lost) == (1, 2)
    line.backend(ANSWER)
    exchange(line)
    assert (tap.lost, tap.shed) == (3, 1)

    another = Pipe()
    tap.connect(another)  # type: ignore[arg-type]
    exchange(line)
    tap.flush()
    assert another.kinds() == [
        batch.OPENED,
        batch.STARTUP,
        batch.BACKEND,
        batch.GAP,
        batch.FRONTEND,
        batch.BACKEND,
    ]
    acknowledge(tap, another)
    assert (tap.executions, tap.lost, tap.shed) == (2, 3, 1)


def test_a_connection_in_its_login_waits_for_the_end_of_it(tap: Tap, pipe: Pipe) -> None:
    line = Line(tap, 1, "unix")
    line.startup(STARTUP)
    tap.disconnect()
    another = Pipe()
    tap.connect(another)  # type: ignore[arg-type]
    line.backend(LOGIN)
    exchange(line)
    tap.flush()
    assert another.kinds() == [batch.OPENED, batch.STARTUP, batch.BACKEND, batch.GAP, batch.FRONTEND, batch.BACKEND]


def test_closed_and_reused_statements(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.frontend(parse(b"a", b"select 1") + parse(b"b", b"select 2") + b"S\0\0\0\4")
    line.frontend(b"C\0\0\0\x07Sa\0" + b"C\0\0\0\x07Sb\0" + parse(b"a", b"select 3") + b"S\0\0\0\4")
    line.backend(b"1\0\0\0\4" * 2 + READY + b"3\0\0\0\4" * 2 + b"1\0\0\0\4" + READY)
    tap.disconnect()
    another = Pipe()
    tap.connect(another)  # type: ignore[arg-type]
    tap.flush()
    assert [body for kind, _, body in another.records if kind == batch.STATEMENT] == [parse(b"a", b"select 3")]


def test_impossible_bytes_make_only_this_connection_opaque(tap: Tap, pipe: Pipe) -> None:
    line, other = logged_in(tap), Line(tap, 2, "unix")
    line.backend(b"\x99\0\0\0\1")
    line.frontend(QUERY)
    assert not line.observed
    assert other.observed
    assert tap.opaque == {"unknown_type": 1}
    tap.flush()
    assert pipe.records[-1] == (batch.OPAQUE, 1, b"unknown_type")


@pytest.mark.parametrize(("from_client", "frame"), [(True, b"P\0\0\0\x08abcd"), (False, b"Z\0\0\0\4")])
def test_a_malformed_body_never_raises(tap: Tap, pipe: Pipe, from_client: bool, frame: bytes) -> None:
    line = logged_in(tap)
    (line.frontend if from_client else line.backend)(frame)
    exchange(line)
    assert tap.opaque == {"bad_message": 1}


def test_replication_is_not_looked_at(tap: Tap, pipe: Pipe) -> None:
    line = Line(tap, 1, "unix")
    line.startup(b"\0\0\0\x27\0\3\0\0user\0a\0replication\0true\0\0")
    assert not line.observed
    assert tap.opaque == {"replication": 1}


def test_a_user_or_an_application_may_be_called_replication(tap: Tap, pipe: Pipe) -> None:
    for number, parameters in enumerate((b"user\0replication\0", b"user\0a\0application_name\0replication\0",
                                         b"user\0a\0replication\0off\0"), 1):  # fmt: skip
        line = Line(tap, number, "unix")
        line.startup((len(parameters) + 9).to_bytes(4, "big") + b"\0\3\0\0" + parameters + b"\0")
        assert line.observed


def test_an_error_while_idle_is_no_execution(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.backend(b"E\0\0\0\x0cC57P01\0\0")
    line.close("server")
    tap.flush()
    acknowledge(tap, pipe)
    assert tap.executions == 0
    line = Line(tap, 2, "unix")
    line.startup(STARTUP)
    line.backend(LOGIN)
    line.frontend(QUERY)
    line.backend(b"E\0\0\0\x0cC42601\0\0" + b"Z\0\0\0\x05I")
    tap.flush()
    acknowledge(tap, pipe)
    assert tap.executions == 1


def test_what_the_profiler_could_not_follow_is_lost(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    exchange(line)
    exchange(line)
    tap.flush()
    tap.acknowledge(pipe.sequence, 1)
    assert tap.settle()
    assert (tap.executions, tap.lost) == (1, 1)


def test_a_mistake_in_the_tap_makes_the_connection_opaque_and_no_more(
    tap: Tap, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = logged_in(tap)
    tap.flush()
    wait, mistakes = tap.wait, [ZeroDivisionError()]

    def fail_once() -> None:
        if mistakes:
            raise mistakes.pop()
        wait()

    monkeypatch.setattr(tap, "wait", fail_once)
    line.frontend(QUERY)
    assert tap.opaque == {"exception": 1}
    line.backend(ANSWER)


def test_executions_of_an_exchange_that_does_not_end_count_when_the_connection_does(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.frontend(QUERY)
    line.backend(ANSWER[: -len(READY)])
    line.close("server")
    line = logged_in(tap)
    line.frontend(QUERY)
    line.backend(ANSWER[: -len(READY)] + b"\0\0\0\0\0")
    tap.flush()
    acknowledge(tap, pipe)
    assert (tap.executions, tap.opaque) == (2, {"unknown_type": 1})


def status(name: bytes, value: bytes) -> bytes:
    return b"S" + (len(name + value) + 6).to_bytes(4, "big") + name + b"\0" + value + b"\0"


REPORTS = status(b"client_encoding", b"UTF8") + status(b"standard_conforming_strings", b"on")
OFF, SJIS = status(b"standard_conforming_strings", b"off"), status(b"client_encoding", b"SJIS")
NAME, OTHER_NAME = status(b"application_name", b"a"), status(b"application_name", b"b")


def reported(pipe: Pipe) -> list[tuple[int, bytes]]:
    """What another profiler learns, from the first record on: reports, statements, gaps."""
    return [
        (kind, body)
        for kind, _, body in pipe.records
        if kind == batch.STATEMENT or kind == batch.GAP or (kind == batch.BACKEND and body[:1] == b"S")
    ]


def test_another_profiler_learns_what_the_server_reported_last(tap: Tap, pipe: Pipe) -> None:
    line = Line(tap, 1, "unix")
    line.startup(STARTUP)
    line.backend(NAME + status(b"server_version", b"18") + REPORTS + LOGIN)
    for sent in (OFF, status(b"DateStyle", b"ISO, DMY"), OTHER_NAME):
        line.frontend(QUERY)
        line.backend(sent + ANSWER)
    tap.disconnect()
    another = Pipe()
    tap.connect(another)  # type: ignore[arg-type]
    tap.flush()
    told = [body for kind, body in reported(another) if kind == batch.BACKEND]
    assert told == [NAME, REPORTS[: -len(status(b"standard_conforming_strings", b"on"))] + OFF, OTHER_NAME]


def test_reports_that_came_in_a_gap_are_known_after_it(tap: Tap, pipe: Pipe) -> None:
    line = Line(tap, 1, "unix")
    line.startup(STARTUP)
    line.backend(REPORTS + LOGIN)
    line.frontend(QUERY)
    pipe.waiting = 2000
    tap.flush()
    line.backend(OFF + ANSWER)
    line.frontend(QUERY)
    line.backend(SJIS + ANSWER)
    pipe.waiting = 0
    acknowledge(tap, pipe)
    sent = len(pipe.records)
    exchange(line)
    tap.flush()
    del pipe.records[:sent]
    assert next(body for _, body in reported(pipe)) == SJIS + OFF
    assert [kind for kind, _ in reported(pipe)] == [batch.BACKEND, batch.GAP]


def test_a_statement_of_other_settings_is_forgotten_where_they_matter(tap: Tap, pipe: Pipe) -> None:
    line = Line(tap, 1, "unix")
    line.startup(STARTUP)
    line.backend(REPORTS + LOGIN)
    statements = [parse(b"a", b"select 'a\\'"), parse(b"b", b"select 1"), parse(b"c", "select 'é'".encode())]
    line.frontend(b"".join(statements) + b"S\0\0\0\4")
    line.backend(b"1\0\0\0\4" * 3 + READY)
    line.frontend(QUERY)
    line.backend(REPORTS + ANSWER)
    line.resume()
    tap.disconnect()
    another = Pipe()
    tap.connect(another)  # type: ignore[arg-type]
    tap.flush()
    assert [body for kind, body in reported(another) if kind == batch.STATEMENT] == statements
    line.frontend(QUERY)
    line.backend(OFF + ANSWER)
    tap.disconnect()
    tap.connect(third := Pipe())  # type: ignore[arg-type]
    tap.flush()
    assert [body for kind, body in reported(third) if kind == batch.STATEMENT] == [parse(b"b", b"select 1")]


def test_a_report_of_no_use_or_beyond_reason_is_not_kept(tap: Tap, pipe: Pipe) -> None:
    line = logged_in(tap)
    line.backend(status(b"client_encoding", b"x" * 1000) + status(b"x", b"y") + b"S\0\0\0\4" + READY[:0])
    tap.disconnect()
    tap.connect(another := Pipe())  # type: ignore[arg-type]
    tap.flush()
    assert [kind for kind, _ in reported(another)] == [batch.GAP]
