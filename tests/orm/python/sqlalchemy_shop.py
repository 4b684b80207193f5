"""SQLAlchemy: a session for each request, which is a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, selectinload

from tests.orm.python.sqlalchemy_models import Author, Book, chapters, commented, reviews, written
from tests.orm.python.tags import AUTHORS, BOOKS, unprepared, url


def pages(driver: str) -> dict[tuple[str, str], Callable[[], Any]]:
    engine = create_engine(url(f"postgresql+{driver}"), pool_size=4, connect_args=unprepared(driver))
    commented(engine)
    books, authors = select(Book).order_by(Book.id).limit(BOOKS), select(Author).order_by(Author.id).limit(AUTHORS)

    def page(rows: Callable[[Any], Any], query: Any) -> Callable[[], Any]:
        def answer() -> Any:
            with Session(engine) as session:
                return rows(session.scalars(query))

        return answer

    return {
        ("many-to-one", "sick"): page(written, books),
        ("many-to-one", "cured"): page(written, books.options(selectinload(Book.author))),
        ("one-to-many", "sick"): page(chapters, books),
        ("one-to-many", "cured"): page(chapters, books.options(selectinload(Book.chapters))),
        ("nested", "sick"): page(reviews, authors),
        ("nested", "cured"): page(reviews, authors.options(selectinload(Author.books).selectinload(Book.reviews))),
    }
