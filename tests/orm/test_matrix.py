"""Some rows of the matrix, so that each ORM runs with every change; `make orm` runs all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.targets import cluster
from pgtattle.proxy.demo.cluster import Cluster
from tests.orm.languages import RUST, Unavailable
from tests.orm.matrix import fill, outcome
from tests.orm.shops import KNOWN, ROWS, Row

SOME = (
    "django psycopg untagged direct",
    "django psycopg tagged PgBouncer",
    "sqlalchemy psycopg2 untagged direct",
    "sqlalchemy-async asyncpg tagged direct",
    "peewee psycopg2 tagged direct",
    "tortoise asyncpg untagged direct",
    "node-postgres pg untagged direct",
    "node-postgres-all pg tagged direct",
    "knex pg tagged PgBouncer",
    "knex-transaction pg untagged PgBouncer",
    "prisma pg tagged PgBouncer",
    "prisma-transaction pg untagged direct",
    "typeorm pg tagged direct",
    "sequelize-transaction pg untagged direct",
    "drizzle pg tagged PgBouncer",
    "objection pg tagged direct",
    "database/sql-transaction lib/pq untagged direct",
    "pgx pgx tagged PgBouncer",
    "gorm-transaction pgx untagged direct",
    "pdo pdo_pgsql untagged direct",
    "eloquent pdo_pgsql tagged direct",
    "activerecord pg tagged PgBouncer",
    "jdbc pgjdbc tagged direct",
    "hibernate pgjdbc untagged direct",
)

SMOKE = "sqlalchemy psycopg2 untagged direct"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        fill(made)
        yield made


def marked(row: Row) -> Any:
    marks = [] if str(row) == SMOKE else [pytest.mark.slow]
    if str(row) in KNOWN:
        marks.append(pytest.mark.xfail(reason=KNOWN[str(row)], strict=True, raises=AssertionError))
    return pytest.param(row, marks=marks)


# The first row in a language fetches its packages.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", [marked(row) for row in ROWS if str(row) in SOME], ids=str)
def test_the_loops_are_found_and_nothing_is_reported_for_the_cured_shop(server: Cluster, row: Row) -> None:
    try:
        found = outcome(server, row)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert not found.faults, found


def test_every_orm_is_among_them_but_those_that_take_minutes_to_compile() -> None:
    orms = {row.shop.orm.removesuffix("-transaction") for row in ROWS if row.shop.language is not RUST}
    assert {name.split()[0].removesuffix("-transaction") for name in SOME} == orms
    assert set(SOME) <= {str(row) for row in ROWS}


def test_what_is_known_is_of_a_row() -> None:
    assert set(KNOWN) <= {str(row) for row in ROWS}
