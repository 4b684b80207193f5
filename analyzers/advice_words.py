"""What a cure is called in each framework.

Enters: executions. Leaves: words for a sentence, empty where the framework is not known: the advice is in SQL then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pgtattle.analyzers.frameworks import framework_of, language_of
from pgtattle.proxy.execution import Execution

_EAGER: Final = {
    "django": "select_related() or prefetch_related()",
    "sqlalchemy": "selectinload() or joinedload()",
    "peewee": "a join in the select, or prefetch()",
    "tortoise": "prefetch_related() or select_related()",
    "activerecord": "includes() or preload()",
    "sequel": "eager() or eager_graph()",
    "laravel": "with() or load()",
    "doctrine": "a fetch join: leftJoin() and addSelect(), or fetch: EAGER",
    "hibernate": "JOIN FETCH or @BatchSize",
    "eclipselink": "@BatchFetch, or the query hint eclipselink.join-fetch",
    "jooq": "a join, or multiset()",
    "prisma": "include, or one findMany() with in",
    "sequelize": "include",
    "typeorm": "relations or leftJoinAndSelect()",
    "drizzle": "with in db.query, or a leftJoin()",
    "objection": "withGraphFetched() or withGraphJoined()",
    "mikroorm": "populate",
    "entityframework": "Include()",
    "gorm": "Preload() or Joins()",
    "bun": "Relation()",
    "dbix": "prefetch",
    "ecto": "preload, in the query or by Repo.preload()",
    "diesel": "belonging_to() and grouped_by(), or a join",
    "seaorm": "load_many(), load_one() or find_with_related()",
}
_BULK: Final = {
    "django": "bulk_create(), bulk_update() or a queryset's update()",
    "sqlalchemy": "session.execute(insert(…), [rows]) or a bulk update()",
    "alembic": "op.bulk_insert(), or one UPDATE in op.execute()",
    "peewee": "insert_many() or bulk_update()",
    "tortoise": "bulk_create() or bulk_update()",
    "activerecord": "insert_all() or update_all()",
    "sequel": "multi_insert() or import(), or a dataset's update()",
    "laravel": "insert([...]) or upsert()",
    "hibernate": "hibernate.jdbc.batch_size, or one JPQL update",
    "eclipselink": "eclipselink.jdbc.batch-writing, or one JPQL update",
    "jooq": "insertInto().valuesOfRows() or batch()",
    "prisma": "createMany() or updateMany()",
    "sequelize": "bulkCreate(), or update() with a where",
    "typeorm": "insert() with an array, or a query builder's update()",
    "drizzle": "insert().values() with an array",
    "objection": "insertGraph() or insert() with an array",
    "mikroorm": "insertMany() or nativeUpdate()",
    "entityframework": "AddRange() and one SaveChanges(), or ExecuteUpdate()",
    "gorm": "Create(&rows) with a slice, or CreateInBatches()",
    "bun": "NewInsert().Model(&rows) with a slice",
    "dbix": "populate(), or a resultset's update()",
    "ecto": "Repo.insert_all() or Repo.update_all()",
    "diesel": "insert_into().values() with a Vec",
    "seaorm": "insert_many() or update_many()",
}
_BINDING: Final = {
    "django": "with psycopg 3 and OPTIONS = {'server_side_binding': True}",
    "sqlalchemy": "with psycopg 3 (postgresql+psycopg) in the place of psycopg2",
    "activerecord": "with prepared_statements: true in database.yml",
    "laravel": "with PDO::ATTR_EMULATE_PREPARES => false in config/database.php",
    "doctrine": "with PDO::ATTR_EMULATE_PREPARES => false in driverOptions",
    "gorm": "with PreferSimpleProtocol: false",
}


def eager_loading(executions: Sequence[Execution], others: Iterable[Execution] = ()) -> str:
    """What loads all at once what a loop reads one by one."""
    return _EAGER.get(framework_of(executions, others), "")


def bulk_writing(executions: Sequence[Execution], others: Iterable[Execution] = ()) -> str:
    """What writes many rows at once."""
    return _BULK.get(framework_of(executions, others), "")


def server_binding(execution: Execution) -> str:
    """How to have values bound in the server."""
    if language_of(execution) == "jvm":
        return "with preferQueryMode=extended in the URL"
    return _BINDING.get(framework_of((execution,)), "where the driver can")
