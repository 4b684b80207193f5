"""Normal forms that are too long to be kept: what stays of them, and what they are still known by."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.sql.abridge import CUT, KEPT_COLUMNS, LEFT_OUT, abridged
from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.analyzers.sql.texts import CREDIT, LONG, MAX_NORMAL_FORM, MAX_SQL, Texts
from pgtattle.proxy.events import Text

MANY = ", ".join(f"a.column_with_a_long_name_{number} AS c{number}" for number in range(1_000))
FEW = ", ".join(f"a.column_with_a_long_name_{number} AS c{number}" for number in range(KEPT_COLUMNS)) + LEFT_OUT


def read(sql: str) -> Text:
    (text,) = Texts().read(sql)
    return text


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (f"SELECT {MANY} FROM a WHERE a.id = $1", f"SELECT {FEW} FROM a WHERE a.id = $1"),
        (
            f"SELECT {MANY}, coalesce(a.x, $1), {MANY} FROM a WHERE a.id = $2",
            f"SELECT {FEW}, coalesce(a.x, $1), {FEW} FROM a WHERE a.id = $2",
        ),
        (
            f"SELECT (SELECT {MANY} FROM b WHERE b.a_id = a.id AND b.x = $1), {MANY} FROM a",
            f"SELECT (SELECT {FEW} FROM b WHERE b.a_id = a.id AND b.x = $1), {FEW} FROM a",
        ),
        (
            f"SELECT {MANY} FROM a UNION SELECT {MANY} FROM b WHERE id = $1",
            f"SELECT {FEW} FROM a UNION SELECT {FEW} FROM b WHERE id = $1",
        ),
        (
            f"SELECT x IS DISTINCT FROM y, extract(year FROM t), {MANY} FROM a",
            "SELECT x IS DISTINCT FROM y, extract(year FROM t), "
            + FEW.replace(", a.column_with_a_long_name_6 AS c6, a.column_with_a_long_name_7 AS c7", "")
            + " FROM a",
        ),
    ],
)
def test_columns_are_left_out_in_the_middle(long: str, short: str) -> None:
    assert abridged(long, 1_000) == short
    assert abridged(long, len(long)) == long


def test_what_is_long_without_its_columns_is_cut() -> None:
    long = "SELECT a FROM t WHERE " + " AND ".join(f"column_{number} = ${number + 1}" for number in range(2_000))
    assert abridged(long, 5_000) == long[:5_000] + CUT


def test_a_long_statement_is_known_by_the_whole_of_it_and_has_its_facts() -> None:
    one = read(f"SELECT {MANY} FROM author a WHERE a.id = 7")
    other = read(f"SELECT {MANY} FROM author a WHERE a.name = 7")
    assert read(f"select {MANY} from author a where a.id = 9").statement == one.statement
    assert one.statement.fingerprint != other.statement.fingerprint
    assert len(one.statement.sql) < 1_000 < MAX_NORMAL_FORM < len(one.sql)
    assert not one.truncated
    facts = FactsCache().of(one)
    assert (facts.parsed, facts.tables, [(use.column, use.role) for use in facts.uses]) == (
        True,
        ("author",),
        [("id", "eq")],
    )


def test_very_long_texts_are_read_whole_as_long_as_they_are_few() -> None:
    texts = Texts()

    def of(number: int, repeat: int = 3) -> Text:
        (text,) = texts.read(f"SELECT t{number}.a, {', '.join([MANY] * repeat)} FROM author a WHERE a.id = $1")
        return text

    found = [of(number) for number in range(2 * round(CREDIT))]
    assert len(found[0].sql) > LONG
    whole = [text for text in found if not text.truncated]
    assert len(whole) == CREDIT
    assert all(text.statement.sql.endswith("FROM author a WHERE a.id = $1") for text in whole)
    assert all(len(text.sql) <= LONG for text in found if text.truncated)
    assert of(0) is found[0]
    assert of(0, 10).truncated


def test_a_long_text_that_comes_again_is_not_read_again() -> None:
    texts = Texts()
    sql = f"SELECT {MANY} FROM author a WHERE a.id = $1"
    assert MAX_NORMAL_FORM < len(sql) < MAX_SQL
    assert texts.read(sql)[0] is texts.read(sql)[0]
