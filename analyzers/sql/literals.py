"""The plain literals of a text, found in one walk: numbers and quoted strings.

Enters: SQL. Leaves: the text without them, and these. What the walk cannot follow to the end (comments, escape strings,
dollar quotes, anything that is not closed) is left to the lexer. `_literals.c` is the compiled twin: pasted SQL passes
here with every execution.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pgtattle.analyzers.sql.tokens import NUMBER

_WORD: Final = r"A-Za-z_\x80-\U0010ffff0-9$"
_PLAIN: Final = r"""[^0-9'"$./-]*"""
_PIECE: Final = re.compile(
    rf"""
    ( {_PLAIN}
      (?:
        (?: (?<=[{_WORD}])[0-9$]+(?![0-9$]) | (?<![{_WORD}])\$\d+(?![0-9$])
          | "[^"]*(?:""[^"]*)*"(?!") | \.(?!\d) | -(?!-) | /(?!\*) )
        {_PLAIN}
      )*
    )
    ( (?<![eEnNbBxX&])'[^']*(?:''[^']*)*'(?!') | (?<![{_WORD}])(?:{NUMBER}) | \Z )
    """,
    re.X | re.A,
)
"""What is no literal, and the literal behind it; a quote behind a letter that may change its meaning ends the walk.

It matches in one way only, so that failing takes no longer than matching. No possessive groups: of those Python makes
nonsense before 3.11.5.
"""


def take_out_pure(sql: str) -> tuple[str, list[str]] | None:
    """The text with `\\0` in the place of each literal, behind a quote where that is a string; and the literals."""
    befores: list[str] = []
    literals: list[str] = []
    position = 0
    while (found := _PIECE.match(sql, position)) is not None:
        before, literal = found.group(1, 2)
        if not literal:
            befores.append(before)
            return "\0".join(befores), literals
        befores.append(before + "'" if literal.startswith("'") else before)
        literals.append(literal)
        position = found.end()
    return None


if TYPE_CHECKING:
    take_out = take_out_pure
else:
    try:
        from pgtattle.analyzers.sql._literals import take_out
    except ImportError:
        take_out = take_out_pure
