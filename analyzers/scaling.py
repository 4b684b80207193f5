"""Whether a loop's length follows the rows of what drove it, seen over many units of work.

Enters: (rows of the parent, turns of the loop), a unit at a time, by route or parent and by child. Leaves: `follows`
where one turn comes for each row whatever their number, `bounded` where the number of turns never changes, and nothing
where too little was seen to tell. Bounded in memory.
"""

from __future__ import annotations

from collections import deque
from statistics import correlation, linear_regression
from typing import Final, Literal

from pgtattle.analyzers.sql.texts import Bounded

MAX_PAIRS: Final = 50
MAX_LOOPS: Final = 500
MIN_SIZES: Final = 3
"""Different numbers of rows without which nothing is told."""
SLOPE: Final = (0.8, 1.2)
CORRELATED: Final = 0.9
WIDE: Final = 2
"""The greatest number of rows over the smallest from which a constant loop says something."""

Scale = Literal["follows", "bounded", ""]


class Scaling:
    """The latest pairs of each loop."""

    def __init__(self) -> None:
        self._pairs: Bounded[tuple[str, str], deque[tuple[int, int]]] = Bounded(MAX_LOOPS)

    def add(self, driver: str, child: str, rows: int, turns: int, *, keep: bool = True) -> Scale:
        """Take a unit's pair; what all of them say. `driver` is the route or the parent's fingerprint.

        A unit that goes on is not to `keep`: it says how many turns it had when it is complete.
        """
        pairs = self._pairs.get((driver, child))
        if pairs is None:
            pairs = deque(maxlen=MAX_PAIRS)
            self._pairs.put((driver, child), pairs)
        if keep:
            pairs.append((rows, turns))
        sizes = {size for size, _ in pairs}
        if len(sizes) < MIN_SIZES:
            return ""
        counts = {count for _, count in pairs}
        if len(counts) == 1:
            return "bounded" if max(sizes) >= WIDE * min(sizes) else ""
        xs, ys = zip(*pairs, strict=True)
        slope = linear_regression(xs, ys).slope
        return "follows" if SLOPE[0] <= slope <= SLOPE[1] and correlation(xs, ys) >= CORRELATED else ""
