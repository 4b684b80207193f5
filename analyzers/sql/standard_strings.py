r"""SQL sent with standard_conforming_strings off, written as it is with the setting on.

Enters: text in whose plain strings backslashes escape. Leaves: the same with those strings as E'…', so that all that
reads SQL here knows one syntax. Nothing else changes.
Source: PostgreSQL, `src/backend/parser/scan.l` (xqstart, xusstart).
"""

from __future__ import annotations

from pgtattle.analyzers.sql.tokens import tokenize


def standard(sql: str) -> str:
    """The text with E before its plain strings that hold a backslash."""
    pieces: list[str] = []
    position = 0
    for token in tokenize(sql, escapes=True):
        text = token.text
        if token.kind != "string" or "\\" not in text or text[0] in "eE$":
            continue
        pieces.append(sql[position : token.start])
        before = sql[token.start - 1 : token.start]
        if before.isalnum() or before in ("_", "$") or before > "\x7f":
            pieces.append(" ")
        if text[0] in "uU":
            # Refused by the server, whatever it holds up to the end of the text.
            pieces.append("E'" + text[3:].replace("\\", "\\\\").replace("'", "''"))
        else:
            pieces.append("E" + text.lstrip("nN"))
        position = token.end
    pieces.append(sql[position:])
    return "".join(pieces)
