"""EXECUTE and FETCH, by transcripts: the statement that they run, its values, rows and tags."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.sql.facts_cache import FactsCache
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.named import MAX_CURSORS
from pgtattle.proxy.wire.rows import hashed
from tests.proxy.test_session import (
    BOUND,
    INT4,
    PARSED,
    SYNC,
    Talk,
    bind,
    complete,
    described,
    error,
    execute,
    kept,
    parse,
    query,
    ready,
    row,
    rows,
)

BY_ID = "SELECT name FROM authors WHERE id = $1"


def run(talk: Talk, sql: str, tag: str = "", status: str = "I") -> Execution:
    """A simple query of one statement; its execution."""
    talk.client(query(sql)).server(complete(tag or sql.split()[0].upper()), ready(status))
    return talk.executions[-1]


def form(one: Execution) -> tuple[str, str, str]:
    return one.statement.command, one.statement.kind, one.statement.sql


# -- EXECUTE ----------------------------------------------------------------------------------------------------------


def test_an_execute_is_one_of_the_statement_that_it_runs() -> None:
    talk = Talk()
    assert form(run(talk, f"PREPARE by_id(int) AS {BY_ID}"))[:2] == ("PREPARE", "utility")
    one = run(talk, "EXECUTE by_id(7) /*request_id='r1'*/", "SELECT 1")
    assert form(one) == ("SELECT", "read", BY_ID)
    assert (one.text.sql, one.values, one.parameters[0].oid, one.rows) == (BY_ID, ("7",), 23, 1)
    assert (one.text.tags, one.reused, one.binds, one.protocol) == ({"request_id": "r1"}, False, False, "simple")
    assert run(talk, "EXECUTE by_id(8)", "SELECT 1").statement is one.statement


def test_in_the_extended_protocol_and_in_one_exchange() -> None:
    talk = Talk().client(query(f"PREPARE a AS {BY_ID}; EXECUTE a(1); EXECUTE a('x'); DEALLOCATE a"))
    talk.server(complete("PREPARE"), complete("SELECT 1"), complete("SELECT 0"), complete("DEALLOCATE"), ready())
    talk.client(query(f"PREPARE a(int) AS {BY_ID}")).server(complete("PREPARE"), ready())
    for name in ("", "s"):
        talk.client(parse("EXECUTE a(3)", name), bind(name=name), execute(), SYNC)
        talk.server(PARSED, BOUND, rows(1), complete("SELECT 1"), ready())
    assert [one.values for one in talk.executions if one.statement.sql == BY_ID] == [("1",), ("x",), ("3",), ("3",)]


def test_sql_and_protocol_share_the_names() -> None:
    talk = Talk()
    run(talk, f"PREPARE a(int) AS {BY_ID} /*request_id='r1'*/")
    for _ in range(2):
        talk.client(bind(b"7", name="a"), execute(), SYNC).server(BOUND, rows(1), complete("SELECT 1"), ready())
    assert [(one.statement.sql, one.values, one.reused) for one in talk.executions[1:]] == [
        (BY_ID, ("7",), False),
        (BY_ID, ("7",), True),
    ]
    talk.client(parse("SELECT $1 + 1", "b"), SYNC).server(PARSED, ready())
    assert run(talk, "EXECUTE b(2)", "SELECT 1").text.sql == "SELECT $1 + 1"


def test_the_comment_of_a_prepare_is_fresh_once() -> None:
    talk = Talk()
    run(talk, f"PREPARE a AS {BY_ID} /*request_id='r1'*/")
    assert [run(talk, "EXECUTE a(1)", "SELECT 1").text.tags for _ in range(2)] == [{"request_id": "r1"}, {}]
    run(talk, f"PREPARE b AS {BY_ID} /*pgtattle='ignore'*/")
    assert [run(talk, "EXECUTE b(1)", "SELECT 1").text.tags for _ in range(2)] == [{"pgtattle": "ignore"}] * 2


def test_a_name_is_made_anew_and_forgotten() -> None:
    talk = Talk()
    run(talk, "PREPARE a AS SELECT 1")
    talk.client(query("PREPARE a AS SELECT 2")).server(error("42P05"), ready())
    assert run(talk, "EXECUTE a", "SELECT 1").text.sql == "SELECT 1"
    run(talk, "DEALLOCATE PREPARE A")
    talk.client(query("EXECUTE a")).server(error("26000"), ready())
    assert form(talk.executions[-1]) == ("EXECUTE", "utility", "EXECUTE name")
    run(talk, 'PREPARE "A" AS SELECT 3')
    assert run(talk, 'EXECUTE "A"', "SELECT 1").text.sql == "SELECT 3"
    run(talk, "DISCARD ALL")
    assert run(talk, 'EXECUTE "A"', "SELECT 1").statement.command == "EXECUTE"


def test_an_execute_that_fails_is_one_of_the_statement_too() -> None:
    talk = Talk()
    run(talk, "PREPARE a AS SELECT 1 / $1")
    talk.client(query("EXECUTE a(0)")).server(error("22012"), ready())
    assert (talk.executions[-1].statement.command, talk.executions[-1].sqlstate) == ("SELECT", "22012")


def test_a_value_that_the_server_computes_is_not_known() -> None:
    talk = Talk()
    run(talk, f"PREPARE a AS {BY_ID}")
    one = run(talk, "EXECUTE a(now())", "SELECT 1")
    assert one.parameters[0].truncated
    assert run(talk, f"EXECUTE a('{'x' * 2_000}')", "SELECT 1").parameters[0].truncated


# -- cursors ----------------------------------------------------------------------------------------------------------


def fetch(talk: Talk, sql: str, *values: bytes, status: str = "T") -> Execution:
    answer = [described(("author_id", INT4)), *[row(one) for one in values], complete(f"FETCH {len(values)}")]
    talk.client(query(sql)).server(*answer, ready(status))
    return talk.executions[-1]


BOOKS = "SELECT author_id FROM books WHERE shelf = 7"


def test_the_first_fetch_is_the_query_and_the_others_go_on_with_it() -> None:
    talk = Talk()
    run(talk, "BEGIN", status="T")
    declared = run(talk, f"DECLARE \"c\" CURSOR WITHOUT HOLD FOR {BOOKS} /*request_id='r1'*/", "DECLARE CURSOR", "T")
    assert form(declared)[:2] == ("DECLARE", "utility")
    first = fetch(talk, 'FETCH FORWARD 2 FROM "c"', b"7", b"8")
    second = fetch(talk, 'FETCH FORWARD 2 FROM "c"', b"9")
    assert form(first) == ("SELECT", "read", "SELECT author_id FROM books WHERE shelf = $1")
    assert form(second) == ("FETCH", "utility", first.statement.sql)
    assert first.statement.fingerprint == second.statement.fingerprint
    assert (first.values, first.text.tags, first.rows, second.rows) == (("7",), {"request_id": "r1"}, 2, 1)
    assert (kept(talk, first.id), kept(talk, second.id)) == (
        {"author_id": [hashed("7"), hashed("8")]},
        {"author_id": [hashed("9")]},
    )
    facts = FactsCache()
    assert facts.of(second.text).tables == ()
    assert facts.of(first.text).tables == facts.of(second.text).tables == ("books",)


def test_a_cursor_of_bound_values() -> None:
    talk = Talk()
    talk.client(parse("DECLARE c CURSOR FOR SELECT id FROM t WHERE a = $1"), bind(b"5"), execute(), SYNC)
    talk.server(PARSED, BOUND, complete("DECLARE CURSOR"), ready("T"))
    talk.client(parse("FETCH 2 FROM c"), bind(), execute(), SYNC)
    talk.server(PARSED, BOUND, rows(2), complete("FETCH 2"), ready("T"))
    assert (talk.executions[-1].statement.command, talk.executions[-1].values) == ("SELECT", ("5",))


def test_a_cursor_ends_by_its_close_and_with_its_transaction() -> None:
    talk = Talk()
    for end in ("CLOSE c", "CLOSE ALL"):
        run(talk, f"DECLARE c CURSOR FOR {BOOKS}", status="T")
        run(talk, end, status="T")
        assert fetch(talk, "FETCH 1 FROM c", status="T").statement.command == "FETCH"
    run(talk, f"DECLARE c CURSOR FOR {BOOKS}", status="T")
    run(talk, f"DECLARE h CURSOR WITH HOLD FOR {BOOKS}", status="T")
    run(talk, "COMMIT")
    assert [fetch(talk, f"FETCH 1 FROM {name}", b"1").statement.command for name in "ch"] == ["FETCH", "SELECT"]
    run(talk, "CLOSE h")
    run(talk, f"DECLARE h CURSOR WITH HOLD FOR {BOOKS}")
    run(talk, "DISCARD ALL")
    assert fetch(talk, "FETCH 1 FROM h", b"1").statement.kind == "read"


def test_a_cursor_is_made_anew_under_its_name() -> None:
    talk = Talk()
    for turn in range(3):
        run(talk, f"DECLARE c CURSOR FOR SELECT a FROM t WHERE id = {turn}", status="T")
        talk.client(query("DECLARE c CURSOR FOR SELECT 0")).server(error("42P03"), ready("T"))
        found = [fetch(talk, "FETCH ALL FROM c", b"1", b"2"), fetch(talk, "FETCH ALL FROM c")]
        assert [one.statement.command for one in found] == ["SELECT", "FETCH"]
        assert found[0].values == (str(turn),)
        run(talk, "CLOSE c", status="T")


def test_the_cursors_of_a_connection_are_bounded() -> None:
    talk = Talk()
    for number in range(MAX_CURSORS + 1):
        run(talk, f"DECLARE c{number} CURSOR WITH HOLD FOR {BOOKS}")
    assert [fetch(talk, f"FETCH 1 FROM c{number}").statement.command for number in (0, 1)] == ["FETCH", "SELECT"]


@pytest.mark.parametrize("sql", ['FETCH ALL IN "<unnamed portal 1>"', "FETCH 1 FROM nobody", "FETCH ALL"])
def test_what_nobody_declared_is_a_fetch(sql: str) -> None:
    assert form(fetch(Talk(), sql, b"1"))[:2] == ("FETCH", "read")
