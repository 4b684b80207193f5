"""What statements say that make, run or end another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.analyzers.sql.indirect import Argument, Held, executed, held, named


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("PREPARE p AS SELECT 1", Held("p", "SELECT 1")),
        ("prepare P(int, pg_catalog.int8) as select $1", Held("p", "select $1", (23, 20))),
        (
            'PREPARE "My ""P" (character varying(10), numeric(8, 2), timestamp with time zone, mood) AS SELECT a AS b',
            Held('My "P', "SELECT a AS b", (1043, 1700, 1184, 0)),
        ),
        ("/* x */ PREPARE p AS /* y */ SELECT 1 -- z", Held("p", "SELECT 1 -- z")),
        ("DECLARE c CURSOR FOR SELECT 1 FOR UPDATE", Held("c", "SELECT 1 FOR UPDATE")),
        ('DECLARE "C" BINARY NO SCROLL CURSOR WITH HOLD FOR TABLE t', Held("C", "TABLE t", (), True)),
        ("declare c insensitive cursor without hold for values (1)", Held("c", "values (1)")),
        ("PREPARE p", None),
        ("PREPARE p AS", None),
        ("DECLARE c CURSOR", None),
    ],
)
def test_what_is_held(sql: str, found: Held | None) -> None:
    assert held(sql) == found


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", []),
        ("(7)", ["7"]),
        ("(-7, + 8, 'O''Brien', E'a\\n', $$x$$)", ["-7", "8", "O'Brien", "a\n", "x"]),
        ("(NULL, true, FALSE, null::int)", [None, "t", "f", None]),
        (
            "('7'::int, CAST('8' AS bigint), (9), ('10')::numeric(4, 2), date '2026-01-02')",
            [*"789", "10", "2026-01-02"],
        ),
        ("(ARRAY[1, 2], ARRAY['a']::text[], '{3,4}')", ["{1,2}", "{a}", "{3,4}"]),
    ],
)
def test_the_values_of_an_execute(arguments: str, values: list[str | None]) -> None:
    assert executed(f"EXECUTE p{arguments};") == ("p", tuple(Argument(one, True) for one in values))


@pytest.mark.parametrize("expression", ["now()", "1 + 2", "f(1, 2)", "(1::int) + 1", "(SELECT 1)", "ARRAY[now()]", "x"])
def test_what_only_the_server_can_tell(expression: str) -> None:
    found = executed(f"EXECUTE p(1, {expression}, 2)")
    assert found is not None
    assert [one.known for one in found[1]] == [True, False, True]


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("FETCH c", "c"),
        ("FETCH FORWARD 50 FROM C", "c"),
        ('FETCH ALL IN "My C"', "My C"),
        ("MOVE ABSOLUTE -1 FROM c /* x */", "c"),
        ("CLOSE c;", "c"),
        ("CLOSE ALL", None),
        ('CLOSE "all"', "all"),
        ("DEALLOCATE PREPARE p", "p"),
        ("DEALLOCATE ALL", None),
        ("DISCARD", None),
    ],
)
def test_the_name_at_the_end(sql: str, name: str | None) -> None:
    assert named(sql) == name


@given(st.text("PREPARE()[],:;'\"$=- a1ASFOREXECUTEDECLARECURSOR/*", max_size=60))
def test_any_text_is_read(sql: str) -> None:
    held(sql)
    executed(sql)
    named(sql)
