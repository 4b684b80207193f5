"""Files of SQL in, statements out; and of a statement, variants that say the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pgtattle.analyzers.sql.texts import _split
from pgtattle.analyzers.sql.tokens import Token, tokenize

_COPY_DATA = re.compile(r"^(copy\b[^;]*\bfrom\s+stdin\b[^;]*;).*?^\\\.$", re.I | re.M | re.S)
_SENT_BY_PSQL = re.compile(r"(?<=[\s)'\"])\\(?:g\w*|crosstabview|watch)\b[^\n]*")
_META_COMMAND = re.compile(r"^[ \t]*\\[^\n]*$", re.M)
_SPACES = (" ", "\n", "\t  ", " /* a 'comment' */ ", " -- a; comment\n", " /* one /* in */ another */ ")


def statements(paths: Iterable[Path]) -> Iterator[str]:
    """Each statement of the files, and of the `.sql` files in the folders, without what is psql's own."""
    for path in paths:
        for file in sorted(path.rglob("*.sql")) if path.is_dir() else [path]:
            sql = _COPY_DATA.sub(r"\1", file.read_text(encoding="utf-8", errors="replace"))
            sql = _META_COMMAND.sub("", _SENT_BY_PSQL.sub(";", sql))
            for tokens in _split(tokenize(sql)):
                if any(token.kind != "comment" for token in tokens):
                    yield sql[tokens[0].start : tokens[-1].end]


def variant(sql: str, chance: random.Random) -> str:
    """The statement with other literals, white space, comments and letter case: one group with it, whoever groups."""
    tokens = [token for token in tokenize(sql) if token.kind != "comment"]
    pieces: list[str] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.end < token.start:
            # Strings apart by a line end are one literal, and no others may become so.
            kept = before.kind == token.kind == "string"
            pieces.append(sql[before.end : token.start] if kept else chance.choice(_SPACES))
        pieces.append(_other(token, chance))
    return "".join(pieces)


def _other(token: Token, chance: random.Random) -> str:
    text = token.text
    number = chance.randrange(1, 10_000)
    if token.kind == "word" and text.isascii():
        return chance.choice((text.upper(), text.lower(), text.swapcase()))
    if token.kind == "number":
        return str(number) if text.isdigit() else f"{number}.5"
    if token.kind == "string" and text[0] in "'eE$":
        return {"'": f"'it''s {number}'", "$": f"$x$ '{number} $x$"}.get(text[0], f"E'\\'{number}'")
    return f"{text[:2]}01'" if token.kind == "bits" else text
