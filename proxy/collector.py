"""The collector that prometheus_client's registry takes.

It derives from a class of that package, so it is a module of its own, which is not compiled (setup.py says why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Families(Collector):
    """Collects what a function gives at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """All families as they stand."""
        return self._families()
