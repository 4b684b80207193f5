"""Reading SQL: fingerprints, splitting, classification, tags, secrets, and text that means harm."""

from __future__ import annotations

import time

import pgparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.sql.comments import MAX_TAGS, tags, trace_id
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.analyzers.sql.tokens import tokenize, value
from pgtattle.proxy.events import Text


def only(sql: str) -> Text:
    (text,) = Texts().read(sql)
    return text


def form(sql: str) -> str:
    return only(sql).statement.sql


NORMAL_FORMS = [
    ("select * from T where a=1 and b in (1,2,3)", "SELECT * FROM t WHERE a = $1 AND b IN ($2)"),
    ('SELECT a."b", "Odd" FROM a WHERE c<>-5', 'SELECT a.b, "Odd" FROM a WHERE c <> $1'),
    ("INSERT INTO t(a, b) VALUES (1,'x'),(2,'y') RETURNING id", "INSERT INTO t(a, b) VALUES ($1, $2) RETURNING id"),
    ("select date '2024-01-01', interval '1 day'", "SELECT $1::date, $2::interval"),
    ("select x from t where y = any($1) limit 10 offset 20", "SELECT x FROM t WHERE y = ANY($1) LIMIT $2 OFFSET $3"),
    ("select e'a\\'b', $$x$$, $t$y$t$, 0x1F, 1e5, .5, b'1'", "SELECT $1, $2, $3, $4, $5, $6, $7"),
    ("select a[1:2], j->>'k', x::text[] from t", "SELECT a[$1:$2], j ->> $3, x::text[] FROM t"),
    ("SAVEPOINT sa_17", "SAVEPOINT name"),
    ("ROLLBACK TO SAVEPOINT sa_17", "ROLLBACK TO SAVEPOINT name"),
    ('fetch forward 50 from "c 1"', "FETCH forward $1 FROM name"),
    ("select null, true, default", "SELECT NULL, TRUE, DEFAULT"),
]


@pytest.mark.parametrize(("sql", "expected"), NORMAL_FORMS)
def test_normal_forms(sql: str, expected: str) -> None:
    assert form(sql) == expected
    assert form(expected) == expected


SAME = [
    ("SELECT * FROM t WHERE a = 1", "select  *\nfrom T /* why */ where a='x' -- end"),
    ("SELECT 1 FROM t WHERE a IN (1)", "SELECT 2 FROM t WHERE a IN (1, 2, 3, 4)"),
    ("INSERT INTO t VALUES (1, 2)", "INSERT INTO t VALUES (1, 2), (3, 4), (5, 6)"),
    ("SELECT * FROM t WHERE a = $1", "SELECT * FROM t WHERE a = 17"),
    ("SELECT * FROM t WHERE a = -1", "SELECT * FROM t WHERE a = 1"),
    ("SELECT * FROM t WHERE a != 1", "SELECT * FROM t WHERE a <> 1"),
    ('SELECT "a" FROM "t"', "SELECT a FROM t"),
    ("SELECT '2024-01-01'::date", "SELECT date '2025-02-02'"),
    ("PREPARE a AS SELECT 1", "PREPARE b AS SELECT 2"),
    ("SELECT 1 WHERE a IN ('x'::text)", "SELECT 1 WHERE a IN ('y'::text, 'z'::text)"),
    ("SELECT 1_000.5e0_1", "SELECT 2"),
    ("SELECT 1 FROM t LIMIT -1", "SELECT 1 FROM t LIMIT 5"),
]
DIFFERENT = [
    ("SELECT * FROM t WHERE a = 1", "SELECT * FROM u WHERE a = 1"),
    ("SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE b = 1"),
    ("SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a > 1"),
    ("SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a IN (1)"),
    ("SELECT * FROM t WHERE a IN (1)", "SELECT * FROM t WHERE a = ANY($1)"),
    ("SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a IS NULL"),
    ("SELECT * FROM t", "SELECT * FROM t LIMIT 1"),
    ('SELECT "A" FROM t', "SELECT a FROM t"),
    ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1, 2)"),
    ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (DEFAULT)"),
    ('SELECT "user" FROM t', "SELECT user FROM t"),
    ("SELECT NULL - 1", "SELECT NULL + 1"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_the_same_statement(one: str, other: str) -> None:
    assert only(one).statement.fingerprint == only(other).statement.fingerprint


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_is_another_statement(one: str, other: str) -> None:
    assert only(one).statement.fingerprint != only(other).statement.fingerprint


@pytest.mark.parametrize(("one", "other"), [*SAME, *DIFFERENT])
def test_agreement_with_libpg_query(one: str, other: str) -> None:
    """The known disagreements: it merges `=`, IN and ANY with each other, rows of VALUES and DEFAULT; and it keeps a
    typed literal apart from a cast one."""
    ours = only(one).statement.fingerprint == only(other).statement.fingerprint
    theirs = pgparse.fingerprint(one) == pgparse.fingerprint(other)
    known = {
        ("SELECT * FROM t WHERE a = 1", "SELECT * FROM t WHERE a IN (1)"),
        ("SELECT * FROM t WHERE a IN (1)", "SELECT * FROM t WHERE a = ANY($1)"),
        ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1, 2)"),
        ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (DEFAULT)"),
    }
    if (one, other) not in known:
        assert ours == theirs


literals = st.one_of(
    st.integers(0, 10**20).map(str),
    st.text(max_size=20).map(lambda text: "'" + text.replace("'", "''").replace("\0", "") + "'"),
    st.sampled_from(["$1", "$tag$ it's $tag$", "E'\\''", "1.5e-3", "B'01'"]),
)
spaces = st.sampled_from([" ", "\n", "\t ", " /* a 'comment' */ ", " -- line\n", " /* nested /* one */ */ "])


@given(literals, literals, spaces, st.lists(literals, min_size=1, max_size=9))
def test_literals_space_and_length_do_not_change_the_fingerprint(
    a: str, b: str, space: str, members: list[str]
) -> None:
    sql = f"SELECT{space}x FROM{space}t WHERE a = {a}{space}AND b > {b} AND c IN ({', '.join(members)})"
    assert form(sql) == "SELECT x FROM t WHERE a = $1 AND b > $2 AND c IN ($3)"
    assert form(sql.lower().replace("select", "SeLeCt")).startswith("SELECT x")


@given(st.text(max_size=200))
def test_any_text_is_read_and_its_normal_form_is_its_own(sql: str) -> None:
    for text in Texts().read(sql):
        assert len(text.statement.fingerprint) == 16
        assert all(slot.number >= 1 for slot in text.slots)


@given(st.text(alphabet="select'\"$;()/*-\\eE1a,.:[] \n", max_size=120))
def test_any_soup_of_sql_is_read(sql: str) -> None:
    tokens = tokenize(sql)
    assert all(sql[token.start : token.end] == token.text for token in tokens)
    assert Texts().read(sql)


SPLIT = [
    ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
    ("SELECT ';'; SELECT $$;$$; SELECT $a$;$b$;$a$", ["SELECT ';'", "SELECT $$;$$", "SELECT $a$;$b$;$a$"]),
    ("SELECT 1 /* ; */ ; -- ;\nSELECT 2", ["SELECT 1 /* ; */", "-- ;\nSELECT 2"]),
    ("SELECT 1; /* request_id='7' */", ["SELECT 1; /* request_id='7' */"]),
    ("/* a */ SELECT 1", ["/* a */ SELECT 1"]),
    (";;", [";;"]),
    ("", [""]),
    (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END; SELECT 3",
        ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END", "SELECT 3"],
    ),
    (
        "CREATE FUNCTION f() RETURNS int BEGIN -- why\nATOMIC SELECT 1; END; SELECT 3",
        ["CREATE FUNCTION f() RETURNS int BEGIN -- why\nATOMIC SELECT 1; END", "SELECT 3"],
    ),
]


@pytest.mark.parametrize(("sql", "expected"), SPLIT)
def test_splitting(sql: str, expected: list[str]) -> None:
    assert [text.sql for text in Texts().read(sql)] == expected


COMMANDS = [
    ("SELEC geheim", "OTHER", "utility"),
    ("hunter2", "OTHER", "utility"),
    ("SELECT 1", "SELECT", "read"), ("(SELECT 1) UNION SELECT 2", "SELECT", "read"), ("VALUES (1)", "VALUES", "read"),
    ("WITH x AS (SELECT 1) SELECT * FROM x", "SELECT", "read"), ("TABLE t", "TABLE", "read"),
    ("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", "INSERT", "write"),
    ("WITH RECURSIVE x(a) AS (SELECT 1 UNION SELECT a FROM x) UPDATE t SET a = 1", "UPDATE", "write"),
    ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", "MERGE", "write"), ("BEGIN", "BEGIN", "transaction"),
    ("START TRANSACTION READ ONLY", "BEGIN", "transaction"), ("END", "COMMIT", "transaction"),
    ("ABORT", "ROLLBACK", "transaction"), ("SAVEPOINT x", "SAVEPOINT", "transaction"), ("SET x = 1", "SET", "session"),
    ("DISCARD ALL", "DISCARD", "session"), ("LISTEN x", "LISTEN", "session"), ("COPY t FROM STDIN", "COPY", "copy"),
    ("CREATE INDEX ON t (a)", "CREATE", "ddl"), ("TRUNCATE t", "TRUNCATE", "ddl"), ("", "EMPTY", "empty"),
    ("-- ping", "EMPTY", "empty"), ("VACUUM t", "VACUUM", "utility"), ("EXPLAIN SELECT 1", "EXPLAIN", "utility"),
    ("%!", "OTHER", "utility"), ("WITH delete AS (SELECT 1) SELECT 1", "SELECT", "read"),
    ("WITH x AS (SELECT 1) (SELECT * FROM x)", "SELECT", "read"),
    ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION", "transaction"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "command", "kind"), COMMANDS)
def test_classification(sql: str, command: str, kind: str) -> None:
    statement = only(sql).statement
    assert (statement.command, statement.kind) == (command, kind)


TAGS = [
    ("SELECT 1 /*route='%2Fa%20b',request_id='7'*/", {"route": "/a b", "request_id": "7"}),
    ("/*controller='books',action='index'*/ SELECT 1", {"controller": "books", "action": "index"}),
    ("SELECT 1 /*route='%%2Fa'*/", {"route": "/a"}),
    ("SELECT 1 /*key='it\\'s'*/", {"key": "it's"}),
    ("SELECT 1 /*application:web,controller:books*/", {"application": "web", "controller": "books"}),
    ("SELECT 1 -- request_id=abc", {"request_id": "abc"}),
    ("SELECT 1; /*request_id='7'*/", {"request_id": "7"}),
    (
        "SELECT 1 /* dbapi_threadsafety=2,driver_paramstyle='pyformat' */",
        {"dbapi_threadsafety": "2", "driver_paramstyle": "pyformat"},
    ),
    ("SELECT 1 /*a='1'*/ /*b='2'*/", {"a": "1", "b": "2"}),
    ("SELECT 1 /* note: this is prose, not tags */", {}),
    ("SELECT '/*a=1*/'", {}),
    ("SELECT 1 /*" + "x" * 5000 + "='1'*/", {}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), TAGS)
def test_tags(sql: str, expected: dict[str, str]) -> None:
    assert dict(only(sql).tags) == expected


def test_tags_are_bounded_and_clean() -> None:
    found = tags(["/*" + ",".join(f"k{n}='v{n}'" for n in range(100)) + "*/"])
    assert len(found) == MAX_TAGS
    assert tags(["/*a='" + "x" * 1000 + "'*/"])["a"] == "x" * 200
    assert tags(["/*a='%1B%5B2J%00x'*/"])["a"] == "[2Jx"


def test_a_huge_parameter_number_is_read() -> None:
    assert only("SELECT $99999999999999999999999999").statement.sql.startswith("SELECT")


def test_a_text_without_its_end_is_not_taken_for_the_whole() -> None:
    texts = Texts()
    assert texts.read("SELECT 1") != texts.read("SELECT 1", truncated=True)


def test_trace_ids() -> None:
    assert trace_id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") == "0af7651916cd43dd8448eb211c80319c"
    assert trace_id("nonsense") == ""


SECRETS = [
    "ALTER ROLE x PASSWORD 'geheim'",
    "CREATE USER x WITH ENCRYPTED PASSWORD 'geheim' VALID UNTIL 'tomorrow'",
    "CREATE USER MAPPING FOR x SERVER s OPTIONS (user 'x', password 'geheim')",
    "ALTER SERVER s OPTIONS (SET passfile 'geheim')",
    "CREATE SUBSCRIPTION s CONNECTION 'host=h password=geheim' PUBLICATION p",
    "SELECT dblink_connect('host=h password=geheim')",
    "SELECT * FROM dblink('password=geheim', 'SELECT 1') AS t(a int)",
    "SELECT crypt('geheim', gen_salt('bf'))",
    "SET app.secret = 'geheim'",
    "/* c */ alter role x password $$geheim$$; SELECT 1",
    "SELECT 1; ALTER ROLE x PASSWORD 'geheim'",
    "SELECT * FROM f('postgresql://x:geheim@h/d')",
    "DO $$BEGIN ALTER ROLE x PASSWORD 'geheim'; END$$",
    "SELECT \"crypt\"('geheim', ('a'))",
]


@pytest.mark.parametrize("sql", SECRETS)
def test_secrets_are_masked_before_anything_is_kept(sql: str) -> None:
    for text in Texts().read(sql):
        assert "geheim" not in repr(text)
    assert any("***" in text.sql for text in Texts().read(sql))


def test_slots_and_values() -> None:
    text = only("SELECT f('x', $2) FROM t WHERE a = 'it''s' AND b IN (1, $1) LIMIT 5")
    assert [(slot.number, slot.parameter, slot.value, slot.where) for slot in text.slots] == [
        (1, 0, "x", "call"),
        (2, 2, "", "call"),
        (3, 0, "it's", "where"),
        (4, 0, "1", "where"),
        (4, 1, "", "where"),
        (5, 0, "5", "limit"),
    ]
    assert text.lists == ((4, 2),)


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("'a''b'", "a'b"),
        ("E'a\\n\\x41\\u00e9'", "a\nAé"),
        ("$$x$$", "x"),
        ("$t$a$$b$t$", "a$$b"),
        ("'open", "open"),
        ("$$open", "open"),
    ],
)
def test_values_of_literals(literal: str, expected: str) -> None:
    (token,) = tokenize(literal)
    assert value(token) == expected


HOSTILE = {
    "quotes": "'" * 1_000_000,
    "comments": "/*" * 500_000,
    "parentheses": "(" * 1_000_000,
    "escapes": "e'" + "\\" * 1_000_000,
    "dollars": "$a$" * 300_000,
    "operators": "+" * 1_000_000 + "--",
    "members": f"SELECT 1 WHERE a IN ({','.join('1' * 200_000)})",
    "rows": "INSERT INTO t VALUES " + ",".join(["(1,2)"] * 100_000),
    "statements": "SELECT 1;" * 100_000,
    "nul": "SELECT 1\0; DROP TABLE x",
    "one literal": "SELECT '" + "x" * 10_000_000 + "'",
    "surrogates": "SELECT '\ud800'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_costs_bounded_time(name: str) -> None:
    began = time.process_time()
    texts = Texts().read(HOSTILE[name])
    # A second where it is linear, and hours where it is not.
    assert time.process_time() - began < 30
    assert all(len(text.sql) <= 65_536 and len(text.slots) <= 256 for text in texts)


def test_the_cache_is_bounded_and_shares_statements() -> None:
    texts = Texts(max_entries=100)
    first = texts.read("SELECT 1 /* a */")[0]
    assert texts.read("SELECT 1 /* a */")[0] is first
    assert texts.read("SELECT 2 -- b")[0].statement is first.statement
    for number in range(10_000):
        texts.read(f"SELECT {number}")
    assert len(texts._cache) <= 100
