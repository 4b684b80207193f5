"""SQL broken into lines for reading: a line break before each clause, outside of quotes."""

from __future__ import annotations

import re
from typing import Final

_PIECES: Final = re.compile(
    r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|/\*.*?\*/|--[^\n]*)"
    r"|\s*\b(FROM|WHERE|(?:LEFT |RIGHT |FULL |INNER |CROSS )?(?:OUTER )?JOIN|GROUP BY|ORDER BY|HAVING|LIMIT|OFFSET"
    r"|UNION(?: ALL)?|VALUES|SET|RETURNING|ON CONFLICT)\b",
    re.I | re.S,
)


def pretty(sql: str) -> str:
    """The same SQL, in lines."""
    if "\n" in sql.strip():
        return sql.strip()
    return _PIECES.sub(lambda match: match[1] or f"\n{match[2]}", sql.strip()).strip()
