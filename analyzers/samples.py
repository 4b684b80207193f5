"""Which rows an execution gave, for as long as it is likely to be asked: samples of results by execution.

Enters: samples, as results end. Leaves: the sample of an execution, while it is remembered. Bounded by bytes; the
oldest go first. What is kept is hashes (`wire.rows`), so no value can be read back.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pgtattle.proxy.wire.rows import Sample

MAX_BYTES: Final = 16 * 1024 * 1024
SINGLE_ROWS: Final = 1_000
"""Results of one row that are sampled in a second: they may lead a walk, or drive a loop together; most do neither."""
SECOND_NS: Final = 1_000_000_000


class Samples:
    """The samples of the latest executions that gave rows."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._samples: OrderedDict[int, Sample] = OrderedDict()
        self._second_ns = 0
        self._single_rows = 0

    def affords(self, rows: int, at_ns: int) -> bool:
        """True where a result of so many rows may be sampled: one with several rows always."""
        if rows > 1:
            return True
        if at_ns - self._second_ns >= SECOND_NS:
            self._second_ns, self._single_rows = at_ns, 0
        self._single_rows += 1
        return self._single_rows <= SINGLE_ROWS

    def keep(self, execution: int, sample: Sample) -> None:
        """Remember the sample of an execution, by its id."""
        self._samples[execution] = sample
        self._bytes += sample.bytes
        while self._bytes > self._max_bytes:
            _, oldest = self._samples.popitem(last=False)
            self._bytes -= oldest.bytes

    def of(self, execution: int) -> Sample | None:
        """The sample of an execution; None where it has none, or is no longer remembered."""
        return self._samples.get(execution)
