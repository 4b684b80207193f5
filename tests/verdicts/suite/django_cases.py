"""Ten tests of a shop in Django: two of them are planted trouble, eight are as they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import django
import pytest
from django.conf import settings

where = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": where.path.lstrip("/"),
            "USER": where.username,
            "HOST": where.hostname,
            "PORT": where.port,
        }
    },
    USE_TZ=True,
)
django.setup()

from django.db import connection, models, transaction  # noqa: E402


class Author(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField()

    class Meta:
        app_label, db_table, managed = "shop", "authors", False


class Book(models.Model):
    id = models.IntegerField(primary_key=True)
    title = models.TextField()
    author = models.ForeignKey(Author, on_delete=models.CASCADE)
    price = models.IntegerField()

    class Meta:
        app_label, db_table, managed = "shop", "books", False


class Log(models.Model):
    line = models.TextField()

    class Meta:
        app_label, db_table, managed = "shop", "logs", False


@pytest.fixture(autouse=True)
def rolled_back() -> Iterator[None]:
    """As Django's TestCase does: a transaction around each test, on one connection for all."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture(scope="module", autouse=True)
def one_connection() -> Iterator[None]:
    yield
    connection.close()


def test_planted_the_author_of_each_book() -> None:
    assert len({book.author.name for book in Book.objects.order_by("title")[:25]}) > 20


def test_planted_prices_saved_one_by_one() -> None:
    for book in Book.objects.order_by("id")[:20]:
        book.price += 1
        book.save(update_fields=["price"])


def test_books_with_their_authors_in_one_query() -> None:
    assert len([book.author.name for book in Book.objects.select_related("author")[:25]]) == 25


def test_books_with_their_authors_in_two_queries() -> None:
    assert len([book.author.name for book in Book.objects.prefetch_related("author")[:25]]) == 25


def test_a_page_of_titles() -> None:
    assert len(Book.objects.order_by("id").values_list("title", flat=True)[50:70]) == 20


def test_counts_and_sums() -> None:
    assert Book.objects.count() == 400
    assert Book.objects.aggregate(models.Sum("price"))["price__sum"] > 0


def test_one_book_and_its_author() -> None:
    assert Book.objects.get(id=7).author.name


def test_many_rows_at_once() -> None:
    Log.objects.bulk_create([Log(line=f"line {number}") for number in range(30)])
    assert Log.objects.filter(line__startswith="line").count() >= 30


def test_a_bulk_update() -> None:
    assert Book.objects.filter(price__lt=10).update(price=models.F("price") + 1) > 0


def test_what_exists_or_is_made() -> None:
    _, made = Log.objects.get_or_create(line="only one")
    assert made
    assert Log.objects.filter(line="only one").exists()
