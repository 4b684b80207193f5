"""Commands as people start them: on a terminal, without one, ended by a key or by a signal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from pgtattle.proxy.cli import main
from tests.conftest import Database, Serve, end
from tests.end_to_end.watching import refused
from tests.waiting import PATIENCE, wait_for

PGTATTLE = (sys.executable, "-m", "pgtattle.proxy.cli")
DASHBOARD = b"\x1b[?1049h"
"""The alternate screen, which a full-screen program switches to."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user can get to, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Terminal:
    """A command in a session of its own whose terminal is ours."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        self.output = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            more = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "TMPDIR": str(folder)}
            os.execve(command[0], command, {**os.environ, **more, **environment})

    def until(self, text: bytes, seconds: float = PATIENCE) -> None:
        """Wait for what it prints."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            running = self._read() and time.monotonic() < deadline
            assert running, f"no {text!r} in {self.output[-2000:]!r}"

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it did not end: {self.output[-2000:]!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)

    def _read(self) -> bool:
        if select.select([self._master], [], [], 0.05)[0]:
            try:
                self.output += os.read(self._master, 65536)
            except OSError:
                return False
        return True


@contextlib.contextmanager
def terminal(command: list[str], folder: Path, **environment: str) -> Iterator[Terminal]:
    opened = Terminal(command, folder, **environment)
    try:
        yield opened
    finally:
        opened.close()


def test_the_demo_opens_the_dashboard_on_a_terminal_and_leaves_nothing(folder: Path) -> None:
    with terminal([*PGTATTLE, "demo", "--report", "json=out.json"], folder) as shown:
        shown.until(b"filling the bookshop")
        shown.until(DASHBOARD)
        shown.until(b"books")
        shown.type(b"q")
        assert shown.wait() == 0
    assert sorted(path.name for path in folder.iterdir()) == ["out.json"]


@pytest.mark.slow
def test_the_demo_on_a_terminal_ends_by_itself_when_told_how_long(folder: Path) -> None:
    with terminal([*PGTATTLE, "demo", "--seconds", "10"], folder) as shown:
        shown.until(DASHBOARD)
        assert shown.wait() == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGINT, 130, "the application works"), (signal.SIGTERM, 143, "starting PostgreSQL")],
)
def test_a_signal_ends_the_demo_and_everything_is_removed(folder: Path, number: int, code: int, moment: str) -> None:
    process = subprocess.Popen(
        [*PGTATTLE, "demo", "--headless", "--seconds", "600"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = b""
    try:
        while moment.encode() not in told:
            piece = os.read(process.stderr.fileno(), 4096)
            assert piece, told
            told += piece
        process.send_signal(number)
        _, rest = process.communicate(timeout=PATIENCE)
    finally:
        end(process)
    assert process.returncode == code, rest
    assert b"Traceback" not in told + rest
    assert list(folder.iterdir()) == []


def test_watch_shows_the_traffic_asks_before_it_is_left_and_sums_up(database: Database, folder: Path) -> None:
    command = [*PGTATTLE, "watch", "--upstream", database.dsn_without_password, "--listen", f"unix:{folder}/.s.PGSQL.1"]
    command += ["--report", "text=report.txt"]
    with terminal(command, folder, PGPASSWORD=database.password) as shown:
        shown.until(DASHBOARD)
        banner = shown.output.partition(DASHBOARD)[0].decode()
        assert f"DATABASE_URL='postgresql://{database.user}@/{database.name}?host={folder}&port=1'" in banner
        assert "upstream" in banner
        where = f"host={folder} port=1 user={database.user} dbname={database.name} password={database.password}"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute("SELECT 4711 AS watched")
            shown.until(b"watched")
            shown.until(b"1 connections")
            shown.type(b"q")
            shown.until(b"1 client is connected through pgtattle")
            shown.type(b"n")
            connection.execute("SELECT 4712 AS still_connected")
            shown.until(b"still_connected")
            shown.output = b""
            shown.type(b"\x03")
            shown.until(b"Leave?")
            shown.type(b"y")
            assert shown.wait() == 0
            summary = shown.output.rpartition(b"\x1b[?1049l")[2].decode()
            assert "pgtattle: 2 executions over 1 connection (1 open), 0 findings" in summary
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
    assert "2 executions" in (folder / "report.txt").read_text()
    assert list(folder.glob("pgtattle*")) == []


def test_watch_without_an_upstream_is_exit_3_before_the_dashboard(folder: Path) -> None:
    command = [*PGTATTLE, "watch", "--upstream", "postgresql://u@127.0.0.1:1/d", "--listen", "127.0.0.1:0"]
    with terminal(command, folder) as shown:
        assert shown.wait() == 3
        assert DASHBOARD not in shown.output
        assert b"127.0.0.1:1" in shown.output


def test_tui_attaches_to_a_running_sidecar(database: Database, serve: Serve, folder: Path) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        connection.execute("SELECT 4711 AS earlier")
    with terminal([*PGTATTLE, "tui", f"http://{served.addresses['api']}"], folder) as shown:
        shown.until(b"earlier")
        shown.type(b"q")
        assert shown.wait() == 0


@pytest.mark.parametrize("command", ["watch", "tui"])
def test_a_dashboard_without_a_terminal_is_exit_2_and_no_escapes(
    database: Database, serve: Serve, folder: Path, command: str
) -> None:
    if command == "watch":
        where = ["--upstream", database.dsn_without_password, "--listen", f"unix:{folder}/.s.PGSQL.1"]
    else:
        where = [f"http://{serve(database).addresses['api']}"]
    done = subprocess.run(
        [*PGTATTLE, command, *where],
        cwd=folder,
        env={**os.environ, "PGPASSWORD": database.password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2, done.stderr
    assert "the dashboard needs a terminal" in done.stderr
    assert done.stdout == ""
    assert "\x1b" not in done.stderr


def test_a_key_reaches_the_command_of_run_once(database: Database, folder: Path) -> None:
    (folder / "script.py").write_text(
        "import signal, sys, time\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "deadline = time.monotonic() + 600\n"
        "while not seen and time.monotonic() < deadline: time.sleep(0.05)\n"
        "time.sleep(1.0)\n"
        "print('interrupted', len(seen), 'times', flush=True)\n"
        "sys.exit(5)\n"
    )
    command = [*PGTATTLE, "run", "--upstream", database.dsn_without_password, "--", sys.executable, "script.py"]
    with terminal(command, folder, PGPASSWORD=database.password) as shown:
        shown.until(b"ready")
        shown.type(b"\x03")
        assert shown.wait() == 5
        assert b"interrupted 1 times" in shown.output


def test_a_second_signal_ends_the_sidecar_at_once(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(served.database.dsn) as connection:
        connection.execute("SELECT 1")
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(served.database), "a proxy that takes nobody")
        assert served.process.poll() is None
        assert served.stop() == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_healthcheck(folder: Path) -> None:
    def check(listen: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*PGTATTLE, "healthcheck", "--listen", listen], capture_output=True, text=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert check(f"127.0.0.1:{port}").returncode == 0
        assert check(f"0.0.0.0:{port}").returncode == 0
    failed = check(f"127.0.0.1:{port}")
    assert failed.returncode == 1
    assert f"127.0.0.1:{port}: Connection refused" in failed.stderr
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
        listening.listen()
        assert check(f"unix:{folder}/s").returncode == 0
    assert check(f"unix:{folder}/absent").returncode == 1


def test_a_report_on_a_terminal_of_another_encoding(database: Database, folder: Path) -> None:
    done = subprocess.run(
        [
            *(*PGTATTLE, "run", "--upstream", database.dsn_without_password, "--report", "text=-", "--"),
            *(sys.executable, "-c", "import psycopg; psycopg.connect('').execute('SELECT 1 AS \"naïve\"')"),
        ],
        env={**os.environ, "PGPASSWORD": database.password, "PYTHONIOENCODING": "ascii"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "na?ve" in done.stdout


def test_every_rule_has_its_page() -> None:
    def explained(*rule: str) -> Result:
        return CliRunner().invoke(main, ["explain-rule", *rule])

    every = explained()
    assert every.exit_code == 0
    rules = [line.split()[0] for line in every.stdout.splitlines()]
    assert "n-plus-one" in rules
    for rule in rules:
        page = explained(rule)
        assert page.exit_code == 0, page.stderr
        assert page.stdout.startswith(f"# {rule}\n")
        headings = [line for line in page.stdout.splitlines() if line.startswith("## ")]
        assert len(headings) >= 4
        assert any("silence it" in line for line in headings), rule
    command = [*PGTATTLE, "explain-rule", "n-plus"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "did you mean 'n-plus-one'?" in wrong.stderr
