"""A normal form that is too long to be kept, made shorter: what it selects is left out, in the middle of the list.

Enters: a normal form. Leaves: one that reads the same tables by the same conditions. ORMs name each column of an
entity, so that the select list is what grows; a placeholder in it stays, since it has its number. What is too long all
the same is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgtattle.analyzers.sql.tokens import Token, tokenize

KEPT_COLUMNS: Final = 8
"""Of a run of columns without placeholders, at its beginning."""
LEFT_OUT: Final = " /* ... */"
"""In ASCII, since the planner is asked about it in whatever encoding."""
CUT: Final = " …"


def abridged(sql: str, size: int) -> str:
    """The normal form in about so many characters."""
    if len(sql) <= size:
        return sql
    parts: list[str] = []
    position = 0
    for start, end in _spans(tokenize(sql)):
        parts += [sql[position:start], LEFT_OUT, "" if sql[end] == "," else " "]
        position = end
    short = "".join((*parts, sql[position:]))
    return short if len(short) <= size else short[:size] + CUT


class _List:
    """A select list that is open: where its last comma stands, and how many columns in a row have no placeholder."""

    __slots__ = ("comma", "depth", "plain", "run")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.comma = -1
        self.plain = True
        self.run = 0

    def column(self, end: int, spans: list[tuple[int, int]]) -> None:
        """A column ends at a place, with a comma or with the list."""
        self.run = self.run + 1 if self.plain else 0
        if self.run > KEPT_COLUMNS and self.comma >= 0:
            if spans and spans[-1][1] == self.comma:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((self.comma, end))
        self.comma, self.plain = end, True


def _spans(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """The places of what can be left out: columns behind the first ones of a run, with the commas before them."""
    spans: list[tuple[int, int]] = []
    lists: list[_List] = []
    depth = 0
    before = ""
    for token in tokens:
        text = token.text
        if text in ("(", "[", "CASE"):
            depth += 1
        elif text in (")", "]", "END"):
            depth -= 1
        while lists and (depth < lists[-1].depth or (text == "SELECT" and depth == lists[-1].depth)):
            lists.pop()
        if text == "SELECT":
            lists.append(_List(depth))
        elif token.kind == "parameter":
            for one in lists:
                one.plain = False
        elif lists and depth == lists[-1].depth and (text == "," or (text == "FROM" and before != "DISTINCT")):
            lists[-1].column(token.start, spans)
            if text == "FROM":
                lists.pop()
        before = text
    return spans
