"""`pgtattle doctor` and the banner of a start before real servers: each thing that people get wrong, with its cure."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Database, Serve, Served
from tests.end_to_end.test_pooler import bouncer
from tests.end_to_end.watching import wait_for


def doctor(
    *arguments: str, upstream: str = "", api: str = "127.0.0.1:0", listen: str = "127.0.0.1:0", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it where nothing of ours is; variables are those that are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_URL"))}
    command = [sys.executable, "-m", "pgtattle.proxy.cli", "doctor", "--api", api, "--listen", listen]
    if upstream:
        command += ["--upstream", upstream]
    return subprocess.run(
        [*command, *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        cwd="/",
        timeout=100,
        check=False,
    )


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What it says by check: its mark, its words, and its cure after `fix:`."""
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, str] = {}
    name = ""
    for line in done.stdout.splitlines():
        mark, _, rest = line.partition(" ")
        if mark in ("✓", "!", "✗", "?"):
            name, _, words = rest.partition(" ")
            found[name] = f"{mark} {words.strip()}"
        elif line.strip().startswith("fix: "):
            found[name] += f" {line.strip()}"
    return found


@contextmanager
def role(database: Database, rights: str) -> Iterator[Database]:
    """A role of few rights in a database whose table it may not read."""
    name = f"limited_{os.getpid()}"
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS secrets (id int)")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'limited' {rights}")
        yield replace(database, user=name, password="limited")
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_newcomers_first_command_says_what_to_do() -> None:
    done = doctor()
    found = lines(done)
    assert done.returncode == 1
    assert found["upstream"].startswith("✗ not given")
    assert "--upstream postgresql://" in found["upstream"]
    assert found["listen"].startswith("✓")
    assert "pgtattle watch" in done.stdout.splitlines()[-1]


def test_all_is_well_with_hypopg(debian_database: Database) -> None:
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION hypopg")
    done = doctor(upstream=debian_database.dsn_without_password, PGPASSWORD=debian_database.password)
    found = lines(done)
    assert done.returncode == 0, done.stdout
    assert f"at {debian_database.host}:{debian_database.port}" in found["upstream"]
    assert found["upstream"].startswith("✓ PostgreSQL 15.")
    assert found["EXPLAIN"].startswith("✓")
    assert found["HypoPG"].startswith("✓ installed")
    assert done.stdout.splitlines()[-1].startswith("next: pgtattle watch --upstream")
    as_json = json.loads(
        doctor(
            "--format", "json", upstream=debian_database.dsn_without_password, PGPASSWORD=debian_database.password
        ).stdout
    )
    assert {one["name"]: one["state"] for one in as_json["checks"]} == dict.fromkeys(found, "ok")


def test_hypopg_that_could_be_installed_is_named_with_its_command(debian_database: Database) -> None:
    found = lines(doctor(DATABASE_URL=debian_database.dsn))
    assert found["HypoPG"].startswith("! available, but not installed")
    assert found["HypoPG"].endswith("fix: CREATE EXTENSION hypopg;")


def test_a_server_without_hypopg_names_the_package(database: Database) -> None:
    done = doctor(DATABASE_URL=database.dsn)
    assert "postgresql-18-hypopg" in lines(done)["HypoPG"]
    assert done.returncode == 0, "a server without HypoPG can be profiled"


def test_passwords(database: Database) -> None:
    missing = doctor(upstream=database.dsn_without_password)
    found = lines(missing)
    assert missing.returncode == 1
    assert found["upstream"].startswith("! PostgreSQL at")
    assert "no password" in found["EXPLAIN"]
    assert "export PGPASSWORD" in found["EXPLAIN"]
    wrong = doctor(upstream=database.dsn_without_password, PGPASSWORD="not-the-password")
    assert wrong.returncode == 1
    assert "password authentication failed" in lines(wrong)["upstream"]
    assert "export PGPASSWORD" in lines(wrong)["upstream"]
    refused = doctor(upstream=database.dsn)
    assert refused.returncode == 2
    assert "set PGPASSWORD instead" in refused.stderr
    for one in (missing, wrong, refused, doctor(DATABASE_URL=database.dsn)):
        assert database.password not in one.stdout + one.stderr
        assert "not-the-password" not in one.stdout + one.stderr


def test_a_server_that_is_not_there() -> None:
    done = doctor(upstream="postgresql://someone@127.0.0.1:1/shop")
    found = lines(done)
    assert done.returncode == 1, "unreachable is a check that fails, and no exit code of its own"
    assert found["upstream"].startswith("✗ nothing accepts connections at 127.0.0.1:1: Connection refused")
    assert found["EXPLAIN"].startswith("?")
    assert doctor(upstream="mysql://someone@127.0.0.1:1/shop").returncode == 2


def test_a_database_that_is_not_there(database: Database) -> None:
    done = doctor(upstream=database.dsn_without_password + "_absent", PGPASSWORD=database.password)
    assert done.returncode == 1
    assert '_absent" does not exist' in lines(done)["upstream"]


def test_a_role_of_few_rights(database: Database) -> None:
    with role(database, "") as limited:
        done = doctor(upstream=limited.dsn_without_password, PGPASSWORD=limited.password)
        found = lines(done)
        assert done.returncode == 1
        assert found["upstream"].startswith("✓")
        assert found["EXPLAIN"].startswith(f"✗ {limited.user} may not read 1 of 1 tables, such as public.secrets")
        cure = found["EXPLAIN"].partition("fix: ")[2].partition(";")[0]
        assert cure == f"GRANT pg_read_all_data TO {limited.user}"
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE shown (id int); GRANT SELECT ON shown TO public")
            some = doctor(upstream=limited.dsn_without_password, PGPASSWORD=limited.password)
            assert (some.returncode, lines(some)["EXPLAIN"][0]) == (0, "!")
            connection.execute(cure.encode())
        cured = lines(doctor(upstream=limited.dsn_without_password, PGPASSWORD=limited.password))
        assert cured["EXPLAIN"].startswith("✓")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_in_front_of_the_server(trusting: Database, mode: str) -> None:
    with bouncer(trusting, mode) as pooled:
        found = lines(doctor(upstream=pooled.dsn))
        assert found["pooler"].startswith("! a pooler")
        assert ("transaction pooling" in found["pooler"]) == (mode == "transaction")
        assert "PGTATTLE_ANALYZE_DSN" in found["pooler"]
        apart = lines(doctor(upstream=pooled.dsn, PGTATTLE_ANALYZE_DSN=trusting.dsn))
        assert apart["EXPLAIN"].startswith("✓")
    assert "pooler" not in lines(doctor(upstream=trusting.dsn))


def test_ports_in_use(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = doctor(DATABASE_URL=database.dsn, listen=where)
        assert done.returncode == 1
        assert lines(done)["listen"].startswith(f"✗ {where} cannot be had: Address already in use")
        assert "--listen 127.0.0.1:PORT" in lines(done)["listen"]


def test_another_program_at_the_apis_address(database: Database) -> None:
    """PostgreSQL's own port answers, but not as our API does."""
    where = f"{database.host}:{database.port}"
    assert "is no pgtattle" in lines(doctor(DATABASE_URL=database.dsn, api=where))["API"]


# -- before a running pgtattle -----------------------------------------------------------------------------------------


def ask(served: Served, database: Database, *arguments: str) -> dict[str, str]:
    return lines(doctor(*arguments, DATABASE_URL=database.dsn, api=served.addresses["api"]))


def sent(served: Served, *statements: str, **more: str) -> None:
    with psycopg.connect(served.database.dsn, autocommit=True, **more) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_who_bypasses_a_running_pgtattle_is_named(database: Database, serve: Serve) -> None:
    served = serve(database)
    with psycopg.connect(database.dsn, application_name="the shop"):
        found = ask(served, database)
        assert found["pgtattle"].startswith(f"✓ runs: clients at {served.addresses['listen']}")
        assert found["traffic"].startswith("✗ no connection and no query")
        assert f"@{served.addresses['listen']}/{database.name}" in found["traffic"]
        assert found["bypass"].startswith("✗ 1 session does not come through pgtattle: the shop from 127.0.0.1")
        with psycopg.connect(served.database.dsn, application_name="another") as through:
            through.execute("SELECT 1")
            served.report()
            both = ask(served, database)
            assert both["traffic"].startswith("✓")
            assert both["bypass"].startswith("! 1 session does not come through pgtattle: the shop from 127.0.0.1")
    with psycopg.connect(served.database.dsn) as through:
        through.execute("SELECT 1")
        assert ask(served, database)["bypass"].startswith("✓")


@pytest.mark.slow
def test_bypassing_cannot_be_told_where_nobody_looks(database: Database, serve: Serve) -> None:
    served = serve(database, "--mode", "opaque")
    with psycopg.connect(served.database.dsn), psycopg.connect(database.dsn):
        wait_for(lambda: served.get("/api/v1/session").json()["connections"] == 1)
        assert ask(served, database)["bypass"].startswith("? not known")


@pytest.mark.slow
def test_tags_and_declined_tls(database: Database, serve: Serve) -> None:
    served = serve(database)
    sent(served, "BEGIN", "SELECT 1", "COMMIT")
    wait_for(lambda: served.get("/api/v1/units").json()["items"])
    found = ask(served, database)
    assert found["tags"].startswith("! none of the latest")
    assert "TLS" not in found, "a client that goes on without TLS has lost nothing"
    with pytest.raises(psycopg.OperationalError):
        sent(served, sslmode="require")
    wait_for(lambda: served.get("/api/v1/session").json()["tls_declined"] == 1)
    sent(served, "SELECT 1 /*request_id='r1',route='/books'*/", "SELECT 2 /*request_id='r2',route='/books'*/")
    wait_for(lambda: any(one["kind"] == "request" for one in served.get("/api/v1/units").json()["items"]))
    found = ask(served, database)
    assert found["tags"].startswith("✓")
    assert found["TLS"].startswith("✗ 1 connection ended because")
    assert "sslmode=disable" in found["TLS"]


@pytest.mark.slow
def test_a_token_is_asked_for(database: Database, serve: Serve, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-very-secret-token")
    token.chmod(0o600)
    served = serve(database, "--token-file", str(token))
    asked = ask(served, database)
    assert "--token-file" in asked["token"]
    assert "listen" not in asked
    found = ask(served, database, "--token-file", str(token))
    assert found["pgtattle"].startswith("✓")
    wrong = {"Authorization": "Bearer wrong"}
    wait_for(lambda: served.get("/api/v1/session", headers=wrong).status_code == 429)
    locked = ask(served, database, "--token-file", str(token))
    assert "too many wrong tokens" in locked["token"]
    assert "sleep" in locked["token"]
    assert "listen" not in locked


@pytest.mark.slow
def test_another_server_than_that_of_the_running_pgtattle(database: Database, trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    assert ask(served, database)["bypass"].startswith("? it is in front of")


@pytest.mark.slow
def test_a_role_that_needs_no_password_is_said(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    sent(served, "SELECT 1")
    served.report()
    found = ask(served, trusting)
    assert "asked no password of" in found["note"]
