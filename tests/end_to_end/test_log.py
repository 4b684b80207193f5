"""A reason for every connection that ends, one JSON object a line, without passwords or values."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Database, Serve
from tests.end_to_end.watching import cancelled
from tests.end_to_end.wire import Client
from tests.waiting import PATIENCE, wait_for

FIELDS = {"level", "timestamp", "connection", "user", "database", "client", "message", "error", "reason"}


def lines(log: Path) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, log.read_text().splitlines()) if one["message"] == "connection closed"]


def test_every_close_has_its_reason(database: Database, serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("a") as stderr:
        options = ("--log-format", "json", "--max-connections", "1")
        served = serve(database, *options, stderr=stderr)
        hasty = serve(database, *options, "--login-timeout", "1", stderr=stderr).database
        through = served.database

        def ended(count: int) -> None:
            wait_for(lambda: len(lines(log)) == count)

        host, _, port = served.addresses["api"].rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE) as raw:
            raw.sendall(b"\x16\x03\x01 no request\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        with psycopg.connect(through.dsn, autocommit=True) as one:
            one.execute("SELECT 'value-4711'")
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                psycopg.connect(through.dsn)
            cancelled(one, one.cancel, database.cluster)
        ended(3)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(through.dsn.replace(":secret@", ":hunter2@"))
        ended(4)
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(through.dsn, autocommit=True) as one:
            one.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        ended(5)
        client = Client(through)
        client.begin(user=through.user, database=through.name)
        client.reset()
        with socket.create_connection((through.host, through.port), PATIENCE) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert raw.recv(100) == b""
        with socket.create_connection((hasty.host, hasty.port), PATIENCE) as raw:
            assert raw.recv(100) == b""
        ended(8)
        assert served.stop() == 0
    told = lines(log)
    assert all(set(one) >= FIELDS for one in told)
    # A client that is sent away may be gone before the server's own end is seen.
    reasons = sorted(one["reason"].replace("server", "client") for one in told)
    assert reasons == ["bad_startup", "cancel", *["client"] * 4, "login_timeout", "refused"]
    sessions = [one for one in told if one["reason"] in ("client", "server")]
    assert {(one["user"], one["database"]) for one in sessions} == {(database.user, database.name)}
    assert all(one["error"] for one in told if one["reason"] in ("bad_startup", "refused"))
    assert {one["level"] for one in told if one["reason"] in ("bad_startup", "refused", "login_timeout")} == {"warning"}
    assert not {word for word in ("secret", "hunter2", "value-4711", "pg_sleep") if word in log.read_text()}
