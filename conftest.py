"""Loads the plugins of the test suite; the fixtures are in tests/conftest.py."""

from __future__ import annotations

pytest_plugins = ["pytester", "tests.skips"]
