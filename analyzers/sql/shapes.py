"""Texts that differ in their literals only: what was found out about one holds for all.

Enters: SQL as it was sent. Leaves: its shape (the text without its plain literals) and what these are; and, once a
shape has been lexed, the `Text` of any other SQL of that shape. So a pasted query costs a tenth of what lexing it
would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pgtattle.analyzers.sql.fingerprint import MAX_VALUE
from pgtattle.analyzers.sql.literals import take_out
from pgtattle.proxy.events import Slot, Text

_STRING: Final = "'"
_FRACTION: Final = ".0e0"
_RUNS_INTO_NUMBER: Final = re.compile(r"[A-Za-z_\x80-\U0010ffff0-9$.]\Z", re.A)
_JOINS: Final = re.compile(r"[ \t\f\v]*[\r\n]\s*'")
"""Between two strings it makes one of them."""
_COMMENT: Final = r"/\*[^*/]*(?:(?:\*(?!/)|/(?!\*))[^*/]*)*\*/"
_LEADING: Final = re.compile(rf"\s*({_COMMENT})\s*", re.A)
_TRAILING: Final = re.compile(rf"\s*({_COMMENT})\s*;?\s*\Z", re.A)


class Shape:
    """Texts of one `key` differ in `literals` only; strings have their quotes. `comments` came before or behind."""

    __slots__ = ("comments", "key", "literals")

    def __init__(self, key: str, literals: list[str], comments: list[str]) -> None:
        self.key = key
        self.literals = literals
        self.comments = comments

    @property
    def holds_strings(self) -> bool:
        """True where a literal is no number."""
        return _STRING in self.key


class Template:
    """What the texts of a shape share. `places` are their slots, each with the index of its literal, and its sign.

    A slot that is a parameter has no literal: its index is -1.
    """

    __slots__ = ("like", "places")

    def __init__(self, like: Text, places: Sequence[tuple[Slot, int, str]]) -> None:
        self.like = like
        self.places = places

    def text(self, sql: str, shape: Shape, tags: Mapping[str, str]) -> Text:
        """The text `sql`, which has this shape."""
        literals = shape.literals
        slots = [
            slot if index < 0 else Slot(slot.number, 0, sign + _value(literals[index]), slot.kind, slot.where)
            for slot, index, sign in self.places
        ]
        return Text(sql, self.like.statement, tuple(slots), self.like.lists, tags)


def shape(sql: str) -> Shape | None:
    """The shape of a text; None where it has none."""
    comments: list[str] = []
    body = sql
    if "/*" in sql:
        if leading := _LEADING.match(body):
            comments.append(leading[1])
            body = body[leading.end() :]
        if (start := body.rfind("/*")) >= 0 and (trailing := _TRAILING.match(body, start)):
            comments.append(trailing[1])
            body = body[:start]
    found = take_out(body)
    return None if found is None else Shape(found[0], found[1], comments)


def template(shape: Shape, lex: Callable[[str], tuple[Text, ...]]) -> Template | None:
    """The template of a shape, found out by lexing a text of it whose literals are numbered; None where it has none.

    Scripts have none, nor has what is no plain query.
    """
    numbered = _numbered(shape)
    texts = lex(numbered) if numbered else ()
    if len(texts) != 1 or texts[0].statement.kind not in ("read", "write") or texts[0].statement.command == "FETCH":
        return None
    places = []
    for slot in texts[0].slots:
        if slot.parameter:
            places.append((slot, -1, ""))
            continue
        sign = "-" if slot.value.startswith("-") else ""
        number = slot.value.removeprefix("-").removesuffix(_FRACTION)
        if not number.isdecimal() or int(number) >= len(shape.literals):
            return None
        places.append((slot, int(number), sign))
    return Template(texts[0], places)


def _numbered(shape: Shape) -> str:
    """The text of a shape, each literal being its own number; empty where one would run into what is beside it."""
    parts: list[str] = []
    ran = False
    for number, before in enumerate(shape.key.split("\0")):
        if number and before.endswith(_STRING) and _JOINS.fullmatch(before) and parts[-1].endswith(_STRING):
            return ""
        parts.append(before)
        if number >= len(shape.literals):
            break
        if before.endswith(_STRING):
            parts.append(f"{number}'")
            ran = False
        elif (ran and not before) or _RUNS_INTO_NUMBER.search(before):
            return ""
        else:
            # With a fraction and an exponent, so that nothing behind is taken for a part of it.
            parts.append(f"{number}{_FRACTION}")
            ran = True
    return "".join(parts)


def _value(literal: str) -> str:
    return (literal[1:-1].replace("''", "'") if literal[0] == _STRING else literal)[:MAX_VALUE]
