"""The filter language: text → predicate over executions.

A filter is a list of terms, all of which must hold; `-` before a term turns it round:

    dur>100ms rows>=10 conn:12      numbers: > >= < <= = (or :); durations take us, ms (the default) or s
    op:select table:users db:shop app:web user:bob fp:1a2b    words: case does not count; `fp` takes a prefix
    err   err:23505   err:23        any error; by SQLSTATE or its first characters
    word  "some text"               in the SQL (the normal form, unless values are shown in full)

A value with spaces is quoted: `app:"my app"`. Errors say the column. Out of scope: findings, units.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pgtattle.proxy.errors import FilterError
from pgtattle.proxy.execution import Execution
from pgtattle.proxy.settings import Values
from pgtattle.proxy.store import Predicate

MAX_LENGTH: Final = 1000
MAX_TERMS: Final = 32

_TERM: Final = re.compile(
    r"""(?P<not>-?)
    (?: "(?P<text>[^"]*)(?P<end>"?)
      | (?P<key>[a-z]+) (?P<op>>=|<=|>|<|=|:) (?: "(?P<quoted>[^"]*)(?P<quoted_end>"?) | (?P<value>[^\s"]*) )
      | (?P<word>[^\s"-][^\s"]*) )
    (?=\s|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|)")
_UNITS: Final = {"us": 1e3, "ms": 1e6, "s": 1e9, "": 1e6}
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ":": operator.eq,
}
_NUMBERS: Final[dict[str, Callable[[Execution], int]]] = {
    "dur": lambda execution: execution.duration_ns,
    "rows": lambda execution: execution.rows,
    "conn": lambda execution: execution.connection.id,
}
_WORDS: Final[dict[str, Callable[[Execution], str]]] = {
    "op": lambda execution: execution.text.statement.command,
    "db": lambda execution: execution.connection.database,
    "app": lambda execution: execution.connection.application,
    "user": lambda execution: execution.connection.user,
}
KEYS: Final = (*_NUMBERS, *_WORDS, "table", "err", "fp")


def parse(text: str, values: Values = "redacted") -> Predicate:
    """The predicate of a filter; it takes an execution and the tables of its statement.

    Raises FilterError with the column. `values` guards what is hidden: text is looked for in what may be shown.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError(f"a filter has at most {MAX_LENGTH} characters", MAX_LENGTH + 1)
    terms: list[Predicate] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        if len(terms) == MAX_TERMS:
            raise FilterError(f"a filter has at most {MAX_TERMS} terms", position + 1)
        match = _TERM.match(text, position)
        if match is None or "" in (match["end"], match["quoted_end"]):
            raise FilterError(_advice(text[position:]), position + 1)
        term = _term(match, values)
        terms.append(_negated(term) if match["not"] else term)
        position = match.end()
    return _all(terms)


def _advice(rest: str) -> str:
    return "a quote is not closed, or stands inside a word" if '"' in rest else "a term is missing after -"


def _term(match: re.Match[str], values: Values) -> Predicate:
    if match["key"] is None:
        word = match["word"]
        return _failed("") if word is not None and word.lower() == "err" else _contains(word or match["text"], values)
    key, comparison = match["key"].lower(), match["op"]
    value = match["value"] if match["quoted"] is None else match["quoted"]
    if key not in KEYS:
        known = ", ".join(KEYS)
        raise FilterError(f"unknown key {key}: known are {known}; text is quoted", match.start("key") + 1)
    at = match.end("op") + 1
    if not value:
        raise FilterError(f"{key}{comparison} needs a value", at)
    if key in _NUMBERS:
        return _number(key, comparison, value, at)
    if comparison not in ":=":
        raise FilterError(f"{key} cannot be compared by {comparison}: write {key}:{value}", match.start("op") + 1)
    if key == "table":
        return _table(value)
    if key == "err":
        return _failed(value)
    if key == "fp":
        return _fingerprint(value)
    return _word(key, value)


def _number(key: str, comparison: str, value: str, at: int) -> Predicate:
    match = _NUMBER.fullmatch(value.lower())
    if match is None or (match[2] and key != "dur"):
        example = "dur>100ms" if key == "dur" else f"{key}{comparison}10"
        raise FilterError(f"{value} is not a number that {key} takes: write it as in {example}", at)
    bound = float(match[1]) * (_UNITS[match[2]] if key == "dur" else 1)
    compare, read = _COMPARE[comparison], _NUMBERS[key]
    return lambda execution, tables: compare(read(execution), bound)


def _word(key: str, value: str) -> Predicate:
    read, wanted = _WORDS[key], value.casefold()
    return lambda execution, tables: read(execution).casefold() == wanted


def _table(value: str) -> Predicate:
    wanted = value.casefold()
    suffix = f".{wanted}"

    def holds(execution: Execution, tables: Sequence[str]) -> bool:
        return any(table.casefold() == wanted or table.casefold().endswith(suffix) for table in tables)

    return holds


def _failed(value: str) -> Predicate:
    wanted = value.upper()
    return lambda execution, tables: execution.sqlstate is not None and execution.sqlstate.startswith(wanted)


def _fingerprint(value: str) -> Predicate:
    wanted = value.lower()
    return lambda execution, tables: execution.text.statement.fingerprint.startswith(wanted)


def _contains(value: str, values: Values) -> Predicate:
    wanted = value.casefold()
    if values == "full":
        return lambda execution, tables: wanted in execution.text.sql.casefold()
    return lambda execution, tables: wanted in execution.text.statement.sql.casefold()


def _negated(term: Predicate) -> Predicate:
    return lambda execution, tables: not term(execution, tables)


def _all(terms: Sequence[Predicate]) -> Predicate:
    return lambda execution, tables: all(term(execution, tables) for term in terms)
