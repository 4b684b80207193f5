"""The side connection beside real traffic: suites make and drop their databases; what it lacks is said everywhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import psycopg
import pytest

from pgtattle.proxy.schema import Report, SessionView
from tests.conftest import Database, Serve
from tests.end_to_end.test_serving import metric
from tests.end_to_end.watching import wait_for

PGTATTLE = (sys.executable, "-m", "pgtattle.proxy.cli")

SETTINGS = """
import os
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS = """
from django.db import models
class Book(models.Model):
    a, b, c, d = models.IntegerField(), models.IntegerField(), models.IntegerField(), models.IntegerField()
"""
TESTS = """
import time
from django.db import connection
from django.test import TransactionTestCase
from shop.models import Book

class Slow(TransactionTestCase):
    def sessions(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")
            return cursor.fetchone()[0]

    def test_reads_without_an_index(self):
        before, deadline = self.sessions(), time.monotonic() + 60
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS hypopg")
            cursor.execute("INSERT INTO shop_book (a, b, c, d) SELECT n, n, n, n FROM generate_series(1, 120000) n")
            cursor.execute("ANALYZE shop_book")
        for column in "abcd":
            for number in range(3):
                self.assertEqual(Book.objects.filter(**{column: number + 1}).count(), 1)
        while self.sessions() <= before:
            self.assertLess(time.monotonic(), deadline, "nobody asked")
            time.sleep(0.02)
"""

RAILS = """
import os, psycopg, time
def at(name): return psycopg.connect(dbname=name, autocommit=True)
def until_asked(connection, own):
    # The server counts the sessions of a database: one more than our own is the side connection.
    query, deadline = "SELECT sessions FROM pg_stat_database WHERE datname = 'rails_test'", time.monotonic() + 60
    while connection.execute(query).fetchone()[0] <= own:
        assert time.monotonic() < deadline, "nobody asked"
        time.sleep(0.02)
for turn in range(int(os.environ["TURNS"])):
    # Statements of their own in each turn: what was asked once is not asked again for a while.
    with at("postgres") as admin:
        admin.execute('DROP DATABASE IF EXISTS "rails_test"')
        admin.execute("CREATE DATABASE \\"rails_test\\" ENCODING = 'unicode'")
    with at("rails_test") as app:
        app.execute("CREATE EXTENSION hypopg")
        app.execute("CREATE TABLE books AS SELECT n AS a, n AS b, n AS c, n AS d FROM generate_series(1, 120000) n")
        app.execute("ANALYZE books")
        for column in "abcd":
            for number in range(3):
                app.execute(f"SELECT a AS a{turn}, b FROM books WHERE {column} = %s", [number]).fetchall()
    with at("postgres") as admin:
        until_asked(admin, 1)
        admin.execute('CREATE DATABASE "rails_test-0" TEMPLATE = "rails_test"')
        admin.execute('DROP DATABASE "rails_test-0"')
    with at("rails_test") as app:
        for column in "abcd":
            app.execute(f"SELECT b AS b{turn} FROM books WHERE {column} = %s", [number]).fetchall()
    with at("postgres") as admin:
        until_asked(admin, 3)
        admin.execute("ALTER DATABASE rails_test RENAME TO rails_gone")
        admin.execute("DROP DATABASE rails_gone")
"""


def run(database: Database, folder: Path, *command: str, **more: str) -> Report:
    done = subprocess.run(
        [
            *(*PGTATTLE, "run", "--upstream", database.dsn_without_password, "--fail-on", "never"),
            *("--report", "json=report.json", "--", *command),
        ],
        cwd=folder,
        env={**os.environ, "PGPASSWORD": database.password, **more},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=Report)


@pytest.mark.parametrize("turns", ["1", pytest.param("5", marks=pytest.mark.slow)])
def test_a_suite_like_that_of_rails_makes_and_drops_its_databases(
    debian_database: Database, tmp_path: Path, turns: str
) -> None:
    (tmp_path / "suite.py").write_text(RAILS)
    report = run(debian_database, tmp_path, sys.executable, "suite.py", TURNS=turns)
    assert report.session.explain.state == "ok"


@pytest.mark.parametrize("turns", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_djangos_test_runner_makes_and_drops_its_database(
    debian_database: Database, tmp_path: Path, turns: int
) -> None:
    (tmp_path / "shop" / "migrations").mkdir(parents=True)
    for name, text in (
        *(("settings.py", SETTINGS), ("shop/__init__.py", ""), ("shop/migrations/__init__.py", "")),
        *(("shop/models.py", MODELS), ("shop/tests.py", TESTS)),
    ):
        (tmp_path / name).write_text(text)
    environment = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}
    django = (sys.executable, "-m", "django")
    subprocess.run(
        [*django, "makemigrations", "shop"],
        cwd=tmp_path,
        env={
            **(os.environ | environment),
            **{"PGDATABASE": "d", "PGUSER": "u", "PGPASSWORD": "p", "PGHOST": "127.0.0.1", "PGPORT": "1"},
        },
        check=True,
        capture_output=True,
    )
    for _ in range(turns):
        report = run(debian_database, tmp_path, *django, "test", "--noinput", **environment)
        assert report.session.explain.state == "ok"


# -- what it lacks is said -------------------------------------------------------------------------------------------


@pytest.fixture
def reader(database: Database) -> Iterator[str]:
    """The DSN of a role with a password that is not given."""
    name = f"{database.name}_reader"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield f"postgresql://{name}@{database.host}:{database.port}/{database.name}"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(f"DROP ROLE {name}")


def test_a_side_connection_that_works_is_said(serve: Serve, database: Database) -> None:
    served = serve(database)

    def explain() -> str:
        return msgspec.json.decode(served.get("/api/v1/session").content, type=SessionView).explain.state

    wait_for(lambda: explain() == "ok")
    assert served.get("/readyz").text == "ready\nexplain: ok\n"
    assert metric(served.get("/metrics").text, "pgtattle_explain_available") == 1
    assert not [note for note in served.report().session.notes if "EXPLAIN" in note]


def test_a_side_connection_that_is_refused_is_said_everywhere(
    serve: Serve, database: Database, reader: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr:
        served = serve(database, "--analyze-dsn", reader, stderr=stderr)
    wait_for(lambda: "HypoPG" in log.read_text())
    banner = log.read_text()
    assert "✗ EXPLAIN" in banner
    assert "password authentication failed" in banner
    assert "PGTATTLE_ANALYZE_DSN" in banner
    session = served.report().session
    assert session.explain.state == "refused"
    assert session.explain.cure in banner
    assert any("EXPLAIN is not available" in note for note in session.notes)
    ready = served.get("/readyz")
    assert ready.status_code == 200
    assert ready.text.startswith("ready\nexplain: refused; ")
    assert "_reader" not in ready.text
    assert metric(served.get("/metrics").text, "pgtattle_explain_available") == 0


def test_run_says_that_no_password_is_known_and_fails_where_explain_is_required(
    database: Database, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PGPASSWORD"}
    for more, code in ((), 0), (("--require-explain",), 4):
        done = subprocess.run(
            [
                *(*PGTATTLE, "run", "--upstream", database.dsn_without_password, "--allow-empty", *more),
                *("--report", "text=-", "--report", "json=report.json", "--", "true"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "set PGPASSWORD" in done.stderr
        assert "EXPLAIN is not available" in done.stdout
        assert json.loads((tmp_path / "report.json").read_text())["session"]["explain"]["state"] == "no_password"
    assert "--require-explain: EXPLAIN is not available (no_password)" in done.stderr


def test_require_explain_is_content_with_a_side_connection(database: Database) -> None:
    done = subprocess.run(
        [
            *(*PGTATTLE, "run", "--upstream", database.dsn_without_password),
            *("--require-explain", "--allow-empty", "--", "true"),
        ],
        env={**os.environ, "PGPASSWORD": database.password},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_opaque_asks_nothing(serve: Serve, database: Database) -> None:
    served = serve(database, "--mode", "opaque")
    assert served.get("/readyz").text == "ready\nexplain: off\n"
    assert served.report().session.explain.state == "off"


# -- readiness and access over the served API ------------------------------------------------------------------------


def test_a_port_that_accepts_and_says_nothing_is_not_ready(serve: Serve, database: Database) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        served = serve(replace(database, port=silent.getsockname()[1]))
        answer = served.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "does not answer a startup" in answer.json()["error"]["message"]
        assert served.get("/livez").status_code == 200


def test_a_forwarded_address_does_not_evade_the_limit_of_wrong_tokens(
    serve: Serve, database: Database, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-32-characters-or-so..")
    token.chmod(0o600)
    served = serve(database, "--token-file", str(token))
    url = f"http://{served.addresses['api']}/api/v1/report"
    codes = []
    for number in range(12):
        forged = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"}
        codes.append(httpx.get(url, headers={"Authorization": f"Bearer guess{number}", **forged}).status_code)
    assert codes == [401] * 10 + [429] * 2


# -- one way to find the upstream ------------------------------------------------------------------------------------


PLACES = {
    "--upstream": "postgresql://u@127.0.0.1:1/d",
    "PGTATTLE_UPSTREAM": "postgresql://u:geheim@127.0.0.1:2/d",
    "DATABASE_URL": "postgresql+asyncpg://u:geheim@127.0.0.1:3/d?ssl=disable&pool_size=5",
    "PGPORT": "4",
}


@pytest.mark.parametrize("command", ["run", "watch", "serve"])
@pytest.mark.parametrize("first", range(4))
def test_every_command_finds_its_upstream_alike_and_shows_no_password(tmp_path: Path, command: str, first: int) -> None:
    given = dict(list(PLACES.items())[first:])
    flag = given.pop("--upstream", "")
    fixed = {"PGHOST": "127.0.0.1", "PGUSER": "u", "PGPASSWORD": "geheim", "NO_COLOR": "1"}
    environment = {name: value for name, value in os.environ.items() if name not in PLACES} | fixed | given
    process = subprocess.Popen(
        [
            *(*PGTATTLE, command, *(["--upstream", flag] if flag else [])),
            *(["--listen", "127.0.0.1:0"] if command != "run" else []),
            *(["--api", "127.0.0.1:0", "--print-addresses"] if command == "serve" else []),
            *(["--", "true"] if command == "run" else []),
        ],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if command == "serve":
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        said = httpx.get(f"http://{addresses['api']}/readyz", timeout=60).text
        for pid in (addresses["pid"], addresses["profiler_pid"]):
            said += Path(f"/proc/{pid}/cmdline").read_text()
        process.terminate()
    else:
        said = ""
    out, err = process.communicate(timeout=60)
    assert process.returncode == (0 if command == "serve" else 3), err
    assert f"127.0.0.1:{first + 1}" in err + said
    assert "geheim" not in out + err + said
    assert ("pool_size" in err) is (first == 2)


@pytest.mark.parametrize("command", ["run", "watch", "serve"])
def test_a_password_in_an_argument_is_refused_by_every_command(tmp_path: Path, command: str) -> None:
    more = ["--", "true"] if command == "run" else []
    done = subprocess.run(
        [*PGTATTLE, command, "--upstream", "postgresql://u:geheim@127.0.0.1:1/d", *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "PGPASSWORD" in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("command", ["watch", "serve"])
def test_a_database_url_that_leads_to_the_proxy_itself_is_an_error(tmp_path: Path, command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [*PGTATTLE, command],
        cwd=tmp_path,
        env={**environment, "DATABASE_URL": "postgresql://u@localhost:7432/d"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "DATABASE_URL: localhost:7432 is where this proxy listens itself" in done.stderr
