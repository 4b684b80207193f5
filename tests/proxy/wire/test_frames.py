"""The scanner and its compiled twin: exact boundaries whatever the chunks, and nothing kept that must not be."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtattle.proxy.wire import batch, frames
from pgtattle.proxy.wire.batch import COUNTED, COUNTED_BODY, PREFIX, PREFIX_HEAD
from pgtattle.proxy.wire.frames import COPY_HEADER, KEPT, REASONS, ROW, SAMPLED, SQL
from pgtattle.proxy.wire.long_rows import COLUMNS, OMITTED

Frame = tuple[int, bytes]
TWINS: list[ModuleType] = [frames]
with contextlib.suppress(ImportError):
    from pgtattle.proxy.wire import _frames

    TWINS.append(_frames)


@pytest.fixture(params=TWINS, ids=lambda twin: twin.__name__.rpartition(".")[2])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = request.param
    return found


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + (len(body) + 4).to_bytes(4, "big") + body


LOGIN = frame("R", bytes(4)) + frame("Z", b"I")
READY = frame("Z", b"I")
SYNC = frame("S")
EXECUTE = frame("E", b"\0" + bytes(4))


def parsed(trimmed: bytes) -> list[Frame]:
    found: list[Frame] = []
    position = 0
    while position < len(trimmed):
        end = position + 1 + int.from_bytes(trimmed[position + 1 : position + 5], "big")
        found.append((trimmed[position], trimmed[position + 5 : end]))
        position = end
    assert position == len(trimmed)
    return found


def summary(trimmed: bytes) -> list[Frame]:
    """Frames, with neighbouring counts of one type added up: chunks may split a run of rows."""
    found: list[Frame] = []
    for kind, body in parsed(trimmed):
        if kind == COUNTED and found and found[-1][0] == COUNTED and found[-1][1][0] == body[0]:
            _, count, size = COUNTED_BODY.unpack(found[-1][1])
            _, more, further = COUNTED_BODY.unpack(body)
            found[-1] = (COUNTED, COUNTED_BODY.pack(body[0], count + more, size + further))
        else:
            found.append((kind, body))
    return found


class Tapped:
    """One connection's state and all that was packed of it."""

    def __init__(self, twin: ModuleType, *, login: bool = True) -> None:
        self.out = bytearray()
        self.noticed: list[int] = []
        self.state = twin.State(7, self.out, self.noticed.append)
        if login:
            self.server(LOGIN)
            self.out.clear()

    def client(self, chunk: bytes) -> int:
        return self._told(self.state.frontend, chunk)

    def server(self, chunk: bytes) -> int:
        return self._told(self.state.backend, chunk)

    def _told(self, look: Callable[[bytes], None], chunk: bytes) -> int:
        """Executions that ended with a chunk, or the reason to give up, negated."""
        before = self.state.ended
        self.noticed.clear()
        look(chunk)
        assert len(self.noticed) <= 1
        if self.state.blind or (self.noticed and self.noticed[0] < 0):
            return self.noticed[0]
        assert self.noticed in ([], [self.state.ended - before])
        ended: int = self.state.ended - before
        return ended

    def trimmed(self) -> bytes:
        """The frames of all records so far."""
        records = list(batch.unpack(bytes(self.out)))
        assert all(connection == 7 and at_ns > 0 and body for _, connection, at_ns, body in records)
        self.out.clear()
        return b"".join(body for _, _, _, body in records)

    def seen(self) -> Any:
        """All that the tap could see, but for the times."""
        records = [(kind, body) for kind, _, _, body in batch.unpack(bytes(self.out))]
        state = self.state
        counts = (state.begun, state.ended, state.suspended, state.status)
        return records, [*state.events], counts, (state.authenticated, state.quiescent)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


# -- boundaries ---------------------------------------------------------------------------------------------------


def test_one_byte_at_a_time(twin: ModuleType) -> None:
    stream = frame("T", b"x" * 30) + frame("D", b"row") * 3 + frame("C", b"SELECT 3\0") + READY
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"select 1\0"))
    tapped.out.clear()
    assert [tapped.server(stream[n : n + 1]) for n in range(len(stream))] == [0] * (len(stream) - 1) + [1]
    assert summary(tapped.trimmed()) == [
        (ord("T"), b"x" * 30),
        *[(ord("D"), b"row")] * 3,
        (ord("C"), b"SELECT 3\0"),
        (ord("Z"), b"I"),
    ]


def test_the_first_rows_of_each_result_pass_and_the_others_are_counted(twin: ModuleType) -> None:
    row, fit = frame("D", bytes(600)), SAMPLED // 604
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"select 1; select 2; select 3\0"))
    tapped.out.clear()
    done = frame("C", b"SELECT 1\0")
    longest = frame("D", bytes(ROW - 4))
    stream = row * (fit + 9) + done + row * 2 + done + longest + done + READY
    for piece in pieces(stream, [100, 3_000, 40_000]):
        tapped.server(piece)
    whole = (ord("D"), bytes(600))
    assert summary(tapped.trimmed()) == [
        *[whole] * fit,
        (COUNTED, COUNTED_BODY.pack(ord("D"), 9, 9 * len(row))),
        (ord("C"), b"SELECT 1\0"),
        *[whole] * 2,
        (ord("C"), b"SELECT 1\0"),
        (ord("D"), bytes(ROW - 4)),
        (ord("C"), b"SELECT 1\0"),
        (ord("Z"), b"I"),
    ]


def values(*given: bytes | int | None) -> bytes:
    """The body of a DataRow; of a number only that length is said, as of a long value that was left out."""
    body = len(given).to_bytes(2, "big")
    for one in given:
        size = -1 if one is None else one if isinstance(one, int) else len(one)
        body += size.to_bytes(4, "big", signed=True) + (one if isinstance(one, bytes) else b"")
    return body


@pytest.mark.parametrize("cuts", [[], [8], [40, 41, 42, 1_400], list(range(0, 1_600))])
def test_of_long_rows_the_short_values_pass(twin: ModuleType, cuts: list[int]) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"select 1\0"))
    tapped.out.clear()
    first = values(b"17", None, b"x" * 1_300, b"", b"y" * 64, b"z" * 65, b"last")
    wide = values(*[b"%04d" % number for number in range(200)])
    short = values(b"1", b"2")
    all_short = values(*[b"%060d" % number for number in range(20)])
    stream = b"".join(frame("D", one) for one in (first, wide, short, all_short)) + frame("C", b"SELECT 4\0") + READY
    for piece in pieces(stream, cuts):
        tapped.server(piece)
    assert parsed(tapped.trimmed()) == [
        (
            PREFIX,
            PREFIX_HEAD.pack(ord("D"), len(first) + 4) + values(b"17", None, OMITTED, b"", b"y" * 64, OMITTED, b"last"),
        ),
        (PREFIX, PREFIX_HEAD.pack(ord("D"), len(wide) + 4) + wide[: 2 + COLUMNS * 8]),
        (ord("D"), short),
        (ord("D"), all_short),
        (ord("C"), b"SELECT 4\0"),
        (ord("Z"), b"I"),
    ]


def test_long_rows_are_sampled_up_to_the_same_bound(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"select 1\0"))
    tapped.out.clear()
    row = frame("D", values(b"17", b"x" * 100_000))
    for _ in range(3_000):
        tapped.server(row)
    kept = [kind for kind, _ in summary(tapped.trimmed())]
    assert kept[-1] == COUNTED
    assert SAMPLED - 2 * ROW < kept.count(PREFIX) * 17 <= SAMPLED


def test_what_the_server_copies_passes_as_rows_do(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"copy t to stdout; copy t to stdout (format binary)\0"))
    tapped.out.clear()
    header = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    assert len(header) == COPY_HEADER
    long = values(b"\0\0\0\7", b"x" * 2_000, b"\0\0\0\5")
    kept = values(b"\0\0\0\7", OMITTED, b"\0\0\0\5")
    done = frame("c") + frame("C", b"COPY 2\0")
    stream = frame("H", bytes(3)) + frame("d", b"1\t2\n") + frame("d", b"x" * 1_500) + done
    stream += frame("H", b"\1\0\0") + frame("d", header + long) + frame("d", long) + frame("d", b"\xff\xff") + done
    for piece in pieces(stream + READY, [30, 1_600, 1_700, 3_000]):
        tapped.server(piece)
    assert [one for one in parsed(tapped.trimmed()) if one[0] in (PREFIX, COUNTED, ord("d"))] == [
        (ord("d"), b"1\t2\n"),
        (COUNTED, COUNTED_BODY.pack(ord("d"), 1, 1_505)),
        (PREFIX, PREFIX_HEAD.pack(ord("d"), len(header + long) + 4) + header + kept),
        (PREFIX, PREFIX_HEAD.pack(ord("d"), len(long) + 4) + kept),
        (ord("d"), b"\xff\xff"),
    ]


def test_a_long_row_that_is_none_costs_nothing_either(twin: ModuleType) -> None:
    for body in (bytes(2_000), b"\xff" * 2_000, b"\0\1\7" + bytes(2_000), b"\0\2\0\0\0\1x\0\0\7\xf0" + bytes(2_000)):
        tapped = Tapped(twin)
        tapped.client(frame("Q", b"select 1\0"))
        tapped.out.clear()
        tapped.server(frame("D", body) + frame("C", b"SELECT 1\0") + READY)
        assert [kind for kind, _ in parsed(tapped.trimmed())] == [PREFIX, ord("C"), ord("Z")]


def test_passwords_and_keys_are_dropped(twin: ModuleType) -> None:
    tapped = Tapped(twin, login=False)
    assert tapped.client(frame("p", b"secret\0")) == 0
    assert tapped.out == b""
    tapped.server(frame("R", (10).to_bytes(4, "big") + b"SCRAM-SHA-256\0\0") + frame("K", b"\0\0\0\7secretkey"))
    assert parsed(tapped.trimmed()) == [
        (PREFIX, PREFIX_HEAD.pack(ord("R"), 23) + (10).to_bytes(4, "big")),
        (PREFIX, PREFIX_HEAD.pack(ord("K"), 17) + b"\0\0\0\7"),
    ]
    assert tapped.state.events == [(frames.KEY, b"\0\0\0\7")]


def test_a_long_statement_keeps_its_beginning_and_says_its_length(twin: ModuleType) -> None:
    body = b"select '" + b"x" * 300_000 + b"'\0"
    fits = body[: SQL - 1] + b"\0"
    bound = b"\0\0" + bytes(100_000)
    tapped = Tapped(twin)
    for piece in pieces(frame("Q", body) + frame("P", fits) + frame("B", bound) + SYNC, [10, 70_000, 400_000]):
        tapped.client(piece)
    assert parsed(tapped.trimmed()) == [
        (PREFIX, PREFIX_HEAD.pack(ord("Q"), len(body) + 4) + body[:SQL]),
        (ord("P"), fits),
        (PREFIX, PREFIX_HEAD.pack(ord("B"), len(bound) + 4) + bound[:KEPT]),
        (ord("S"), b""),
    ]


def test_a_row_of_a_gibibyte_costs_no_memory(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"\0"))
    tapped.out.clear()
    begun = b"\0\2" + (0x3FFFFFFF - 4 - 10 - 1).to_bytes(4, "big") + bytes(1000)
    tapped.server(b"D" + (0x3FFFFFFF).to_bytes(4, "big") + begun)
    assert tapped.out == b""
    left = 0x3FFFFFFF - 4 - 1006 - 5
    block = bytes(1 << 20)
    while left > len(block):
        assert tapped.server(block) == 0
        left -= len(block)
    assert tapped.out == b""
    tapped.server(bytes(left) + b"\0\0\0\1x" + frame("C", b"x\0") + READY)
    row = PREFIX_HEAD.pack(ord("D"), 0x3FFFFFFF) + values(OMITTED, b"x")
    assert parsed(tapped.trimmed()) == [(PREFIX, row), (ord("C"), b"x\0"), (ord("Z"), b"I")]


@pytest.mark.parametrize(
    ("from_server", "stream", "reason"),
    [
        (True, b"C\0\0\0\3", "bad_length"),
        (True, b"C\0\0\0\0", "bad_length"),
        (True, b"C\xff\xff\xff\xff", "bad_length"),
        (True, b"C\x7f\xff\xff\xff", "bad_length"),
        (True, b"\x16\0\0\0\x10", "unknown_type"),
        (True, b"\0\0\0\0\x10", "unknown_type"),
        (True, frame("D", b"x") + b"D\0\0\0\1", "bad_length"),
        (False, b"S\0\0\x27\x11", "length_over_limit"),
        (False, b"p\0\1\0\0", "length_over_limit"),
        (True, frame("1"), "impossible_answer"),
        (True, frame("C", b"SELECT 1\0"), "impossible_answer"),
        (True, READY, "impossible_answer"),
        (True, frame("Z"), "bad_message"),
        (False, frame("P", b"abcd"), "bad_message"),
        (False, frame("B", b""), "bad_message"),
        (False, frame("C", b"Sab"), "bad_message"),
    ],
)
def test_what_cannot_be_is_named(twin: ModuleType, from_server: bool, stream: bytes, reason: str) -> None:
    tapped = Tapped(twin)
    code = (tapped.server if from_server else tapped.client)(stream)
    assert REASONS[-code] == reason


def test_what_ended_before_the_impossible_is_not_lost(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"select 1\0"))
    assert tapped.server(frame("C", b"SELECT 1\0") + READY + READY) == -frames.IMPOSSIBLE
    assert tapped.state.begun == 1


def test_wrong_arguments_are_refused(twin: ModuleType) -> None:
    with pytest.raises(TypeError):
        twin.State(1, bytearray(), print).frontend("S")
    with pytest.raises(TypeError):
        twin.State(1)


def test_it_says_when_there_is_something_to_see_to(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    tapped.client(frame("Q", b"a\0"))
    assert tapped.noticed == [0], "records where there were none"
    tapped.server(DONE)
    assert tapped.noticed == []
    tapped.server(READY)
    assert tapped.noticed == []
    tapped.client(frame("Q", bytes(frames.KEPT)) * 4)
    assert tapped.noticed == [0], "many records"
    tapped.state.close()
    tapped.client(b"?????")
    assert tapped.noticed == []


# -- pairing ------------------------------------------------------------------------------------------------------

BIND = frame("B", b"\0\0" + bytes(6))
PARSE = frame("P", b"\0select 1\0\0\0")
DONE = frame("C", b"SELECT 1\0")
ERROR = frame("E", b"C42601\0\0")
SUSPENDED = frame("s")


def portal(kind: str, name: bytes) -> bytes:
    return frame(kind, {"B": name + b"\0s\0" + bytes(6), "E": name + b"\0" + bytes(4), "C": b"P" + name + b"\0"}[kind])


SUSPEND = frame("2") + SUSPENDED + frame("Z", b"T")
IN_BLOCK = frame("Z", b"T")
MADE = frame("1") + frame("2")

PAIRINGS: dict[str, tuple[int, list[bytes]]] = {
    # name: executions, and what client and server send in turn
    "simple": (2, [frame("Q", b"a;b\0"), DONE + DONE + READY]),
    "empty": (1, [frame("Q", b"\0"), frame("I") + READY]),
    "error in the middle": (2, [frame("Q", b"a;b;c\0"), DONE + ERROR + READY]),
    "extended": (1, [PARSE + BIND + frame("D", b"P\0") + EXECUTE + SYNC, MADE + frame("T") + DONE + READY]),
    "error at parse": (1, [PARSE + BIND + EXECUTE + SYNC, ERROR + READY]),
    "error at bind": (1, [BIND + EXECUTE + SYNC, ERROR + READY]),
    "error at describe is none": (0, [frame("D", b"Sx\0") + SYNC, ERROR + READY]),
    "error at close is none": (0, [portal("C", b"x") + SYNC, ERROR + READY]),
    "error at sync is none": (1, [PARSE + BIND + EXECUTE + SYNC, MADE + DONE + ERROR + READY]),
    "error of a function call is none": (0, [frame("F", bytes(8)), ERROR + READY]),
    "pipeline, skipped up to Sync": (
        3,
        [
            (BIND + EXECUTE) * 3 + SYNC + BIND + EXECUTE + SYNC,
            frame("2") + DONE + ERROR + READY + frame("2") + DONE + READY,
        ],
    ),
    "skipped requests that come after the error": (
        2,
        [BIND + frame("H"), ERROR, EXECUTE + BIND + SYNC + BIND + EXECUTE + SYNC, READY + frame("2") + DONE + READY],
    ),
    "a portal in three parts": (
        1,
        [
            *(portal("B", b"c") + portal("E", b"c") + SYNC, SUSPEND),
            *(portal("E", b"c") + SYNC, SUSPENDED + IN_BLOCK),
            *(portal("E", b"c") + SYNC, DONE + IN_BLOCK),
        ],
    ),
    "a suspended portal closed": (
        1,
        [portal("B", b"c") + portal("E", b"c") + SYNC, SUSPEND, portal("C", b"c") + SYNC, frame("3") + IN_BLOCK],
    ),
    "a suspended portal bound anew": (
        2,
        [BIND + EXECUTE + SYNC, SUSPEND, BIND + EXECUTE + SYNC, frame("2") + DONE + IN_BLOCK],
    ),
    "a suspended portal at the end of the transaction": (1, [BIND + EXECUTE + SYNC, frame("2") + SUSPENDED + READY]),
    "a suspended portal and a simple query": (
        2,
        [BIND + EXECUTE + SYNC, SUSPEND, frame("Q", b"a\0"), DONE + IN_BLOCK],
    ),
    "a suspended portal that fails": (
        2,
        [
            *(BIND + EXECUTE + SYNC, SUSPEND, EXECUTE + SYNC, ERROR + frame("Z", b"E")),
            *(frame("Q", b"rollback\0"), DONE + READY),
        ],
    ),
    "copy in": (1, [frame("Q", b"copy\0"), frame("G"), frame("d", b"x") * 3 + frame("c"), DONE + READY]),
    "copy in fails, stray data": (
        2,
        [
            *(frame("Q", b"copy\0"), frame("G"), frame("d", b"x"), ERROR + READY),
            *(frame("d", b"x") + frame("c") + frame("Q", b"a\0"), DONE + READY),
        ],
    ),
    "copy in, Sync sent early and ignored": (
        1,
        [PARSE + BIND + EXECUTE + SYNC, MADE + frame("G"), frame("d") + frame("c") + SYNC, DONE + READY],
    ),
    "copy in, all sent at once": (
        1,
        [BIND + EXECUTE + SYNC + frame("d") + frame("c") + SYNC, frame("2") + frame("G") + DONE + READY],
    ),
    "copy in, Syncs in the midst of it": (
        1,
        [
            *(BIND + EXECUTE + frame("H"), frame("2") + frame("G")),
            *(SYNC + SYNC + frame("d") + frame("f", b"\0") + SYNC, ERROR + READY),
        ],
    ),
    "messages of their own": (
        1,
        [frame("Q", b"a\0"), frame("N", b"x") + frame("A", b"x") + DONE + frame("S", b"a\0b\0") + READY + ERROR],
    ),
}


@pytest.mark.parametrize("name", PAIRINGS)
@pytest.mark.parametrize("dribble", [False, True])
def test_executions(twin: ModuleType, name: str, dribble: bool) -> None:
    expected, turns = PAIRINGS[name]
    for blind in (False, True):
        tapped = Tapped(twin)
        tapped.state.blind = blind
        done = 0
        for number, turn in enumerate(turns):
            for piece in pieces(turn, list(range(len(turn))) if dribble else []):
                ended = (tapped.server if number % 2 else tapped.client)(piece)
                assert ended >= 0, REASONS[-ended]
                done += ended
        assert (done, tapped.state.begun) == (expected, 0)
        assert tapped.state.quiescent
        assert sum(kind == frames.MISSED for kind, _ in tapped.state.events) == (expected if blind else 0)
        assert bool(tapped.out) is not blind


def test_the_state_between(twin: ModuleType) -> None:
    tapped = Tapped(twin, login=False)
    assert not tapped.state.quiescent
    tapped.server(LOGIN)
    assert tapped.state.quiescent
    tapped.client(PARSE + BIND + frame("H"))
    tapped.server(frame("1") + frame("2"))
    assert not tapped.state.quiescent
    tapped.client(EXECUTE)
    tapped.server(DONE)
    assert (tapped.state.begun, tapped.state.ended) == (1, 0)
    tapped.client(SYNC)
    tapped.server(frame("Z", b"T"))
    assert (tapped.state.begun, tapped.state.ended) == (0, 1)
    assert (chr(tapped.state.status), tapped.state.quiescent) == ("T", True)


def test_named_statements_are_told_once_they_are_made(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    good, bad = frame("P", b"a\0select 1\0\0\0"), frame("P", b"b\0selec 1\0\0\0")
    tapped.client(good + bad + good + SYNC + PARSE + frame("C", b"Sa\0") + frame("C", b"Pa\0") + SYNC)
    assert tapped.state.events == []
    tapped.server(frame("1") + ERROR + READY + frame("1") + frame("3") * 2 + READY)
    assert tapped.state.events == [(frames.PREPARED, good), (frames.CLOSED, b"a")]


def test_a_statement_too_large_to_keep_ends_the_one_before_it(twin: ModuleType) -> None:
    """Else that one would be sent again in its place after a gap."""
    tapped = Tapped(twin)
    tapped.client(frame("P", b"a\0" + b" " * frames.SQL + b"\0\0\0") + SYNC)
    tapped.server(frame("1") + READY)
    assert tapped.state.events == [(frames.CLOSED, b"a")]


def test_statements_that_wait_for_their_answer_are_bounded_in_bytes(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    large = frame("P", b"a\0" + b" " * 60_000 + b"\0\0\0")
    fit = frames.MAX_HELD // len(large)
    for _ in range(2):
        tapped.client(large * (fit + 2) + SYNC)
        tapped.server(frame("1") * (fit + 2) + READY)
        assert [kind for kind, _ in tapped.state.events] == [frames.PREPARED] * fit + [frames.CLOSED] * 2
        tapped.state.events.clear()


def test_an_endless_pipeline_is_given_up(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    many = BIND * 8_192
    assert [tapped.client(many) for _ in range(8)] == [0] * 8
    assert tapped.client(BIND) == -frames.STATE_CAP


def test_endlessly_many_suspended_portals_are_given_up(twin: ModuleType) -> None:
    tapped = Tapped(twin)
    codes = []
    for number in range(frames.MAX_SUSPENDED + 1):
        name = b"%d" % number
        tapped.client(portal("B", name) + portal("E", name) + SYNC)
        codes.append(tapped.server(frame("2") + SUSPENDED + frame("Z", b"T")))
    assert codes == [0] * frames.MAX_SUSPENDED + [-frames.STATE_CAP]


# -- both twins see the same ----------------------------------------------------------------------------------------

bodies = st.one_of(
    st.sampled_from(
        [b"", b"\0", b"\1", b"a\0", b"\0\0", b"a\0b\0\0\0", b"Sa\0", b"Pa\0", b"I", b"T", b"E", b"SELECT 1\0"]
    ),
    st.binary(max_size=40),
    st.sampled_from([KEPT, SQL]).flatmap(lambda bound: st.integers(bound - 3, bound + 3)).map(bytes),
    st.lists(
        st.one_of(st.none(), st.integers(-3, 70), st.sampled_from([0, 3, 63, 64, 65, 700, 2_000]).map(bytes)),
        max_size=40,
    ).map(lambda given: values(*given)),
)
streams = st.lists(st.tuples(st.sampled_from("QPBEDCSHFdcfpX"), bodies).map(lambda pair: frame(*pair)), max_size=10)
answers = st.lists(
    st.tuples(st.sampled_from("CIEZTtn123sGHHSNARKVcDDDddd"), bodies).map(lambda pair: frame(*pair)), max_size=10
)
turns = st.lists(
    st.tuples(st.booleans(), st.one_of(st.binary(max_size=60), streams.map(b"".join), answers.map(b"".join))),
    max_size=8,
)
cuts = st.lists(st.integers(0, 300_000), max_size=8)


def run(twin: ModuleType, turns: list[tuple[bool, bytes]], cuts: list[int], blind: bool) -> Any:
    tapped = Tapped(twin)
    tapped.state.blind = blind
    codes = []
    for backend, turn in turns:
        for piece in pieces(turn, cuts):
            codes.append((tapped.server if backend else tapped.client)(piece))
            if codes[-1] < 0:
                return codes, tapped.seen()
    return codes, tapped.seen()


@pytest.mark.skipif(len(TWINS) < 2, reason="the compiled scanner is not built")
@settings(max_examples=500)
@given(turns, cuts, st.booleans())
def test_the_twins_give_the_same_record(turns: list[tuple[bool, bytes]], cuts: list[int], blind: bool) -> None:
    assert run(TWINS[0], turns, cuts, blind) == run(TWINS[1], turns, cuts, blind)


@pytest.mark.skipif(len(TWINS) < 2, reason="the compiled scanner is not built")
@settings(max_examples=300)
@given(st.lists(st.sampled_from([turn for _, turns in PAIRINGS.values() for turn in turns]), max_size=12), cuts)
def test_the_twins_pair_alike(parts: list[bytes], cuts: list[int]) -> None:
    turns = [(bool(number % 2), part) for number, part in enumerate(parts)]
    assert run(TWINS[0], turns, cuts, False) == run(TWINS[1], turns, cuts, False)


@given(st.lists(st.tuples(st.sampled_from("TDDDAHdddS"), bodies).map(lambda pair: frame(*pair)), max_size=12), cuts)
def test_any_cut_gives_the_same_frames(parts: list[bytes], cuts: list[int]) -> None:
    found = []
    for these in ([], cuts):
        tapped = Tapped(TWINS[-1])
        for piece in pieces(b"".join(parts), these):
            assert tapped.server(piece) == 0
        found.append(summary(tapped.trimmed()))
    assert found[0] == found[1]
