"""Loads the plugins of the test suite and how much Hypothesis tries; the fixtures are in tests/conftest.py."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "tests.skips"]

# A machine that is busy is no failure. The fast tier tries the same examples each time, the slow one others, and more.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", BUSY, max_examples=50, derandomize=True)
settings.register_profile("full", BUSY, max_examples=300)
settings.load_profile("fast")

# A shell ignores SIGINT for what it runs in its background, and every child of ours would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
