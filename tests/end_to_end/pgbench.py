"""pgbench as the load, and how many transactions it had an answer for."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.waiting import PATIENCE


class Pgbench:
    """A context manager that runs a script so often with each of four clients."""

    def __init__(self, database: Database, script: str, *, times: int = 1_000_000) -> None:
        found = shutil.which("pgbench")
        if found is None:
            pytest.skip("pgbench is not installed")
        self.transactions = 0
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "script.sql"
        path.write_text(script)
        self._process = subprocess.Popen(
            [found, "-n", "-f", path, "-c", "4", "-t", str(times), database.dsn],
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

    def end(self, code: int) -> None:
        """Wait for its end, which has this exit code."""
        out, err = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == code, err
        (said,) = re.findall(r"transactions actually processed: (\d+)", out)
        self.transactions = int(said)
