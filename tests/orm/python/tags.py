"""What the shops in Python share: the tags of the request that is being answered, and where the database is."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any, Final

BOOKS: Final = 20
AUTHORS: Final = 10

REQUEST: ContextVar[str] = ContextVar("request", default="")
ROUTE: Final[list[str]] = []


def tagged(sql: str) -> str:
    """A statement with the comment of the request that it belongs to."""
    identity = REQUEST.get()
    return f"{sql} /*request_id='{identity}',route='{ROUTE[0]}'*/" if identity else sql


def unprepared(driver: str) -> dict[str, Any]:
    """Arguments of a connection that prepares nothing, which this PgBouncer could not follow."""
    return {"prepare_threshold": None} if driver == "psycopg" and os.environ.get("SHOP_POOLED") else {}


def url(scheme: str) -> str:
    where = os.environ
    return f"{scheme}://{where['PGUSER']}:@{where['PGHOST']}:{where['PGPORT']}/{where['PGDATABASE']}"
