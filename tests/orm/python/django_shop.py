"""Django: a connection for each request, in autocommit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.orm.python.tags import AUTHORS, BOOKS, tagged


def pages(driver: str) -> dict[tuple[str, str], Callable[[], Any]]:
    import django
    from django.conf import settings
    from django.db import close_old_connections, connection, models

    where = os.environ
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": where["PGDATABASE"],
                "USER": where["PGUSER"],
                "HOST": where["PGHOST"],
                "PORT": where["PGPORT"],
                "CONN_MAX_AGE": 0,
                "DISABLE_SERVER_SIDE_CURSORS": True,
            }
        },
        USE_TZ=True,
    )
    django.setup()

    class Author(models.Model):
        id = models.IntegerField(primary_key=True)
        name = models.TextField()

        class Meta:
            app_label, db_table, managed = "shop", "authors", False

    class Book(models.Model):
        id = models.IntegerField(primary_key=True)
        title = models.TextField()
        author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")

        class Meta:
            app_label, db_table, managed = "shop", "books", False

    class Chapter(models.Model):
        id = models.IntegerField(primary_key=True)
        title = models.TextField()
        book = models.ForeignKey(Book, on_delete=models.CASCADE, related_name="chapters")

        class Meta:
            app_label, db_table, managed = "shop", "chapters", False

    class Review(models.Model):
        id = models.IntegerField(primary_key=True)
        body = models.TextField()
        book = models.ForeignKey(Book, on_delete=models.CASCADE, related_name="reviews")

        class Meta:
            app_label, db_table, managed = "shop", "reviews", False

    def comment(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute(tagged(sql), params, many, context)

    def page(rows: Callable[[], Any]) -> Callable[[], Any]:
        def answer() -> Any:
            close_old_connections()
            try:
                with connection.execute_wrapper(comment):
                    return rows()
            finally:
                connection.close()

        return answer

    def written(books: Any) -> Any:
        return [[book.title, book.author.name] for book in books.order_by("id")[:BOOKS]]

    def chapters(books: Any) -> Any:
        found = books.order_by("id")[:BOOKS]
        return [[book.title, chapter.title] for book in found for chapter in book.chapters.all()]

    def reviews(authors: Any) -> Any:
        found = authors.order_by("id")[:AUTHORS]
        return [
            [author.name, book.title, review.body]
            for author in found
            for book in author.books.all()
            for review in book.reviews.all()
        ]

    return {
        ("many-to-one", "sick"): page(lambda: written(Book.objects)),
        ("many-to-one", "cured"): page(lambda: written(Book.objects.select_related("author"))),
        ("one-to-many", "sick"): page(lambda: chapters(Book.objects)),
        ("one-to-many", "cured"): page(lambda: chapters(Book.objects.prefetch_related("chapters"))),
        ("nested", "sick"): page(lambda: reviews(Author.objects)),
        ("nested", "cured"): page(lambda: reviews(Author.objects.prefetch_related("books__reviews"))),
    }
