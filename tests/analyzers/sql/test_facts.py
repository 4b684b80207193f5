"""Facts of statements, as data."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.sql.facts import Facts
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import Texts


def of(sql: str, cache: FactsCache | None = None) -> Facts:
    return (cache or FactsCache()).of(Texts().read(sql)[0])


CASES = [
    ("SELECT * FROM orders WHERE mail = 'x'", ["orders"], ["orders.mail eq"]),
    ("SELECT * FROM s.orders o WHERE o.a > 1 AND o.b LIKE 'x%'", ["s.orders"], ["s.orders.a range", "s.orders.b like"]),
    ("SELECT 1 FROM a JOIN b ON b.a_id = a.id", ["a", "b"], ["b.a_id join", "a.id join"]),
    ("SELECT 1 FROM a, b WHERE x = 1", ["a", "b"], [".x eq"]),
    ("SELECT 1 FROM t WHERE a = 1 OR b = 2", ["t"], []),
    ("SELECT 1 FROM t WHERE NOT a = 1", ["t"], []),
    ("SELECT 1 FROM t WHERE lower(mail) = 'x'", ["t"], ["t.mail eq lower"]),
    ("SELECT 1 FROM t WHERE a IN (1, 2) AND b = ANY($1) AND c IS NULL", ["t"], ["t.a eq", "t.b eq", "t.c null"]),
    ("SELECT 1 FROM t WHERE a BETWEEN 1 AND 2 ORDER BY b DESC LIMIT 3", ["t"], ["t.a range", "t.b order"]),
    ("SELECT a, count(*) FROM t GROUP BY a", ["t"], ["t.a group"]),
    ("WITH q AS (SELECT * FROM t WHERE id = 1) SELECT * FROM q WHERE q.x = 2", ["t"], [".x eq", "t.id eq"]),
    ("UPDATE t SET a = 1 WHERE b = 2", ["t"], ["t.b eq"]),
    ("DELETE FROM t WHERE b IN (1, 2)", ["t"], ["t.b eq"]),
    ("DELETE FROM t USING u WHERE t.id = u.id", ["t", "u"], ["t.id join", "u.id join"]),
    ("INSERT INTO t SELECT * FROM u WHERE u.a = 1", ["t", "u"], ["u.a eq"]),
    ("SELECT 1 FROM t WHERE a = (SELECT max(x) FROM u WHERE u.y = 1)", ["t", "u"], ["t.a eq", "u.y eq"]),
    ("SELECT 1 FROM t WHERE a IS NOT NULL", ["t"], []),
    ('SELECT 1 FROM "Odd Table" WHERE "Odd" = 1', ["Odd Table"], ["Odd Table.Odd eq"]),
]
COPIES = [
    ("COPY s.t (a, b) FROM STDIN", ["s.t"]),
    ("copy t to stdout with (format binary)", ["t"]),
    ("COPY (SELECT a FROM t JOIN u USING (a)) TO STDOUT", ["t", "u"]),
    ('COPY "Odd Table" TO STDOUT', ["Odd Table"]),
]


@pytest.mark.parametrize(("sql", "tables"), COPIES)
def test_the_tables_of_a_copy(sql: str, tables: list[str]) -> None:
    assert list(of(sql).tables) == tables


@pytest.mark.parametrize(("sql", "tables", "uses"), CASES)
def test_tables_and_uses(sql: str, tables: list[str], uses: list[str]) -> None:
    facts = of(sql)
    assert facts.parsed
    assert sorted(facts.tables) == sorted(tables)
    assert sorted(f"{use.table}.{use.column} {use.role} {use.function}".strip() for use in facts.uses) == sorted(uses)


def test_each_mention_of_a_table_is_a_source_of_its_own() -> None:
    facts = of("SELECT 1 FROM t a JOIN t b ON a.x = b.y WHERE a.z = 1 UNION SELECT 1 FROM t WHERE x = 1")
    sources = [(use.column, use.source) for use in facts.uses]
    assert len({source for _, source in sources}) == 3
    assert {one for one in sources if one[0] in "xz"} >= {("x", "0.a"), ("z", "0.a")}


def test_what_may_be_of_the_same_row_is_known_by_what_it_is_compared_to() -> None:
    assert [use.compared_to for use in of("SELECT 1 FROM t WHERE x = y").uses] == ["y", "x"]
    assert [use.compared_to for use in of("SELECT 1 FROM t WHERE t.x = y").uses] == ["y", "x"]
    assert [use.compared_to for use in of("SELECT 1 FROM t a JOIN t b ON a.x = b.y").uses] == ["", ""]


def test_flags() -> None:
    facts = of("SELECT count(*) FROM t WHERE a = 1 LIMIT 5 FOR UPDATE")
    assert (facts.has_limit, facts.has_aggregate, facts.locks) == (True, True, True)
    plain = of("SELECT a FROM t ORDER BY a DESC")
    assert (plain.has_limit, plain.has_aggregate, plain.locks) == (False, False, False)
    assert plain.uses[0].descending


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT " + "(" * 1_000 + "1" + ")" * 1_000, "depth"),
        ("SELECT " + "CASE WHEN a THEN " * 60 + "1" + " END" * 60, "depth"),
        ("SELECT x FROM t WHERE " + " AND ".join(f"column_{n} = 1" for n in range(3000)), "size"),
        ("SELECT FROM WHERE ORDER", "syntax"),
    ],
)
def test_what_sqlglot_is_spared_is_counted(sql: str, reason: str) -> None:
    cache = FactsCache()
    facts = of(sql, cache)
    assert not facts.parsed
    assert facts.reason == reason
    assert cache.fallbacks == {reason: 1}
    of(sql, cache)
    assert cache.fallbacks == {reason: 1}


def test_tables_are_found_lexically_where_it_was_not_parsed() -> None:
    facts = of("SELECT " + "(" * 100 + "1" + ")" * 100 + " FROM a JOIN s.b ON true")
    assert facts.tables == ("a", "s.b")


def test_what_only_looks_like_a_table_is_none() -> None:
    deep = "SELECT " + "(" * 100 + "1" + ")" * 100
    facts = of(
        deep + ' FROM ONLY a, f() JOIN "B c" ON a IS DISTINCT FROM b JOIN generate_series(1, 2) ON true FOR UPDATE'
    )
    assert facts.tables == ("a", "B c")


def test_utilities_are_no_business_of_sqlglot() -> None:
    cache = FactsCache()
    assert not of("SAVEPOINT x", cache).parsed
    assert cache.fallbacks == {}


COMPARED = [
    ("SELECT x FROM r WHERE r.a = 1 AND b = 2", ["1 r.a always", "2 b always"]),
    ("SELECT x FROM r WHERE 1 = r.a OR b = 2", ["1 r.a", "2 b"]),
    ("SELECT x FROM r WHERE a IN (1) AND b IN (SELECT unnest($1))", ["1 a", "2 b array"]),
    ("SELECT x FROM r WHERE (a) = ($1)::uuid AND CAST(b AS text) = CAST($2 AS text)", ["1 a always", "2 b always"]),
    (
        "SELECT x FROM r WHERE a = ANY($1) AND b = SOME($2) AND c = ANY(ARRAY[3])",
        ["1 a array", "2 b array always", "3 c"],
    ),
    ("SELECT x FROM r WHERE a OPERATOR(pg_catalog.=) 1 AND b OPERATOR(pg_catalog.<) 2", ["1 a always"]),
    ("SELECT x FROM r WHERE a IS NOT DISTINCT FROM 1 AND NOT b <> 2", ["1 a always", "2 b"]),
    ("SELECT x FROM r WHERE NOT (a = 1 AND b IS NOT DISTINCT FROM 2) AND c <> 3 AND d > 4", []),
    (
        "SELECT x FROM r WHERE (a, b) = (1, 2) AND (c, d) IN ((3, 4))",
        ["1 a always", "2 b always", "3 c always", "4 d always"],
    ),
    ('SELECT x FROM s."R" AS q WHERE s."R"."aB" = 1', ["1 s.R.aB always"]),
    ("SELECT x FROM r JOIN (VALUES (1)) AS v(k) ON v.k = r.a", ["1 r.a"]),
    ("SELECT x FROM unnest($1, $2) AS v(k, l) JOIN r ON (v.k, v.l) = (r.a, r.b)", ["1 r.a array", "2 r.b array"]),
    ("WITH v AS (SELECT 1 AS k) SELECT x FROM r, v WHERE r.a = v.k", ["1 r.a always"]),
    ("SELECT x FROM r WHERE EXISTS (SELECT FROM q WHERE q.a = 1)", ["1 q.a"]),
    ("SELECT a = 1, CASE WHEN b = 2 THEN 3 END FROM r WHERE c = 4 + 5 AND f(d) = 6", []),
    ("UPDATE r SET a = 1, b = 2 WHERE c = 3", ["3 c always"]),
    ("INSERT INTO r (a, b) VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b", ["1 a always"]),
    ("INSERT INTO r (a, b) VALUES (1, 2)", []),
    ("MERGE INTO r USING (VALUES (1, 2)) v(a, b) ON r.a = v.a WHEN MATCHED THEN UPDATE SET b = v.b", ["1 r.a"]),
]


@pytest.mark.parametrize(("sql", "compared"), COMPARED)
def test_columns_that_equal_a_placeholder(sql: str, compared: list[str]) -> None:
    found = of(sql).compared
    words = [f"{one.number} {one.column}{' array' * one.array}{' always' * one.always}" for one in found]
    assert [word.replace("$", "") for word in words] == compared


def test_columns_that_are_set() -> None:
    assert of("UPDATE r SET a = 1, (b, c) = (2, 3) WHERE d = 4").assigned == {"a", "b", "c"}
    assert of("INSERT INTO r (a, b) VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = excluded.b").assigned == {"b"}
    assert of("SELECT x FROM r WHERE a = 1").assigned == frozenset()


def test_columns_are_found_lexically_where_it_was_not_parsed() -> None:
    found = of(
        "SELECT " + "(" * 100 + "x" + ")" * 100 + ' FROM r WHERE r.a = 2 AND b IN (3) AND "C" = ANY($1)'
    ).compared
    assert [(one.column, one.array) for one in found] == [("r.a", False), ("b", False), ("C", True)]
