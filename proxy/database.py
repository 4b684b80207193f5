"""The side connection: asks the planner, never runs a statement.

Enters: an analyzer's question. Leaves: EXPLAIN's JSON, of a statement with and without hypothetical indexes or of one
beside its rewrite, and facts of the catalogue: tables and keys.
Each job is `BEGIN READ ONLY … ROLLBACK` under time limits; the statement goes by the extended protocol with the
captured values, so that it is one statement and nothing is interpolated. HypoPG is used where it is installed and never
installed. Source: PostgreSQL, "EXPLAIN"; HypoPG's documentation (hypothetical indexes survive ROLLBACK, so they are
reset each time).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from pgtattle.analyzers.questions import (
    Answer,
    ForeignKey,
    IndexAnswer,
    IndexCandidate,
    IndexQuestion,
    KeysAnswer,
    KeysQuestion,
    Question,
    RewriteAnswer,
    RewriteQuestion,
    TableFacts,
)
from pgtattle.proxy.events import Parameter

MAX_SESSIONS: Final = 4
FAILURES: Final = 3
PAUSE_SECONDS: Final = 30.0
MAX_KEYS: Final = 10_000

_OPTIONS: Final = (
    "-c default_transaction_read_only=on -c statement_timeout=2s -c lock_timeout=50ms "
    "-c idle_in_transaction_session_timeout=5s"
)
_EXPLAIN: Final = b"EXPLAIN (FORMAT JSON, VERBOSE) "
_TABLE_FACTS: Final = """
    SELECT n.nspname, c.relname, c.reltuples, c.relpages, c.relkind, c.relpersistence
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""
_INDEXES: Final = """
    SELECT (SELECT array_agg(coalesce(a.attname, '')::text ORDER BY k.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
            WHERE k.place <= i.indnkeyatts)
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
    WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
"""

_KEYS: Final = """
    SELECT c.conrelid::int8, a.attnum, r.relname, a.attname, c.confrelid::int8, b.attnum, s.relname, b.attname
    FROM pg_constraint c
    CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k(one, other)
    JOIN pg_class r ON r.oid = c.conrelid JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.one
    JOIN pg_class s ON s.oid = c.confrelid JOIN pg_attribute b ON b.attrelid = s.oid AND b.attnum = k.other
    WHERE c.contype = 'f' LIMIT %s
"""
_UNIQUE: Final = """
    WITH one AS (
        SELECT DISTINCT n.nspname, r.relname, a.attname FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = i.indkey[0]
        JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL
        AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
        -- An index of a table does not know the rows of those that inherit from it; partitions' indexes do.
        AND (r.relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = r.oid))
    )
    SELECT nspname, relname, attname FROM one
    UNION ALL
    SELECT '', relname, attname FROM one GROUP BY relname, attname HAVING count(*) = (
        SELECT count(*) FROM pg_class c WHERE c.relname = one.relname AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    )
    LIMIT %s
"""


class Planner:
    """Asks EXPLAIN in one worker thread; `ask` never raises."""

    def __init__(self, dsn: str, password: str = "", *, per_second: float = 4.0) -> None:
        self._dsn = dsn
        self._password = password
        self._interval = 1.0 / per_second
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._next_at = 0.0
        self._failures = 0
        self._closed_until = 0.0

    async def ask(self, question: Question) -> Answer:
        """The server's answer; `error` says why there is none, in words without values."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._ask, question)

    async def close(self) -> None:
        """End the side connections."""

        def end() -> None:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

        await asyncio.get_running_loop().run_in_executor(self._worker, end)
        self._worker.shutdown(wait=False)

    def _ask(self, question: Question) -> Answer:
        if time.monotonic() < self._closed_until:
            return _unanswered(question, "the side connection failed; trying again in a while")
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        self._next_at = time.monotonic() + self._interval
        try:
            answer = self._session(question.database).ask(question)
        except psycopg.OperationalError as error:
            # Also statement_timeout and lock_timeout: the server is asked less, not more.
            self._drop(question.database)
            self._failures += 1
            if self._failures >= FAILURES:
                self._closed_until = time.monotonic() + PAUSE_SECONDS
                self._failures = 0
            return _unanswered(question, _words(error))
        except psycopg.Error as error:
            return _unanswered(question, _words(error))
        self._failures = 0
        return answer

    def _session(self, database: str) -> _Session:
        session = self._sessions.pop(database, None)
        if session is None or session.closed:
            session = _Session(self._dsn, self._password, database)
        self._sessions[database] = session
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)[1].close()
        return session

    def _drop(self, database: str) -> None:
        session = self._sessions.pop(database, None)
        if session is not None:
            session.close()


class _Session:
    """One side connection to one database."""

    def __init__(self, dsn: str, password: str, database: str) -> None:
        self._connection = connect(dsn, password, database)
        row = self._connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'hypopg'").fetchone()
        self._hypopg = row is not None

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def close(self) -> None:
        self._connection.close()

    def ask(self, question: Question) -> Answer:
        connection = self._connection
        connection.execute("BEGIN READ ONLY")
        try:
            match question:
                case IndexQuestion():
                    return self._index(question)
                case RewriteQuestion():
                    return self._rewrite(question)
                case KeysQuestion():
                    return self._keys(question)
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")
                if self._hypopg:
                    connection.execute("SELECT hypopg_reset()")

    def _index(self, question: IndexQuestion) -> IndexAnswer:
        before = self._explain(question.sql, question.parameters)
        names = dict.fromkeys(candidate.table for candidate in question.candidates)
        tables = tuple(facts for name in names if (facts := self._table(name)) is not None)
        after = tuple(self._with(question, candidate) for candidate in question.candidates) if self._hypopg else ()
        return IndexAnswer(
            question=question, before=before, after=tuple(one for one in after if one is not None), tables=tables
        )

    def _rewrite(self, question: RewriteQuestion) -> RewriteAnswer:
        before = self._explain(question.sql, question.parameters)
        try:
            after = self._explain(question.rewritten, question.values)
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            return RewriteAnswer(question=question, before=before, refused=True)
        return RewriteAnswer(question=question, before=before, after=after)

    def _keys(self, question: KeysQuestion) -> KeysAnswer:
        rows = self._connection.execute(_KEYS, [MAX_KEYS]).fetchall()
        keys = [
            ForeignKey(column=row[:2], column_name=row[2:4], referred=row[4:6], referred_name=row[6:]) for row in rows
        ]
        unique = self._connection.execute(_UNIQUE, [MAX_KEYS]).fetchall()
        return KeysAnswer(question=question, keys=tuple(keys), unique=tuple(unique))

    def _explain(self, statement: str, parameters: tuple[Parameter, ...]) -> bytes:
        """EXPLAIN with the captured values, which are sent as they came."""
        result = self._connection.pgconn.exec_params(
            _EXPLAIN + statement.encode(),
            [
                None if one.value is None else one.binary if one.binary is not None else one.value.encode()
                for one in parameters
            ],
            [one.oid for one in parameters],
            [1 if one.binary is not None else 0 for one in parameters],
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.lookup(_sqlstate(result))(result.get_error_message())
        return result.get_value(0, 0) or b""

    def _with(self, question: IndexQuestion, candidate: IndexCandidate) -> tuple[IndexCandidate, str, bytes] | None:
        """The plan with a hypothetical index, and that index's name."""
        create = sql.SQL("CREATE INDEX ON {} ({})").format(
            sql.Identifier(*candidate.table.split(".", 1)), sql.SQL(", ").join(map(sql.Identifier, candidate.columns))
        )
        connection = self._connection
        connection.execute("SELECT hypopg_reset()")
        row = connection.execute(
            "SELECT indexname FROM hypopg_create_index(%s)", [create.as_string(connection)]
        ).fetchone()
        if row is None:
            return None
        return candidate, str(row[0]), self._explain(question.sql, question.parameters)

    def _table(self, name: str) -> TableFacts | None:
        quoted = sql.Identifier(*name.split(".", 1)).as_string(self._connection)
        row = self._connection.execute(_TABLE_FACTS, [quoted]).fetchone()
        if row is None or row[4] != "r" or row[5] == "t":
            return None
        indexes = self._connection.execute(_INDEXES, [quoted]).fetchall()
        return TableFacts(
            name=name,
            schema=row[0],
            rows=float(row[2]),
            pages=int(row[3]),
            indexes=tuple(tuple(columns) for (columns,) in indexes if columns),
        )


def _unanswered(question: Question, error: str) -> Answer:
    match question:
        case IndexQuestion():
            return IndexAnswer(question=question, error=error)
        case RewriteQuestion():
            return RewriteAnswer(question=question, error=error)
        case KeysQuestion():
            return KeysAnswer(question=question, error=error)


def connect(dsn: str, password: str, database: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A side connection, read-only and with time limits; to the DSN's own database when none is named."""
    more: dict[str, str] = {"application_name": "pgtattle", "connect_timeout": "5", "options": _OPTIONS}
    if password:
        more["password"] = password
    if database:
        more["dbname"] = database
    connection = psycopg.connect(make_conninfo(dsn, **more), autocommit=True)
    connection.prepare_threshold = None
    return connection


def _sqlstate(result: pq.abc.PGresult) -> str:
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"XX000").decode()


def _words(error: psycopg.Error) -> str:
    """What went wrong without the server's message, which may hold values; a failed connection's holds none."""
    if error.sqlstate is None:
        lines = str(error).strip().splitlines()
        return lines[0][:200] if lines else type(error).__name__
    return f"{type(error).__name__} ({error.sqlstate})"
