"""The lexical normal form of one statement, and its fingerprint.

Comments and white space go; literals and parameters become `$1, $2 …`; IN lists, ARRAY lists and rows of VALUES
collapse to one member where all members have one shape; names are folded as the server folds them, keywords are
capitals. `= $1`, `IN ($1)` and `= ANY($1)` stay apart, because a loop and its cure must. The names of savepoints,
cursors and prepared statements are forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from pgtattle.analyzers.sql.tokens import Token, capitals, folded, value
from pgtattle.proxy.events import Slot

MAX_SLOTS: Final = 256
MAX_VALUE: Final = 1_000
MAX_DIGITS: Final = 10

KEYWORDS: Final = frozenset(
    """ALL ALTER ANALYZE AND ANY ARRAY AS ASC BEGIN BETWEEN BY CASE CAST CHECK CLOSE COLLATE COMMIT CONFLICT
    CONSTRAINT COPY CREATE CROSS CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURSOR DEALLOCATE DECLARE
    DEFAULT DELETE DESC DISCARD DISTINCT DO DROP ELSE END EXCEPT EXECUTE EXISTS EXPLAIN FALSE FETCH FOR
    FOREIGN FROM FULL GRANT GROUP HAVING ILIKE IN INDEX INNER INSERT INTERSECT INTERVAL INTO IS ISNULL JOIN
    LATERAL LEFT LIKE LIMIT LISTEN LOCK LOCKED MATERIALIZED MERGE NATURAL NOT NOTHING NOTIFY NOTNULL NOWAIT
    NULL NULLS OFFSET ON ONLY OR ORDER OUTER OVER PARTITION PREPARE PRIMARY RECURSIVE REFERENCES RELEASE
    RESET RETURNING REVOKE RIGHT ROLLBACK SAVEPOINT SELECT SET SHOW SIMILAR SKIP SOME START TABLE THEN TO
    TRANSACTION TRUE TRUNCATE UNION UNIQUE UNLISTEN UPDATE USING VACUUM VALUES VIEW WHEN WHERE WINDOW WITH""".split()
)
_CLAUSES: Final = {
    "SELECT": "select", "RETURNING": "select", "FROM": "from", "JOIN": "from", "USING": "from", "ON": "on",
    "WHERE": "where", "GROUP": "group", "ORDER": "order", "HAVING": "having", "LIMIT": "limit", "OFFSET": "limit",
    "FETCH": "limit", "SET": "set", "VALUES": "values", "INTO": "other",
}  # fmt: skip
RESERVED: Final = KEYWORDS | frozenset(
    """ANALYSE ASYMMETRIC AUTHORIZATION BINARY BOTH COLLATION COLUMN CONCURRENTLY CURRENT_CATALOG CURRENT_ROLE
    CURRENT_SCHEMA CURRENT_USER DEFERRABLE FREEZE INITIALLY LEADING LOCALTIME LOCALTIMESTAMP OVERLAPS PLACING
    SESSION_USER SYMMETRIC SYSTEM_USER TABLESAMPLE TRAILING USER VARIADIC VERBOSE CHAR""".split()
)
"""Names that keep their quotes: without them they are something else, or no name at all."""
_BEFORE_SIGN: Final = frozenset(
    """ALL AND BETWEEN BY CASE DISTINCT ELSE FETCH FROM HAVING ILIKE IN LIKE LIMIT NOT OFFSET ON OR RETURNING SELECT
    SET THEN TO VALUES WHEN WHERE""".split()
)
"""Keywords that an operand follows: a sign there is the number's own, elsewhere it is a subtraction."""
_TYPES: Final = frozenset(
    "date time timetz timestamp timestamptz interval json jsonb uuid inet cidr numeric point".split()
)
_NAMING: Final = frozenset("SAVEPOINT RELEASE DEALLOCATE PREPARE EXECUTE DECLARE CLOSE".split())
_SETTING: Final = frozenset(("SET", "ALTER", "CREATE"))
_PLACEHOLDER: Final = "\0"


class NormalForm(NamedTuple):
    """`lists` are the lengths of collapsed lists by placeholder number."""

    sql: str
    fingerprint: str
    slots: tuple[Slot, ...]
    lists: tuple[tuple[int, int], ...]


class _Item(NamedTuple):
    """A token of the normal form; a placeholder holds its slots."""

    text: str
    kind: str
    slot: tuple[int, str, str, str] | None = None


def normalize(tokens: Sequence[Token], command: str) -> NormalForm:
    """The normal form of a statement's tokens; `command` is its leading keyword."""
    items = _items(_quoted_values(tokens, command) if command in _SETTING else tokens, command)
    merged = _collapse(items)
    words: list[str] = []
    slots: list[Slot] = []
    lists: list[tuple[int, int]] = []
    number = 0
    previous = ""
    previous_kind = ""
    for text, kind, members in merged:
        if members:
            number += 1
            text = f"${number}"
            for parameter, literal, literal_kind, where in members:
                if len(slots) < MAX_SLOTS:
                    slots.append(Slot(number, parameter, literal, literal_kind, where))  # type: ignore[arg-type]
            if len(members) > 1 or kind == "list":
                lists.append((number, len(members)))
            kind = "placeholder"
        if words and _spaced(previous, previous_kind, text, kind):
            words.append(" ")
        words.append(text)
        previous, previous_kind = text, kind
    sql = "".join(words)
    return NormalForm(sql, fingerprint(sql), tuple(slots), tuple(lists))


def _quoted_values(tokens: Sequence[Token], command: str) -> list[Token]:
    """The tokens with the words of a setting's value as strings, which the server takes them for."""
    found = list(tokens)
    named = value = False
    before = ""
    for number, token in enumerate(tokens):
        word = capitals(token.text) if token.kind == "word" else ""
        if command == "CREATE" and (word == "BEGIN" or (word == "RULE" and number < 4)):
            # The statements of a body or of a rule follow, whose SET is another one.
            break
        if value and word and command != "SET" and before not in ("TO", "=", ",", "."):
            value = False
        if value:
            if (word or token.kind == "quoted") and word != "DEFAULT":
                found[number] = token._replace(kind="string", text="'" + token.text.replace("'", "''") + "'")
        elif word == "SET":
            named = True
        elif named and (word == "TO" or token.text == "="):
            named, value = False, True
        elif named and not word and token.kind != "quoted" and token.text != ".":
            named = False
        before = word or token.text
    return found


def fingerprint(normal_form: str) -> str:
    """16 hex digits of a normal form."""
    return hashlib.blake2b(normal_form.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _spaced(previous: str, previous_kind: str, text: str, kind: str) -> bool:
    if text in (",", ")", "]", ".", ";", "::") or previous in ("(", "[", ".", "::"):
        return False
    if text == "(":
        return previous == "," or (previous_kind in ("keyword", "operator") and previous not in ("ANY", "ALL", "SOME"))
    if text == "[":
        return previous_kind in ("operator",)
    return not (text == ":" or previous == ":")


def _items(tokens: Sequence[Token], command: str) -> list[_Item]:
    items: list[_Item] = []
    where = "other"
    stack: list[str] = []
    naming = command in _NAMING
    after_to = False
    for token in tokens:
        kind, text = token.kind, token.text
        if kind == "word":
            upper = capitals(text)
            if upper in KEYWORDS and not (items and items[-1].text in (".", "::")):
                if not (upper == "FROM" and items and items[-1].text == "DISTINCT"):
                    where = _CLAUSES.get(upper, where)
                after_to = upper == "TO" or (after_to and upper == "SAVEPOINT")
                items.append(_Item(upper, "keyword"))
            elif (naming or (after_to and command == "ROLLBACK")) and items:
                items.append(_Item("name", "word"))
                naming = after_to = False
            else:
                items.append(_Item(folded(text), "word"))
        elif kind == "quoted":
            if (naming or (after_to and command == "ROLLBACK")) and items:
                items.append(_Item("name", "word"))
                naming = after_to = False
            else:
                plain = text[1:-1]
                simple = (
                    plain.isidentifier()
                    and plain.isascii()
                    and plain == plain.lower()
                    and plain.upper() not in RESERVED
                )
                items.append(_Item(plain if simple else text, "word"))
        elif kind == "parameter":
            items.append(_Item(_PLACEHOLDER, "placeholder", (int(text[1:MAX_DIGITS]), "", "parameter", where)))
        elif kind in ("string", "number", "bits"):
            _literal(items, token, where)
        elif kind == "punctuation":
            if text == "(":
                stack.append(where)
                if items and items[-1].kind == "word":
                    where = "call" if where not in ("values", "other") else where
            elif text == ")" and stack:
                where = stack.pop()
            items.append(_Item(text, "punctuation"))
        elif kind == "operator":
            items.append(_Item("<>" if text == "!=" else text, "operator"))
    while items and items[-1].text == ";":
        items.pop()
    if command in ("FETCH", "MOVE"):
        last = max((n for n, item in enumerate(items) if item.kind == "word"), default=0)
        if last:
            items[last] = _Item("name", "word")
    return items


def _literal(items: list[_Item], token: Token, where: str) -> None:
    """Append a literal; a sign before a number and a type name before a string belong to it."""
    text = value(token)[:MAX_VALUE]
    kind: str = token.kind
    cast = ""
    if kind == "number" and items and items[-1].text in ("-", "+"):
        before = items[-2] if len(items) > 1 else None
        if before is None or before.kind == "operator" or before.text in _BEFORE_SIGN or before.text in ("(", ",", "["):
            sign = items.pop().text
            text = f"-{text}" if sign == "-" else text
    elif (
        kind == "string"
        and items
        and ((items[-1].kind == "word" and items[-1].text in _TYPES) or items[-1].text == "INTERVAL")
    ):
        cast = items.pop().text.lower()
    items.append(_Item(_PLACEHOLDER, "placeholder", (0, text, kind, where)))
    if cast:
        items += [_Item("::", "punctuation"), _Item(cast, "word")]


Merged = tuple[str, str, list[tuple[int, str, str, str]]]


def _collapse(items: list[_Item]) -> list[Merged]:
    """Lists of placeholders behind IN and ARRAY, and rows of VALUES alike, become one member."""
    merged: list[Merged] = []
    position, total = 0, len(items)
    while position < total:
        item = items[position]
        merged.append((item.text, item.kind, [item.slot] if item.slot else []))
        position += 1
        if position >= total or items[position].text not in ("(", "["):
            continue
        if item.text == "IN" or (item.text == "ARRAY" and items[position].text == "["):
            members, end = _members(items, position)
            if members:
                merged.append((items[position].text, "punctuation", []))
                merged += [(text, "list" if slots else kind, slots) for text, kind, slots in _merge(items, members)]
                position = end
        elif item.text == "VALUES":
            rows, position = _rows(items, position)
            merged += _merge(items, rows)
    return merged


_Spans = list[tuple[int, int]]


def _merge(items: list[_Item], spans: _Spans) -> list[Merged]:
    """Spans of one shape as the first of them, which takes the slots of all."""
    start, end = spans[0]
    first: list[Merged] = [(one.text, one.kind, [one.slot] if one.slot else []) for one in items[start:end]]
    for place, (_, _, slots) in enumerate(first):
        if slots:
            slots += [slot for begin, _ in spans[1:] if (slot := items[begin + place].slot)]
    return first


def _members(items: list[_Item], start: int) -> tuple[_Spans, int]:
    """The members of a bracketed list, and where it closes; none unless all have one shape that holds a literal.

    A keyword ends the search: subqueries are no lists, and no text is searched twice.
    """
    spans: _Spans = []
    begin = start + 1
    depth = 0
    for position in range(start + 1, len(items)):
        text, kind, _ = items[position]
        if text in ("(", "["):
            depth += 1
        elif depth == 0 and text in (",", ")", "]"):
            spans.append((begin, position))
            begin = position + 1
            if text != ",":
                shape = _shape(items, spans[0])
                alike = _PLACEHOLDER in shape and all(_shape(items, span) == shape for span in spans[1:])
                return (spans, position) if alike else ([], 0)
        elif text in (")", "]"):
            depth -= 1
        elif kind == "keyword" and text not in ("CAST", "AS"):
            break
    return [], 0


def _rows(items: list[_Item], start: int) -> tuple[_Spans, int]:
    """The first row of VALUES and all further rows of its shape, and the position behind them."""
    end = _row_end(items, start)
    spans = [(start, end)]
    shape = _shape(items, spans[0])
    while end + 1 < len(items) and items[end].text == "," and items[end + 1].text == "(":
        further = (end + 1, _row_end(items, end + 1))
        if _shape(items, further) != shape:
            break
        spans.append(further)
        end = further[1]
    return spans, end


def _shape(items: list[_Item], span: tuple[int, int]) -> list[str]:
    return [one.text for one in items[span[0] : span[1]]]


def _row_end(items: list[_Item], start: int) -> int:
    depth = 0
    for position in range(start, len(items)):
        if items[position].text == "(":
            depth += 1
        elif items[position].text == ")":
            depth -= 1
            if depth == 0:
                return position + 1
    return len(items)
