"""The suites, by name, in the order in which they run."""

from __future__ import annotations

from typing import Final

from tests.compat.suites import drivers, programs
from tests.compat.suites.suite import Suite

SUITES: Final[dict[str, Suite]] = {suite.name: suite for suite in (*programs.SUITES, *drivers.SUITES)}
