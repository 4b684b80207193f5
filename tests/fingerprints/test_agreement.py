"""Each reason on a pair of its own, and a corpus from files to the exit code."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pgparse
import pytest

from pgtattle.analyzers.sql.texts import Texts
from tests.fingerprints import agreement
from tests.fingerprints.__main__ import main
from tests.fingerprints.agreement import SPELLINGS, SPLITS, compare, why_merged, why_split
from tests.fingerprints.corpus import statements, variant

SPLIT = [
    ("literals alone, how many ever, count as nothing", "SELECT f(1)", "SELECT f()"),
    ("literals alone, how many ever, count as nothing", "SELECT a LIMIT 1 OFFSET 2", "SELECT a LIMIT 1"),
    (
        "order and repetition in and of rows of VALUES",
        "INSERT INTO t VALUES (f(1)), (2)",
        "INSERT INTO t VALUES (2), (f(1))",
    ),
    ("order and repetition of arguments, AND and OR", "SELECT 1 WHERE a AND b", "SELECT 1 WHERE b AND a"),
    ("order and repetition in the select list, SET", "SELECT a, b FROM t", "SELECT b, a FROM t"),
    ("order and repetition in FROM", "SELECT 1 FROM a, b", "SELECT 1 FROM b, a"),
    ("order of the columns of INSERT", "INSERT INTO t (a, b) VALUES (1, 2)", "INSERT INTO t (b, a) VALUES (1, 2)"),
    ("a literal and a cast literal", "SELECT a = 1", "SELECT a = 1::int"),
    ("NULL, TRUE and FALSE", "UPDATE t SET a = NULL", "UPDATE t SET a = 1"),
    ("DEFAULT", "UPDATE t SET a = DEFAULT", "UPDATE t SET a = 1"),
    ("literals alone, how many ever, count as nothing", "SELECT a::varchar(5)", "SELECT a::varchar"),
    ("aliases", "SELECT a AS x FROM t AS y", "SELECT a FROM t"),
    ("digits in names of tables", "SELECT a FROM t_202401", "SELECT a FROM t_202402"),
    ("names of temporary tables", "CREATE TEMP TABLE a (x int)", "CREATE TEMP TABLE b (x int)"),
    ("scalar, IN list and array", "SELECT a = 1", "SELECT a IN (1, 2)"),
    ("scalar, IN list and array", "SELECT a = ANY($1)", "SELECT a IN (1, 2)"),
    (agreement.NAMES, "LISTEN a", "LISTEN b"),
    ("options of a transaction", "BEGIN", "BEGIN READ ONLY"),
    ("body and options of a function", "DO 'a' LANGUAGE x", "DO 'a'"),
    ("SET and RESET: values that are words, `=` and TO", "SET a = on", "SET a TO off"),
    ("field of EXTRACT", "SELECT extract(year FROM a)", "SELECT extract(month FROM a)"),
    ("brackets that change nothing", "SELECT (a) + b", "SELECT a + b"),
    ("synonyms, and words that may be left out", "SELECT a FROM b INNER JOIN c ON d", "SELECT a FROM b JOIN c ON d"),
    ("the same tokens in another order", "SELECT a FROM b LIMIT 1 OFFSET 2", "SELECT a FROM b OFFSET 2 LIMIT 1"),
]
MERGED = [
    ("COMMENT ON TABLE t IS 'a'", "COMMENT ON TABLE t IS 'b'"),
    ("ALTER TABLE t SET (fillfactor = 1)", "ALTER TABLE t SET (fillfactor = 'x')"),
    ("SELECT f(1::int)", "SELECT f(-1::int)"),
    ("FETCH 1 FROM a", "FETCH 2 FROM b"),
]


@pytest.mark.parametrize(("reason", "one", "other"), SPLIT)
def test_why_we_keep_apart(reason: str, one: str, other: str) -> None:
    assert pgparse.fingerprint(one) == pgparse.fingerprint(other)
    assert ours(one) != ours(other)
    assert why_split(one, other) == (reason,)


def test_each_reason_has_a_pair() -> None:
    assert {name for name, _ in SPLITS} | set(SPELLINGS.values()) <= {name for name, _, _ in SPLIT} | {
        "`CAST(x AS t)` and `x::t`"
    }


def test_several_reasons_are_all_named() -> None:
    reasons = why_split("SELECT a::text AS x", "SELECT CAST(a AS text)")
    assert reasons == ("aliases",)
    assert "`CAST(x AS t)` and `x::t`" in why_split("SELECT a::text", "SELECT CAST(a AS text)")
    assert set(why_split("SELECT a AS x, b = 1", "SELECT b IN (2), a")) == {
        "aliases",
        "order and repetition in the select list, SET",
        "scalar, IN list and array",
    }


@pytest.mark.parametrize(("one", "other"), MERGED)
def test_why_we_hold_together(one: str, other: str) -> None:
    assert pgparse.fingerprint(one) != pgparse.fingerprint(other)
    assert ours(one) == ours(other)
    assert why_merged(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t", "SELECT b FROM t"),
        ("SELECT a FROM t", "SELECT a FROM u"),
        ("SELECT a = 1", "SELECT a > 1"),
        ("SELECT a FROM t LIMIT 1", "SELECT a FROM t"),
        ("COMMENT ON TABLE t IS 'a'", "COMMENT ON TABLE u IS 'a'"),
    ],
)
def test_what_must_be_apart_has_no_reason_to_be_together(one: str, other: str) -> None:
    assert why_split(one, other) == ()
    assert why_merged(one, other) == ()


def test_a_literal_of_several_tokens_is_a_gap_and_no_reason() -> None:
    assert ours("SELECT U&'!0061' UESCAPE '!'") != ours("SELECT 'a'")
    assert why_split("SELECT U&'!0061' UESCAPE '!'", "SELECT 'a'") == ()


def test_strings_that_a_line_end_parts_are_one_literal() -> None:
    assert ours("SELECT 'a' -- and\n'b'") == ours("SELECT 'a'")


def test_equal_groupings_agree_fully() -> None:
    found = compare(["SELECT a FROM t WHERE b = 1", "SELECT c FROM u", "DELETE FROM t"], variants=3, seed=1)
    assert (found.same_sets, found.rand, found.pairs, found.broken) == (1.0, 1.0, [], [])
    assert (found.counts["statements"], found.counts["variants"]) == (3, 9)


def test_variants_stay_in_their_group() -> None:
    sql = "SELECT \"A\", b FROM t WHERE c = 'x' AND d > 1.5 AND e = E'y' AND f = $$z$$ AND g = $1"
    variants = {variant(sql, Random(seed)) for seed in range(20)}
    assert len(variants) == 20
    assert {ours(text) for text in variants} == {ours(sql)}
    assert {pgparse.fingerprint(text) for text in variants} == {pgparse.fingerprint(sql)}


PSQL = r"""\set x 1
SELECT 1; -- one
COPY t FROM stdin;
1	SELECT ';'
\.
SELECT a FROM t \gset
SELECT b AS x FROM t;
SELECT b FROM t;
SELEC;
"""


def test_what_is_psqls_own_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text(PSQL)
    (tmp_path / "b.txt").write_text("SELECT 1")
    read = [sql.removeprefix("-- one\n") for sql in statements([tmp_path])]
    assert read == [
        "SELECT 1",
        "COPY t FROM stdin",
        "SELECT a FROM t",
        "SELECT b AS x FROM t",
        "SELECT b FROM t",
        "SELEC",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.sql").write_text(PSQL)
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "| statements read | 6 |" in output
    assert "| left out: libpg_query cannot parse them | 1 |" in output
    assert "| aliases | 1 | 1 | `SELECT b FROM t`, `SELECT b AS x FROM t` |" in output
    assert "UNEXPLAINED" not in output
    monkeypatch.setattr(agreement, "SPLITS", [])
    assert main([str(tmp_path)]) == 1
    assert "UNEXPLAINED" in capsys.readouterr().out


def ours(sql: str) -> str:
    return Texts().read(sql)[0].statement.fingerprint
