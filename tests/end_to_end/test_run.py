"""`pgtattle run`: every execution is in the report, and the exit code says what happened."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgtattle.proxy.schema import Report
from tests.conftest import Database, end
from tests.waiting import PATIENCE, wait_for

Run = Callable[..., subprocess.CompletedProcess[str]]

EVERYTHING = """
import os, psycopg
with psycopg.connect("", autocommit=True) as c:
    for n in range(100):
        c.execute("SELECT /* single */ %s::int", [n])
    with c.pipeline():
        for n in range(10):
            c.execute("SELECT 'pipelined', %s::int", [n])
    c.cursor().executemany("SELECT 'many', %s::int", [(n,) for n in range(50)])
    c.execute("SELECT 'first'; SELECT 'second'; SELECT 'third'")
    os._exit(0)
"""

PORTALS = """
import os, socket, struct
s = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])))
def send(kind, body): s.sendall(kind + struct.pack("!i", len(body) + 4) + body)
def until(kind):
    seen = []
    while True:
        head = s.recv(5, socket.MSG_WAITALL)
        body = s.recv(struct.unpack("!i", head[1:])[0] - 4, socket.MSG_WAITALL)
        seen.append(head[:1])
        if head[:1] == b"E": raise SystemExit(body)
        if head[:1] in kind: return seen
startup = b"user\\0" + os.environ["PGUSER"].encode() + b"\\0database\\0" + os.environ["PGDATABASE"].encode() + b"\\0\\0"
s.sendall(struct.pack("!ii", len(startup) + 8, 196608) + startup)
until(b"Z")
send(b"Q", b"BEGIN\\0"); until(b"Z")
send(b"P", b"\\0SELECT generate_series(1, 200) AS fetched\\0\\0\\0")
send(b"B", b"cursor\\0\\0\\0\\0\\0\\0\\0\\0")
for turn in range(20):
    send(b"E", b"cursor\\0" + struct.pack("!i", 10)); send(b"H", b""); until(b"sC")
send(b"E", b"cursor\\0" + struct.pack("!i", 10)); send(b"S", b""); until(b"Z")
send(b"Q", b"COMMIT\\0"); until(b"Z")
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `pgtattle run` for a database with a Python script; further arguments go before the `--`."""

    def call(database: Database, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(script)
        return subprocess.run(
            [
                *(sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", database.dsn_without_password),
                *("--report", f"json={tmp_path}/report.json", *arguments, "--", sys.executable, "script.py"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PGPASSWORD": database.password, **more},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return call


def report(folder: Path) -> Report:
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=Report)


def calls(found: Report) -> dict[str, int]:
    return {one.sql: one.calls for one in found.statements}


def test_every_execution_is_counted_exactly_even_when_the_script_ends_at_once(
    database: Database, run: Run, tmp_path: Path
) -> None:
    done = run(database, EVERYTHING)
    assert done.returncode == 0, done.stderr
    found = report(tmp_path)
    counted = calls(found)
    assert counted["SELECT $1::int"] == 100
    # Both are `SELECT 'literal', $1::int`: 10 in the pipeline and 50 of executemany.
    assert counted["SELECT $1, $2::int"] == 60
    assert counted["SELECT $1"] == 3
    assert found.session.executions == sum(counted.values())
    assert (found.session.shed, found.session.lost) == (0, 0)


def test_the_fetches_of_a_portal_are_one_execution(trusting: Database, run: Run, tmp_path: Path) -> None:
    done = run(trusting, PORTALS)
    assert done.returncode == 0, done.stderr
    found = report(tmp_path)
    (portal,) = [one for one in found.statements if "generate_series" in one.sql]
    assert (portal.calls, portal.rows) == (1, 200)
    assert found.session.executions == 3


def test_the_environment_leads_to_the_proxy(database: Database, run: Run, tmp_path: Path) -> None:
    script = (
        "import os, psycopg, sys\n"
        "url = os.environ['DATABASE_URL']\n"
        "assert os.environ['PGHOST'] + ':' + os.environ['PGPORT'] in url, url\n"
        "assert url.startswith('postgres://') and 'connect_timeout=3' in url and 'PGSERVICE' not in os.environ\n"
        "assert psycopg.connect(url).execute('SELECT 42').fetchone() == (42,)\n"
        "assert os.environ['PGPORT'] in os.environ['OTHER_URL']\n"
    )
    url = f"postgres://{database.user}:{database.password}@{database.host}:{database.port}/{database.name}"
    done = run(
        database,
        script,
        "--set-env",
        "OTHER_URL",
        DATABASE_URL=url + "?connect_timeout=3&sslmode=require",
        OTHER_URL=url,
        PGSERVICE="none",
    )
    assert done.returncode == 0, done.stderr
    assert calls(report(tmp_path))["SELECT $1"] == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [("raise SystemExit(7)", 7), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137), ("pass", 4)],
)
def test_the_exit_code_of_the_command_is_kept(
    database: Database, run: Run, tmp_path: Path, script: str, code: int
) -> None:
    assert run(database, script).returncode == code
    assert report(tmp_path).session.executions == 0


def test_a_command_that_cannot_be_started(database: Database, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("no program")
    for command, code in ((["absent-command"], 127), ([str(tmp_path / "plain.txt")], 126)):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pgtattle.proxy.cli",
                "run",
                "--upstream",
                database.dsn_without_password,
                "--",
                *command,
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code
        assert command[0] in done.stderr


def test_upstream_down_is_exit_3_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", "postgresql://x@127.0.0.1:1/x", "--", "true"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Connection refused" in done.stderr


LOOP = """
import psycopg
with psycopg.connect("") as c:
    for n in range({n}):
        c.execute("SELECT relname FROM shop WHERE id = %s /* request_id='r1' */", [n])
"""


def test_findings_fail_the_run_unless_the_baseline_excuses_them(database: Database, run: Run, tmp_path: Path) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE shop (id int PRIMARY KEY, relname text)")
    loop = LOOP.format(n=20)
    failed = run(database, loop)
    assert failed.returncode == 1, failed.stderr
    assert "n-plus-one" in failed.stderr
    assert run(database, loop, "--fail-on", "never").returncode == 0
    baseline = tmp_path / "baseline.toml"
    broken = run(database, loop + "\nraise SystemExit(9)", "--baseline", str(baseline), "--update-baseline")
    assert broken.returncode == 9
    assert "is not updated: the command failed" in broken.stderr
    assert "n-plus-one" in broken.stderr
    assert not baseline.exists()
    updated = run(database, loop, "--baseline", str(baseline), "--update-baseline")
    assert updated.returncode == 0
    assert "excuses now: 1" in updated.stderr
    excused = run(database, loop, "--baseline", str(baseline))
    assert excused.returncode == 0
    assert "excused" in excused.stderr
    worse = run(database, LOOP.format(n=50), "--baseline", str(baseline))
    assert worse.returncode == 1
    assert "(20 in " in worse.stderr
    assert run(database, LOOP.format(n=40), "--baseline", str(baseline)).returncode == 0


def test_a_run_without_a_query_is_incomplete_unless_that_is_allowed(
    database: Database, run: Run, tmp_path: Path
) -> None:
    baseline = tmp_path / "baseline.toml"
    baseline.write_text('[[finding]]\nid = "0123456789abcdef"\ntitle = "an old one"\n')
    stale = run(database, "pass", "--baseline", str(baseline))
    assert stale.returncode == 4
    assert "0123456789abcdef" in stale.stderr
    assert "no query reached the proxy" in stale.stderr
    assert run(database, "pass", "--allow-empty").returncode == 0
    some = run(database, "import psycopg; psycopg.connect('').execute('SELECT 1')")
    assert some.returncode == 0
    assert "no query reached the proxy" not in some.stderr


def test_what_only_took_long_fails_a_run_only_when_that_is_asked(database: Database, run: Run) -> None:
    slow = "import psycopg; psycopg.connect('').execute('SELECT pg_sleep(0.6)')"
    assert run(database, slow, "--fail-on", "low").returncode == 0
    assert run(database, slow, "--fail-on", "low", "--gate-time").returncode == 1


def test_signals_reach_the_command_and_the_report_is_written(database: Database, tmp_path: Path) -> None:
    script = "import psycopg, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(9))\n"
    script += "psycopg.connect('').execute('SELECT 1')\nopen('ready', 'w').close()\ntime.sleep(600)\n"
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", database.dsn_without_password),
            *("--report", "json=report.json", "--", sys.executable, "script.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PGPASSWORD": database.password},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for((tmp_path / "ready").exists, "the command's own start")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 9
    finally:
        end(process)
    assert calls(report(tmp_path))["SELECT $1"] == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--baseline", "kept", "--update-baseline"), 2), (("--report", "text=kept"), 4)],
)
def test_a_full_disk_leaves_what_was_there_and_is_said(
    database: Database, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    kept = tmp_path / "kept"
    kept.write_text("# old and dear\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", database.dsn_without_password),
            *(*arguments, "--", "true"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PGPASSWORD": database.password},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "File too large" in done.stderr
    assert "kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept.read_text() == "# old and dear\n"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
