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
