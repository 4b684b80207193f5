"""Tortoise: any connection of the pool for each query, reset afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tortoise import Tortoise, fields
from tortoise.models import Model

from tests.orm.python.tags import AUTHORS, BOOKS, url


class Author(Model):
    id = fields.IntField(primary_key=True)
    name = fields.TextField()
    books: Any

    class Meta:
        table = "authors"


class Book(Model):
    id = fields.IntField(primary_key=True)
    title = fields.TextField()
    author: Any = fields.ForeignKeyField("shop.Author", related_name="books")
    chapters: Any
    reviews: Any

    class Meta:
        table = "books"


class Chapter(Model):
    id = fields.IntField(primary_key=True)
    title = fields.TextField()
    book: Any = fields.ForeignKeyField("shop.Book", related_name="chapters")

    class Meta:
        table = "chapters"


class Review(Model):
    id = fields.IntField(primary_key=True)
    body = fields.TextField()
    book: Any = fields.ForeignKeyField("shop.Book", related_name="reviews")

    class Meta:
        table = "reviews"


def pages(driver: str) -> dict[tuple[str, str], Callable[[], Awaitable[Any]]]:
    once = asyncio.Lock()
    ready: list[bool] = []

    async def connected() -> None:
        async with once:
            if not ready:
                await Tortoise.init(db_url=url(driver), modules={"shop": [__name__]}, _enable_global_fallback=True)
                ready.append(True)

    def page(rows: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        async def answer() -> Any:
            await connected()
            return await rows()

        return answer

    def books() -> Any:
        return Book.all().order_by("id").limit(BOOKS)

    def authors() -> Any:
        return Author.all().order_by("id").limit(AUTHORS)

    async def written_sick() -> Any:
        return [[book.title, (await book.author).name] for book in await books()]

    async def written_cured() -> Any:
        return [[book.title, book.author.name] for book in await books().prefetch_related("author")]

    async def chapters_sick() -> Any:
        return [[book.title, chapter.title] for book in await books() for chapter in await book.chapters]

    async def chapters_cured() -> Any:
        found = await books().prefetch_related("chapters")
        return [[book.title, chapter.title] for book in found for chapter in book.chapters]

    async def reviews_sick() -> Any:
        return [
            [author.name, book.title, review.body]
            for author in await authors()
            for book in await author.books
            for review in await book.reviews
        ]

    async def reviews_cured() -> Any:
        found = await authors().prefetch_related("books__reviews")
        return [
            [author.name, book.title, review.body]
            for author in found
            for book in author.books
            for review in book.reviews
        ]

    return {
        ("many-to-one", "sick"): page(written_sick),
        ("many-to-one", "cured"): page(written_cured),
        ("one-to-many", "sick"): page(chapters_sick),
        ("one-to-many", "cured"): page(chapters_cured),
        ("nested", "sick"): page(reviews_sick),
        ("nested", "cured"): page(reviews_cured),
    }
