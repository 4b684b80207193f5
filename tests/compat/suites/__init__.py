"""The suites, by name, in the order in which they run."""

from __future__ import annotations

from typing import Final

from tests.compat.suites import django, drivers, node, programs
from tests.compat.suites.suite import Suite

_ALL: Final[tuple[Suite, ...]] = (*programs.SUITES, *drivers.SUITES, django.SUITE, node.SUITE)
SUITES: Final = {suite.name: suite for suite in _ALL}
