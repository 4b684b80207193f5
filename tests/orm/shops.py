"""The table of shops: an ORM or a driver, the program that has it, and what its users would expect to read.

Enters: nothing. Leaves: `SHOPS`, one entry each, and `ROWS`, each with and without tags and by each way to the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tests.orm.languages import GO, JAVA, NODE, PHP, PYTHON, RUBY, RUST, Language

Way = Literal["direct", "PgBouncer"]
Holds = Literal["connection", "transaction", "query"]
"""What belongs to one request: a connection for its time, a transaction, or any connection for each query."""

DIRECT: Final[tuple[Way, ...]] = ("direct",)
PLAIN: Final = "= ANY($1)"
"""Advice where no framework wrote the SQL."""


@dataclass(frozen=True)
class Shop:
    """One program: `advice` is a part of the suggestion in the words of its framework.

    `tags` is False where a statement cannot be changed before it is sent; `ways` lacks PgBouncer (1.18, in transaction
    mode) where statements are prepared by name.
    """

    orm: str
    driver: str
    language: Language
    holds: Holds
    advice: str
    tags: bool = True
    ways: tuple[Way, ...] = ("direct", "PgBouncer")


SHOPS: Final = (
    Shop("django", "psycopg", PYTHON, "connection", "prefetch_related()"),
    Shop("sqlalchemy", "psycopg", PYTHON, "transaction", "selectinload()"),
    Shop("sqlalchemy", "psycopg2", PYTHON, "transaction", "selectinload()"),
    Shop("peewee", "psycopg2", PYTHON, "connection", "prefetch()"),
    Shop("sqlalchemy-async", "asyncpg", PYTHON, "transaction", "selectinload()", ways=DIRECT),
    Shop("sqlalchemy-async", "psycopg", PYTHON, "transaction", "selectinload()"),
    # It also resets the connection after each query.
    Shop("tortoise", "asyncpg", PYTHON, "query", "prefetch_related()", tags=False, ways=DIRECT),
    Shop("node-postgres", "pg", NODE, "connection", PLAIN),
    Shop("node-postgres-all", "pg", NODE, "query", PLAIN),
    Shop("knex", "pg", NODE, "query", PLAIN),
    Shop("knex-transaction", "pg", NODE, "transaction", PLAIN),
    Shop("prisma", "pg", NODE, "query", "include"),
    Shop("prisma-transaction", "pg", NODE, "transaction", "include"),
    Shop("typeorm", "pg", NODE, "query", "relations"),
    Shop("typeorm-transaction", "pg", NODE, "transaction", "relations"),
    Shop("sequelize", "pg", NODE, "query", "include"),
    Shop("sequelize-transaction", "pg", NODE, "transaction", "include"),
    Shop("drizzle", "pg", NODE, "query", "with in db.query"),
    Shop("drizzle-transaction", "pg", NODE, "transaction", "with in db.query"),
    Shop("objection", "pg", NODE, "query", "withGraphFetched()"),
    Shop("objection-transaction", "pg", NODE, "transaction", "withGraphFetched()"),
    Shop("database/sql", "lib/pq", GO, "query", PLAIN),
    Shop("database/sql-transaction", "lib/pq", GO, "transaction", PLAIN),
    Shop("pgx", "pgx", GO, "query", PLAIN),
    Shop("pgx-transaction", "pgx", GO, "transaction", PLAIN),
    Shop("gorm", "pgx", GO, "query", "Preload()"),
    Shop("gorm-transaction", "pgx", GO, "transaction", "Preload()"),
    Shop("pdo", "pdo_pgsql", PHP, "connection", PLAIN),
    Shop("eloquent", "pdo_pgsql", PHP, "connection", "with()"),
    Shop("activerecord", "pg", RUBY, "connection", "includes()"),
    Shop("activerecord-transaction", "pg", RUBY, "transaction", "includes()"),
    Shop("jdbc", "pgjdbc", JAVA, "connection", PLAIN),
    Shop("hibernate", "pgjdbc", JAVA, "transaction", "JOIN FETCH"),
    Shop("tokio-postgres", "tokio-postgres", RUST, "connection", PLAIN, ways=DIRECT),
    Shop("sqlx", "sqlx", RUST, "query", PLAIN, ways=DIRECT),
    Shop("sqlx-transaction", "sqlx", RUST, "transaction", PLAIN, ways=DIRECT),
    Shop("diesel", "libpq", RUST, "connection", "belonging_to()", ways=DIRECT),
    Shop("diesel-transaction", "libpq", RUST, "transaction", "belonging_to()", ways=DIRECT),
)


@dataclass(frozen=True)
class Row:
    """A shop, with or without tags, connected directly or to PgBouncer in transaction mode before pgtattle."""

    shop: Shop
    tagged: bool
    way: Way

    def __str__(self) -> str:
        return f"{self.shop.orm} {self.shop.driver} {'tagged' if self.tagged else 'untagged'} {self.way}"

    @property
    def must_be_found(self) -> bool:
        """True where a request's signal exists: a tag, a transaction, or a connection that serves one request at a
        time.
        """
        holds = self.shop.holds
        return self.tagged or holds == "transaction" or (holds == "connection" and self.way == "direct")


ROWS: Final = tuple(
    Row(shop, tagged, way)
    for shop in SHOPS
    for tagged in ((False, True) if shop.tags else (False,))
    for way in shop.ways
)

KNOWN: Final[dict[str, str]] = {
    "gorm pgx untagged PgBouncer": "on a connection of an unrecognised pooler, the pings of several clients count as "
    "those of a pool that gives the connection out, and all requests between them as one",
}
"""Rows by name that are wrong, and why."""
