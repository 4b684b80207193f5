"""Samples of results are bounded by bytes, and the oldest go first."""

from __future__ import annotations

from pgtattle.analyzers.samples import Samples
from pgtattle.proxy.wire.rows import Column, Field, Sample


def sample(rows: int) -> Sample:
    column = Column(Field("id", 1, 1, 23, False))
    column.hashes.extend(range(rows))
    return Sample([column], rows, True)


def test_what_was_kept_is_found_and_the_oldest_go_first() -> None:
    one = sample(100)
    samples = Samples(max_bytes=3 * one.bytes)
    for number in range(1, 6):
        samples.keep(number, sample(100))
    assert [samples.of(number) is not None for number in range(1, 6)] == [False, False, True, True, True]


def test_one_that_is_larger_than_all_is_not_kept() -> None:
    samples = Samples(max_bytes=1_000)
    samples.keep(1, sample(10_000))
    assert samples.of(1) is None
    samples.keep(2, sample(2))
    assert samples.of(2) is not None
