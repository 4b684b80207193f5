"""Statements that make, run or end another one: PREPARE and EXECUTE, DECLARE, FETCH, MOVE and CLOSE, DEALLOCATE.

Enters: the text of one. Leaves: the name that it is about, the statement that it holds, and the values that it gives.
Lexical, like everything that is done for every execution.
Source: PostgreSQL, "SQL Commands"; `src/backend/parser/gram.y`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pgtattle.analyzers.sql.tokens import Token, capitals, folded, tokenize, value

_OIDS: Final = {
    "bool": 16, "boolean": 16, "int8": 20, "bigint": 20, "int2": 21, "smallint": 21, "int": 23, "integer": 23,
    "int4": 23, "text": 25, "float4": 700, "real": 700, "float8": 701, "double precision": 701, "varchar": 1043,
    "character varying": 1043, "date": 1082, "timestamp": 1114, "timestamp without time zone": 1114,
    "timestamptz": 1184, "timestamp with time zone": 1184, "numeric": 1700, "decimal": 1700, "uuid": 2950,
    "json": 114, "jsonb": 3802,
}  # fmt: skip
"""The types that drivers and people give, by their names."""
_CONSTANTS: Final = {"NULL": None, "TRUE": "t", "FALSE": "f"}


class Argument(NamedTuple):
    """A value of an EXECUTE as text, None for NULL; the expression where it is not `known` without the server."""

    value: str | None
    known: bool


class Held(NamedTuple):
    """A statement inside another one: what it is named, its text, and the types of its parameters (0: not said).

    `hold`: a cursor that outlives its transaction.
    """

    name: str
    sql: str
    types: tuple[int, ...] = ()
    hold: bool = False


def held(sql: str) -> Held | None:
    """What a PREPARE or a DECLARE holds; None where it cannot be told."""
    tokens = _significant(sql)
    words = [capitals(token.text) for token in tokens]
    if len(words) < 4:
        return None
    mark = "AS" if words[0] == "PREPARE" else "FOR"
    start = words.index(mark, 2) + 1 if mark in words[2:] else len(words)
    if start >= len(words):
        return None
    types: tuple[int, ...] = ()
    if words[2] == "(":
        types = tuple(_oid(one) for one in _members(tokens[3 : start - 2]))
    hold = "HOLD" in words[2:start] and "WITHOUT" not in words[2:start]
    return Held(_name(tokens[1]), sql[tokens[start].start :], types, hold)


def executed(sql: str) -> tuple[str, tuple[Argument, ...]] | None:
    """The name in an EXECUTE, and its arguments."""
    tokens = _significant(sql)
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if len(tokens) < 2:
        return None
    given = tokens[3:-1] if len(tokens) > 3 and tokens[2].text == "(" else []
    return _name(tokens[1]), tuple(_argument(one) for one in _members(given))


def named(sql: str) -> str | None:
    """The name at the end of a FETCH, MOVE, CLOSE or DEALLOCATE; None for all there are."""
    names = [token for token in _significant(sql)[1:] if token.kind in ("word", "quoted")]
    if not names or (names[-1].kind == "word" and capitals(names[-1].text) == "ALL"):
        return None
    return _name(names[-1])


def _significant(sql: str) -> list[Token]:
    return [token for token in tokenize(sql) if token.kind != "comment"]


def _name(token: Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "quoted" else folded(token.text)


def _members(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """A list's members, less the commas between them."""
    members: list[Sequence[Token]] = []
    depth = begin = 0
    for number, token in enumerate(tokens):
        if token.text in ("(", "["):
            depth += 1
        elif token.text in (")", "]"):
            depth -= 1
        elif token.text == "," and depth == 0:
            members.append(tokens[begin:number])
            begin = number + 1
    return [*members, tokens[begin:]] if tokens else []


def _oid(tokens: Sequence[Token]) -> int:
    words: list[str] = []
    depth = 0
    for token in tokens:
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.text != ")":
            words.append(folded(token.text))
    if words[:2] == ["pg_catalog", "."]:
        words = words[2:]
    return _OIDS.get(" ".join(words), 0)


def _argument(tokens: Sequence[Token]) -> Argument:
    plain = _without_cast(tokens)
    texts = [token.text for token in plain]
    if len(plain) == 1:
        (token,) = plain
        if token.kind in ("string", "number", "bits"):
            return Argument(value(token), True)
        if token.kind == "word" and capitals(token.text) in _CONSTANTS:
            return Argument(_CONSTANTS[capitals(token.text)], True)
    elif len(plain) == 2:
        first, second = plain
        if second.kind == "number" and first.text in ("-", "+"):
            return Argument(second.text if first.text == "+" else f"-{second.text}", True)
        if second.kind == "string" and first.kind == "word":
            return Argument(value(second), True)
    elif len(plain) > 2 and capitals(texts[0]) == "ARRAY" and texts[1] == "[" and texts[-1] == "]":
        members = [_argument(one) for one in _members(plain[2:-1])]
        if all(one.known and one.value is not None for one in members):
            return Argument("{" + ",".join(one.value or "" for one in members) + "}", True)
    return Argument(" ".join(texts), False)


def _without_cast(tokens: Sequence[Token]) -> Sequence[Token]:
    """An expression less the brackets around it and the type it is cast to."""
    while len(tokens) > 2:
        first, last = tokens[0].text, tokens[-1].text
        cast = _outer_cast(tokens)
        if cast and all(token.kind in ("word", "quoted", "punctuation", "number") for token in tokens[cast:]):
            tokens = tokens[:cast]
        elif first == "(" and last == ")" and _closes(tokens):
            tokens = tokens[1:-1]
        elif capitals(first) == "CAST" and last == ")" and "AS" in [capitals(token.text) for token in tokens]:
            end = max(number for number, token in enumerate(tokens) if capitals(token.text) == "AS")
            tokens = tokens[2:end]
        else:
            break
    return tokens


def _outer_cast(tokens: Sequence[Token]) -> int:
    """Where the whole expression is cast; 0 where it is not."""
    depth = found = 0
    for number, token in enumerate(tokens):
        depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
        if depth == 0 and token.text == "::":
            found = found or number
    return found


def _closes(tokens: Sequence[Token]) -> bool:
    """True where the first bracket closes with the last one."""
    depth = 0
    for number, token in enumerate(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return number == len(tokens) - 1
    return False
