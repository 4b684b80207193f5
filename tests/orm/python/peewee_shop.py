"""Peewee: a connection of a pool for each request, in autocommit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import peewee as orm
from playhouse.pool import PooledPostgresqlDatabase

from tests.orm.python.tags import AUTHORS, BOOKS, tagged


class Tagged(PooledPostgresqlDatabase):  # type: ignore[misc]
    def execute_sql(self, sql: str, params: Any = None, *rest: Any, **more: Any) -> Any:
        return super().execute_sql(tagged(sql), params, *rest, **more)


class Author(orm.Model):  # type: ignore[misc]
    name = orm.TextField()

    class Meta:
        table_name = "authors"


class Book(orm.Model):  # type: ignore[misc]
    title = orm.TextField()
    author = orm.ForeignKeyField(Author, backref="books")

    class Meta:
        table_name = "books"


class Chapter(orm.Model):  # type: ignore[misc]
    title = orm.TextField()
    book = orm.ForeignKeyField(Book, backref="chapters")

    class Meta:
        table_name = "chapters"


class Review(orm.Model):  # type: ignore[misc]
    body = orm.TextField()
    book = orm.ForeignKeyField(Book, backref="reviews")

    class Meta:
        table_name = "reviews"


def pages(driver: str) -> dict[tuple[str, str], Callable[[], Any]]:
    where = os.environ
    database = Tagged(
        where["PGDATABASE"], host=where["PGHOST"], port=int(where["PGPORT"]), user=where["PGUSER"], max_connections=8
    )
    database.bind([Author, Book, Chapter, Review])

    def page(rows: Callable[[Any], Any], query: Callable[[], Any]) -> Callable[[], Any]:
        def answer() -> Any:
            with database.connection_context():
                return rows(query())

        return answer

    def books(*columns: Any) -> Any:
        return Book.select(*columns).order_by(Book.id).limit(BOOKS)

    def authors() -> Any:
        return Author.select().order_by(Author.id).limit(AUTHORS)

    def written(found: Any) -> Any:
        return [[book.title, book.author.name] for book in found]

    def chapters(found: Any) -> Any:
        return [[book.title, chapter.title] for book in found for chapter in book.chapters]

    def reviews(found: Any) -> Any:
        return [
            [author.name, book.title, review.body]
            for author in found
            for book in author.books
            for review in book.reviews
        ]

    return {
        ("many-to-one", "sick"): page(written, books),
        ("many-to-one", "cured"): page(written, lambda: books(Book, Author).join(Author)),
        ("one-to-many", "sick"): page(chapters, books),
        ("one-to-many", "cured"): page(chapters, lambda: orm.prefetch(books(), Chapter.select())),
        ("nested", "sick"): page(reviews, authors),
        ("nested", "cured"): page(reviews, lambda: orm.prefetch(authors(), Book.select(), Review.select())),
    }
