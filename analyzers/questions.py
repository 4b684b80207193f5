"""What only a database can tell, asked and answered: indexes, rewrites and keys.

Enters nothing: these are the records that flow from the rules to the profiler's planner and back.
"""

from __future__ import annotations

from msgspec import Struct

from pgtattle.analyzers.sql.facts import ColumnUse
from pgtattle.proxy.events import Parameter, Statement


class IndexCandidate(Struct, frozen=True, kw_only=True):
    """A btree to try: the table as the statement names it (schema optional) and its key columns.

    It is `ordered` where not its search but its order is wanted, for the first rows of a sort.
    """

    table: str
    columns: tuple[str, ...]
    ordered: bool = False


class ColumnFacts(Struct, frozen=True):
    """A column in the catalogue. `btree`: an index may have it in its key.

    `equal` is the share of the rows that has one and the same value, on average, and `null` of those that have none;
    both are -1 where there are no statistics. A cast to one of `casts` changes nothing of it, so that an index serves
    all the same.
    """

    btree: bool
    equal: float = -1.0
    null: float = -1.0
    casts: frozenset[str] = frozenset()


class TableFacts(Struct, frozen=True, kw_only=True):
    """An ordinary table in the catalogue. `indexes` are the key columns of its valid btree indexes."""

    name: str
    schema: str
    rows: float
    pages: int
    columns: dict[str, ColumnFacts] = {}
    indexes: tuple[tuple[str, ...], ...] = ()


class IndexQuestion(Struct, frozen=True, kw_only=True):
    """Would an index serve this statement? Asked with the values of one real execution.

    `uses` are what it does with columns; none where only a plan is wanted.
    """

    database: str
    statement: Statement
    sql: str
    parameters: tuple[Parameter, ...]
    uses: tuple[ColumnUse, ...]


class IndexAnswer(Struct, frozen=True, kw_only=True):
    """What the planner said: EXPLAIN's JSON before, and per candidate the JSON with it as a hypothetical index.

    `candidates` could be built, best first. Where they were `tried`, which takes HypoPG, `after` has those that the
    server took. `tables` are the ordinary tables among those of the statement. `error` says why there is no plan.
    """

    question: IndexQuestion
    before: bytes = b""
    candidates: tuple[IndexCandidate, ...] = ()
    tried: bool = False
    after: tuple[tuple[IndexCandidate, str, bytes], ...] = ()
    tables: tuple[TableFacts, ...] = ()
    error: str = ""


class RewriteQuestion(Struct, frozen=True, kw_only=True):
    """Does the server take `rewritten`, and what would it cost beside `sql`?

    `parameters` go with `sql` and `values` with `rewritten`: those of one real loop.
    """

    database: str
    sql: str
    parameters: tuple[Parameter, ...]
    rewritten: str
    values: tuple[Parameter, ...]


class RewriteAnswer(Struct, frozen=True, kw_only=True):
    """EXPLAIN's JSON of both; `refused`: the server does not take it. `error` says why nobody could be asked."""

    question: RewriteQuestion
    before: bytes = b""
    after: bytes = b""
    refused: bool = False
    error: str = ""


class KeysQuestion(Struct, frozen=True, kw_only=True):
    """Which columns of a database refer to which, and which are unique?"""

    database: str


class ForeignKey(Struct, frozen=True, kw_only=True):
    """A column that refers to another; each as (oid of the table, number of the column) and by names."""

    column: tuple[int, int]
    column_name: tuple[str, str]
    referred: tuple[int, int]
    referred_name: tuple[str, str]


class KeysAnswer(Struct, frozen=True, kw_only=True):
    """The foreign keys of a database, column by column, and its columns that are unique by themselves.

    `unique` has schema, table and column; with an empty schema those that are unique in every table of that name.
    `error` says why they are not known.
    """

    question: KeysQuestion
    keys: tuple[ForeignKey, ...] = ()
    unique: tuple[tuple[str, str, str], ...] = ()
    error: str = ""


Question = IndexQuestion | RewriteQuestion | KeysQuestion
Answer = IndexAnswer | RewriteAnswer | KeysAnswer
