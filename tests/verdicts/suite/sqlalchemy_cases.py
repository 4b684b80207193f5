"""Ten tests of a shop in SQLAlchemy: two of them are planted trouble, eight are as they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import ForeignKey, Integer, Text, create_engine, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Session, joinedload, mapped_column, relationship, selectinload


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(Text)


class Book(Base):
    __tablename__ = "books"
    id = mapped_column(Integer, primary_key=True)
    title = mapped_column(Text)
    price = mapped_column(Integer)
    author_id = mapped_column(ForeignKey(Author.id))
    author = relationship(Author)
    reviews = relationship("Review")


class Review(Base):
    __tablename__ = "reviews"
    id = mapped_column(Integer, primary_key=True)
    book_id = mapped_column(ForeignKey(Book.id))
    stars = mapped_column(Integer)


class Log(Base):
    __tablename__ = "logs"
    id = mapped_column(Integer, primary_key=True)
    line = mapped_column(Text)


@pytest.fixture(scope="module")
def engine() -> Iterator[object]:
    made = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"), pool_size=2)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: object) -> Iterator[Session]:
    with Session(engine) as made:  # type: ignore[arg-type]
        yield made
        made.rollback()


def test_planted_the_reviews_of_each_book(session: Session) -> None:
    books = session.scalars(select(Book).order_by(Book.title).limit(15)).all()
    assert sum(len(book.reviews) for book in books) > 15


def test_planted_a_loop_in_a_loop(session: Session) -> None:
    names = []
    for price in range(6):
        for book in session.scalars(select(Book).where(Book.price == price).order_by(Book.title)).all():
            names.append(session.execute(select(Author.name).where(Author.id == book.author_id)).scalar_one())
    assert len(names) == 48


def test_books_joined_with_their_authors(session: Session) -> None:
    books = session.scalars(select(Book).options(joinedload(Book.author)).limit(20)).all()
    assert all(book.author.name for book in books)


def test_books_with_their_reviews_in_two_queries(session: Session) -> None:
    books = session.scalars(select(Book).options(selectinload(Book.reviews)).limit(20)).all()
    assert sum(len(book.reviews) for book in books) > 0


def test_the_identity_map_asks_once(session: Session) -> None:
    author = session.get(Author, 37)
    assert all(session.get(Author, 37) is author for _ in range(20))


def test_stars_by_book(session: Session) -> None:
    rows = session.execute(select(Review.book_id, func.avg(Review.stars)).group_by(Review.book_id).limit(10)).all()
    assert len(rows) == 10


def test_many_rows_in_one_statement(session: Session) -> None:
    session.execute(insert(Log), [{"line": f"row {number}"} for number in range(40)])


def test_objects_added_together(session: Session) -> None:
    session.add_all([Log(line=f"object {number}") for number in range(20)])
    session.flush()


def test_one_update_for_many(session: Session) -> None:
    session.execute(update(Book).where(Book.price > 40).values(price=Book.price - 1))


def test_a_list_of_keys(session: Session) -> None:
    keys = [37 * number for number in range(1, 20)]
    assert len(session.scalars(select(Author).where(Author.id.in_(keys))).all()) == 19
