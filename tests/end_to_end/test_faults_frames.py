"""What no driver sends: hostile frames from either side, and the protocol's rare corners.

The server is the judge: what it answers directly it answers through the proxy, byte for byte.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Database, Serve, Served, serving
from tests.end_to_end.faulty import Network, Toxic
from tests.end_to_end.watching import await_count, metric, report, settled, wait_for
from tests.end_to_end.wire import (
    FLUSH,
    LOGIN,
    SYNC,
    TERMINATE,
    Client,
    Frame,
    begun,
    bind,
    execute,
    frame,
    kinds,
    parse,
    query,
    read_startup,
    scripted,
    split,
    startup,
)


def lie(kind: bytes, length: int, body: bytes = b"") -> bytes:
    """A frame whose length is not its own."""
    return kind + struct.pack("!I", length & 0xFFFFFFFF) + body


def said(database: Database, sent: bytes, *, login: bool) -> bytes:
    """All that the server says to these bytes and an end of stream, without what differs by session."""
    with Client(database) as client:
        if login:
            client.login()
        # The server may have gone before it has all of it.
        with contextlib.suppress(OSError):
            client.send(sent)
            client.socket.shutdown(socket.SHUT_WR)
        return re.sub(rb"K\0\0\0\x0c.{8}", b"K", client.rest(), flags=re.DOTALL)


def opaque(served: Served, reason: str) -> float:
    return metric(served, "pgtattle_opaque_connections_total", reason=reason)


ASK = query("SELECT 1")
DESCRIBE = frame(b"D", b"P\0")
HOSTILE = [
    pytest.param(lie(b"Q", 0), "bad_length", id="length-0"),
    pytest.param(lie(b"Q", 1), "bad_length", id="length-1"),
    pytest.param(lie(b"Q", 3), "bad_length", id="length-3"),
    pytest.param(lie(b"Q", -1), "bad_length", id="negative"),
    pytest.param(lie(b"Q", -(2**31)), "bad_length", id="2-gib"),
    pytest.param(lie(b"d", 2**31 - 1, b"x" * 1000), "bad_length", id="almost-2-gib"),
    pytest.param(frame(b"\0"), "unknown_type", id="type-0"),
    pytest.param(frame(b"y", b"whatever"), "unknown_type", id="unknown-type"),
    pytest.param(frame(b"\xff", b"\xff" * 100), "unknown_type", id="type-255"),
    pytest.param(lie(b"S", 20_000, b"x" * 20_000), "length_over_limit", id="sync-of-20-kb"),
    pytest.param(frame(b"P", b"no end"), "bad_message", id="parse-without-end"),
    pytest.param(frame(b"C", b""), "bad_message", id="close-of-nothing"),
]


@pytest.mark.parametrize(("sent", "reason"), HOSTILE)
def test_a_hostile_client_gets_the_servers_own_answer(
    served: Served, trusting: Database, sent: bytes, reason: str
) -> None:
    before = opaque(served, reason)
    everything = ASK + sent + SYNC + ASK
    assert said(served.database, everything, login=True) == said(trusting, everything, login=True)
    wait_for(lambda: opaque(served, reason) == before + 1)
    with psycopg.connect(served.database.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "sent",
    [
        startup(user="postgres", database="absent"),
        startup(user=b"\xff\xfe\x80", database=b"\xc3("),
        startup(user="postgres", database="postgres", application_name=b"\xff\xfe bad"),
        startup(user="postgres", database="postgres", no_such_setting="1"),
        startup(user="postgres", database="postgres", options="-c work_mem=1TB"),
        startup(database="postgres"),
        struct.pack("!II", 13, 3 << 16) + b"user\0",
        struct.pack("!II", 9, 2 << 16) + b"\0",
        startup(user="postgres", database="postgres", client_encoding="LATIN1") + ASK,
    ],
)
def test_a_startup_packet_gets_the_servers_own_answer(served: Served, trusting: Database, sent: bytes) -> None:
    answer = said(served.database, sent, login=False)
    assert answer
    assert answer == said(trusting, sent, login=False)
    assert report(served).session.connections_total > 0


@pytest.mark.parametrize("sent", [b"\0\0\0\0", b"\0\0\0\7abc", b"\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b""])
def test_what_is_no_startup_packet_ends_the_connection(served: Served, sent: bytes) -> None:
    assert said(served.database, sent, login=False) == b""


TEXTS = [
    b"SELECT '\xff\xfe'",
    b"SELECT 1 /* \xc0\x80 */",
    b"SELECT 'a\0b'",
    b"\0",
    b"\x1b]0;title\x07\xe2\x80\xae",
    b"",
    b";;;",
    "SELECT 'ünï' AS \U0001f418".encode(),
    b"SELECT 1; SELECT 1/0; SELECT 2",
]


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_text_that_is_no_text_gets_the_servers_own_answer(served: Served, trusting: Database, protocol: str) -> None:
    before, executions = settled(served), 0
    for sql in TEXTS:
        sent = query(sql) if protocol == "simple" else parse(sql) + bind() + DESCRIBE + execute() + SYNC
        answer = said(served.database, ASK + sent + ASK, login=True)
        assert answer == said(trusting, ASK + sent + ASK, login=True)
        executions += begun(split(answer))
    assert executions >= 2 * len(TEXTS)
    await_count(served, before + executions)


def test_a_statement_of_ten_megabytes(served: Served) -> None:
    size = 10_000_000
    before = settled(served)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        text = f"SELECT length('{'x' * size}')"
        assert connection.execute(text, prepare=False).fetchone() == (size,)
        assert connection.execute(text.encode(), prepare=True).fetchone() == (size,)
        assert connection.execute("SELECT length(%s), %s::int", ["y" * size, 1]).fetchone() == (size, 1)
    await_count(served, before + 3)


FROM_A_SERVER = [
    pytest.param(lie(b"D", 0), "bad_length", id="length-0"),
    pytest.param(lie(b"T", 3), "bad_length", id="length-3"),
    pytest.param(lie(b"E", -1), "bad_length", id="negative"),
    pytest.param(lie(b"D", -(2**31), b"x" * 5000), "bad_length", id="2-gib"),
    pytest.param(frame(b"y", b"whatever"), "unknown_type", id="unknown-type"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50, "bad_length", id="another-protocol"),
    pytest.param(frame(b"C", b"SELECT 1\0") + frame(b"Z", b"I"), "impossible_answer", id="unasked-answer"),
    pytest.param(frame(b"Z", b"I") * 3, "impossible_answer", id="unasked-ready"),
    pytest.param(frame(b"1"), "impossible_answer", id="unasked-parse"),
    pytest.param(frame(b"Z"), "bad_message", id="ready-without-status"),
]


class Script:
    """A server that logs everybody in, says one thing and ends."""

    def __init__(self) -> None:
        self.sent = b""
        self.received: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        self.received.append(read_startup(connection))
        connection.sendall(LOGIN + self.sent)


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Script, Served]]:
    script = Script()
    with scripted(script) as database, serving(tmp_path_factory.mktemp("liar")) as start:
        yield script, start(database)


@pytest.mark.parametrize(("sent", "reason"), FROM_A_SERVER)
def test_a_hostile_server_reaches_its_client_unchanged(liar: tuple[Script, Served], sent: bytes, reason: str) -> None:
    script, served = liar
    script.sent = sent + b"and some more" * 1000
    before = opaque(served, reason)
    with Client(served.database) as client:
        client.begin(application_name=reason)
        assert client.rest() == LOGIN + script.sent
    wait_for(lambda: opaque(served, reason) == before + 1)
    assert startup(user="postgres", database="any", application_name=reason) in script.received


def copy_data(*lines: str) -> bytes:
    return b"".join(frame(b"d", f"{line}\n".encode()) for line in lines)


COPY_DONE = frame(b"c")
MAKE_TABLE = query("CREATE TEMP TABLE copied (a int)")

CORNERS = {
    "five hundred executes in one write": (parse("SELECT 1") + (bind() + execute()) * 500 + SYNC, 500),
    "sync sent early in a COPY IN": (
        MAKE_TABLE
        + parse("COPY copied FROM STDIN")
        + bind()
        + execute()
        + SYNC
        + copy_data("1", "2")
        + COPY_DONE
        + SYNC
        + ASK,
        3,
    ),
    "a COPY IN that fails while its data comes": (
        MAKE_TABLE + query("COPY copied FROM STDIN") + copy_data("1", "no number", *["2"] * 5000) + COPY_DONE + ASK,
        3,
    ),
    "a COPY IN that the client gives up": (
        MAKE_TABLE + query("COPY copied FROM STDIN") + copy_data("1") + frame(b"f", b"enough\0") + ASK,
        3,
    ),
    "a COPY among other statements": (
        MAKE_TABLE
        + query("SELECT 1; COPY copied FROM STDIN; COPY copied TO STDOUT; SELECT 2")
        + copy_data("1")
        + COPY_DONE
        + ASK,
        6,
    ),
    "a portal that is suspended and resumed": (
        query("BEGIN")
        + parse("SELECT generate_series(1, 7)")
        + bind(portal="p")
        + execute("p", 3)
        + SYNC
        + execute("p", 3)
        + FLUSH
        + execute("p", 3)
        + SYNC
        + query("COMMIT"),
        3,
    ),
    "a portal that is suspended and left": (
        query("BEGIN")
        + parse("SELECT generate_series(1, 7)")
        + bind()
        + execute(rows=2)
        + SYNC
        + query("COMMIT")
        + ASK,
        4,
    ),
    "an error that skips to its sync": (
        parse("SELECT 1/0") + bind() + execute() + (parse("SELECT 1") + bind() + execute()) * 50 + SYNC + ASK,
        2,
    ),
    "a flush without a sync": (parse("SELECT 1") + FLUSH + bind() + execute() + FLUSH + SYNC, 1),
    "a function call": (frame(b"F", struct.pack("!IHHH", 1598, 0, 0, 0)) + ASK, 1),
    "statements made, used and closed": (
        parse("SELECT 1", "s") + bind("s") + execute() + frame(b"C", b"Ss\0") + bind("s") + execute() + SYNC + ASK,
        3,
    ),
    "an end in the middle of a message": (ASK + query("SELECT 2")[:-4], 1),
    "an end with a terminate": (ASK + TERMINATE + ASK, 1),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_of_the_protocol_is_as_without_the_proxy_and_counted(
    served: Served, trusting: Database, corner: str
) -> None:
    sent, executions = CORNERS[corner]
    before, blind = settled(served), metric(served, "pgtattle_opaque_connections_total")
    answer = said(served.database, sent, login=True)
    assert without_random(answer) == without_random(said(trusting, sent, login=True))
    await_count(served, before + executions)
    assert metric(served, "pgtattle_opaque_connections_total") == blind


def without_random(answer: bytes) -> list[Frame]:
    return [one for one in split(answer) if one.kind != b"V"]


def test_one_byte_at_a_time_both_ways(trusting: Database, serve: Serve) -> None:
    one_byte = Toxic(slicer=1)
    corners = [
        "sync sent early in a COPY IN",
        "a portal that is suspended and resumed",
        "a COPY among other statements",
    ]
    sent = b"".join(CORNERS[name][0].replace(MAKE_TABLE, b"") for name in corners)
    sent = MAKE_TABLE + sent
    with Network(trusting, one_byte, one_byte) as behind:
        served = serve(behind.database)
        with Network(served.database, one_byte, one_byte) as before:
            before_all = settled(served)
            assert said(before.database, sent, login=True) == said(trusting, sent, login=True)
            with psycopg.connect(before.database.dsn, autocommit=True) as connection:
                for number in range(10):
                    assert connection.execute("SELECT %s::int, %s", [number, "é"]).fetchone() == (number, "é")
        await_count(served, before_all + sum(CORNERS[name][1] for name in corners) - 1 + 10)
        assert report(served).session.opaque_connections == 0


def test_news_reaches_an_idle_connection(served: Served, trusting: Database) -> None:
    before = settled(served)
    with Client(served.database) as client:
        client.login()
        client.ask(query("LISTEN news"))
        with psycopg.connect(trusting.dsn, autocommit=True) as other:
            for number in range(3):
                other.execute("SELECT pg_notify('news', %s)", [f"number {number}"])
        for number in range(3):
            news = client.frame()
            assert (news.kind, news.body[4:]) == (b"A", f"news\0number {number}\0".encode())
        assert kinds(client.ask(ASK)) == b"TDCZ"
    await_count(served, before + 2)


def test_a_client_that_has_said_all_still_gets_its_answer(served: Served, trusting: Database) -> None:
    sent = query("SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
    answer = said(served.database, sent, login=True)
    assert len(answer) > 3_000_000
    assert answer == said(trusting, sent, login=True)


def test_a_late_cancel_never_stops_the_next_statement(served: Served) -> None:
    with Client(served.database) as client:
        key = next(one.body for one in client.login() if one.kind == b"K")
        for _ in range(300):
            client.ask(ASK)
            with Client(served.database) as canceller:
                canceller.send(struct.pack("!iI", 8 + len(key), 80877102) + key)
                assert canceller.rest() == b""
            assert kinds(client.ask(query("SELECT pg_sleep(0.001)"))) == b"TDCZ"
