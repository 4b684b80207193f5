"""SQL for reading: a line break before each clause, and colours, both outside of quotes and comments.

Enters: SQL of any shape, right or wrong. Leaves: pieces with styles; only white space differs. Out of scope: parsing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_PIECES: Final = re.compile(
    r"(?P<green>'(?:[^']|'')*'?)"
    r"|(?P<plain>\"(?:[^\"]|\"\")*\"?)"
    r"|(?P<dim>/\*.*?(?:\*/|\Z)|--[^\n]*)"
    r"|(?P<dollar>\$(?P<tag>(?:[a-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))"
    r"|(?P<magenta>\$\d+\b)"
    r"|(?P<clause>\b(?:FROM|WHERE|(?:(?:LEFT|RIGHT|FULL|INNER|CROSS) )?(?:OUTER )?JOIN|GROUP BY|ORDER BY|HAVING|LIMIT"
    r"|OFFSET|UNION(?: ALL)?|VALUES|SET|RETURNING|ON CONFLICT)\b)"
    r"|(?P<word>\b(?:SELECT|INSERT INTO|UPDATE|DELETE|WITH|AS|ON|AND|OR|NOT|IN|ANY|IS|NULL|DISTINCT|ASC|DESC|BETWEEN"
    r"|LIKE|EXISTS|CASE|WHEN|THEN|ELSE|END|CREATE INDEX(?: CONCURRENTLY)?)\b)",
    re.I | re.S,
)
_STYLES: Final = {"clause": "bold", "word": "bold", "dollar": "green", "plain": ""}


def pretty(sql: str) -> Iterator[tuple[str, str]]:
    """Pieces of the SQL with a style each. SQL that has lines of its own keeps them."""
    sql = sql.strip()
    own_lines = "\n" in sql
    end = 0
    for match in _PIECES.finditer(sql):
        kind = match.lastgroup or ""
        between = sql[end : match.start()]
        breaks = kind == "clause" and not own_lines and match.start() > 0
        yield (f"{between.rstrip()}\n" if breaks else between), ""
        yield match[0], _STYLES.get(kind, kind)
        end = match.end()
    yield sql[end:], ""
