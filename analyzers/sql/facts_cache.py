"""What is known of statements, by fingerprint: every execution asks for its tables here.

Enters: texts. Leaves: their facts. sqlglot never sees what it cannot bear: only reads and writes, bounded in size and
nesting; whatever it raises leaves `parsed` false and is counted, and the tables, and the columns that equal a
placeholder, are then found lexically.
"""

from __future__ import annotations

import re
from typing import Final

from pgtattle.analyzers.sql.facts import MAX_TABLES, MAX_USES, Compared, Facts, parse
from pgtattle.analyzers.sql.fingerprint import KEYWORDS
from pgtattle.analyzers.sql.texts import MAX_NORMAL_FORM, Bounded
from pgtattle.analyzers.sql.tokens import tokenize
from pgtattle.proxy.events import Text

MAX_PARSED: Final = MAX_NORMAL_FORM
MAX_DEPTH: Final = 40
CREDIT: Final = 1_000.0
"""Statements that are parsed for their tables as they come; one in twenty of the new ones after that."""
EARNED: Final = 0.05

_EQUAL: Final = re.compile(r'([\w."]+) (?:= ?(ANY|SOME)?|IN) ?\(?\$(\d+)')


_UNSEEN: Final = frozenset(("FETCH", "CALL"))
"""What they read or write stands elsewhere."""
_UTILITY: Final = Facts(False, reason="utility")


class FactsCache:
    """Facts by fingerprint; `fallbacks` counts what was not parsed, by reason."""

    def __init__(self, max_entries: int = 10_000) -> None:
        self.fallbacks: dict[str, int] = {}
        self._credit = CREDIT
        self._cache: Bounded[str, Facts] = Bounded(max_entries)

    def tables(self, text: Text) -> tuple[str, ...]:
        """The tables of a text's statement, for every execution: parsed once, while the credit for new ones lasts.

        A stream of ever new statements would keep sqlglot busy; beyond the credit the words alone tell.
        """
        found = self._cache.get(text.statement.fingerprint)
        if found is not None:
            return found.tables
        self._credit = min(CREDIT, self._credit + EARNED)
        if self._credit >= 1 or text.statement.kind not in ("read", "write"):
            self._credit -= text.statement.kind in ("read", "write")
            return self.of(text).tables
        return _lexical_tables(text.statement.sql[:MAX_PARSED])

    def of(self, text: Text) -> Facts:
        """The facts of a text's statement."""
        statement = text.statement
        found = self._cache.get(statement.fingerprint)
        if found is None:
            if statement.kind in ("read", "write") and statement.command not in _UNSEEN:
                found = self._find(statement.sql, text.truncated)
            elif statement.kind == "copy":
                found = Facts(False, tables=_copied_tables(statement.sql[:MAX_PARSED]), reason="utility")
            else:
                # A further FETCH has the fingerprint of the query that it goes on with.
                return _UTILITY
            self._cache.put(statement.fingerprint, found)
        return found

    def _find(self, sql: str, truncated: bool) -> Facts:
        if truncated or len(sql) > MAX_PARSED:
            reason = "size"
        elif _depth(sql) > MAX_DEPTH:
            reason = "depth"
        else:
            try:
                return parse(sql)
            except Exception:
                reason = "syntax"
        self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1
        sql = sql[:MAX_PARSED]
        return Facts(False, tables=_lexical_tables(sql), compared=_lexically_compared(sql), reason=reason)


def _depth(sql: str) -> int:
    depth = deepest = 0
    for match in re.finditer(r"[()]|\bCASE\b|\bEND\b|\bNOT\b", sql):
        if match[0] in "(CASE":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] == "NOT":
            deepest = max(deepest, depth + 1)
        else:
            depth = max(0, depth - 1)
    return deepest


def _lexically_compared(sql: str) -> tuple[Compared, ...]:
    found = [Compared(int(number), name.replace('"', ""), bool(array)) for name, array, number in _EQUAL.findall(sql)]
    return tuple(found[:MAX_USES])


def _lexical_tables(sql: str) -> tuple[str, ...]:
    """The names behind FROM, JOIN, INTO and UPDATE."""
    tables: list[str] = []
    tokens = tokenize(sql)
    for number, token in enumerate(tokens[:-1]):
        if token.text not in ("FROM", "JOIN", "INTO", "UPDATE"):
            continue
        before = tokens[number - 1].text if number else ""
        if (token.text == "UPDATE" and before == "FOR") or (token.text == "FROM" and before == "DISTINCT"):
            continue
        following = number + 1
        if tokens[following].text == "ONLY" and following + 1 < len(tokens):
            following += 1
        if tokens[following].kind not in ("word", "quoted") or tokens[following].text in KEYWORDS:
            continue
        whole = _unquoted(tokens[following].text)
        while following + 2 < len(tokens) and tokens[following + 1].text == ".":
            whole += "." + _unquoted(tokens[following + 2].text)
            following += 2
        called = following + 1 < len(tokens) and tokens[following + 1].text == "(" and token.text != "INTO"
        if whole not in tables and not called:
            tables.append(whole)
            if len(tables) == MAX_TABLES:
                break
    return tuple(tables)


def _copied_tables(sql: str) -> tuple[str, ...]:
    """The table of a COPY, or those of its query."""
    what = sql.removeprefix("COPY ")
    if what.startswith("("):
        return _lexical_tables(what)
    return _lexical_tables("INTO " + what.partition(" FROM ")[0].partition(" TO ")[0])


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
