"""What the planner makes of the indexes that a statement could have, one by one.

Enters: a question about indexes, within the side connection's transaction. Leaves: the plan as it is, what the
catalogue says of the statement's tables, and with HypoPG the plan with each candidate. A candidate that the server
refuses is left out and spoils nothing. Source: HypoPG's documentation (hypothetical indexes survive ROLLBACK, so they
are reset each time); PostgreSQL, "Operator Classes and Operator Families" and `GetDefaultOpClass` (indexcmds.c).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import psycopg
from psycopg import sql

from pgtattle.analyzers.plan.candidates import candidates, filtering
from pgtattle.analyzers.plan.model import Node, read
from pgtattle.analyzers.plan.scans import reads
from pgtattle.analyzers.questions import ColumnFacts, IndexAnswer, IndexCandidate, IndexQuestion, TableFacts

MAX_CANDIDATES: Final = 6

# No candidates for catalogues, views, foreign tables, partitioned tables and their partitions, and temporary tables.
_TABLE: Final = """
    SELECT n.nspname, c.reltuples, c.relpages
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass(%s) AND c.relkind = 'r' AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""
_INDEXES: Final = """
    SELECT (SELECT array_agg(coalesce(a.attname, '')::text ORDER BY k.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
            WHERE k.place <= i.indnkeyatts)
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
    WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
"""
# An array has an operator class whether or not its elements can be compared, and so has a composite type: an array is
# looked at by its elements, a domain by its base, and a composite type is left out. A virtual generated column, of
# PostgreSQL 18, can be in no index; nor can values that are so wide that ANALYZE has skipped all of them.
_COLUMNS: Final = """
    WITH RECURSIVE made_of(number, type) AS (
        SELECT attnum, atttypid FROM pg_attribute
        WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT m.number, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
        FROM made_of m JOIN pg_type t ON t.oid = m.type
        WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0)
    ), compared(type) AS (
        SELECT o.opcintype FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
        WHERE a.amname = 'btree' AND o.opcdefault
    )
    SELECT a.attname, a.attgenerated <> 'v' AND EXISTS (
        SELECT FROM made_of m JOIN pg_type t ON t.oid = m.type
        WHERE m.number = a.attnum AND (t.typtype IN ('e', 'r', 'm') OR t.oid IN (SELECT type FROM compared) OR EXISTS (
            SELECT FROM pg_cast c JOIN compared ON compared.type = c.casttarget
            WHERE c.castsource = t.oid AND c.castmethod = 'b' AND c.castcontext = 'i'
        ))
    ) AND NOT coalesce(
        y.typlen = -1 AND y.typanalyze = 0 AND s.null_frac < 1
        AND s.most_common_vals IS NULL AND s.histogram_bounds IS NULL, false
    ),
    CASE WHEN s.n_distinct > 0 THEN (1 - s.null_frac) / s.n_distinct
         WHEN s.n_distinct < 0 THEN (1 - s.null_frac) / greatest(-s.n_distinct * c.reltuples, 1) END,
    s.null_frac,
    ARRAY(SELECT format_type(m.type, NULL) FROM made_of m WHERE m.number = a.attnum
          UNION SELECT format_type(c.casttarget, NULL) FROM made_of m JOIN pg_cast c ON c.castsource = m.type
                WHERE m.number = a.attnum AND c.castmethod = 'b')
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type y ON y.oid = a.atttypid
    LEFT JOIN pg_stats s ON s.schemaname = %(schema)s AND s.tablename = c.relname AND s.attname = a.attname
        AND NOT s.inherited
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
"""

Connection = psycopg.Connection[tuple[Any, ...]]


def ask(connection: Connection, question: IndexQuestion, explain: Callable[[], bytes], hypopg: str) -> IndexAnswer:
    """The answer to a question about indexes. `explain` plans its statement; HypoPG is in a schema, if anywhere."""
    before = explain()
    try:
        plan = read(before)
    except ValueError:
        return IndexAnswer(question=question, before=before)
    names = dict.fromkeys(use.table for use in question.uses if use.table)
    tables = tuple(facts for name in names if (facts := _table(connection, name)) is not None)
    uses = question.uses
    if hypopg:
        behind = tuple(_behind_views(connection, plan, tables))
        tables += behind
        uses += tuple(use for facts in behind for use in filtering(plan, facts))
    # Only the planner shows whether an index serves an order.
    found = (one for one in candidates(uses, tables, plan) if hypopg or not one.ordered)
    could = tuple(islice(found, MAX_CANDIDATES))
    tried = [_try(connection, candidate, explain, hypopg) for candidate in could] if hypopg else []
    return IndexAnswer(
        question=question,
        before=before,
        candidates=could,
        tried=bool(hypopg),
        after=tuple(one for one in tried if one is not None),
        tables=tables,
    )


def _behind_views(connection: Connection, plan: Node, known: tuple[TableFacts, ...]) -> Iterator[TableFacts]:
    """The tables that the plan reads and the statement does not name, or not by a column's name that is sure."""
    scans = [node for node in plan.walk() if node.kind == "Seq Scan" and node.filtered]
    others = [node for node in scans if not any(reads(node, facts) for facts in known)]
    for name in dict.fromkeys(f"{node.schema}.{node.relation}" for node in others):
        if (facts := _table(connection, name)) is not None:
            yield facts


def _table(connection: Connection, name: str) -> TableFacts | None:
    """An ordinary table; None for anything else by that name."""
    quoted = sql.Identifier(*name.split(".", 1)).as_string(connection)
    row = connection.execute(_TABLE, [quoted]).fetchone()
    if row is None:
        return None
    indexes = connection.execute(_INDEXES, [quoted]).fetchall()
    columns = connection.execute(_COLUMNS, {"table": quoted, "schema": row[0]}).fetchall()
    return TableFacts(
        name=name,
        schema=row[0],
        rows=float(row[1]),
        pages=int(row[2]),
        columns={
            name: ColumnFacts(btree, -1.0 if equal is None else equal, -1.0 if null is None else null, frozenset(casts))
            for name, btree, equal, null, casts in columns
        },
        indexes=tuple(tuple(key) for (key,) in indexes if key),
    )


def reset(hypopg: str) -> bytes:
    """The SQL that forgets all hypothetical indexes."""
    return f"SELECT {hypopg}.hypopg_reset()".encode()


def _try(
    connection: Connection, candidate: IndexCandidate, explain: Callable[[], bytes], hypopg: str
) -> tuple[IndexCandidate, str, bytes] | None:
    """The plan with a hypothetical index, and that index's name; None where the server refuses it.

    Raises psycopg.OperationalError where a time limit was reached: then the server is asked nothing more.
    """
    create = sql.SQL("CREATE INDEX ON {} ({})").format(
        sql.Identifier(*candidate.table.split(".", 1)), sql.SQL(", ").join(map(sql.Identifier, candidate.columns))
    )
    connection.execute(reset(hypopg))
    try:
        with connection.transaction():
            row = connection.execute(
                f"SELECT indexname FROM {hypopg}.hypopg_create_index(%s)".encode(), [create.as_string(connection)]
            ).fetchone()
            return (candidate, str(row[0]), explain()) if row is not None else None
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return None
