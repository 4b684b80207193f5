"""Some rows of the matrix, so that each ORM runs with every change; `make orm` runs all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.targets import cluster
from pgtattle.proxy.demo.cluster import Cluster
from tests.orm.matrix import ROWS, Row, fill, outcome
from tests.orm.npm import Unavailable

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
)

SMOKE = "sqlalchemy psycopg2 untagged direct"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as made:
        fill(made)
        yield made


def marked(row: Row) -> Any:
    return pytest.param(row, marks=() if str(row) == SMOKE else pytest.mark.slow)


# The first row on Node.js installs its packages.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", [marked(row) for row in ROWS if str(row) in SOME], ids=str)
def test_the_sick_shop_is_found_and_the_cured_one_let_alone(server: Cluster, row: Row) -> None:
    try:
        found = outcome(server, row)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert found.right, found


def test_every_orm_is_among_them() -> None:
    assert {name.split()[0] for name in SOME} == {row.orm for row in ROWS}
    assert set(SOME) <= {str(row) for row in ROWS}
