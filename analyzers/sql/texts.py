"""SQL as it was sent in, `Text` records out: split, classified, normalized, tagged, and cleared of secrets.

Everything is lexical, so that it works for text that no parser knows. Results are cached by the exact text, bounded by
count and bytes; statements are shared by their normal form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Generic, Literal, TypeVar

from pgtattle.analyzers.sql.abridge import abridged
from pgtattle.analyzers.sql.comments import tags
from pgtattle.analyzers.sql.fingerprint import RESERVED, NormalForm, fingerprint, normalize
from pgtattle.analyzers.sql.shapes import Template, shape, template
from pgtattle.analyzers.sql.standard_strings import standard
from pgtattle.analyzers.sql.tokens import Token, capitals, closed, tokenize, value
from pgtattle.proxy.events import Statement, Text

MAX_SQL: Final = 262_144
LONG: Final = 65_536
"""A longer text is read whole while the credit for such ones lasts: a stream of ever new ones would take all time."""
CREDIT: Final = 5.0
EARNED: Final = 0.05
"""By each text that is not known yet."""
MAX_NORMAL_FORM: Final = 16_384
"""A longer one is kept abridged; its fingerprint is that of the whole."""

_KINDS: Final = {
    **dict.fromkeys(("SELECT", "VALUES", "TABLE", "FETCH"), "read"),
    **dict.fromkeys(("INSERT", "UPDATE", "DELETE", "MERGE", "CALL"), "write"),
    **dict.fromkeys(("CREATE", "ALTER", "DROP", "TRUNCATE", "COMMENT", "GRANT", "REVOKE", "REINDEX", "REFRESH"), "ddl"),
    **dict.fromkeys(("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PREPARE TRANSACTION"), "transaction"),
    **dict.fromkeys(("SET", "RESET", "SHOW", "DISCARD", "LISTEN", "UNLISTEN", "DEALLOCATE"), "session"),
    "COPY": "copy",
    "EMPTY": "empty",
}
_COMMANDS: Final = frozenset(_KINDS) | frozenset(
    """ANALYZE CALL CHECKPOINT CLOSE CLUSTER DECLARE DO EXECUTE EXPLAIN IMPORT LOAD LOCK MOVE NOTIFY PREPARE REASSIGN
    SECURITY VACUUM""".split()
)
"""Of PostgreSQL 18. What begins with another word is no statement, and the word may be anybody's."""
_SAME: Final = {"START": "BEGIN", "END": "COMMIT", "ABORT": "ROLLBACK"}
_VERBS: Final = frozenset(("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE"))
_URL: Final = r"://[^\s/@:]{1,100}:[^\s@]{1,100}@"
_SECRET: Final = re.compile(
    r"password|\buser\s+mapping\b|\bsubscription\b|\bserver\b|\bdblink|conninfo|\bpgp_sym_|\bcrypt\b|secret|token|"
    + _URL,
    re.I,
)
_SECRET_TEXT: Final = re.compile(rf"\bpassword\s*(?::?=|e?'|\$)|{_URL}", re.I)
"""A literal that is itself a connection string or a statement with a password, such as the body of a DO."""
_SECRET_CALLS: Final = frozenset(("dblink", "dblink_connect", "dblink_connect_u", "dblink_exec", "crypt"))
_MASK: Final = "'***'"
_FIRST_WORD: Final = re.compile(rb"\s*([A-Za-z]+)(?![\w$\x80-\xff])")
_BEHIND_LITERALS: Final = RESERVED | {"UESCAPE"}
"""What may follow a literal without a space between them."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Bounded(Generic[_Key, _Value]):
    """A cache of two generations: what was not used while a generation filled up falls out. A hit is one look-up."""

    def __init__(self, max_entries: int, max_size: int = 0) -> None:
        self._young: dict[_Key, _Value] = {}
        self._old: dict[_Key, _Value] = {}
        self._max_entries = max(1, max_entries // 2)
        self._max_size = max_size // 2
        self._size = 0

    def get(self, key: _Key) -> _Value | None:
        """The value of a key, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: _Key, value: _Value, size: int = 0) -> None:
        """Keep a value."""
        self._young[key] = value
        self._size += size
        if len(self._young) >= self._max_entries or (self._max_size and self._size >= self._max_size):
            self._old, self._young, self._size = self._young, {}, 0

    def pop(self, key: _Key) -> _Value | None:
        """The value of a key, forgotten; or None."""
        found = self._young.pop(key, None)
        return found if found is not None else self._old.pop(key, None)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Texts:
    """Lexes SQL, with its caches."""

    def __init__(self, max_entries: int = 10_000, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._cache: Bounded[str, tuple[Text, ...]] = Bounded(max_entries, max_bytes)
        self._shapes: Bounded[str, Template | Literal["seen", "none"]] = Bounded(max_entries, max_bytes)
        self._statements: Bounded[str, Statement] = Bounded(2 * max_entries, max_bytes)
        self._credit = CREDIT

    def read(self, sql: str, truncated: bool = False, escapes: bool = False) -> tuple[Text, ...]:
        """The statements of a text, in order; at least one. `truncated` says that the end is missing, `escapes` that
        standard_conforming_strings is off.
        """
        if escapes and "\\" in sql:
            sql = standard(sql)
        found = None if truncated else self._cache.get(sql)
        if found is not None:
            return found
        cut = sql.partition("\0")[0]
        if truncated:
            return self._lex(cut[:LONG], True)
        alike = self._alike(cut) if len(cut) <= MAX_SQL else None
        if alike is not None:
            return (alike,)
        self._credit = min(CREDIT, self._credit + EARNED)
        if len(cut) > LONG:
            if len(cut) > MAX_SQL or self._credit < 1:
                return self._lex(cut[:LONG], True)
            self._credit -= 1
        texts = self._lex(cut, False)
        self._cache.put(sql, texts, 2 * len(sql) + 500)
        return texts

    def _alike(self, sql: str) -> Text | None:
        """The text, by what is known of its shape; None where it must be lexed."""
        found = shape(sql)
        if found is None:
            return None
        known = self._shapes.get(found.key)
        if known is None:
            # Most shapes are never seen again: a template is made for the second text.
            self._shapes.put(found.key, "seen", len(found.key) + 200)
            return None
        if known == "seen":
            plain = None if _SECRET.search(found.key) else template(found, lambda sql: self._lex(sql, False))
            known = plain or "none"
            self._shapes.put(found.key, known, len(found.key) + 500)
        if isinstance(known, str) or (found.holds_strings and _SECRET_TEXT.search("\n".join(found.literals))):
            return None
        return known.text(sql, found, tags(found.comments) if found.comments else {})

    def _lex(self, sql: str, truncated: bool) -> tuple[Text, ...]:
        tokens = tokenize(sql)
        pieces = _split(tokens if truncated else _certain(tokens, len(sql)))
        return tuple(self._text(sql, tokens, len(pieces) == 1, truncated) for tokens in pieces)

    def _text(self, sql: str, tokens: list[Token], alone: bool, truncated: bool) -> Text:
        own = sql if alone else sql[tokens[0].start : tokens[-1].end]
        comments = [token.text for token in tokens if token.kind == "comment"]
        significant = [token for token in tokens if token.kind != "comment"]
        command = _command(significant)
        if _SECRET.search(own):
            own, significant = _masked(own, tokens[0].start if not alone else 0, significant, command)
        form = normalize(significant, command) if command != "OTHER" else _no_statement(own)
        return Text(
            sql=own,
            statement=self._statement(form, command),
            slots=form.slots,
            lists=form.lists,
            tags=tags(comments) if comments else {},
            truncated=truncated,
        )

    def _statement(self, form: NormalForm, command: str) -> Statement:
        found = self._statements.get(form.fingerprint)
        if found is None:
            kind = _KINDS.get(command, "utility")
            sql = abridged(form.sql, MAX_NORMAL_FORM)
            found = Statement(form.fingerprint, sql, command, kind)  # type: ignore[arg-type]
            self._statements.put(form.fingerprint, found, 2 * len(sql) + 200)
        return found


def _no_statement(sql: str) -> NormalForm:
    """What begins with no command is no SQL: each of its words may be a password, and none is shown."""
    return _hidden("not a statement", "", len(sql.encode("utf-8", "replace")))


def unreadable(sql: bytes, why: str) -> Text:
    """In the place of a text that cannot be read for sure: its command, and its size."""
    found = _FIRST_WORD.match(sql)
    word = found[1].decode("ascii").upper() if found is not None else ""
    command = _SAME.get(word, word)
    command = command if command in _COMMANDS else "OTHER"
    form = _hidden(f"text {why}", command if command != "OTHER" else "", len(sql))
    kind = "transaction" if _KINDS.get(command) == "transaction" else "utility"
    return Text(form.sql, Statement(form.fingerprint, form.sql, command, kind))  # type: ignore[arg-type]


def _hidden(why: str, command: str, size: int) -> NormalForm:
    sql = f"{command} ({why}, {size} bytes)".lstrip()
    return NormalForm(sql, fingerprint(sql), (), ())


def _certain(tokens: list[Token], total: int) -> list[Token]:
    """The tokens; of a text whose quotes do not match those up to its first literal, and a mark for the others.

    The server refuses such a text as a whole, and nobody can tell which of its words are names.
    """
    if not any(map(_misquoted, tokens, tokens[1:])) and (not tokens or closed(tokens[-1])):
        return tokens
    end = next(number for number, token in enumerate(tokens) if token.kind in ("string", "bits", "quoted"))
    end += tokens[end].kind != "quoted"
    return tokens if end == len(tokens) else [*tokens[:end], Token("operator", "…", tokens[end].start, total)]


def _misquoted(one: Token, following: Token) -> bool:
    """True where a literal ends inside a word, as in 'O'Brien'."""
    return (
        one.end == following.start
        and (one.kind == "string" or one.kind == "bits")
        and one.text[0] != "$"
        and (
            following.kind == "quoted"
            or (following.kind == "word" and capitals(following.text) not in _BEHIND_LITERALS)
        )
    )


def _split(tokens: list[Token]) -> list[list[Token]]:
    """Tokens by statement, without the semicolons; comments alone belong to the statement before them."""
    pieces: list[list[Token]] = []
    current: list[Token] = []
    depth = blocks = 0
    for number, token in enumerate(tokens):
        if token.kind == "punctuation":
            if token.text in "([":
                depth += 1
            elif token.text in ")]":
                depth = max(0, depth - 1)
            elif token.text == ";" and depth == 0 and blocks == 0:
                pieces.append(current)
                current = []
                continue
        elif token.kind == "word":
            # The body of CREATE FUNCTION … BEGIN ATOMIC … END holds statements of its own.
            upper = capitals(token.text)
            if (upper == "BEGIN" and current and _following(tokens, number) == "ATOMIC") or (
                blocks and upper == "CASE"
            ):
                blocks += 1
            elif blocks and upper == "END":
                blocks -= 1
        current.append(token)
    pieces.append(current)
    full: list[list[Token]] = []
    for piece in pieces:
        if any(token.kind != "comment" for token in piece):
            full.append(piece)
        elif piece and full:
            full[-1].extend(piece)
        elif piece:
            full.append(piece)
    merged: list[list[Token]] = []
    for piece in full:
        if merged and all(token.kind == "comment" for token in merged[-1]):
            merged[-1].extend(piece)
        else:
            merged.append(piece)
    return merged or [[]]


def _following(tokens: list[Token], number: int) -> str:
    """The token behind one, in capitals, whatever comments are between them."""
    for position in range(number + 1, len(tokens)):
        if tokens[position].kind != "comment":
            return capitals(tokens[position].text)
    return ""


def _command(tokens: Sequence[Token]) -> str:
    """The leading keyword in capitals; of WITH the verb of its main statement. OTHER for what is no statement."""
    start = 0
    while start < len(tokens) and tokens[start].text == "(":
        start += 1
    if start == len(tokens):
        return "OTHER" if start else "EMPTY"
    if tokens[start].kind != "word":
        return "OTHER"
    first = capitals(tokens[start].text)
    if first == "WITH":
        return _main_verb(tokens, start + 1)
    if first == "PREPARE" and start + 1 < len(tokens) and capitals(tokens[start + 1].text) == "TRANSACTION":
        return "PREPARE TRANSACTION"
    first = _SAME.get(first, first)
    return first if first in _COMMANDS else "OTHER"


def _main_verb(tokens: Sequence[Token], start: int) -> str:
    depth = 0
    for number in range(start, len(tokens)):
        token = tokens[number]
        if token.text == "(":
            # Behind the last query of WITH a bracket opens the main statement itself.
            depth += depth > 0 or tokens[number - 1].text not in (")", "(")
        elif token.text == ")":
            depth -= 1
        elif depth == 0 and token.kind == "word":
            word = capitals(token.text)
            following = tokens[number + 1] if number + 1 < len(tokens) else token
            # Most verbs are free to be names: WITH delete AS (…).
            if word in _VERBS and capitals(following.text) != "AS":
                return word
    return "WITH"


def _masked(sql: str, offset: int, tokens: list[Token], command: str) -> tuple[str, list[Token]]:
    """Text and tokens with the string literals of secrets replaced."""
    words = {capitals(token.text) for token in tokens if token.kind == "word"}
    whole = (command in ("CREATE", "ALTER") and bool(words & {"PASSWORD", "MAPPING", "SUBSCRIPTION", "SERVER"})) or (
        command in ("SET", "ALTER")
        and any(part in word for word in words for part in ("PASSWORD", "SECRET", "TOKEN", "CONNINFO"))
    )
    masked: list[Token] = []
    pieces: list[str] = []
    position = 0
    call = depth = 0
    for number, token in enumerate(tokens):
        if token.text == "(":
            depth += 1
            before = tokens[number - 1].text.strip('"').lower() if number else ""
            if not call and (before in _SECRET_CALLS or before.startswith("pgp_sym_")):
                call = depth
        elif token.text == ")":
            if call == depth:
                call = 0
            depth = max(0, depth - 1)
        if token.kind == "string" and (whole or call or _SECRET_TEXT.search(value(token))):
            pieces += [sql[position : token.start - offset], _MASK]
            position = token.end - offset
            token = token._replace(text=_MASK)
        masked.append(token)
    pieces.append(sql[position:])
    return "".join(pieces), masked
