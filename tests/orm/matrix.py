"""Every ORM, driver, tag and way to the server: are the sick shop's loops found with their parents, and is nothing
reported for the cured one?

Enters: which rows to run. Leaves: an outcome a row. Real servers throughout: PostgreSQL, and PgBouncer in transaction
mode before pgtattle.

A shop's program, in any language, is run in its folder as

    PROGRAM ORM DRIVER SCENARIO TWIN

with a scenario of `SCENARIOS` and the twin `sick` (queries in a loop) or `cured`. It answers `SHOP_REQUESTS` requests,
`SHOP_AT_ONCE` at a time, as a server does in its language, and prints the rows of each as a line of JSON: a list of
lists of strings, in any order. Like a server it then keeps its connections, until its standard
input ends. The database is the one of `DATABASE_URL` and of the `PG*` variables. Where `SHOP_TAGGED`
is set, each statement carries a comment `request_id='…',route='/SCENARIO'`, with an id for each request; where
`SHOP_POOLED` is, PgBouncer is between, and no statement may be prepared by name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import httpx
import msgspec
import psycopg

from benchmarks.targets import Target, pgbouncer, pgtattle
from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.schema import LoopEvidence, Report
from tests.orm.languages import ROOT, folder_of
from tests.orm.shops import Row
from tests.waiting import PATIENCE

AT_ONCE: Final = 6
REQUESTS: Final = 12

Scenario = Literal["many-to-one", "one-to-many", "nested"]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)

BOOKS: Final = "(SELECT * FROM books ORDER BY id LIMIT 20)"
AUTHORS: Final = "(SELECT * FROM authors ORDER BY id LIMIT 10)"
# What a request answers: books with their author, books with their chapters, authors with their books' reviews.
QUERIES: Final[dict[Scenario, str]] = {
    "many-to-one": f"SELECT b.title, a.name FROM {BOOKS} b JOIN authors a ON a.id = b.author_id",
    "one-to-many": f"SELECT b.title, c.title FROM {BOOKS} b JOIN chapters c ON c.book_id = b.id",
    "nested": f"SELECT a.name, b.title, r.body FROM {AUTHORS} a JOIN books b ON b.author_id = a.id "
    "JOIN reviews r ON r.book_id = b.id",
}
# The tables that a sick twin reads in a loop, each with the table and column that drove it.
LOOPS: Final[dict[Scenario, tuple[tuple[str, str], ...]]] = {
    "many-to-one": (("authors", "books.author_id"),),
    "one-to-many": (("chapters", "books.id"),),
    "nested": (("books", "authors.id"), ("reviews", "books.id")),
}
# Ids are neither dense nor those of another table, nor in the order of what refers to them.
TABLES: Final = """
CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE books (id int PRIMARY KEY, title text NOT NULL, author_id int NOT NULL REFERENCES authors);
CREATE TABLE chapters (id int PRIMARY KEY, title text NOT NULL, book_id int NOT NULL REFERENCES books);
CREATE TABLE reviews (id int PRIMARY KEY, body text NOT NULL, book_id int NOT NULL REFERENCES books);
INSERT INTO authors SELECT 1000 + 7 * n, 'author ' || n FROM generate_series(1, 200) n;
INSERT INTO books SELECT 50000 + 3 * n, 'book ' || n, 1007 + 7 * (n * 37 % 200) FROM generate_series(1, 600) n;
INSERT INTO chapters SELECT 100000 + row_number() OVER (ORDER BY b.id, n), 'chapter ' || n, b.id
    FROM books b, generate_series(1, b.id % 4) n;
INSERT INTO reviews SELECT 200000 + row_number() OVER (ORDER BY b.id, n), 'review ' || n, b.id
    FROM books b, generate_series(1, b.id % 5) n;
CREATE INDEX ON books (author_id);
CREATE INDEX ON chapters (book_id);
CREATE INDEX ON reviews (book_id);
ANALYZE;
"""
_TABLE: Final = re.compile(r'\bfrom\s+(?:"?public"?\.)?"?(\w+)', re.IGNORECASE)


class Broken(Exception):
    """A shop that does not run, or answers other rows than a direct connection."""


@dataclass(frozen=True)
class Seen:
    """What was reported of a loop."""

    parent: str
    severity: str
    confidence: str
    signal: str
    advice: str

    def is_driven_by(self, parent: str) -> bool:
        """True where the parent is this column, by its name or by that which an ORM gives it in a result: with the name
        of the table or model before it, or in camel case.
        """
        table, _, column = parent.partition(".")
        names = (column, f"{table}_{column}", f"{table[:-1]}_{column}", column.replace("_", ""))
        return self.parent.removeprefix("public.").lower() in [f"{table}.{name}" for name in names]


@dataclass(frozen=True)
class Outcome:
    """What was reported for a row: the sick shop's loops by table, and everything but `info` for the cured one."""

    row: Row
    loops: dict[str, Seen]
    alarms: tuple[str, ...]

    def found(self, scenario: Scenario) -> bool:
        """True where all loops were found at `likely` or better, with the column that drove them."""
        return all(
            (seen := self.loops.get(table)) is not None
            and seen.confidence in ("likely", "proven")
            and seen.is_driven_by(parent)
            for table, parent in LOOPS[scenario]
        )

    @property
    def worded(self) -> bool:
        """True where the advice on each loop that was found is in the framework's words."""
        return all(self.row.shop.advice in seen.advice for seen in self.loops.values())

    @property
    def faults(self) -> list[str]:
        """What is wrong with the row."""
        found = [f"{one} not found" for one in SCENARIOS if self.row.must_be_found and not self.found(one)]
        if not self.worded:
            found.append(f"advice without {self.row.shop.advice}")
        return [*found, *self.alarms]


def fill(cluster: Cluster) -> None:
    """The shop's tables, with indexes on all that is looked up."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(TABLES)


def outcome(cluster: Cluster, row: Row) -> Outcome:
    """Run both twins of a row, each through a pgtattle of its own; raises languages.Unavailable and Broken."""
    folder_of(row.shop.language)  # before servers are started for nothing
    sick, cured = (_visited(cluster, row, twin) for twin in ("sick", "cured"))
    alarms = tuple(f"{one.rule} {one.severity}: {one.title}" for one in cured.findings if one.severity != "info")
    return Outcome(row, _loops(sick), alarms)


def _loops(report: Report) -> dict[str, Seen]:
    """The loops of a report by table; of two on one table, the surer."""
    found: dict[str, Seen] = {}
    for one in report.findings:
        evidence = one.evidence
        if not isinstance(evidence, LoopEvidence):
            continue
        advice = one.suggestion.text if one.suggestion is not None else ""
        for loop in evidence.loops or [evidence]:
            sql = one.sql if loop is evidence else loop.sql
            parent = f"{loop.parent}.{loop.parent_column}" if loop.parent_column else loop.parent
            table = _TABLE.search(sql)
            assert table is not None, sql
            seen = Seen(parent, one.severity, one.confidence, evidence.signal, advice)
            before = found.get(table[1])
            if before is None or (before.confidence == "candidate" and before.confidence != seen.confidence):
                found[table[1]] = seen
    return found


def _visited(cluster: Cluster, row: Row, twin: str) -> Report:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(pgtattle(cluster))
        target = ours
        if row.way == "PgBouncer":
            target = stack.enter_context(pgbouncer(cluster, "transaction", ours.port))
        for scenario in SCENARIOS:
            answers = stack.enter_context(_shop(target, row, scenario, twin))
            if [sorted(answer) for answer in answers] != [_direct(cluster, scenario)] * REQUESTS:
                raise Broken(f"{row} {scenario} {twin}: {answers}")
        content = httpx.get(f"http://{ours.api}/api/v1/report?settle=60", timeout=120).raise_for_status().content
        return msgspec.json.decode(content, type=Report)


def _direct(cluster: Cluster, scenario: Scenario) -> list[list[str]]:
    """The rows of a page, read over a direct connection."""
    with psycopg.connect(cluster.dsn()) as connection:
        return sorted(list(row) for row in connection.execute(QUERIES[scenario]).fetchall())


@contextlib.contextmanager
def _shop(target: Target, row: Row, scenario: Scenario, twin: str) -> Iterator[list[list[list[str]]]]:
    """What a shop answers; its connections stay open meanwhile."""
    shop = row.shop
    where = target.environment
    environment = {
        **where,
        "DATABASE_URL": "postgres://{PGUSER}@{PGHOST}:{PGPORT}/{PGDATABASE}?sslmode=disable".format_map(where),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "SHOP_REQUESTS": f"{REQUESTS}",
        "SHOP_AT_ONCE": f"{AT_ONCE}",
        "SHOP_TAGGED": "1" if row.tagged else "",
        "SHOP_POOLED": "1" if row.way == "PgBouncer" else "",
    }
    command = [*shop.language.run, shop.orm, shop.driver, scenario, twin]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            env=environment,
            cwd=folder_of(shop.language),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        hangs = threading.Timer(10 * PATIENCE, process.kill)
        hangs.start()
        try:
            assert process.stdout is not None
            lines = list(itertools.islice(process.stdout, REQUESTS))
            if len(lines) < REQUESTS:
                errors.seek(0)
                raise Broken(f"{row} {scenario} {twin}: {errors.read()}")
            hangs.cancel()
            yield [json.loads(line) for line in lines]
        finally:
            hangs.cancel()
            process.terminate()
