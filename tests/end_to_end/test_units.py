"""Units of work on the wire: a pooler that is recognised, a scope of a real process, and values that stay inside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from pgtattle.proxy.schema import InjectionEvidence
from tests.conftest import Database, Serve, Served
from tests.end_to_end.test_pooler import bouncer
from tests.waiting import wait_for

SECRET = "hunter2-sesame"
SETUP = """
    DROP TABLE IF EXISTS books, authors, users;
    CREATE TABLE books (id int PRIMARY KEY, title text, author_id int);
    CREATE TABLE authors (id int PRIMARY KEY, name text);
    INSERT INTO authors SELECT n * 37, 'author ' || n FROM generate_series(1, 50) n;
    INSERT INTO books SELECT n, 'book ' || n, (1 + n * 7 % 50) * 37 FROM generate_series(1, 50) n;
"""
LOOP = """
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True, prepare_threshold=None) as one:
    for id, author in one.execute("SELECT id, author_id FROM books ORDER BY md5(title) LIMIT 12").fetchall():
        one.execute("SELECT name FROM authors WHERE id = %s", [author]).fetchall()
    input()
"""


@pytest.fixture
def shop(trusting: Database) -> Database:
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
    return trusting


def units(served: Served) -> list[dict[str, Any]]:
    served.report()
    found: list[dict[str, Any]] = served.get("/api/v1/units").json()["items"]
    return found


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")
def test_a_pooler_shows_itself_by_the_names_that_it_puts_back(serve: Serve, shop: Database) -> None:
    served = serve(shop)
    with bouncer(served.database, "transaction") as pooled:
        clients = [
            psycopg.connect(pooled.dsn, application_name=name, autocommit=True, prepare_threshold=None)
            for name in ("web", "jobs")
        ]
        for _ in range(6):
            for client in clients:
                client.execute("SELECT count(*) FROM books").fetchall()
        before = {unit["id"] for unit in units(served)}
        books = clients[0].execute("SELECT id, author_id FROM books ORDER BY id LIMIT 20").fetchall()
        for _, author in books:
            clients[0].execute("SELECT name FROM authors WHERE id = %s", [author]).fetchall()
        after = [unit for unit in units(served) if unit["id"] not in before]
        for client in clients:
            client.close()
    assert [unit for unit in after if unit["kind"] == "burst"] == []
    assert [one.rule for one in served.report().findings if one.rule == "n-plus-one"] == []


def test_a_scope_gathers_what_a_process_does(serve: Serve, shop: Database) -> None:
    served = serve(shop)
    api = f"http://{served.addresses['api']}/api/v1"
    command = [sys.executable, "-c", LOOP, served.database.dsn]
    with (
        psycopg.connect(served.database.dsn, autocommit=True) as other,
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process,
    ):
        body = {"kind": "test", "key": "test_books", "match": {"client_pid": process.pid}}
        scope = httpx.post(f"{api}/scopes", json=body).json()
        wait_for(lambda: served.get("/api/v1/session").json()["executions"] >= 13)
        for _ in range(20):
            other.execute("SELECT count(*) FROM books")
        process.communicate("\n")
    assert httpx.delete(f"{api}/scopes/{scope['id']}").status_code == 204
    (unit,) = (unit for unit in units(served) if unit["kind"] == "scope")
    assert (unit["key"], unit["confidence"], unit["signal"]) == ("test_books", "strong", "scope of a test")
    assert (unit["executions"], unit["connections"]) == (13, 1)
    detail = served.get(f"/api/v1/units/{unit['id']}").json()
    assert len(detail["executions"]) == 13
    (loop,) = (one for one in served.report().findings if one.rule == "n-plus-one")
    assert (loop.confidence, loop.unit.key if loop.unit else "") == ("proven", "test_books")


def test_no_value_leaves_where_they_are_hidden(serve: Serve, shop: Database, tmp_path: Path) -> None:
    """Loops, pasted text, an injected condition, a broken quote, a slow query: each with the secret in it."""
    log = tmp_path / "log"
    with log.open("w") as stderr:
        served = serve(shop, "--values", "hidden", "--log-format", "json", stderr=stderr)
    with psycopg.connect(served.database.dsn, autocommit=True, application_name="web") as bound:
        bound.execute("CREATE TABLE users (name text, id int)")
        bound.execute("INSERT INTO users SELECT %s || n, n FROM generate_series(1, 9) n", [SECRET])
        names = [row[0] for row in bound.execute("SELECT name FROM users ORDER BY md5(name)").fetchall()]
        for name in names:
            bound.execute("SELECT id FROM users WHERE name = %s /*request_id='r1'*/", [name]).fetchall()
            bound.execute("UPDATE users SET id = id + 1 WHERE name = %s", [name])
        for number in range(80):
            bound.execute(f"SELECT id FROM users WHERE name = '{SECRET}{number}' AND id < {number}")  # type: ignore[arg-type]
        bound.execute(f"SELECT id FROM users WHERE name = '{SECRET}' OR 1 = 1 --' AND id < 5")  # type: ignore[arg-type]
        with pytest.raises(psycopg.Error):
            bound.execute(f"SELECT id FROM users WHERE name = 'O'{SECRET}' AND id < 5")  # type: ignore[arg-type]
        bound.execute(f"SELECT pg_sleep(0.6), '{SECRET}'")  # type: ignore[arg-type]
    report = served.report()
    assert {"n-plus-one", "injection-signal", "slow-query"} <= {one.rule for one in report.findings}
    pages = ["report", "executions", "statements", "findings", "units", "session", *_details(served)]
    told = [served.get(f"/api/v1/{page}").text for page in pages]
    told.append(served.get("/metrics").text)
    with httpx.stream("GET", f"http://{served.addresses['api']}/api/v1/events?history=1000") as events:
        for chunk in events.iter_text():
            told.append(chunk)
            if sum(map(len, told[len(pages) + 1 :])) > 20_000:
                break
    served.stop()
    told.append(log.read_text())
    assert all(told)
    assert [text for text in told if SECRET in text] == []
    evidence = [one.evidence for one in report.findings if isinstance(one.evidence, InjectionEvidence)]
    assert [one.slot for one in evidence] == ["<string> in where"] * len(evidence)


def _details(served: Served) -> list[str]:
    found = []
    for noun, key in (("statements", "fingerprint"), ("findings", "id"), ("units", "id")):
        items = served.get(f"/api/v1/{noun}?limit=1000").json()["items"]
        found += [f"{noun}/{item[key]}" for item in items]
    return found


def test_a_profiler_that_was_stopped_says_what_a_prompt_one_says(serve: Serve, shop: Database) -> None:
    """In the middle of a transaction, of a request by its id, and of a burst: none of them is split."""
    served = serve(shop)
    profiler = int(served.addresses["profiler_pid"])
    books = "SELECT id, author_id FROM books ORDER BY md5(title) LIMIT 12"
    for tag, autocommit in (("", False), (" /*request_id='r1'*/", True), ("", True)):
        with psycopg.connect(served.database.dsn, autocommit=autocommit, prepare_threshold=None) as one:
            for number, (_, author) in enumerate(one.execute(books + tag).fetchall()):  # type: ignore[arg-type]
                if number == 4:
                    os.kill(profiler, signal.SIGSTOP)
                one.execute("SELECT name FROM authors WHERE id = %s" + tag, [author]).fetchall()  # type: ignore[arg-type]
            # Longer than any silence that ends a unit.
            threading.Event().wait(1.5)
            os.kill(profiler, signal.SIGCONT)
    found = [unit for unit in units(served) if unit["executions"] > 2]
    assert sorted((unit["kind"], unit["executions"]) for unit in found) == [
        ("connection", 13),
        ("connection", 15),
        ("request", 13),
    ]
    (loop,) = (one for one in served.report().findings if one.rule == "n-plus-one")
    assert (loop.severity, loop.confidence, loop.count) == ("high", "proven", 36)
