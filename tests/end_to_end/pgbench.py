"""pgbench as the load: what it did in each second, and how many transactions it had an answer for."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Database


class Pgbench:
    """A context manager that runs a script, without end or for so many seconds, with four clients."""

    def __init__(self, database: Database, script: str, *, seconds: int = 600, protocol: str = "simple") -> None:
        found = shutil.which("pgbench")
        if found is None:
            pytest.skip("pgbench is not installed")
        self.rates: list[float] = []
        self.transactions = 0
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "script.sql"
        path.write_text(script)
        self._process = subprocess.Popen(
            [
                *(found, "-n", "-f", path, "-M", protocol, "-c", "4", "-T", str(seconds), "-P", "1"),
                database.dsn,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Pgbench:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()

    def end(self, code: int, within: float = 60) -> None:
        """Wait for its end, which has this exit code."""
        out, err = self._process.communicate(timeout=within)
        assert self._process.returncode == code, err
        self.rates = [float(rate) for rate in re.findall(r"^progress: .* ([\d.]+) tps", err, re.MULTILINE)]
        (said,) = re.findall(r"transactions actually processed: (\d+)", out)
        self.transactions = int(said)
