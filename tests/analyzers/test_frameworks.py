"""The SQL of each framework, as its library wrote it, and what looks like it and is not."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.advice_words import bulk_writing, eager_loading, server_binding
from pgtattle.analyzers.frameworks import framework_of, is_generated
from pgtattle.analyzers.sql.texts import Texts
from pgtattle.proxy.events import Connection
from pgtattle.proxy.execution import Execution


def sent(sql: str, prepared: str = "", application: str = "shop", later: str = "") -> Execution:
    return Execution(
        id=1,
        connection=Connection(id=1, client="127.0.0.1:1", opened_ns=0, application=application),
        text=Texts().read(sql)[0],
        prepared=prepared,
        settings={"application_name": later} if later else {},
        started_ns=0,
        ended_ns=1,
    )


@pytest.mark.parametrize(
    ("framework", "sql"),
    [
        ("django", 'SELECT "authors"."id", "authors"."name" FROM "authors" WHERE "authors"."id" = 5 LIMIT 21'),
        ("django", 'SELECT "books"."id", "books"."title" FROM "books" WHERE "books"."author_id" = 5'),
        ("django", 'SELECT "books"."id", "books"."title" FROM "books" WHERE "books"."id" = $1 LIMIT 21'),
        ("django", 'SELECT COUNT(*) AS "__count" FROM "books" WHERE "books"."author_id" = 5'),
        ("django", 'INSERT INTO "books" ("title", "author_id") VALUES (\'x\', 1) RETURNING "books"."id"'),
        ("sqlalchemy", "SELECT a.id AS a_id, a.name AS a_name \nFROM a \nWHERE a.id = $1"),
        ("activerecord", 'UPDATE "books" SET "title" = $1, "updated_at" = $2 WHERE "books"."id" = $3'),
        ("sqlalchemy", "INSERT INTO books (title) VALUES ($1) RETURNING books.id"),
        ("peewee", 'SELECT "t1"."id", "t1"."name" FROM "authors" AS "t1" WHERE ("t1"."id" = 5) LIMIT 1 OFFSET 0'),
        ("tortoise", 'SELECT "name","id" FROM "authors" WHERE "id"=$1 LIMIT 2'),
        ("activerecord", 'SELECT "authors".* FROM "authors" WHERE "authors"."id" = $1 LIMIT $2'),
        ("activerecord", 'SELECT 1 AS one FROM "books" WHERE "books"."author_id" = $1 LIMIT $2'),
        ("activerecord", 'SELECT COUNT(*) FROM "books" WHERE "books"."author_id" = $1'),
        ("activerecord", 'INSERT INTO "books" ("created_at", "title") VALUES ($1, $2) RETURNING "id"'),
        ("sequel", 'SELECT * FROM "authors" WHERE ("id" = 5) LIMIT 1'),
        ("sequel", 'SELECT * FROM "chapters" WHERE ("chapters"."book_id" = 50003)'),
        ("laravel", 'select * from "authors" where "authors"."id" = $1 limit 1'),
        ("laravel", 'select * from "books" where "books"."author_id" = $1 and "books"."author_id" is not null'),
        ("laravel", 'select * from "authors" where "id" = $1 limit 1'),
        ("laravel", 'select count(*) as aggregate from "books" where "books"."author_id" = $1'),
        ("laravel", 'insert into "books" ("title", "updated_at", "created_at") values ($1, $2, $3) returning "id"'),
        ("doctrine", "SELECT t0.id AS id_1, t0.name AS name_2 FROM authors t0 WHERE t0.id = $1"),
        ("hibernate", "select a1_0.id,a1_0.name from authors a1_0 where a1_0.id=$1"),
        ("hibernate", "select author0_.id as id1_0_0_, author0_.name as name2_0_0_ from authors author0_ where id=$1"),
        ("eclipselink", "SELECT ID, NAME FROM AUTHORS WHERE (ID = $1)"),
        ("jooq", 'select "public"."a"."id", "public"."a"."name" from "public"."a" where "public"."a"."id" = $1'),
        ("prisma", 'SELECT "public"."A"."id", "public"."A"."name" FROM "public"."A" WHERE "public"."A"."id" = $1'),
        ("sequelize", 'SELECT "id", "name" FROM "authors" AS "Author" WHERE "Author"."id" = 1266;'),
        ("sequelize", 'SELECT "id", "book_id" AS "bookId" FROM "chapters" AS "C" WHERE "C"."book_id" = 50003;'),
        ("sequelize", 'INSERT INTO "books" ("id","title") VALUES (DEFAULT,$1) RETURNING "id","title";'),
        ("typeorm", 'SELECT "A"."id" AS "A_id", "A"."name" AS "A_name" FROM "a" "A" WHERE (("A"."id" = $1)) LIMIT 1'),
        ("typeorm", 'INSERT INTO "books"("id", "title") VALUES (DEFAULT, $1) RETURNING "id"'),
        ("drizzle", 'select "id", "name" from "authors" where "authors"."id" = $1'),
        ("drizzle", 'select "id", "book_id" from "chapters" "chapters" where "chapters"."book_id" = $1'),
        ("objection", 'select "chapters".* from "chapters" where "chapters"."book_id" in ($1)'),
        ("mikroorm", 'select "a0".* from "author" as "a0" where "a0"."id" = $1 limit $2'),
        ("entityframework", 'SELECT b."Id", b."Title"\nFROM "Books" AS b\nWHERE b."AuthorId" = $1'),
        ("gorm", 'SELECT * FROM "authors" WHERE "authors"."id" = $1 ORDER BY "authors"."id" LIMIT $2'),
        ("gorm", 'SELECT * FROM "chapters" WHERE "chapters"."book_id" = 50003'),
        ("gorm", 'SELECT * FROM "books" WHERE name = $1 ORDER BY "books"."id" LIMIT $2'),
        ("gorm", 'SELECT * FROM "books" WHERE author_id = $1 AND "books"."deleted_at" IS NULL'),
        ("gorm", 'INSERT INTO "books" ("created_at","updated_at","title") VALUES ($1,$2,$3) RETURNING "id"'),
        ("bun", 'SELECT "a"."id", "a"."name" FROM "authors" AS "a" WHERE ("a"."id" = 5)'),
        ("dbix", "SELECT me.id, me.name FROM author me WHERE ( me.id = $1 )"),
        ("dbix", 'SELECT "me"."id", "me"."name" FROM "author" "me" WHERE ( "me"."id" = $1 )'),
        ("ecto", 'SELECT a0."id", a0."name" FROM "authors" AS a0 WHERE (a0."id" = $1)'),
        ("diesel", 'SELECT "books"."id", "books"."title" FROM "books" WHERE ("books"."author_id" = $1)'),
        ("diesel", 'SELECT "authors"."id", "authors"."name" FROM "authors" WHERE ("authors"."id" = $1) LIMIT $2'),
        ("alembic", "UPDATE alembic_version SET version_num='a' WHERE alembic_version.version_num = 'b'"),
        # Nobody's own.
        ("", "SELECT id, name FROM authors WHERE id = $1"),
        ("", "select id, name from authors where id = $1"),
        ("", "SELECT * FROM authors WHERE id = $1"),
        ("", "select * from authors where id = $1 limit 1"),
        ("", "SELECT a.id, a.name FROM authors a WHERE a.id = $1"),
        ("", "select a.id, a.name from authors a where a.id = $1"),
        ("", 'select * from "authors" where "id" = $1'),
        ("", 'select * from "authors" where "id" = $1 limit $2'),
        ("", 'SELECT "books"."id", "books"."title" FROM "books" WHERE "books"."author_id" = $1'),
        ("", "SELECT id, name FROM authors WHERE (id = $1)"),
        ("", 'SELECT "author"."id" AS "id", "author"."name" AS "name" FROM "author" WHERE "author"."id" = $1'),
        ("", 'SELECT * FROM "user" WHERE id = $1'),
        ("", 'select * from "user" where id = $1 limit 1'),
        ("", "SELECT b.id, b.title\nFROM books AS b\nWHERE b.author_id = $1"),
        ("", "SELECT books.id, books.title\nFROM books\nWHERE books.author_id = $1"),
        ("", "SELECT me.name, boss.name FROM employees me JOIN employees boss ON boss.id = me.boss"),
        ("", 'insert into "books" ("title", "updated_at") values ($1, $2)'),
        ("", 'INSERT INTO "users"("name") VALUES ($1)'),
        ("", "insert into books (title,id) values ($1,$2)"),
        ("", 'INSERT INTO "books" ("title") VALUES ($1) RETURNING "id"'),
    ],
)
def test_the_style_of(framework: str, sql: str) -> None:
    assert framework_of((sent(sql),)) == framework
    assert framework_of((sent(sql + " /*request_id='r1',route='/books'*/"),)) == framework
    assert framework_of((sent("/*request_id='r1'*/ " + sql),)) == framework


@pytest.mark.parametrize(
    ("framework", "sql", "prepared"),
    [
        ("", 'SELECT "books"."id", "books"."title" FROM "books" WHERE "books"."author_id" = 5', "stmtcache_a1"),
        ("gorm", 'SELECT * FROM "books" WHERE author_id = $1', "stmtcache_a1"),
        ("", 'SELECT * FROM "books" WHERE author_id = $1', "pdo_stmt_00000001"),
        ("", 'select "chapters".* from "chapters" where "chapters"."book_id" in ($1)', "stmtcache_a1"),
        ("seaorm", 'SELECT "a"."id", "a"."name" FROM "a" WHERE "a"."id" = $1 LIMIT $2', "sqlx_s_1"),
        ("", "SELECT id, name FROM authors WHERE id = $1", "sqlx_s_1"),
        ("eclipselink", "SELECT id, name FROM authors WHERE (id = $1)", "S_1"),
        ("", "SELECT id, name FROM authors WHERE id = $1", "S_1"),
        ("activerecord", 'SELECT "authors".* FROM "authors" WHERE "authors"."id" = $1 LIMIT $2', "a1"),
        ("django", 'SELECT "a"."id", "a"."name" FROM "a" WHERE "a"."id" = $1 LIMIT 21', "_pg3_0"),
    ],
)
def test_the_language_of_a_driver_rules_frameworks_out(framework: str, sql: str, prepared: str) -> None:
    assert framework_of((sent(sql, prepared),)) == framework


@pytest.mark.parametrize(
    ("framework", "application", "later"),
    [
        ("", "PostgreSQL JDBC Driver", ""),
        ("laravel", "laravel-worker", ""),
        ("gorm", "shop", "gorm"),
        ("gorm", "shop (gorm)", ""),
        ("django", "PostgreSQL JDBC Driver", "my django"),
        ("alembic", "shop", "alembic"),
        ("", "sequels", ""),
        ("", "bun", ""),
    ],
)
def test_the_name_of_the_application(framework: str, application: str, later: str) -> None:
    assert framework_of((sent("SELECT * FROM t WHERE id = $1", "", application, later),)) == framework


@pytest.mark.parametrize(
    ("framework", "tags"),
    [
        ("django", "framework='django%3A4.2'"),
        ("django", "db_driver='django.db.backends.postgresql'"),
        ("activerecord", "framework='rails_v7'"),
        ("sequelize", "db_driver='sequelize%3A6.0'"),
        ("gorm", "orm='gorm'"),
        ("activerecord", "application='Shop',controller='books',action='index'"),
        ("", "framework='spring'"),
        ("", "framework='flask',db_driver='psycopg2'"),
        ("", "framework='express',db_driver='knex%3A2'"),
    ],
)
def test_tags(framework: str, tags: str) -> None:
    assert framework_of((sent(f"SELECT * FROM t WHERE id = $1 /*{tags}*/"),)) == framework


def test_tags_of_a_web_framework_leave_the_word_to_the_style() -> None:
    loop = sent("select a1_0.id,a1_0.name from authors a1_0 where a1_0.id=$1 /*framework='spring'*/")
    assert eager_loading((loop,)) == "JOIN FETCH or @BatchSize"


def test_another_statement_of_the_unit_tells_it() -> None:
    write = sent("insert into books (title,id) values ($1,$2)")
    assert bulk_writing((write,)) == ""
    read = sent("select a1_0.id,a1_0.name from authors a1_0 where a1_0.id=$1")
    assert bulk_writing((write,), (write, read)) == "hibernate.jdbc.batch_size, or one JPQL update"
    elsewhere = sent("select a1_0.id,a1_0.name from authors a1_0 where a1_0.id=$1", application="other")
    assert bulk_writing((write,), (write, elsewhere)) == ""


def test_how_values_are_bound_in_the_server() -> None:
    assert "server_side_binding" in server_binding(sent("SELECT 1 /*framework='django'*/"))
    assert "preferQueryMode" in server_binding(sent("SELECT 1", application="PostgreSQL JDBC Driver"))
    assert "EMULATE" in server_binding(sent('select * from "a" where "a"."id" = \'5\' limit 1'))
    assert server_binding(sent("SELECT 1")) == "where the driver can"


@pytest.mark.parametrize(
    ("generated", "sql"),
    [
        (True, 'SELECT "id" FROM "author" AS "author" WHERE "author"."name" = \'from where a\' LIMIT 1;'),
        (True, 'DELETE FROM "author" WHERE "id" = 5'),
        (True, 'UPDATE "author" SET "name" = \'x\' WHERE "id" = 5'),
        (False, "SELECT id FROM author WHERE name = 'x'"),
        (False, 'SELECT "id" FROM "author" WHERE "userName" = \'x\''),
        (False, 'SELECT "a"."id" FROM "author" "a" WHERE name = \'x\''),
    ],
)
def test_what_an_orm_generates(generated: bool, sql: str) -> None:
    assert is_generated(sql) == generated
