"""Loops as drivers run them: what is suggested in their place does the same on a real server, or nothing is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from pgtattle.analyzers.analyzer import Outcome
from pgtattle.analyzers.questions import RewriteQuestion
from pgtattle.analyzers.registry import analyzers
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection, Parameter, Unit
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import RuleSettings
from tests.analyzers.test_questions import asked
from tests.conftest import Database, fresh_database

SETUP = """
    CREATE TABLE t (id int PRIMARY KEY, zip text, v int, k int, name text, tags text[], code char(5));
    INSERT INTO t SELECT n, 'x', n % 3, n % 6, 'n' || (99 - n), '{}', 'c' || lpad(n::text, 2, '0')
    FROM generate_series(1, 30) n;
    CREATE TABLE words (word text PRIMARY KEY, n int);
    CREATE SCHEMA o; CREATE TABLE o.same (k int UNIQUE, name text); CREATE TABLE same (k int, name text);
    INSERT INTO same SELECT n % 6, 'n' || (99 - n) FROM generate_series(1, 30) n;
    INSERT INTO o.same SELECT n, 'n' || n FROM generate_series(1, 9) n;
    CREATE TABLE old (k int PRIMARY KEY, name text); CREATE TABLE young () INHERITS (old);
    INSERT INTO old SELECT n, 'z' FROM generate_series(1, 9) n; INSERT INTO young SELECT * FROM old;
"""
INT, BIG, TEXT, VARCHAR = 23, 20, 25, 1043
SMALLEST = -1
"""The smallest type of integers that holds the value, as psycopg sends them."""


@dataclass(frozen=True)
class Loop:
    """`sql` with `$n`, bound to each of `rows` by types `oids`; without them pasted in place of `{n}`."""

    sql: str
    rows: Sequence[tuple[str | None, ...]]
    oids: tuple[int, ...] = ()


N = range(1, 13)
ONE = [(str(n),) for n in range(6)]

NOTHING = {
    "leading zeros, of no type": Loop(
        "UPDATE t SET zip = $1 WHERE id = $2", [(f"0{100 + n}", str(n)) for n in N], (0, 0)
    ),
    "a version that is compared and set": Loop(
        "UPDATE t SET k = $1, v = $2 WHERE id = $3 AND v = $4",
        [(str(n), str(n + 1), "7", str(n)) for n in N],
        (INT, INT, INT, INT),
    ),
    "rows that are pushed on": Loop(
        "UPDATE t SET id = $1 WHERE id = $2", [(str(n + 100), str(n + 99)) for n in N], (INT, INT)
    ),
    "ranges that overlap": Loop(
        "UPDATE t SET v = $1 WHERE k = $2 AND id > $3", [(str(n), "1", str(n)) for n in N], (INT, INT, INT)
    ),
    "keys that come again with other values of a range": Loop(
        "UPDATE t SET v = v + $1 WHERE id = $2 AND name <> $3", [("1", "1", f"z{n}") for n in N], (INT, INT, TEXT)
    ),
    "keys that one row has": Loop(
        "UPDATE t SET v = $1 WHERE name = $2",
        [(str(n), name) for n, name in enumerate(("a", "A", *"bcdefghijk"))],
        (INT, TEXT),
    ),
    "numbers in two spellings": Loop(
        "UPDATE t SET v = $1 WHERE id = $2", [(str(n), f"0{n}" if n > 6 else str(n + 6)) for n in N], (INT, INT)
    ),
    "counters": Loop(
        "INSERT INTO words (word, n) VALUES ($1, $2) ON CONFLICT (word) DO UPDATE SET n = words.n + excluded.n",
        [("a", "1") for _ in N],
        (TEXT, INT),
    ),
    "the last wins": Loop(
        "INSERT INTO words (word, n) VALUES ($1, $2) ON CONFLICT (word) DO UPDATE SET n = excluded.n",
        [(f"a{n % 6}", str(n)) for n in N],
        (TEXT, INT),
    ),
    "everything returned": Loop(
        "UPDATE t SET v = $1 WHERE id = $2 RETURNING *", [(str(n + 1), str(n)) for n in N], (INT, INT)
    ),
    "a list in one of the writes": Loop(
        "UPDATE t SET tags = ARRAY[{0}] WHERE id = {1}", [("'a', 'b'" if n == 12 else "'a'", str(n)) for n in N]
    ),
    "a self join with a LIMIT": Loop(
        "SELECT a.id, b.name FROM t a JOIN t b ON b.k = a.id WHERE a.id = $1 ORDER BY b.name LIMIT 1", ONE, (0,)
    ),
    "the number of a column to sort by": Loop("SELECT name, k FROM t WHERE k = $1 ORDER BY 1", ONE, (INT,)),
    "the same with a LIMIT": Loop("SELECT name, k FROM t WHERE k = $1 ORDER BY 1 LIMIT 2", ONE, (INT,)),
    "a table of another schema": Loop("SELECT k, name FROM same WHERE k = $1 ORDER BY name LIMIT 1", ONE, (0,)),
    "a table that others inherit from": Loop("SELECT k, name FROM old WHERE k = $1 ORDER BY name LIMIT 1", ONE, (0,)),
    "rows that are counted": Loop("SELECT 1 FROM t WHERE k = $1", ONE, (INT,)),
    "a list": Loop("SELECT k, name FROM t WHERE k = $1 AND zip IN ('x', 'y', 'z')", ONE, (INT,)),
    "no rows": Loop("SELECT k, name FROM t WHERE id = $1 LIMIT $2", [(n, "0") for (n,) in ONE], (0, BIG)),
    "an offset in brackets": Loop("SELECT k, name FROM t WHERE id = $1 OFFSET (1)", ONE, (0,)),
}
SAME = {
    "leading zeros, pasted": Loop("UPDATE t SET zip = '{0}' WHERE id = {1}", [(f"0{100 + n}", str(n)) for n in N]),
    "leading zeros, bound": Loop(
        "UPDATE t SET zip = $1 WHERE id = $2", [(f"0{100 + n}", str(n)) for n in N], (TEXT, INT)
    ),
    "what an array would read otherwise": Loop(
        "UPDATE t SET zip = $1 WHERE id = $2",
        [(v, str(n)) for n, v in enumerate((None, "NULL", "{a,b}", 'q"q', "b\\s", "", "é\n", *"abcde"), 1)],
        (TEXT, INT),
    ),
    "characters, of which the blanks behind do not count": Loop(
        "UPDATE t SET v = $1 WHERE code = $2", [(str(n), f"c{n:02} ") for n in N], (INT, VARCHAR)
    ),
    "integers in the smallest type": Loop(
        "UPDATE t SET v = $1 WHERE id = $2", [(str(n * 9_000), str(n)) for n in N], (SMALLEST, SMALLEST)
    ),
    "a NULL among the keys": Loop("DELETE FROM t WHERE id = $1", [(None if n == 3 else str(n),) for n in N], (INT,)),
    "a delete of no type": Loop("DELETE FROM t WHERE id = $1", [(str(n),) for n in N], (0,)),
    "keys of two columns": Loop(
        "UPDATE t SET v = v + $1 WHERE k = $2 AND name = $3 RETURNING id, v",
        [("1", str(n % 6), f"n{99 - n}") for n in N],
        (INT, INT, TEXT),
    ),
    "inserts": Loop(
        "INSERT INTO words (word, n) VALUES ($1, $2) ON CONFLICT DO NOTHING", [(f"0{n}", str(n)) for n in N], (0, 0)
    ),
    "a self join": Loop("SELECT a.id, b.name FROM t a JOIN t b ON b.k = a.id WHERE a.id = $1", ONE, (INT,)),
    "its first rows": Loop(
        "SELECT a.id, b.name FROM t a JOIN t b ON b.k = a.id WHERE a.id = $1 ORDER BY b.name LIMIT 1", ONE, (INT,)
    ),
    "the row of a key": Loop("SELECT id, name FROM t WHERE id = $1 ORDER BY name LIMIT 1", ONE, (0,)),
    "the row of a key of one schema": Loop("SELECT k, name FROM o.same WHERE k = $1 LIMIT 1", ONE, (0,)),
}


@pytest.fixture(scope="module")
def shop(postgres18: Any) -> Iterator[Database]:
    with fresh_database(postgres18) as made:
        with psycopg.connect(made.dsn) as connection:
            connection.execute(SETUP)
        yield made


def parameter(oid: int, value: str | None) -> Parameter:
    if oid == SMALLEST and value is not None:
        oid = 21 if abs(int(value)) < 2**15 else INT
    return Parameter(oid if value is not None else 0, value)


def executions(database: Database, loop: Loop) -> list[Execution]:
    texts = Texts()
    connection = Connection(id=1, client="h:1", opened_ns=0, user="u", database=database.name, application="shop")
    made: list[Execution] = []
    for n, row in enumerate(loop.rows, 1):
        (text,) = texts.read(loop.sql if loop.oids else loop.sql.format(*row))
        given = zip(loop.oids, row, strict=True) if loop.oids else ()
        made.append(
            Execution(
                id=n,
                connection=connection,
                text=text,
                parameters=tuple(parameter(oid, value) for oid, value in given),
                exchange=n,
                started_ns=n * 3_000_000,
                ended_ns=n * 3_000_000 + 1_000_000,
                rows=1,
                transaction=1,
                binds=bool(loop.oids),
            )
        )
    return made


def suggested(database: Database, turns: list[Execution]) -> list[RewriteQuestion]:
    """What the server would be asked about, once the keys are known."""
    every = analyzers(RuleSettings())
    found: list[RewriteQuestion] = []

    def follow(outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, RewriteQuestion):
                found.append(outcome)
            elif hasattr(outcome, "database"):
                (answer,) = asked(database, outcome)
                for analyzer in every:
                    follow(analyzer.answer(answer))

    unit = Unit(id="u1", kind="request", key="r", confidence="strong", signal="c", executions=tuple(turns))
    for analyzer in every:
        follow(analyzer.execution(turns[0]))
    for analyzer in every:
        follow(analyzer.unit(unit))
    return found


def done(database: Database, statements: Iterable[tuple[str, tuple[Parameter, ...]]]) -> tuple[Counter[Any], list[Any]]:
    """The rows of the statements, and the tables after them; all undone."""
    rows: Counter[Any] = Counter()
    with psycopg.connect(database.dsn) as connection:
        connection.execute("BEGIN")
        for sql, given in statements:
            result = connection.pgconn.exec_params(
                sql.encode(),
                [None if one.value is None else one.value.encode() for one in given],
                [one.oid for one in given],
            )
            assert result.status in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK), (
                result.get_error_message()
            )
            rows.update(
                tuple(result.get_value(row, column) for column in range(result.nfields))
                for row in range(result.ntuples)
            )
        tables = [connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("t", "words")]
        connection.rollback()
    return rows, tables


@pytest.mark.parametrize("name", SAME)
def test_one_statement_does_what_the_loop_does(shop: Database, name: str) -> None:
    turns = executions(shop, SAME[name])
    (question,) = suggested(shop, turns)
    if question.rewritten.startswith("INSERT"):
        turns = turns[:2]
    loop = done(shop, [(turn.text.sql, turn.parameters) for turn in turns])
    rows, tables = done(shop, [(question.rewritten, question.values)])
    if "LATERAL" in question.rewritten:
        rows = Counter({row[1:]: count for row, count in rows.items()})
    assert (rows, tables) == loop
    assert rows or tables != done(shop, [])[1]


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_suggested_that_would_do_another_thing(shop: Database, name: str) -> None:
    assert suggested(shop, executions(shop, NOTHING[name])) == []
