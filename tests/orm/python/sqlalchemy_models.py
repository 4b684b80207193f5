"""The models of both shops in SQLAlchemy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Integer, Text, event
from sqlalchemy.orm import DeclarativeBase, mapped_column, relationship

from tests.orm.python.tags import tagged


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(Text)
    books = relationship("Book", back_populates="author")


class Book(Base):
    __tablename__ = "books"
    id = mapped_column(Integer, primary_key=True)
    title = mapped_column(Text)
    author_id = mapped_column(ForeignKey(Author.id))
    author = relationship(Author, back_populates="books")
    chapters = relationship("Chapter")
    reviews = relationship("Review")


class Chapter(Base):
    __tablename__ = "chapters"
    id = mapped_column(Integer, primary_key=True)
    title = mapped_column(Text)
    book_id = mapped_column(ForeignKey(Book.id))


class Review(Base):
    __tablename__ = "reviews"
    id = mapped_column(Integer, primary_key=True)
    body = mapped_column(Text)
    book_id = mapped_column(ForeignKey(Book.id))


def written(books: Any) -> Any:
    """The rows of a page of books with their authors."""
    return [[book.title, book.author.name] for book in books]


def chapters(books: Any) -> Any:
    """The rows of a page of books with their chapters."""
    return [[book.title, chapter.title] for book in books for chapter in book.chapters]


def reviews(authors: Any) -> Any:
    """The rows of a page of authors with their books and what was written on those."""
    return [
        [author.name, book.title, review.body] for author in authors for book in author.books for review in book.reviews
    ]


def commented(engine: Any) -> None:
    """Every statement of an engine gets the tags of its request."""

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def comment(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        return tagged(statement), parameters
