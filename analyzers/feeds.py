"""The results of a unit that may have given a loop its values, those that are as one together.

Enters: the executions of a unit and the samples of their results. Leaves: for a loop the results that came before its
turns, statement by statement, with the turns that they were there for. Out of scope: whether they did give the values.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from pgtattle.analyzers.samples import Samples
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.wire.rows import Column, Field, Sample

MAX_PARENTS: Final = 20
"""Statements whose results are looked at, the latest first."""
MAX_RESULTS: Final = 100
"""Results that are looked at as one."""

_Result = tuple[int, Execution, Sample]
"""A place in the unit, the execution there, and its rows."""


class Feed(NamedTuple):
    """Results that are as one, `parts`; `execution` is the last before the first of the loop's turns that they reach.

    `first` counts the turns before that one: strays, which came from elsewhere. `given` counts for each later turn the
    results that came before it, where some came between the turns: a loop in a loop. It may be shorter than the loop,
    which then is told by its first turns.
    """

    execution: Execution
    columns: Sequence[Column]
    parts: Sequence[Sequence[Column]]
    first: int
    given: Sequence[int]
    rows: int


class Results:
    """The sampled results of one unit, by statement, for all of its loops."""

    def __init__(self, executions: Sequence[Execution], samples: Samples) -> None:
        self._results: dict[str, list[_Result]] = {}
        self._columns: dict[tuple[str, int, int], Sequence[Column]] = {}
        for index, execution in enumerate(executions):
            sample = samples.of(execution.id)
            if sample is not None:
                self._results.setdefault(execution.text.statement.fingerprint, []).append((index, execution, sample))

    def feeds(self, executions: Sequence[Execution], turns: Sequence[int], least: int) -> Iterator[Feed]:
        """The results before `least` turns of a loop, which are at these places, or more.

        Those that reach most turns come first, and of these the latest statement. Those of one statement are as one
        result, for a loop's may be the parent of another: those before the first turn that they reach, then with them
        those that came between the turns.
        """
        own = executions[0].text.statement.fingerprint
        found: list[tuple[int, int, str, int]] = []
        for fingerprint, results in self._results.items():
            if fingerprint != own:
                first, count = _reach(results, executions, turns)
                if len(turns) - first >= least:
                    found.append((first, -results[count - 1][0], fingerprint, count))
        for first, _, fingerprint, count in sorted(found)[:MAX_PARENTS]:
            results = self._results[fingerprint]
            start = max(0, count - MAX_RESULTS)
            yield self._feed(fingerprint, start, count, count, first, ())
            if count < len(results) and results[count][0] < turns[-1]:
                given = _given(results[start : start + MAX_RESULTS + 1], turns[first:])
                yield self._feed(fingerprint, start, start + given[-1], count, first, given)

    def linked(
        self,
        executions: Sequence[Execution],
        turns: Sequence[int],
        least: int,
        is_linked: Callable[[Execution, Field], bool],
    ) -> Feed | None:
        """The linked columns of all statements as one: several lists whose rows the same code walks."""
        own = executions[0].text.statement.fingerprint
        places: list[_Result] = []
        columns: list[Sequence[Column]] = []
        several = 0
        for fingerprint, results in self._results.items():
            (_, execution, sample) = results[0]
            numbers = [number for number, one in enumerate(sample.columns) if is_linked(execution, one.field)]
            if fingerprint == own or not numbers:
                continue
            several += len(numbers)
            for place, execution, sample in results[:MAX_RESULTS]:
                held = [sample.columns[number] for number in numbers if number < len(sample.columns)]
                places.append((place, execution, sample))
                columns.append([_interleaved(held)] if held else [])
        if several < 2:
            return None
        order = sorted(range(len(places)), key=lambda one: places[one][0])
        results, parts = [places[one] for one in order], [columns[one] for one in order if columns[one]]
        first, count = _reach(results, executions, turns)
        if len(parts) < len(results) or len(turns) - first < least:
            return None
        given = _given(results[: MAX_RESULTS + 1], turns[first:])
        parts = parts[: given[-1]]
        rows = sum(execution.rows for _, execution, _ in results[: given[-1]])
        return Feed(results[count - 1][1], _joined(parts), parts, first, given, rows)

    def _feed(self, fingerprint: str, start: int, end: int, before: int, first: int, given: Sequence[int]) -> Feed:
        results = self._results[fingerprint]
        parts = [sample.columns for _, _, sample in results[start:end]]
        rows = sum(execution.rows for _, execution, _ in results[start:end])
        key = (fingerprint, start, end)
        columns = self._columns.get(key)
        if columns is None:
            columns = self._columns[key] = parts[0] if len(parts) == 1 else _joined(parts)
        return Feed(results[before - 1][1], columns, parts, first, given, rows)


def _reach(results: Sequence[_Result], executions: Sequence[Execution], turns: Sequence[int]) -> tuple[int, int]:
    """The turns that came before any of the results, and the results that came before the next turn."""
    first = bisect_right(turns, results[0][0])
    while first < len(turns):
        count = bisect_left(results, turns[first], key=itemgetter(0))
        while (
            count
            and (results[count - 1][1].first_row_ns or results[count - 1][1].ended_ns) > executions[first].started_ns
        ):
            count -= 1
        if count:
            return first, count
        first += 1
    return first, 0


def _given(results: Sequence[_Result], turns: Sequence[int]) -> list[int]:
    """How many results came before each turn, for the turns before the last of so many."""
    places = [place for place, _, _ in results]
    given = [bisect_left(places, turn) for turn in turns]
    return given[: bisect_left(given, MAX_RESULTS + 1)]


def _joined(parts: Sequence[Sequence[Column]]) -> Sequence[Column]:
    """The columns of results of one statement, one result after another."""
    columns = [Column(column.field) for column in parts[0]]
    for one in parts:
        for column, part in zip(columns, one, strict=False):
            column.hashes.extend(part.hashes)
    return columns


def _interleaved(columns: Sequence[Column]) -> Column:
    """Several columns of a result as one, row by row."""
    if len(columns) == 1:
        return columns[0]
    whole = Column(columns[0].field)
    for row in zip(*(column.hashes for column in columns), strict=True):
        whole.hashes.extend(row)
    return whole
