"""The sample application: a bookshop that serves request-like jobs, some as they should be and some not.

    python -m pgtattle.proxy.demo.application DSN [--seconds N]

It knows nothing of pgtattle. Its web part is SQLAlchemy's ORM over psycopg 3 and tags its requests with comments, as
sqlcommenter does; its back office is psycopg2 and tags its jobs with set_config. `PLANTED` says what is wrong with it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import psycopg2
import psycopg2.extras
from sqlalchemy import ForeignKey, create_engine, event, func, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

PLANTED: Final = (
    ("n-plus-one", "authors"),
    ("n-plus-one", "customers"),
    ("missing-index", "reviews"),
    ("unparameterized", "books"),
    ("unparameterized", ""),
    ("repeated-read", "settings"),
)
"""What is wrong, as (rule, table of the statement); that the back office never binds is told once of all of it."""

ROUNDS: Final = 10
"""What each worker does of everything at least, so that a slow machine shows the same as a fast one."""

_request: ContextVar[tuple[str, str]] = ContextVar("_request", default=("", ""))


class _Base(DeclarativeBase):
    pass


class Author(_Base):
    """A writer of books."""

    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    country: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(_Base):
    """Something to sell."""

    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    title: Mapped[str]
    price: Mapped[float]
    author: Mapped[Author] = relationship(back_populates="books")


class Review(_Base):
    """What somebody thinks of a book."""

    __tablename__ = "reviews"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"))
    reviewer: Mapped[str]
    stars: Mapped[int]


class Order(_Base):
    """What a customer bought."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    state: Mapped[str]


class WebShop:
    """The part with the ORM. Each method is a request; the second half of them is as it should be."""

    def __init__(self, dsn: str) -> None:
        url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
        self.engine = create_engine(url, pool_size=4, connect_args={"application_name": "bookshop-web"})
        event.listen(self.engine, "before_cursor_execute", _tagged, retval=True)

    def bestsellers(self) -> None:
        """Reads the author of each book on its own."""
        with Session(self.engine) as session:
            for book in session.scalars(select(Book).order_by(func.md5(Book.title)).limit(25)):
                _use(book.author.name)

    def reviews_of_a_reader(self) -> None:
        """Filters by a column that has no index."""
        with Session(self.engine) as session:
            session.scalars(select(Review).where(Review.reviewer == f"reader{random.randrange(20_000)}")).all()

    def search(self) -> None:
        """Pastes what the user typed into the SQL."""
        typed = f"Book {random.randrange(1, 10_000)}"
        with Session(self.engine) as session:
            session.execute(text(f"SELECT price FROM books WHERE title = '{typed}' AND id < 50")).all()

    def checkout(self) -> None:
        """Reads the same setting for every line of the basket."""
        with Session(self.engine) as session:
            for _ in range(12):
                session.execute(text("SELECT value FROM settings WHERE name = :name"), {"name": "vat"}).scalar_one()

    def catalogue(self) -> None:
        """Books with their authors, in two queries."""
        with Session(self.engine) as session:
            books = session.scalars(select(Book).options(selectinload(Book.author)).where(Book.id.between(100, 130)))
            for book in books:
                _use(book.author.name)

    def author_page(self) -> None:
        """An author with all books, in one query."""
        with Session(self.engine) as session:
            number = random.randrange(1, 1000)
            author = (
                session.scalars(select(Author).options(joinedload(Author.books)).where(Author.id == number))
                .unique()
                .one()
            )
            for book in author.books:
                _use(book.title)

    def order_page(self) -> None:
        """One order by its key."""
        with Session(self.engine) as session:
            session.get(Order, random.randrange(1, 20_000))

    def page_of_titles(self) -> None:
        """Three pages of a list, by key."""
        with Session(self.engine) as session:
            last = 0
            for _ in range(3):
                page = session.execute(
                    text("SELECT id, title FROM books WHERE id > :last ORDER BY id LIMIT 20"), {"last": last}
                ).all()
                last = page[-1].id


class BackOffice:
    """The part with psycopg2, which writes every value into the text. Each method is a job of one transaction."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn, application_name="bookshop-office")

    @contextmanager
    def _job(self, name: str) -> Iterator[Any]:
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.request_id', %s, true)", [f"{name}-{time.monotonic_ns()}"])
            yield cursor

    def invoices(self) -> None:
        """Reads the customer of each order on its own."""
        with self._job("invoices") as cursor:
            cursor.execute("SELECT id, customer_id FROM orders WHERE id BETWEEN 700 AND 719")
            for _, customer in cursor.fetchall():
                cursor.execute("SELECT email, name FROM customers WHERE id = %s", [customer])
                cursor.fetchone()

    def import_orders(self) -> None:
        """Writes a batch in one statement."""
        with self._job("import") as cursor:
            first = 100_000 + next(_numbers) * 50
            rows = [(first + n, 1 + n, "2024-06-01", "new") for n in range(50)]
            psycopg2.extras.execute_values(
                cursor, "INSERT INTO orders (id, customer_id, placed_at, state) VALUES %s", rows
            )

    def daily_total(self) -> None:
        """Adds up in the database."""
        with self._job("total") as cursor:
            cursor.execute(
                "SELECT state, count(*) FROM orders WHERE customer_id = %s GROUP BY state", [random.randrange(5000)]
            )
            cursor.fetchall()

    def close(self) -> None:
        """Leave."""
        self._connection.close()


_numbers = itertools.count()


def _use(value: object) -> None:
    """Render a value into a page."""
    assert value is not None


def _tagged(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> tuple[str, Any]:
    """Append the request to the SQL, as sqlcommenter does."""
    request, route = _request.get()
    if request:
        statement = f"{statement} /*request_id='{request}',route='{route}'*/"
    return statement, parameters


def _serve(route: str, handler: Callable[[], None]) -> None:
    token = _request.set((f"{random.getrandbits(64):016x}", route))
    try:
        handler()
    finally:
        _request.reset(token)


def _web_worker(shop: WebShop, deadline: float, seed: int) -> None:
    handlers = {
        "/bestsellers": shop.bestsellers,
        "/reviews": shop.reviews_of_a_reader,
        "/search": shop.search,
        "/checkout": shop.checkout,
        "/catalogue": shop.catalogue,
        "/author": shop.author_page,
        "/order": shop.order_page,
        "/titles": shop.page_of_titles,
    }
    names = list(handlers)
    for number in itertools.count(seed):
        if number >= ROUNDS * len(names) and time.monotonic() > deadline:
            return
        route = names[number % len(names)]
        _serve(route.replace("/", "%%2F"), handlers[route])
        time.sleep(0.01)


def _office_worker(dsn: str, deadline: float) -> None:
    office = BackOffice(dsn)
    jobs = [office.invoices, office.import_orders, office.daily_total, office.daily_total]
    for number in itertools.count():
        if number >= ROUNDS * len(jobs) and time.monotonic() > deadline:
            break
        jobs[number % len(jobs)]()
        time.sleep(0.03)
    office.close()


def run(dsn: str, seconds: float) -> None:
    """Serve with three web workers and one of the back office, so long and until each did everything often enough."""
    deadline = time.monotonic() + seconds
    shop = WebShop(dsn)
    workers = [threading.Thread(target=_web_worker, args=(shop, deadline, 3 * n)) for n in range(3)]
    workers.append(threading.Thread(target=_office_worker, args=(dsn, deadline)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    shop.engine.dispose()


def main() -> None:
    """Command line of the sample application."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    run(options.dsn, options.seconds)


if __name__ == "__main__":
    main()
