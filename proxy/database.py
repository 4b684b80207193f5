"""The side connection: asks the planner, never runs a statement.

Enters: an analyzer's question. Leaves: EXPLAIN's JSON, of a statement with and without hypothetical indexes or of one
beside its rewrite, and facts of the catalogue: tables and keys.
Each question is a connection of its own and `BEGIN READ ONLY … ROLLBACK` under time limits; the statement goes by the
extended protocol with the captured values, so that it is one statement and nothing is interpolated. HypoPG is used
where it is installed and never installed. Source: PostgreSQL, "EXPLAIN"; HypoPG's documentation (hypothetical indexes
survive ROLLBACK, so they are reset each time: behind a pooler the session goes on).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import psycopg
from msgspec.structs import replace
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgtattle.analyzers.questions import (
    Answer,
    ForeignKey,
    IndexAnswer,
    IndexQuestion,
    KeysAnswer,
    KeysQuestion,
    Question,
    RewriteAnswer,
    RewriteQuestion,
)
from pgtattle.proxy import index_trials
from pgtattle.proxy.claims import Claims
from pgtattle.proxy.events import Parameter
from pgtattle.proxy.index_trials import Connection
from pgtattle.proxy.schema import ExplainState, ExplainView

FAILURES: Final = 3
PAUSE_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5
QUESTION_SECONDS: Final = 2.0
SAVED: Final = 20
"""Questions that are asked at once after a silence."""
MAX_KEYS: Final = 10_000
MAX_DENIED: Final = 100
MAX_DATABASES: Final = 1_000
TEMPLATES: Final = frozenset(("template0", "template1"))
MAINTENANCE: Final = "postgres"

_Result = TypeVar("_Result")
_NO_LOGIN: Final = frozenset(("no_password", "refused", "unreachable"))
_CURES: Final = {
    "no_password": "set PGPASSWORD, or PGTATTLE_ANALYZE_DSN to a role of its own",
    "refused": "check the role, its password (PGPASSWORD) and pg_hba.conf, or set PGTATTLE_ANALYZE_DSN to another role",
    "no_rights": "grant the side connection's role what the application's role may do, or set PGTATTLE_ANALYZE_DSN",
    "unreachable": "start PostgreSQL, or correct --upstream",
}
# Poolers refuse `options` at the start, so that the limits are set in the transaction.
_BEGIN: Final = """
    BEGIN READ ONLY; SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '50ms';
    SET LOCAL idle_in_transaction_session_timeout = '2s'
"""
_HYPOPG: Final = """
    SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    WHERE e.extname = 'hypopg' AND has_schema_privilege(n.oid, 'USAGE')
"""
_EXPLAIN: Final = b"EXPLAIN (FORMAT JSON, VERBOSE) "
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
    """Asks the server's planner in one worker thread. The side connection is open only while a question is asked:
    nothing that the application does waits for it. `ask` never raises.

    `explain` and `server_version` are what `check` and the questions found out.
    """

    def __init__(self, dsn: str, password: str = "", *, per_second: float = 4.0) -> None:
        self.explain = ExplainView()
        self.server_version = ""
        self.claims = Claims()
        self._dsn = dsn
        self._own = str(conninfo_to_dict(dsn).get("dbname") or "")
        self._password = password
        self._interval = 1.0 / per_second
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._next_at = 0.0
        self._failures: dict[str, tuple[int, float]] = {}
        self._denied: OrderedDict[tuple[str, str], str] = OrderedDict()

    def hurry(self) -> None:
        """Nobody asks the server for anything else any more: questions need no pause between them."""
        self._interval = 0.0

    async def ask(self, question: Question) -> Answer:
        """The server's answer; `error` says why there is none, in words without values."""
        since = time.monotonic()
        while True:
            if refused := await self.claims.wait(question.database, since):
                return _unanswered(question, refused)
            with contextlib.suppress(_Interrupted):
                return await self._run(self._ask, question)

    async def check(self) -> None:
        """Try the side connection, and learn the server's version and whether questions can be asked."""
        self.explain = await self._run(self._check)

    async def close(self) -> None:
        """Ask nothing more."""
        await self._run(lambda: None)
        self._worker.shutdown(wait=False)

    async def _run(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _ask(self, question: Question) -> Answer:
        database = question.database
        if database in TEMPLATES:
            return _unanswered(question, "template databases are not asked")
        if self.explain.state in _NO_LOGIN:
            return _unanswered(question, self.explain.reason)
        failures, closed_until = self._failures.get(database, (0, 0.0))
        if time.monotonic() < closed_until:
            return _unanswered(question, "the side connection failed; trying again in a while")
        self._pace()
        deadline = time.monotonic() + QUESTION_SECONDS
        try:
            with _Session(self._dsn, self._password, database, self.claims, deadline) as session:
                answer = session.ask(question)
        except psycopg.OperationalError as error:
            # Also statement_timeout and lock_timeout: the server is asked less, not more.
            self._failed(database, failures + 1)
            if error.sqlstate is None:
                # No connection, or not any more: is it this database alone?
                self.explain = self._check()
            return _unanswered(question, _words(error))
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                self._deny(question, error)
            return _unanswered(question, _words(error))
        self._failures.pop(database, None)
        self._allow(question, session)
        return answer

    def _pace(self) -> None:
        """Wait until the next question may be asked: so many a second, with some saved up."""
        now = time.monotonic()
        self._next_at = max(self._next_at, now - SAVED * self._interval)
        time.sleep(max(0.0, min(self._next_at - now, self._interval)))
        self._next_at += self._interval

    def _failed(self, database: str, failures: int) -> None:
        if len(self._failures) >= MAX_DATABASES:
            self._failures.clear()
        closed = failures >= FAILURES
        self._failures[database] = (0 if closed else failures, time.monotonic() + PAUSE_SECONDS if closed else 0.0)

    # -- what is known of the side connection ------------------------------------------------------------------------

    def _check(self) -> ExplainView:
        try:
            found = self._login("")
        except psycopg.Error as error:
            # An application may create its own database first: the login itself works where another one takes it.
            own = self._own if isinstance(error, psycopg.OperationalError) else ""
            if own and own in str(error) and own != MAINTENANCE:
                with contextlib.suppress(psycopg.Error):
                    return self._login(MAINTENANCE)
            return self._failure(error)
        return found

    def _login(self, database: str) -> ExplainView:
        with contextlib.closing(_connect(self._dsn, self._password, database)) as connection:
            self.server_version = (connection.info.parameter_status("server_version") or "").split(" ")[0]
            row = connection.execute(_HYPOPG).fetchone()
        return ExplainView(state="ok", hypopg=row is not None) if not self._denied else self._without_rights()

    def _failure(self, error: psycopg.Error) -> ExplainView:
        reason = _words(error)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ExplainView(state="no_rights", reason=reason, cure=_CURES["no_rights"])
        if error.pgconn is not None and error.pgconn.needs_password:
            return ExplainView(state="no_password", reason=reason, cure=_CURES["no_password"])
        ping = pq.PGconn.ping(make_conninfo(self._dsn, connect_timeout=CONNECT_SECONDS).encode())
        state: ExplainState = "unreachable" if ping in (pq.Ping.NO_RESPONSE, pq.Ping.REJECT) else "refused"
        return ExplainView(state=state, reason=reason, cure=_CURES[state])

    def _deny(self, question: Question, error: psycopg.Error) -> None:
        self._denied[_subject(question)] = _words(error)
        if len(self._denied) > MAX_DENIED:
            self._denied.popitem(last=False)
        self.explain = self._without_rights()

    def _allow(self, question: Question, session: _Session) -> None:
        self._denied.pop(_subject(question), None)
        if question.database == self._own:
            # An extension may be created, or dropped, at any time.
            self.explain = replace(self.explain, hypopg=bool(session.hypopg))
        self.explain = self._without_rights() if self._denied else ExplainView(state="ok", hypopg=self.explain.hypopg)

    def _without_rights(self) -> ExplainView:
        count, last = len(self._denied), next(reversed(self._denied.values()))
        reason = f"{count} statement{'s' if count > 1 else ''} could not be planned: {last}"
        return ExplainView(state="no_rights", reason=reason, cure=_CURES["no_rights"], hypopg=self.explain.hypopg)


class _Interrupted(Exception):
    """The application needs the database for itself: the question is asked later."""


class _Session:
    """One side connection to one database, for one question: a read-only transaction that is rolled back.

    `hypopg` is the schema of that extension, once the question is asked; empty without it.
    """

    def __init__(self, dsn: str, password: str, database: str, claims: Claims, deadline: float) -> None:
        self._database = database
        self._claims = claims
        self._deadline = deadline
        self.hypopg = ""
        self._may_go_on()
        self._connection = _connect(dsn, password, database)

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.execute("ROLLBACK")
            if self.hypopg:
                self._connection.execute(index_trials.reset(self.hypopg))
        self._connection.close()

    def ask(self, question: Question) -> Answer:
        self._connection.execute(_BEGIN)
        self.hypopg = self._find_hypopg()
        match question:
            case IndexQuestion():
                return self._index(question)
            case RewriteQuestion():
                return self._rewrite(question)
            case KeysQuestion():
                return self._keys(question)

    def _find_hypopg(self) -> str:
        """The schema of HypoPG, reset; empty where it is not installed, not loaded, or not for this role."""
        row = self._connection.execute(_HYPOPG).fetchone()
        if row is None:
            return ""
        try:
            with self._connection.transaction():
                self._connection.execute(index_trials.reset(row[0]))
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            return ""
        return str(row[0])

    def _may_go_on(self) -> None:
        """Raise where the application needs the database for itself now, or the question takes too long."""
        if self._claims.holds(self._database):
            raise _Interrupted
        if time.monotonic() > self._deadline:
            raise psycopg.errors.QueryCanceled(f"the question took longer than {QUESTION_SECONDS:g} s")

    def _index(self, question: IndexQuestion) -> IndexAnswer:
        return index_trials.ask(
            self._connection, question, lambda: self._explain(question.sql, question.parameters), self.hypopg
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
        self._may_go_on()
        result = self._connection.pgconn.exec_params(
            _EXPLAIN + _sent(statement),
            [
                None if one.value is None else one.binary if one.binary is not None else _sent(one.value)
                for one in parameters
            ],
            [one.oid for one in parameters],
            [1 if one.binary is not None else 0 for one in parameters],
        )
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.lookup(_sqlstate(result))(result.get_error_message())
        return result.get_value(0, 0) or b""


def _sent(text: str) -> bytes:
    """Text as it was sent: in a database of SQL_ASCII it may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _subject(question: Question) -> tuple[str, str]:
    return question.database, "" if isinstance(question, KeysQuestion) else question.sql


def _unanswered(question: Question, error: str) -> Answer:
    match question:
        case IndexQuestion():
            return IndexAnswer(question=question, error=error)
        case RewriteQuestion():
            return RewriteAnswer(question=question, error=error)
        case KeysQuestion():
            return KeysAnswer(question=question, error=error)


def _connect(dsn: str, password: str, database: str) -> Connection:
    more: dict[str, Any] = {
        "application_name": "pgtattle",
        "client_encoding": "UTF8",
        "connect_timeout": CONNECT_SECONDS,
    }
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
