"""What a COPY TO STDOUT calls its columns, which the protocol does not say.

Enters: the statement. Leaves: the names as far as they are written in it, and whether its rows are in the plain text
format. Lexical: `COPY t (a, b) TO …` and `COPY (SELECT a, x AS b FROM t) TO …` name theirs, `COPY t TO …` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgtattle.analyzers.sql.tokens import Token, capitals, folded, tokenize

_PLAIN: Final = frozenset(("TO", "STDOUT", "WITH", "(", ")", "FORMAT", "TEXT", ";"))
_BEHIND: Final = frozenset(
    "FROM WHERE GROUP HAVING WINDOW UNION INTERSECT EXCEPT ORDER LIMIT OFFSET FETCH INTO".split()
)
"""What ends a list of columns."""


def copied_columns(sql: str) -> tuple[list[str], bool]:
    """The names of what is copied, empty where one is not written, and whether it is plain text."""
    tokens = [token for token in tokenize(sql) if token.kind != "comment"]
    words = [capitals(token.text) for token in tokens]
    if words[1:2] == ["("]:
        end = _closing(words, 1)
        names = _selected(tokens[2:end], words[2:end])
    else:
        end = words.index("TO") if "TO" in words else len(words)
        start = words.index("(") if "(" in words[:end] else end
        names = [_name(token) for token in tokens[start + 1 : end] if token.kind in ("word", "quoted")]
    return names, all(word in _PLAIN for word in words[end:])


def _selected(tokens: Sequence[Token], words: Sequence[str]) -> list[str]:
    """The names of the columns of a query; none of one that selects all there are."""
    names: list[str] = []
    depth = 0
    begun = False
    for number, word in enumerate((*words, "FROM")):
        depth += (word in ("(", "[")) - (word in (")", "]"))
        if depth:
            continue
        if word == "SELECT":
            begun = True
        elif begun and (word == "," or word in _BEHIND):
            last = tokens[number - 1]
            if last.text == "*":
                return []
            names.append(_name(last))
            if word != ",":
                break
    return names


def _name(token: Token) -> str:
    if token.kind == "quoted":
        return token.text[1:-1].replace('""', '"')
    return folded(token.text) if token.kind == "word" else ""


def _closing(words: Sequence[str], start: int) -> int:
    """Where the bracket closes that opens at `start`."""
    depth = 0
    for number in range(start, len(words)):
        depth += (words[number] == "(") - (words[number] == ")")
        if depth == 0:
            return number
    return len(words)
