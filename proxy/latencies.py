"""Quantiles of durations in bounded memory.

A histogram with buckets that grow by a constant ratio, so that the relative error is bounded at every quantile.
Source: Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2.1.
"""

from __future__ import annotations

from array import array
from math import ceil, log
from typing import Final

ERROR: Final = 0.05
_RATIO: Final = (1 + ERROR) / (1 - ERROR)
_SCALE: Final = 1 / log(_RATIO)
_MIDDLE: Final = 2 / (_RATIO + 1)

# One microsecond to 28 hours; what is outside counts as the nearest of them.
_LOWEST: Final = ceil(log(1e3) * _SCALE)
_BUCKETS: Final = ceil(log(1e14) * _SCALE) - _LOWEST + 1


class Latencies:
    """Durations of one statement: about 2 kB, whatever their number."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets = array("Q", bytes(8 * _BUCKETS))

    def add(self, ns: int) -> None:
        """Count a duration, in nanoseconds."""
        self.count += 1
        index = ceil(log(ns) * _SCALE) - _LOWEST if ns > 1000 else 0
        self._buckets[index if index < _BUCKETS else _BUCKETS - 1] += 1

    def quantile(self, q: float) -> int:
        """Nanoseconds that a share `q` of all does not exceed, within `ERROR` of the exact ones; 0 for none."""
        rank = max(1, ceil(q * self.count))
        for index, count in enumerate(self._buckets):
            rank -= count
            if rank <= 0:
                return int(_RATIO ** (index + _LOWEST) * _MIDDLE)
        return 0

    def take(self, other: Latencies) -> None:
        """Add another's durations."""
        self.count += other.count
        for index, count in enumerate(other._buckets):
            self._buckets[index] += count
