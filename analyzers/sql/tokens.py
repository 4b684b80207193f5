"""A lexer for PostgreSQL's SQL: text in, tokens out, in time linear in the text whatever it holds.

Source: PostgreSQL, "Lexical Structure"; `src/backend/parser/scan.l`. It never fails: what is not closed runs to the
end.
"""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase
from typing import Final, Literal, NamedTuple

Kind = Literal["word", "quoted", "string", "bits", "number", "parameter", "operator", "punctuation", "comment"]

NUMBER: Final = (
    r"0[xX][0-9A-Fa-f_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?"
)
"""A number, as an expression."""
_GAP: Final = r"[ \t\f\v]*(?:--[^\r\n]*)?[\r\n](?:[ \t\r\n\f\v]|--[^\r\n]*[\r\n])*"
"""Between the parts of one literal: a line end, and nothing but white space and comments of one line."""
_END: Final = r"(?:'|\Z)"
_PLAIN_PART: Final = rf"'([^']*(?:''[^']*)*){_END}"
_ESCAPED_PART: Final = rf"'([^'\\]*(?:(?:\\(?:.|\Z)|'')[^'\\]*)*){_END}"


def _literal(part: str) -> str:
    part = part.replace("'([", "'(?:[", 1)
    return f"(?:{part}(?:{_GAP}{part})*)"


_PLAIN: Final = _literal(_PLAIN_PART)
_ESCAPED: Final = _literal(_ESCAPED_PART)


def _tokens(strings: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
          \s+
        | (?P<line>--[^\r\n]*)
        | (?P<block>/\*)
        | (?P<string>{strings})
        | (?P<bits>[bBxX]{_PLAIN})
        | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
        | (?P<parameter>\$\d+)
        | (?P<quoted>(?:[uU]&)?"[^"]*(?:""[^"]*)*(?:"|\Z))
        | (?P<number>{NUMBER})
        | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
        | (?P<punctuation>::|:=|[()\[\],;.:])
        | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@#%^&|`?]){{1,63}})
        | (?P<other>.)
        """,
        re.X | re.S | re.A,
    )


_TOKEN: Final = _tokens(rf"[eE]{_ESCAPED} | (?:[nN]|[uU]&)?{_PLAIN}")
# Where plain strings have escapes the server refuses U&'', and reads no further.
_TOKEN_ESCAPES: Final = _tokens(rf"[eEnN]?{_ESCAPED} | [uU]&'.*\Z")
_CLOSED: Final = re.compile(
    rf"[eE]{_ESCAPED}|(?:[nNbBxX]|[uU]&)?{_PLAIN}|(?:[uU]&)?\"[^\"]*(?:\"\"[^\"]*)*(?:\"|\Z)".replace(r"|\Z)", ")"),
    re.S,
)
_PLAIN_VALUE: Final = re.compile(_PLAIN_PART)
_ESCAPED_VALUE: Final = re.compile(_ESCAPED_PART, re.S)
_BETWEEN: Final = re.compile(_GAP)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


class Token(NamedTuple):
    """A token and where it stands in the text."""

    kind: Kind
    text: str
    start: int
    end: int


def tokenize(sql: str, escapes: bool = False) -> list[Token]:
    """All tokens but white space; `escapes`: with standard_conforming_strings off."""
    tokens: list[Token] = []
    position, total = 0, len(sql)
    match = (_TOKEN_ESCAPES if escapes else _TOKEN).match
    while position < total:
        found = match(sql, position)
        assert found is not None, "every character is a token"
        end = found.end()
        group = found.lastgroup
        if group is None:
            position = end
            continue
        kind: Kind
        if group == "block":
            end = _end_of_comment(sql, end)
            kind = "comment"
        elif group == "line":
            kind = "comment"
        elif group == "dollar":
            close = sql.find(found[0], end)
            end = total if close < 0 else close + len(found[0])
            kind = "string"
        elif group == "operator":
            end = position + len(_operator(found[0]))
            kind = "operator"
        elif group == "other":
            kind = "operator"
        else:
            kind = group  # type: ignore[assignment]
        tokens.append(Token(kind, sql[position:end], position, end))
        position = end
    return tokens


def _operator(text: str) -> str:
    """An operator's own characters: one of several may end in a sign only if it holds a character that SQL has not."""
    if len(text) > 1 and text[-1] in "+-" and not any(char in "~!@#%^&|`?" for char in text):
        return text.rstrip("+-") or text[0]
    return text


def value(token: Token) -> str:
    """A literal's value: quotes and escapes undone."""
    text = token.text
    if token.kind != "string":
        return text
    if text[0] == "$":
        tag = text[: text.index("$", 1) + 1]
        return text[len(tag) : -len(tag)] if text.endswith(tag) and len(text) >= 2 * len(tag) else text[len(tag) :]
    escapes = text[0] in "eE"
    part = _ESCAPED_VALUE if escapes else _PLAIN_VALUE
    position = text.index("'")
    body = ""
    while (found := part.match(text, position)) is not None:
        body += found[1]
        gap = _BETWEEN.match(text, found.end())
        position = gap.end() if gap is not None else len(text)
    body = body.replace("''", "'")
    if escapes:
        body = _ESCAPE.sub(_unescape, body)
        if not body.isascii():
            # Escapes may write UTF-16's halves; two make one character, one alone none that can be written anywhere.
            body = body.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return body


def closed(token: Token) -> bool:
    """False for a quoted token whose end is missing."""
    if token.kind == "string" and token.text[0] == "$":
        tag = token.text[: token.text.index("$", 1) + 1]
        return len(token.text) >= 2 * len(tag) and token.text.endswith(tag)
    return token.kind not in ("string", "bits", "quoted") or _CLOSED.fullmatch(token.text) is not None


def capitals(word: str) -> str:
    """A word in capitals, as the server compares keywords: only the letters of ASCII have a case."""
    return word.upper() if word.isascii() else word.translate(_UPPER)


def folded(word: str) -> str:
    """An unquoted name as the server folds it."""
    return word.lower() if word.isascii() else word.translate(_LOWER)


_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)
_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)


_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[0-7]{1,3}|.)", re.S)
_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def _unescape(match: re.Match[str]) -> str:
    text = match[1]
    if text[0] in "xuU" and len(text) > 1:
        code = int(text[1:], 16)
        return chr(code) if code < 0x110000 else "\ufffd"
    if text[0] in "01234567":
        return chr(int(text, 8))
    return _NAMED.get(text, text)


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(sql)
