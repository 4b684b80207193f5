"""What a start says on stderr, of servers that are there, are not yet there, or want a password."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database

PATIENCE_SECONDS = 90.0


class Started:
    """A command whose stderr grows in a file."""

    def __init__(self, process: subprocess.Popen[str], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr

    @property
    def said(self) -> str:
        return self._stderr.read_text(encoding="utf-8")

    def until(self, text: str) -> str:
        """Wait for what it says; gives all of it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, f"no {text!r} in {self.said}"
            time.sleep(0.05)
        return self.said


@contextmanager
def serve(folder: Path, upstream: str, *arguments: str, **environment: str) -> Iterator[Started]:
    command = (sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", upstream)
    addresses = ("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [*command, *addresses, *arguments], stderr=stderr, text=True, cwd=folder, env={**kept, **environment}
        )
    try:
        yield Started(process, folder / "stderr")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


def pasted(said: str) -> str:
    """The URL that the banner says to paste."""
    return said.partition("DATABASE_URL=")[2].split()[0]


def test_the_pasted_url_works_and_what_is_known_is_said(debian_database: Database, tmp_path: Path) -> None:
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION hypopg")
    with serve(tmp_path, debian_database.dsn_without_password, PGPASSWORD=debian_database.password) as started:
        said = started.until("HypoPG")
        assert "✓ upstream  PostgreSQL 15." in said
        assert "✓ EXPLAIN" in said
        assert "✓ HypoPG    installed" in said
        assert "(and PGPASSWORD)" in said
        assert debian_database.password not in said
        assert "\x1b" not in said
        with psycopg.connect(pasted(said), password=debian_database.password) as connection:
            assert connection.execute("SELECT 42").fetchone() == (42,)


def test_no_password_is_said_with_its_cure(database: Database, tmp_path: Path) -> None:
    with serve(tmp_path, database.dsn_without_password) as started:
        said = started.until("HypoPG")
        assert "✗ EXPLAIN" in said
        assert "fix: set PGPASSWORD" in said


def test_a_server_that_comes_later_is_said_when_it_comes(trusting: Database, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    upstream = f"postgresql://{trusting.user}@/{trusting.name}?host={folder}&port={trusting.port}"
    with serve(tmp_path, upstream) as started:
        said = started.until("HypoPG")
        assert f"✗ upstream  cannot reach PostgreSQL at unix:{folder}" in said
        assert "✗ EXPLAIN   needs a server that answers" in said
        folder.symlink_to(trusting.cluster.socket_folder)
        started.until("upstream: PostgreSQL")


def test_with_json_logs_it_is_one_record(database: Database, tmp_path: Path) -> None:
    upstream = database.dsn_without_password
    with serve(tmp_path, upstream, "--log-format", "json", PGPASSWORD=database.password) as started:
        records = [json.loads(line) for line in started.until('"started"').splitlines()]
        (record,) = [one for one in records if one["message"] == "started"]
        assert record["database_url"].endswith(f"/{database.name}?sslmode=disable")
        assert [one["name"] for one in record["checks"]][:3] == ["upstream", "EXPLAIN", "HypoPG"]
        assert database.password not in started.said


@pytest.mark.parametrize("password", [True, False])
def test_run_says_it_in_short(database: Database, tmp_path: Path, password: bool) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    command = (sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", database.dsn_without_password)
    done = subprocess.run(
        [*command, "--", "true"],
        env={**kept, **({"PGPASSWORD": database.password} if password else {})},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout == ""
    assert done.stderr.startswith("pgtattle 0.") or "\npgtattle 0." in done.stderr
    assert ("✓ EXPLAIN" if password else "✗ EXPLAIN") in done.stderr
    assert ("fix: set PGPASSWORD" in done.stderr) != password
    assert database.password not in done.stderr
