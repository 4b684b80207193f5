"""The databases that a statement needs without any other session in them.

Enters: a statement's text. Leaves: names, folded as the server folds them. Source: PostgreSQL, "DROP DATABASE",
"ALTER DATABASE" (RENAME TO, SET TABLESPACE), "CREATE DATABASE" (TEMPLATE; without one template1, where nobody is).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from pgtattle.analyzers.sql.tokens import Token, capitals, folded, tokenize, value
from pgtattle.proxy.events import Text

_COMMANDS: Final = frozenset(("DROP", "CREATE", "ALTER"))


def claimed(text: Text) -> tuple[str, ...]:
    """The databases that the statement claims while it runs; none for nearly every statement."""
    command = text.statement.command
    if command not in _COMMANDS or text.statement.sql[:20].upper().split()[1:2] != ["DATABASE"]:
        return ()
    tokens = [token for token in tokenize(text.sql) if token.kind != "comment"]
    words = [capitals(token.text) if token.kind == "word" else "" for token in tokens]
    if command == "CREATE":
        # CREATE DATABASE name [WITH] option [=] value …
        plain = [token for token in tokens if token.text != "="]
        return tuple(_name(after) for token, after in pairwise(plain[3:]) if capitals(token.text) == "TEMPLATE")
    start = 4 if words[2:4] == ["IF", "EXISTS"] else 2
    if len(tokens) <= start:
        return ()
    changes = words[start + 1 : start + 3]
    if command == "ALTER" and changes not in (["RENAME", "TO"], ["SET", "TABLESPACE"]):
        return ()
    return (_name(tokens[start]),)


def _name(token: Token) -> str:
    if token.kind == "quoted":
        return token.text[1:-1].replace('""', '"')
    return value(token) if token.kind == "string" else folded(token.text)
