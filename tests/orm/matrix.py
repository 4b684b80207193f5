"""Every ORM, driver, tag and way to the server: is the sick shop found with its parent, and the cured one let alone?

Enters: which rows to run. Leaves: an outcome a row. Real servers throughout: PostgreSQL, PgBouncer in transaction mode
before pgtattle, WSGI, ASGI and Node.js servers with requests at once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
import msgspec
import psycopg

from benchmarks.targets import Target, pgbouncer, pgtattle
from pgtattle.proxy.demo.cluster import Cluster, free_port
from pgtattle.proxy.schema import LoopEvidence, Report
from tests.orm import npm
from tests.orm.shops import BOOKS
from tests.waiting import PATIENCE

ROOT: Final = Path(__file__).parents[2]
AT_ONCE: Final = 6
REQUESTS: Final = 12

Way = Literal["direct", "PgBouncer"]


@dataclass(frozen=True)
class Row:
    """One program: an ORM over a driver, with or without tags, directly or behind PgBouncer in transaction mode."""

    orm: str
    driver: str
    tagged: bool
    way: Way

    def __str__(self) -> str:
        return f"{self.orm} {self.driver} {'tagged' if self.tagged else 'untagged'} {self.way}"

    @property
    def on_node(self) -> bool:
        return (self.orm, self.driver) in NODE

    @property
    def must_be_found(self) -> bool:
        """True where a request's signal exists: a tag, a transaction, or a connection that serves one request at a
        time.
        """
        return self.tagged or self.orm in IN_TRANSACTION or (self.way == "direct" and self.orm not in ANY_CONNECTION)


IN_TRANSACTION: Final = {"sqlalchemy", "sqlalchemy-async", "knex-transaction", "prisma-transaction"}
"""Each request is a transaction."""

ANY_CONNECTION: Final = {"tortoise", "node-postgres-all", "knex", "prisma"}
"""Each query takes any connection of the pool; Tortoise also resets it afterwards."""

NODE: Final = (
    ("node-postgres", "pg"),
    ("node-postgres-all", "pg"),
    ("knex", "pg"),
    ("knex-transaction", "pg"),
    ("prisma", "pg"),
    ("prisma-transaction", "pg"),
)
ORMS: Final = (
    ("django", "psycopg"),
    ("sqlalchemy", "psycopg"),
    ("sqlalchemy", "psycopg2"),
    ("peewee", "psycopg2"),
    ("sqlalchemy-async", "asyncpg"),
    ("sqlalchemy-async", "psycopg"),
    ("tortoise", "asyncpg"),
    *NODE,
)
# Tortoise has no place where a statement can be changed before it is sent.
ROWS: Final = tuple(
    Row(orm, driver, tagged, way)
    for orm, driver in ORMS
    for tagged in (False, True)
    for way in ("direct", "PgBouncer")
    if not (orm == "tortoise" and tagged) and not (way == "PgBouncer" and driver == "asyncpg")
)


@dataclass(frozen=True)
class Outcome:
    """What was said of a row: of the sick shop's loop, and everything but `info` of the cured one."""

    row: Row
    severity: str
    confidence: str
    parent: str
    proof: tuple[str, ...]
    signal: str
    count: int
    alarms: tuple[str, ...]

    @property
    def found(self) -> bool:
        """True where the loop was told at `likely` or better, with its parent, whose schema Prisma writes out."""
        return self.confidence in ("likely", "proven") and self.parent.removeprefix("public.") == "books.author_id"

    @property
    def right(self) -> bool:
        return (self.found or not self.row.must_be_found) and not self.alarms


def fill(cluster: Cluster) -> None:
    """The shop's tables. Authors' ids are neither dense nor in the order of the books."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL)")
        connection.execute(
            "CREATE TABLE books (id int PRIMARY KEY, title text NOT NULL, author_id int NOT NULL REFERENCES authors)"
        )
        connection.execute("INSERT INTO authors SELECT n, 'author ' || n FROM generate_series(1, 200) n")
        connection.execute("INSERT INTO books SELECT n, 'book ' || n, 1 + n * 37 % 200 FROM generate_series(1, 200) n")


def outcome(cluster: Cluster, row: Row) -> Outcome:
    """Run both twins of a row, each through a pgtattle of its own; raises npm.Unavailable."""
    if row.on_node:
        npm.installed()  # before servers are started for nothing
    sick, cured = (_visited(cluster, row, page) for page in ("sick", "cured"))
    loops = [one for one in sick.findings if one.rule == "n-plus-one" and isinstance(one.evidence, LoopEvidence)]
    alarms = tuple(f"{one.rule} {one.severity}: {one.title}" for one in cured.findings if one.severity != "info")
    for loop in loops:
        evidence = loop.evidence
        assert isinstance(evidence, LoopEvidence)
        if "authors" in loop.sql:
            parent = f"{evidence.parent}.{evidence.parent_column}" if evidence.parent_column else evidence.parent
            return Outcome(
                row, loop.severity, loop.confidence, parent, tuple(evidence.proof), evidence.signal, loop.count, alarms
            )
    return Outcome(row, "", "", "", (), "", 0, alarms)


def _visited(cluster: Cluster, row: Row, page: str) -> Report:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(pgtattle(cluster))
        target = ours
        if row.way == "PgBouncer":
            target = stack.enter_context(pgbouncer(cluster, "transaction", ours.port))
        port = stack.enter_context(_shop(target, row))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for answer in pool.map(
                lambda _: httpx.get(f"http://127.0.0.1:{port}/{page}", timeout=PATIENCE), range(REQUESTS)
            ):
                assert answer.status_code == 200, answer.text
                assert len(answer.text.splitlines()) == BOOKS
        content = httpx.get(f"http://{ours.api}/api/v1/report?settle=60", timeout=120).raise_for_status().content
        return msgspec.json.decode(content, type=Report)


@contextlib.contextmanager
def _shop(target: Target, row: Row) -> Iterator[int]:
    port = free_port()
    folder = npm.installed() if row.on_node else ROOT
    program = ["node", "shop.mjs"] if row.on_node else [sys.executable, "-m", "tests.orm.shops"]
    command = [*program, row.orm, row.driver, str(port)]
    command += ["--tagged"] * row.tagged + ["--pooled"] * (row.way == "PgBouncer")
    environment = {
        **target.environment,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"the shop of {row} did not start"
            yield port
        finally:
            process.terminate()
