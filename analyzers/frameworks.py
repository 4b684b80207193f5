"""Which framework wrote a query, so that advice is in its words.

Enters: a unit's executions. Leaves: the word of a table for the framework. Tags tell it, then the name that a driver
gives its connections, then the way a framework writes its SQL, where no other writes like it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pgtattle.proxy.execution import Execution

LOOKED_AT: Final = 600
"""Characters of a text."""

# A quoted list of columns of one table is Django's; Active Record takes all, Prisma names the schema too.
_STYLES: Final = (
    ("prisma", re.compile(r'SELECT "\w+"\."\w+"\."\w+"(?:, "\w+"\."\w+"\."\w+")* FROM "\w+"\."\w+" WHERE')),
    ("django", re.compile(r'SELECT "(\w+)"\."\w+"(?:(?:::\w+)?, "\w+"\."\w+")* FROM "\1"(?: |$)')),
    ("activerecord", re.compile(r'SELECT "(\w+)"\.\* FROM "\1" WHERE')),
    ("gorm", re.compile(r'SELECT \* FROM "(\w+)" WHERE .*"\1"\."deleted_at" IS NULL', re.S)),
    ("typeorm", re.compile(r'SELECT "(\w+)"\."(\w+)" AS "\1_\2"')),
    ("sequelize", re.compile(r'SELECT (?:"\w+", )*"\w+" FROM "\w+" AS "\w+" WHERE "\w+"\."\w+"')),
    ("sqlalchemy", re.compile(r"SELECT (\w+)\.(\w+)(?: AS \1_\2)?(?:, \w+\.\w+(?: AS \w+)?)* ?\nFROM \w+")),
    ("hibernate", re.compile(r"select (?:\w+\d_\d\.\w+|\w+\d_\.\w+ as \w+\d+_\d+_\d+_)")),
    ("peewee", re.compile(r'SELECT "t1"\."\w+"(?:, "t1"\."\w+")* FROM "\w+" AS "t1"')),
)
_DRIVERS: Final = (("postgresql jdbc driver", "hibernate"),)


_BARE: Final = re.compile(r"\b(?:FROM|INTO|JOIN|WHERE|AND)\s+\(*(?!NOT\b|EXISTS\b)[a-z_]", re.I)
"""A name without quotes where an ORM quotes it."""
_QUALIFIED: Final = re.compile(r'"\w+"\."\w+"')
_LITERALS: Final = re.compile(r"'(?:[^']|'')*'")
_WRITE: Final = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+"', re.I)


def is_generated(sql: str) -> bool:
    """True for the SQL of an ORM that quotes every name, and in reads writes the table of each column."""
    start = _LITERALS.sub("''", sql[:LOOKED_AT])
    return _BARE.search(start) is None and (_WRITE.match(start) or _QUALIFIED.search(start)) is not None


def word_of_framework(executions: Sequence[Execution], words: Sequence[tuple[str, str]]) -> str:
    """What something is called in the framework that sent these; empty where it is not known, or has no word."""
    tagged = (execution.text.tags for execution in executions if execution.text.tags)
    named = " ".join({f"{tags.get('framework', '')} {tags.get('db_driver', '')}".lower() for tags in tagged}).strip()
    if not named:
        first = executions[0]
        application = first.connection.application.lower()
        named = next((name for driver, name in _DRIVERS if driver == application), "") or style_of(first.text.sql)
    return next((word for name, word in words if name in named), "")


def style_of(sql: str) -> str:
    """The framework whose way of writing this is; empty where it is nobody's own."""
    start = sql[:LOOKED_AT].lstrip()
    return next((name for name, pattern in _STYLES if pattern.match(start)), "")
