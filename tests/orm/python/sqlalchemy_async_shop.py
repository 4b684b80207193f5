"""SQLAlchemy with asyncio: nothing is loaded lazily there, so that the loops are written out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from tests.orm.python.sqlalchemy_models import Author, Book, Chapter, Review, chapters, commented, reviews, written
from tests.orm.python.tags import AUTHORS, BOOKS, unprepared, url


def pages(driver: str) -> dict[tuple[str, str], Callable[[], Awaitable[Any]]]:
    engine = create_async_engine(url(f"postgresql+{driver}"), pool_size=4, connect_args=unprepared(driver))
    commented(engine.sync_engine)
    books, authors = select(Book).order_by(Book.id).limit(BOOKS), select(Author).order_by(Author.id).limit(AUTHORS)

    async def written_sick() -> Any:
        async with AsyncSession(engine) as session:
            found = await session.scalars(books)
            return [[book.title, (await session.get_one(Author, book.author_id)).name] for book in found]

    async def chapters_sick() -> Any:
        async with AsyncSession(engine) as session:
            rows = []
            for book in await session.scalars(books):
                found = await session.scalars(select(Chapter).where(Chapter.book_id == book.id))
                rows += [[book.title, chapter.title] for chapter in found]
            return rows

    async def reviews_sick() -> Any:
        async with AsyncSession(engine) as session:
            rows = []
            for author in await session.scalars(authors):
                for book in await session.scalars(select(Book).where(Book.author_id == author.id)):
                    found = await session.scalars(select(Review).where(Review.book_id == book.id))
                    rows += [[author.name, book.title, review.body] for review in found]
            return rows

    def cured(rows: Callable[[Any], Any], query: Any) -> Callable[[], Awaitable[Any]]:
        async def answer() -> Any:
            async with AsyncSession(engine) as session:
                return rows(await session.scalars(query))

        return answer

    return {
        ("many-to-one", "sick"): written_sick,
        ("many-to-one", "cured"): cured(written, books.options(selectinload(Book.author))),
        ("one-to-many", "sick"): chapters_sick,
        ("one-to-many", "cured"): cured(chapters, books.options(selectinload(Book.chapters))),
        ("nested", "sick"): reviews_sick,
        ("nested", "cured"): cured(reviews, authors.options(selectinload(Author.books).selectinload(Book.reviews))),
    }
