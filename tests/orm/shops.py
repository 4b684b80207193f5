"""The same small shop in each ORM: a list of books with the names of their authors, sick (a query a row) and cured.

    python -m tests.orm.shops ORM DRIVER PORT [--tagged] [--pooled]

serves `/sick` and `/cured` on 127.0.0.1:PORT; the database is the one that the libpq variables name. `--tagged` puts
each request's id into a comment, as sqlcommenter does. Imports are in the functions, since each process needs one ORM
only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

BOOKS: Final = 20
"""Books on a page, each by another author."""

_numbers = itertools.count(1)
_request: ContextVar[str] = ContextVar("request", default="")

Page = Callable[[], str]
AsyncPage = Callable[[], Awaitable[str]]


def tagged(sql: str) -> str:
    """A statement with the comment of the request that it belongs to."""
    identity = _request.get()
    return f"{sql} /*request_id='{identity}',route='/books'*/" if identity else sql


def unprepared(driver: str) -> dict[str, Any]:
    """Arguments of a connection that prepares nothing, which this PgBouncer could not follow."""
    return {"prepare_threshold": None} if driver == "psycopg" and "--pooled" in sys.argv else {}


def url(scheme: str) -> str:
    where = os.environ
    return f"{scheme}://{where['PGUSER']}:@{where['PGHOST']}:{where['PGPORT']}/{where['PGDATABASE']}"


def django(driver: str) -> tuple[Page, Page]:
    import django as package
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
    package.setup()

    class Author(models.Model):
        id = models.IntegerField(primary_key=True)
        name = models.TextField()

        class Meta:
            app_label, db_table, managed = "shop", "authors", False

    class Book(models.Model):
        id = models.IntegerField(primary_key=True)
        title = models.TextField()
        author = models.ForeignKey(Author, on_delete=models.CASCADE)

        class Meta:
            app_label, db_table, managed = "shop", "books", False

    def comment(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        return execute(tagged(sql), params, many, context)

    def page(books: Callable[[], Any]) -> str:
        close_old_connections()
        try:
            with connection.execute_wrapper(comment):
                return "\n".join(book.author.name for book in books())
        finally:
            connection.close()

    return (
        lambda: page(lambda: Book.objects.order_by("id")[:BOOKS]),
        lambda: page(lambda: Book.objects.select_related("author").order_by("id")[:BOOKS]),
    )


def _models() -> tuple[Any, Any]:
    from sqlalchemy import ForeignKey, Integer, Text
    from sqlalchemy.orm import DeclarativeBase, mapped_column, relationship

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
        author_id = mapped_column(ForeignKey(Author.id))
        author = relationship(Author)

    return Author, Book


def _commented(engine: Any) -> None:
    from sqlalchemy import event

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def comment(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        return tagged(statement), parameters


def sqlalchemy(driver: str) -> tuple[Page, Page]:
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import Session, selectinload

    _, book = _models()
    engine = create_engine(url(f"postgresql+{driver}"), pool_size=4, connect_args=unprepared(driver))
    _commented(engine)

    def page(*options: Any) -> str:
        with Session(engine) as session:
            books = session.scalars(select(book).order_by(book.id).limit(BOOKS).options(*options))
            return "\n".join(one.author.name for one in books)

    return page, lambda: page(selectinload(book.author))


def sqlalchemy_async(driver: str) -> tuple[AsyncPage, AsyncPage]:
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from sqlalchemy.orm import selectinload

    author, book = _models()
    engine = create_async_engine(url(f"postgresql+{driver}"), pool_size=4, connect_args=unprepared(driver))
    _commented(engine.sync_engine)

    async def sick() -> str:
        async with AsyncSession(engine) as session:
            books = await session.scalars(select(book).order_by(book.id).limit(BOOKS))
            # Nothing is loaded lazily here, so the loop is written out.
            return "\n".join([(await session.get_one(author, one.author_id)).name for one in books])

    async def cured() -> str:
        async with AsyncSession(engine) as session:
            books = await session.scalars(
                select(book).order_by(book.id).limit(BOOKS).options(selectinload(book.author))
            )
            return "\n".join(one.author.name for one in books)

    return sick, cured


def peewee(driver: str) -> tuple[Page, Page]:
    import peewee as orm
    from playhouse.pool import PooledPostgresqlDatabase

    class Tagged(PooledPostgresqlDatabase):  # type: ignore[misc]
        def execute_sql(self, sql: str, params: Any = None, *rest: Any, **more: Any) -> Any:
            return super().execute_sql(tagged(sql), params, *rest, **more)

    where = os.environ
    database = Tagged(
        where["PGDATABASE"], host=where["PGHOST"], port=int(where["PGPORT"]), user=where["PGUSER"], max_connections=8
    )

    class Author(orm.Model):  # type: ignore[misc]
        name = orm.TextField()

        class Meta:
            table_name = "authors"

    class Book(orm.Model):  # type: ignore[misc]
        title = orm.TextField()
        author = orm.ForeignKeyField(Author)

        class Meta:
            table_name = "books"

    database.bind([Author, Book])

    def page(books: Any) -> str:
        with database.connection_context():
            return "\n".join(book.author.name for book in books.order_by(Book.id).limit(BOOKS))

    return lambda: page(Book.select()), lambda: page(Book.select(Book, Author).join(Author))


def tortoise(driver: str) -> tuple[AsyncPage, AsyncPage]:
    from tortoise import Tortoise, fields
    from tortoise.models import Model

    class Author(Model):
        id = fields.IntField(primary_key=True)
        name = fields.TextField()

        class Meta:
            table = "authors"

    class Book(Model):
        id = fields.IntField(primary_key=True)
        title = fields.TextField()
        author: Any = fields.ForeignKeyField("shop.Author", related_name="books")

        class Meta:
            table = "books"

    module = sys.modules[__name__]
    for model in (Author, Book):
        model.__module__ = __name__
        setattr(module, model.__name__, model)
    once = asyncio.Lock()
    ready: list[bool] = []

    async def connected() -> None:
        async with once:
            if not ready:
                await Tortoise.init(db_url=url(driver), modules={"shop": [__name__]}, _enable_global_fallback=True)
                ready.append(True)

    async def sick() -> str:
        await connected()
        return "\n".join([(await book.author).name for book in await Book.all().order_by("id").limit(BOOKS)])

    async def cured() -> str:
        await connected()
        books = await Book.all().order_by("id").limit(BOOKS).prefetch_related("author")
        return "\n".join(book.author.name for book in books)

    return sick, cured


SYNC: Final = {"django": django, "sqlalchemy": sqlalchemy, "peewee": peewee}
ASYNC: Final = {"sqlalchemy-async": sqlalchemy_async, "tortoise": tortoise}


@contextmanager
def request(mark: bool) -> Iterator[None]:
    """A request: what is sent inside carries its id, if it is to be marked."""
    token = _request.set(f"r{os.getpid()}-{next(_numbers)}" if mark else "")
    try:
        yield
    finally:
        _request.reset(token)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(pages: tuple[Page, Page], port: int, mark: bool) -> None:
    """A WSGI server, a thread for each request."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with request(mark):
            body = pages[environ["PATH_INFO"] == "/cured"]()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body.encode()]

    with make_server("127.0.0.1", port, application, _Server, _Quiet) as server:
        print("ready", flush=True)
        server.serve_forever()


def serve_async(pages: tuple[AsyncPage, AsyncPage], port: int, mark: bool) -> None:
    """An ASGI server, one loop for all requests."""
    import uvicorn

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with request(mark):
            body = await pages[scope["path"] == "/cured"]()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body.encode()})

    config = uvicorn.Config(application, host="127.0.0.1", port=port, lifespan="off", log_level="error")
    server = uvicorn.Server(config)

    def told() -> None:
        while not server.started:
            threading.Event().wait(0.01)
        print("ready", flush=True)

    threading.Thread(target=told, daemon=True).start()
    server.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("orm", choices=[*SYNC, *ASYNC])
    parser.add_argument("driver")
    parser.add_argument("port", type=int)
    parser.add_argument("--tagged", action="store_true")
    parser.add_argument("--pooled", action="store_true")
    options = parser.parse_args()
    if options.orm in SYNC:
        serve(SYNC[options.orm](options.driver), options.port, options.tagged)
    else:
        serve_async(ASYNC[options.orm](options.driver), options.port, options.tagged)


if __name__ == "__main__":
    main()
