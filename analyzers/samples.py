"""Which rows an execution gave, for as long as it is likely to be asked: samples of results by execution.

Enters: samples, as results end. Leaves: the sample of an execution, while it is remembered. Bounded by bytes; the
oldest go first. What is kept is hashes (`wire.rows`), so no value can be read back.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pgtattle.proxy.wire.rows import Sample

MAX_BYTES: Final = 16 * 1024 * 1024


class Samples:
    """The samples of the latest executions that gave more than one row."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._samples: OrderedDict[int, Sample] = OrderedDict()

    def keep(self, execution: int, sample: Sample) -> None:
        """Remember the sample of an execution, by its id."""
        self._samples[execution] = sample
        self._bytes += sample.bytes
        while self._bytes > self._max_bytes:
            _, oldest = self._samples.popitem(last=False)
            self._bytes -= oldest.bytes

    def of(self, execution: int) -> Sample | None:
        """The sample of an execution; None where it gave less than two rows, or is no longer remembered."""
        return self._samples.get(execution)
