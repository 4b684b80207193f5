"""What cannot be indexed spoils nothing: columns without an operator class, columns of an outer query, views and
foreign tables are left out of the candidates, and the others stay. Real planners, with HypoPG and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from pgtattle.analyzers.finding import Finding
from pgtattle.analyzers.plan.candidates import candidates
from pgtattle.analyzers.questions import IndexCandidate
from pgtattle.proxy import index_trials
from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.events import Parameter
from pgtattle.proxy.schema import IndexEvidence
from tests.analyzers.planning import ask
from tests.conftest import Database, fresh_database

NO_BTREE = {
    "as_json": "'{}'::json",
    "as_note": "'{}'::note",
    "as_deep_note": "'{}'::deep_note",
    "as_jsons": "array['{}'::json]",
    "as_xml": "'<a/>'::xml",
    "as_point": "'(1,2)'::point",
    "as_box": "'(1,2),(3,4)'::box",
    "as_lseg": "'(1,2),(3,4)'::lseg",
    "as_circle": "'<(1,2),3>'::circle",
    "as_path": "'(1,2),(3,4)'::path",
    "as_polygon": "'(1,2),(3,4)'::polygon",
    "as_spot": "row('x', 1)::spot",
    "as_spots": "array[row('x', 1)::spot]",
    "as_xid": "'7'::xid",
}
BTREE = {
    "as_text": "'x'::text",
    "as_varchar": "'x'::varchar(40)",
    "as_jsonb": "'{}'::jsonb",
    "as_texts": "array['x']",
    "as_range": "int4range(1, 2)",
    "as_mood": "'good'::mood",
    "as_code": "1::short_code",
    "as_cidr": "'1.2.3.0/24'::cidr",
    "as_regclass": "'pg_class'::regclass",
    "as_uuid": "gen_random_uuid()",
}
OF_EVERY_TYPE = ", ".join(
    f"CASE WHEN g % 1000 > 0 THEN {value} END AS {name}" for name, value in (NO_BTREE | BTREE).items()
)
SCHEMA = f"""
    CREATE TYPE spot AS (street text, number int);
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE DOMAIN note AS json;
    CREATE DOMAIN deep_note AS note;
    CREATE DOMAIN short_code AS int CHECK (VALUE >= 0);
    CREATE TABLE event AS SELECT g AS id, g % 3000 AS device, g % 2500 AS owner_id, (g * 7) % 30000 AS other,
        g % 3000 AS "Odd Name",
        {OF_EVERY_TYPE} FROM generate_series(1, 30000) g;
    ALTER TABLE event ADD PRIMARY KEY (id);
    CREATE TABLE owner (number int PRIMARY KEY, name text, region int);
    INSERT INTO owner SELECT g, 'o' || g, g % 50 FROM generate_series(1, 2500) g;
    CREATE TABLE parts (id int, device int) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000000);
    INSERT INTO parts SELECT g, g % 3000 FROM generate_series(1, 30000) g;
    CREATE VIEW event_view AS SELECT id, device AS machine, owner_id FROM event;
    CREATE VIEW event_view_view AS SELECT id, machine AS engine FROM event_view;
    CREATE VIEW event_json AS SELECT id, as_json AS remark FROM event;
    CREATE VIEW part_view AS SELECT id, device AS machine FROM parts;
    CREATE MATERIALIZED VIEW event_copy AS SELECT id, device FROM event;
    CREATE EXTENSION file_fdw;
    CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
    CREATE FOREIGN TABLE far (id int, device int) SERVER files OPTIONS (filename '/dev/null');
    VACUUM ANALYZE;
"""


@pytest.fixture(scope="module")
def hypothetical(debian_postgres: Cluster) -> Iterator[Database]:
    with fresh_database(debian_postgres) as made:
        fill(made, "CREATE EXTENSION hypopg")
        yield made


@pytest.fixture(scope="module")
def plain(debian_postgres: Cluster) -> Iterator[Database]:
    with fresh_database(debian_postgres) as made:
        fill(made)
        yield made


def fill(database: Database, *more: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for statement in (*more, *SCHEMA.split(";\n")):
            connection.execute(statement.encode())


def found(database: Database, sql: str, *parameters: Parameter) -> list[tuple[str, list[str], str]]:
    return [told(one) for one in ask(database, sql, *parameters)[0]]


def told(finding: Finding) -> tuple[str, list[str], str]:
    evidence = finding.evidence
    assert isinstance(evidence, IndexEvidence)
    return evidence.table, evidence.columns, finding.confidence


@pytest.mark.parametrize("column", NO_BTREE)
def test_a_column_that_no_btree_takes_is_left_out_of_the_key(
    hypothetical: Database, plain: Database, column: str
) -> None:
    sql = f"SELECT id FROM event WHERE {column} IS NULL AND device = 7"
    assert found(hypothetical, sql) == [("public.event", ["device"], "proven")]
    assert found(plain, sql) == [("public.event", ["device"], "likely")]
    alone = f"SELECT id FROM event WHERE {column} IS NULL"
    assert found(hypothetical, alone) == found(plain, alone) == []


@pytest.mark.parametrize("column", BTREE)
def test_a_column_that_a_btree_takes_stays_in_the_key(hypothetical: Database, plain: Database, column: str) -> None:
    sql = f"SELECT id FROM event WHERE {column} IS NULL AND device = 7"
    assert found(hypothetical, sql) == [("public.event", ["device", column], "proven")]
    assert found(plain, sql) == [("public.event", ["device", column], "likely")]


def test_what_is_left_out_takes_no_place_in_the_key(hypothetical: Database, plain: Database) -> None:
    sql = f"SELECT id FROM event WHERE {' AND '.join(f'{one} IS NULL' for one in NO_BTREE)} AND device = $1"
    assert found(hypothetical, sql, Parameter(23, "7")) == [("public.event", ["device"], "proven")]
    assert found(plain, sql, Parameter(23, "7")) == [("public.event", ["device"], "likely")]


OUTER = {
    "a column of the outer query, without its table": (
        "SELECT name FROM owner WHERE region = 3 AND EXISTS (SELECT FROM event WHERE device = 7 AND owner_id = number)",
        "device",
    ),
    "the outer query's column first": (
        "SELECT name FROM owner WHERE EXISTS (SELECT FROM event WHERE number = owner_id AND device = 7)",
        "device",
    ),
    "an outer column with its table": (
        "SELECT name FROM owner o WHERE EXISTS (SELECT FROM event WHERE owner_id = o.number AND device = 7)",
        "device",
    ),
    "a scalar subquery of the select list": (
        "SELECT name, (SELECT count(*) FROM event WHERE owner_id = number) FROM owner WHERE number = 9",
        "owner_id",
    ),
    "NOT IN": ("SELECT name FROM owner WHERE number NOT IN (SELECT owner_id FROM event WHERE device = 7)", "device"),
    "LATERAL": (
        "SELECT name, e.id FROM owner, LATERAL (SELECT id FROM event WHERE owner_id = number AND device = 7 LIMIT 1) e",
        "device",
    ),
    "LEFT JOIN LATERAL": (
        "SELECT name, e.id FROM owner LEFT JOIN LATERAL (SELECT id FROM event WHERE number = owner_id "
        "ORDER BY other LIMIT 1) e ON true WHERE number = 9",
        "owner_id",
    ),
    "the other side of a join": (
        "SELECT name FROM owner JOIN event ON owner_id = number AND event.device = 7",
        "device",
    ),
    "UPDATE FROM": (
        "UPDATE event e SET other = 0 FROM owner WHERE e.owner_id = number AND e.device = 7",
        "device",
    ),
    "DELETE USING": ("DELETE FROM event e USING owner o WHERE e.owner_id = o.number AND e.device = 7", "device"),
    "a system column": ("SELECT id FROM event WHERE xmin = '9' AND device = 7", "device"),
    "a set-returning function beside it": (
        "SELECT e.id FROM event e, unnest(ARRAY[1, 2]) AS u(n) WHERE e.device = 7 AND e.other = u.n",
        "device",
    ),
}


@pytest.mark.parametrize("name", OUTER)
def test_columns_of_others_spoil_nothing(hypothetical: Database, plain: Database, name: str) -> None:
    sql, column = OUTER[name]
    for database, sure in ((hypothetical, "proven"), (plain, "likely")):
        ((table, columns, confidence),) = found(database, sql)
        assert (table, confidence) == ("public.event", sure)
        assert column in columns
        assert set(columns) <= {"device", "owner_id", "other"}


BESIDE = {
    "a foreign table": "SELECT e.id FROM far f JOIN event e ON e.owner_id = f.id WHERE e.device = 7 AND f.device = 7",
    "a foreign table behind": "SELECT e.id FROM event e LEFT JOIN far f ON e.owner_id = f.id WHERE e.device = 7",
    "a view": "SELECT e.id FROM event e JOIN event_view v ON v.id = e.other WHERE v.id = 3 AND e.device = 7",
    "a partitioned table": "SELECT e.id FROM parts p, event e WHERE p.device = 9 AND p.id = e.other AND e.device = 7",
    "a partition": "SELECT e.id FROM parts_1 p JOIN event e ON p.id = e.id WHERE p.device > 1 AND e.device = 7",
    "a materialized view": "SELECT e.id FROM event_copy c JOIN event e ON c.id = e.id WHERE e.device = 7",
    "a catalogue": "SELECT e.id FROM pg_class c JOIN event e ON other = relpages WHERE relname = 'x' AND e.device = 7",
    "more views than are tried": (
        "SELECT e.id FROM event_view a, event_view b, event_view c, event_view d, event_copy f, event_copy g, event e "
        "WHERE a.id = 1 AND b.id = 2 AND c.id = 3 AND d.id = 4 AND f.id = 5 AND g.id = 6 AND a.owner_id = 1 "
        "AND b.owner_id = 1 AND c.owner_id = 1 AND d.owner_id = 1 AND e.device = 7"
    ),
}


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT id FROM event WHERE id = 7 AND other = 1 UNION SELECT id FROM event WHERE device = 7", ["device"]),
        ("SELECT a.id FROM event a JOIN event b ON b.id = a.other WHERE a.device = 7 AND b.as_code = 1", ["device"]),
        ("SELECT id FROM event WHERE id = 7 AND EXISTS (SELECT FROM event e WHERE e.device = 7)", ["device"]),
    ],
)
def test_each_mention_of_a_table_has_keys_of_its_own(
    hypothetical: Database, plain: Database, sql: str, columns: list[str]
) -> None:
    assert found(hypothetical, sql) == [("public.event", columns, "proven")]
    assert found(plain, sql) == [("public.event", columns, "likely")]


@pytest.mark.parametrize("name", BESIDE)
def test_tables_without_candidates_spoil_nothing(hypothetical: Database, plain: Database, name: str) -> None:
    for database, sure in ((hypothetical, "proven"), (plain, "likely")):
        ((table, columns, confidence),) = found(database, BESIDE[name])
        assert (table, confidence) == ("public.event", sure)
        assert "device" in columns


ORDERED = {
    "newest first": ("SELECT id FROM event ORDER BY other DESC LIMIT 10", ["other"]),
    "oldest first": ("SELECT id FROM event ORDER BY other LIMIT 10 OFFSET 20", ["other"]),
    "FETCH FIRST": ("SELECT id FROM event ORDER BY other FETCH FIRST 5 ROWS ONLY", ["other"]),
    "a bound limit": ("SELECT id FROM event ORDER BY other DESC LIMIT $1", ["other"]),
    "several columns": ("SELECT id FROM event e ORDER BY e.device DESC, e.other DESC LIMIT 10", ["device", "other"]),
    "a condition that keeps most": ("SELECT id FROM event WHERE device > 3 ORDER BY other LIMIT 10", ["other"]),
    "FOR UPDATE": ("SELECT id FROM event ORDER BY other LIMIT 1 FOR UPDATE SKIP LOCKED", ["other"]),
    "a subquery": ("SELECT * FROM (SELECT id FROM event ORDER BY other DESC LIMIT 10) newest", ["other"]),
}


@pytest.mark.parametrize("name", ORDERED)
def test_the_first_rows_of_an_order_want_an_index_where_the_planner_takes_it(
    hypothetical: Database, plain: Database, name: str
) -> None:
    sql, columns = ORDERED[name]
    parameters = (Parameter(20, "10"),) if "$1" in sql else ()
    assert found(hypothetical, sql, *parameters) == [("public.event", columns, "proven")]
    assert found(plain, sql, *parameters) == []
    (finding,) = ask(hypothetical, sql, *parameters)[0]
    assert finding.title.startswith("event is read whole and sorted (30,000 rows) to return the first ")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM event ORDER BY other",
        "SELECT id FROM event ORDER BY id DESC LIMIT 10",
        "SELECT id FROM event ORDER BY other LIMIT 20000",
        "SELECT id FROM event ORDER BY other DESC NULLS LAST LIMIT 10",
        "SELECT id FROM event ORDER BY other % 7 LIMIT 10",
        "SELECT id FROM event ORDER BY other, device DESC LIMIT 10",
        "SELECT id FROM event ORDER BY as_box <-> '(1,2)'::point LIMIT 10",
        "SELECT id FROM event ORDER BY random() LIMIT 10",
        "SELECT device, count(*) FROM event GROUP BY device ORDER BY count(*) DESC LIMIT 10",
        "SELECT number FROM owner ORDER BY name LIMIT 10",
        "SELECT id FROM event LIMIT 10",
        "SELECT id FROM parts ORDER BY device LIMIT 10",
        "SELECT id FROM event_view ORDER BY machine LIMIT 10",
    ],
)
def test_silence_where_an_index_gives_no_first_rows(hypothetical: Database, plain: Database, sql: str) -> None:
    assert found(hypothetical, sql) == found(plain, sql) == []


BEHIND = {
    "a column of another name": ("SELECT id FROM event_view WHERE machine = $1", ["device"]),
    "a view of a view": ("SELECT id FROM event_view_view WHERE engine = $1", ["device"]),
    "in a join": (
        "SELECT name FROM owner JOIN event_view v ON v.owner_id = number WHERE v.machine = $1 AND number < 99",
        ["device"],
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_the_table_behind_a_view_gets_its_index_where_the_planner_takes_it(
    hypothetical: Database, plain: Database, name: str
) -> None:
    sql, columns = BEHIND[name]
    assert found(hypothetical, sql, Parameter(23, "7")) == [("public.event", columns, "proven")]
    assert found(plain, sql, Parameter(23, "7")) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM event_view WHERE id = 7",
        "SELECT id FROM event_view WHERE machine + 0 = 7",
        "SELECT count(*) FROM event_view WHERE machine % 3000 = 7",
        "SELECT count(*) FROM event_view WHERE machine::text = '7'",
        "SELECT id FROM event_view WHERE machine = 7 OR owner_id = 7",
        "SELECT id FROM event_view WHERE machine <> 7 AND machine > 0",
        "SELECT count(*) FROM event_view WHERE machine = owner_id",
        "SELECT id FROM event_json WHERE remark IS NULL",
        "SELECT id FROM part_view WHERE machine = 7",
        "SELECT count(*) FROM event WHERE other % 3000 = 7 AND device % 7 = 1",
    ],
)
def test_silence_behind_a_view(hypothetical: Database, plain: Database, sql: str) -> None:
    assert found(hypothetical, sql) == found(plain, sql) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM far WHERE device = 7",
        "SELECT id FROM parts WHERE device = 7",
        "SELECT id FROM parts_1 WHERE device = 7",
        "SELECT id FROM event_copy WHERE device = 7",
        "SELECT relname FROM pg_class WHERE relpages = 7",
        "SELECT e.id FROM event e JOIN far f ON e.id = f.id WHERE e.id = 7",
        "SELECT id FROM event WHERE device = other",
        "SELECT id FROM event e WHERE e.device = e.other",
        "SELECT id FROM event WHERE device = event.other",
        "SELECT name FROM owner WHERE EXISTS (SELECT FROM event WHERE id = number)",
    ],
)
def test_silence(hypothetical: Database, plain: Database, sql: str) -> None:
    assert found(hypothetical, sql) == found(plain, sql) == []


def test_the_equality_that_finds_the_fewest_rows_comes_first(hypothetical: Database, plain: Database) -> None:
    """What is behind it in the key finds nothing less, once a row is left."""
    sql = "SELECT id FROM event WHERE as_text = 'x' AND as_mood = 'good' AND as_code = 1 AND device = 7 AND other = 49"
    assert found(hypothetical, sql) == [("public.event", ["other"], "proven")]
    assert found(plain, sql) == [("public.event", ["other"], "likely")]
    several = "SELECT id FROM event WHERE as_text = 'x' AND as_mood = 'good' AND as_code IS NULL AND device = 7"
    assert found(plain, several) == [("public.event", ["device", "as_code"], "likely")]
    ranged = "SELECT id FROM event WHERE device > 2990 AND owner_id = 7 AND as_text = 'x'"
    assert found(hypothetical, ranged) == [("public.event", ["owner_id", "as_text", "device"], "proven")]


SAME = {
    "varchar as text": ("as_varchar = $1 AND device = 7", Parameter(25, "y"), ["as_varchar", "device"]),
    "a domain as its base": ("as_code = $1 AND device = 7", Parameter(23, "9"), ["as_code", "device"]),
    "cidr as inet": ("as_cidr = $1::inet AND device = 7", Parameter(25, "1.2.3.9"), ["as_cidr", "device"]),
    "bigint": ("device = $1", Parameter(20, "7"), ["device"]),
    "smallint": ("device = $1", Parameter(21, "7"), ["device"]),
    "an array of bigints": ("device = ANY($1)", Parameter(1016, "{7,8}"), ["device"]),
}
ANOTHER = {
    "numeric": ("device = $1", Parameter(1700, "7")),
    "double precision": ("device = $1", Parameter(701, "7")),
    "real": ("device = $1", Parameter(700, "7")),
    "an array of numerics": ("device = ANY($1)", Parameter(1231, "{7,8}")),
    "a quoted name": ('"Odd Name" = $1', Parameter(1700, "7")),
    "a qualified name": ("event.device = $1", Parameter(1700, "7")),
}


@pytest.mark.parametrize("name", SAME)
def test_a_cast_that_changes_nothing_keeps_the_column(hypothetical: Database, plain: Database, name: str) -> None:
    condition, parameter, columns = SAME[name]
    for database, sure in ((hypothetical, "proven"), (plain, "likely")):
        ((table, key, confidence),) = found(database, f"SELECT id FROM event WHERE {condition}", parameter)
        assert (table, set(key), confidence) == ("public.event", set(columns), sure)


@pytest.mark.parametrize("name", ANOTHER)
def test_a_column_that_is_converted_to_the_type_of_the_parameter_wants_no_plain_index(
    hypothetical: Database, plain: Database, name: str
) -> None:
    condition, parameter = ANOTHER[name]
    sql = f"SELECT id FROM event WHERE {condition}"
    assert found(hypothetical, sql, parameter) == found(plain, sql, parameter) == []
    beside = f"{sql} AND owner_id = 7"
    assert found(hypothetical, beside, parameter) == [("public.event", ["owner_id"], "proven")]
    assert found(plain, beside, parameter) == [("public.event", ["owner_id"], "likely")]


@pytest.mark.parametrize("kind", ["text", "bytea", "jsonb", "varchar"])
def test_values_too_wide_for_a_page_are_in_no_key(debian_database: Database, kind: str) -> None:
    value = {"bytea": "convert_to(body, 'UTF8')", "jsonb": "to_jsonb(body)"}.get(kind, "body")
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE TABLE paper AS SELECT g AS id, g % 3000 AS author, {value} AS wide
            FROM generate_series(1, 15000) g,
            LATERAL (SELECT string_agg(md5(g || '.' || n), '') AS body FROM generate_series(1, 120) n
                WHERE g % 20 = 0) b;
            ANALYZE paper;
        """.encode()
        )
        sql = "SELECT id FROM paper WHERE wide IS NULL AND author = 7"
        (finding,) = ask(debian_database, sql)[0]
        connection.execute(finding.suggestion.sql.encode())
    assert told(finding) == ("public.paper", ["author"], "likely")


def test_a_virtual_column_is_in_no_key(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("""
            CREATE TABLE sums (a int, b int, total int GENERATED ALWAYS AS (a + b) VIRTUAL, kept int GENERATED ALWAYS AS
                (a + b) STORED);
            INSERT INTO sums SELECT g, g FROM generate_series(1, 30000) g; ANALYZE sums;
        """)
    assert found(database, "SELECT a FROM sums WHERE total = 8") == []
    assert found(database, "SELECT a FROM sums WHERE total = 8 AND b = 4") == [("public.sums", ["b"], "likely")]
    assert found(database, "SELECT a FROM sums WHERE kept = 8") == [("public.sums", ["kept"], "likely")]


def test_hypopg_may_be_in_any_schema(debian_database: Database) -> None:
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Odd place"; CREATE EXTENSION hypopg SCHEMA "Odd place"')
        connection.execute("CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 30000) g; ANALYZE t")
    assert found(debian_database, "SELECT * FROM t WHERE a = 7") == [("public.t", ["a"], "proven")]


@pytest.mark.parametrize("denied", ["SCHEMA tools", "FUNCTION tools.hypopg_reset()"])
def test_hypopg_that_the_role_may_not_use_is_as_good_as_none(debian_database: Database, denied: str) -> None:
    role = f"{debian_database.name}_role"
    right = "USAGE" if denied.startswith("SCHEMA") else "EXECUTE"
    with psycopg.connect(debian_database.dsn, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE SCHEMA tools; CREATE EXTENSION hypopg SCHEMA tools; CREATE ROLE {role} LOGIN PASSWORD 'secret';
            GRANT USAGE ON SCHEMA tools TO {role}; REVOKE {right} ON {denied} FROM PUBLIC, {role};
            CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 30000) g; ANALYZE t; GRANT SELECT ON t TO {role};
        """.encode()
        )
        try:
            by_role = replace(debian_database, user=role, password="secret")
            assert found(by_role, "SELECT * FROM t WHERE a = 7") == [("public.t", ["a"], "likely")]
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_candidate_that_the_server_refuses_spoils_no_other(
    hypothetical: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the catalogue did not show cannot be made on purpose: a column that is not there stands for it."""
    absent = IndexCandidate(table="event", columns=("absent",))
    monkeypatch.setattr(index_trials, "candidates", lambda *given: iter((absent, *candidates(*given))))
    assert found(hypothetical, "SELECT id FROM event WHERE device = 7") == [("public.event", ["device"], "proven")]
