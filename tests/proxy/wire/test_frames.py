"""The scanner: exact boundaries whatever the chunks, and nothing kept that must not be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.proxy.errors import ProtocolViolation
from pgtattle.proxy.wire.batch import COUNTED, COUNTED_BODY, PREFIX, PREFIX_HEAD
from pgtattle.proxy.wire.frames import BACKEND_TYPES, FRONTEND_TYPES, KEPT, Scanner

Frame = tuple[int, bytes]


def frame(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + (len(body) + 4).to_bytes(4, "big") + body


def frames(trimmed: bytes) -> list[Frame]:
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
    for kind, body in frames(trimmed):
        if kind == COUNTED and found and found[-1][0] == COUNTED and found[-1][1][0] == body[0]:
            _, count, size = COUNTED_BODY.unpack(found[-1][1])
            _, more, further = COUNTED_BODY.unpack(body)
            found[-1] = (COUNTED, COUNTED_BODY.pack(body[0], count + more, size + further))
        else:
            found.append((kind, body))
    return found


def scanner(types: list[int | None] = BACKEND_TYPES, seen: list[Frame] | None = None) -> Scanner:
    def watch(kind: int, data: bytes, start: int, end: int) -> None:
        if seen is not None:
            seen.append((kind, data[start:end]))

    return Scanner(types, b"CIEZGKQPBS", watch)


def scan(stream: bytes, cuts: list[int], types: list[int | None] = BACKEND_TYPES) -> tuple[bytes, list[Frame]]:
    seen: list[Frame] = []
    one = scanner(types, seen)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    return b"".join(one.scan(stream[a:b]) for a, b in itertools.pairwise(edges)), seen


bodies = st.one_of(st.binary(max_size=40), st.integers(KEPT - 3, KEPT + 3).map(bytes))
backend_frames = st.tuples(st.sampled_from("CIEZTtn123sGHWSNARKVcDDDd"), bodies).map(lambda pair: frame(*pair))


@given(st.lists(backend_frames, max_size=12), st.lists(st.integers(0, 2000), max_size=8))
def test_any_cut_gives_the_same_frames(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    whole, seen_whole = scan(stream, [])
    cut, seen_cut = scan(stream, cuts)
    assert summary(cut) == summary(whole)
    assert seen_cut == seen_whole


def test_one_byte_at_a_time() -> None:
    stream = frame("T", b"x" * 30) + frame("D", b"row") * 3 + frame("C", b"SELECT 3\0") + frame("Z", b"I")
    trimmed, seen = scan(stream, list(range(len(stream))))
    assert summary(trimmed) == [
        (ord("T"), b"x" * 30),
        (COUNTED, COUNTED_BODY.pack(ord("D"), 3, 24)),
        (ord("C"), b"SELECT 3\0"),
        (ord("Z"), b"I"),
    ]
    assert seen == [(ord("C"), b"SELECT 3\0"), (ord("Z"), b"I")]


def test_a_chunk_of_whole_small_frames_is_not_copied() -> None:
    chunk = frame("Q", b"select 1\0") + frame("S")
    assert scanner(FRONTEND_TYPES).scan(chunk) is chunk


def test_passwords_and_keys_are_dropped() -> None:
    assert scanner(FRONTEND_TYPES).scan(frame("p", b"secret\0")) == b""
    trimmed = scanner().scan(
        frame("R", (10).to_bytes(4, "big") + b"SCRAM-SHA-256\0\0") + frame("K", b"\0\0\0\7secretkey")
    )
    assert b"SCRAM" not in trimmed
    assert frames(trimmed) == [
        (PREFIX, PREFIX_HEAD.pack(ord("R"), 23) + (10).to_bytes(4, "big")),
        (PREFIX, PREFIX_HEAD.pack(ord("K"), 17) + b"\0\0\0\7"),
    ]


def test_a_long_statement_keeps_its_beginning_and_says_its_length() -> None:
    body = b"select '" + b"x" * 100_000 + b"'\0"
    trimmed, _ = scan(frame("Q", body) + frame("S"), [10, 70_000], FRONTEND_TYPES)
    assert frames(trimmed) == [
        (PREFIX, PREFIX_HEAD.pack(ord("Q"), len(body) + 4) + body[:KEPT]),
        (ord("S"), b""),
    ]


def test_a_row_of_a_gibibyte_costs_no_memory() -> None:
    one = scanner()
    header = b"D" + (0x3FFFFFFF).to_bytes(4, "big")
    trimmed = one.scan(header + bytes(1000))
    assert frames(trimmed) == [(COUNTED, COUNTED_BODY.pack(ord("D"), 1, 0x40000000))]
    left = 0x3FFFFFFF - 4 - 1000
    block = bytes(1 << 20)
    while left > len(block):
        assert one.scan(block) == b""
        left -= len(block)
    assert one.scan(bytes(left) + frame("Z", b"I")) == frame("Z", b"I")


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"C\0\0\0\3", "bad_length"),
        (b"C\0\0\0\0", "bad_length"),
        (b"C\xff\xff\xff\xff", "bad_length"),
        (b"C\x7f\xff\xff\xff", "bad_length"),
        (b"\x16\0\0\0\x10", "unknown_type"),
        (frame("D", b"x") + b"D\0\0\0\1", "bad_length"),
    ],
)
def test_impossible_frames_are_named(stream: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        scanner().scan(stream)
    assert caught.value.reason == reason


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_give_frames_or_a_violation(stream: bytes, cuts: list[int]) -> None:
    try:
        trimmed, _ = scan(stream, cuts)
    except ProtocolViolation:
        return
    frames(trimmed)
