"""A server that judges what was counted: it logs every message that it handled, and counts statements by itself.

How its log (`log_min_duration_statement=0`) maps to executions:

* `duration: … statement: TEXT` is a Query that succeeded: an execution for each statement of TEXT, one if it is empty.
* `duration: … execute NAME: TEXT` is an execution; `execute fetch from NAME` goes on with one, `parse` and `bind` are
  none. Of the Execute of an empty statement nothing is logged: its `bind` stands for it (clients run what they bind).
* ERROR with a `statement` is a Query, Parse, Bind or Execute that failed, and an execution each. Of a Query with many
  statements it is the last: the log does not say which one failed, so what fails in such texts here divides by zero.
* ERROR without a statement failed before the server knew it: a Bind or Execute of a name that is none, an execution as
  well. Describe, Close and Sync fail like that too; what is sent here makes them fail with other SQLSTATEs only.
* fast-path function calls are none.

`pg_stat_statements` counts statements that ended well, whatever the message that they came in, so it judges how many
there were in a Query. It leaves out empty ones, and PREPARE and DEALLOCATE.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import psycopg

from pgtattle.proxy.demo.cluster import Cluster
from tests import debian
from tests.conftest import Database
from tests.end_to_end.watching import wait_for

Seen = tuple[str, str]
"""A text, without what does not matter, and an SQLSTATE or nothing."""

SETTINGS = {
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_filename": "server.log",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "0",
    "shared_preload_libraries": "pg_stat_statements",
}
NAMELESS = {"26000", "34000"}
"""Errors that come before a statement is known."""

_DURATION = re.compile(r"duration: [\d.]+ ms  (statement|parse|bind|execute fetch from|execute)(?: [^:]*)?: (.*)", re.S)
_marks = itertools.count(1)


class Judge:
    """A server with such a log."""

    def __init__(self, cluster: Cluster) -> None:
        self.database = Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster)
        self._log = cluster.socket_folder.parent / "data" / "log" / "server.json"

    def executions(self, applications: Collection[str]) -> dict[str, Counter[Seen]]:
        """What the server did for each application, by its log."""
        mark = f"mark {next(_marks)}"
        with psycopg.connect(self.database.dsn) as connection:
            connection.execute(f"SELECT '{mark}'")
        wait_for(lambda: mark in self._log.read_text())
        found: dict[str, Counter[Seen]] = {name: Counter() for name in applications}
        for line in self._log.read_text().splitlines():
            entry = json.loads(line)
            if entry.get("application_name") in found:
                found[entry["application_name"]].update(_executions(entry))
        return found

    def calls(self, user: str) -> int:
        """Statements of a user that ended well since the last time, by pg_stat_statements."""
        with psycopg.connect(self.database.dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            row = connection.execute(
                "SELECT sum(calls) FROM pg_stat_statements WHERE userid = %s::regrole", [user]
            ).fetchone()
            connection.execute("SELECT pg_stat_statements_reset()")
        assert row is not None
        return int(row[0] or 0)


@contextmanager
def judging() -> Iterator[Judge]:
    with debian.cluster(settings=SETTINGS) as cluster:
        yield Judge(cluster)


def plain(text: str) -> str:
    return " ".join(text.replace(";", " ; ").split()).strip("; ").replace(" ; ", ";")


def counted_by_calls(one: Seen) -> bool:
    """Whether pg_stat_statements counts it."""
    text, sqlstate = one
    return not sqlstate and text != "" and text.split()[0] not in ("PREPARE", "DEALLOCATE")


def _executions(entry: dict[str, str]) -> list[Seen]:
    if entry["error_severity"] == "ERROR":
        state, texts = entry["state_code"], _statements(entry.get("statement", ""))
        if "statement" not in entry:
            return [("", state)] if state in NAMELESS else []
        ended = next((n for n, text in enumerate(texts) if "/0" in text), 0) if len(texts) > 1 else 0
        return [*((text, "") for text in texts[:ended]), (texts[ended], state)]
    match = _DURATION.match(entry["message"])
    if match is None:
        return []
    kind, text = match[1], plain(match[2])
    if kind == "statement":
        return [(one, "") for one in _statements(text)]
    return [(text, "")] if kind == ("execute" if text else "bind") else []


def _statements(text: str) -> list[str]:
    """The statements of a text; bodies in dollars are not looked into."""
    if "$$" in text:
        return [plain(text)]
    return [plain(one) for one in text.split(";") if one.strip()] or [""]
