"""What varies between the executions of one statement, and how: a page, a list, a clock, or a key.

Enters: executions of one statement and their values. Leaves: the placeholders that vary and what they are compared to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from pgtattle.analyzers.sql.facts import Compared
from pgtattle.proxy.execution import Execution

Values = tuple[str | None, ...]

INT8: Final = 20
MOST: Final = 0.8
"""Of a group that must look alike for the whole to count as such."""

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
_ANY: Final = re.compile(r"\b(?:any|some|all|unnest)\s*\(", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
# The placeholder behind, or before, what compares it; casts and brackets may stand between.
_COMPARED: Final = re.compile(
    r"(?:[<>]=?|operator\([\w.]*[<>]=?\))\s*(?:row|cast)?\s*\(*\s*(?:\$\d+\s*,\s*)*$", re.IGNORECASE
)
_COMPARING: Final = re.compile(
    r"(?:,\s*\$\d+)*(?:\s+as\s+\w+)?[)]*(?:::\w+)?[)]*\s*(?:[<>]=?\s|operator\([\w.]*[<>]=?\))", re.IGNORECASE
)


def are_known(execution: Execution) -> bool:
    """False where two executions could not be told apart: something was cut, or the parameters were not seen."""
    text = execution.text
    return (
        not text.truncated
        and all(slot.parameter <= len(execution.parameters) for slot in text.slots)
        and not any(parameter.truncated for parameter in execution.parameters)
    )


def without_clock(values: list[Values], executions: Sequence[Execution]) -> list[Values]:
    """The values less the moments that only follow the clock, as in `expires_at > '<now>'`."""
    width = len(values[0])
    if any(len(value) != width for value in values):
        return values
    span = (executions[-1].ended_ns - executions[0].started_ns) / 1e9 + 1
    clocks = {column for column in range(width) if _is_clock([value[column] for value in values], span)}
    if not clocks:
        return values
    return [tuple(item for column, item in enumerate(value) if column not in clocks) for value in values]


def _is_clock(column: list[str | None], span: float) -> bool:
    first, last = column[0], column[-1]
    if first == last or not (first and last and _TIMESTAMP.match(first) and _TIMESTAMP.match(last)):
        return False
    if any(before is None or after is None or before > after for before, after in pairwise(column)):
        return False
    try:
        return (datetime.fromisoformat(last[:19]) - datetime.fromisoformat(first[:19])).total_seconds() <= span
    except ValueError:
        return False


def varying_places(first: Execution, rows: list[Values]) -> set[int] | None:
    """The placeholders whose values differ; None where the number of values does."""
    slots = first.text.slots
    if any(len(row) != len(slots) for row in rows):
        return None
    return {slot.number for slot, column in zip(slots, zip(*rows, strict=True), strict=True) if len(set(column)) > 1}


class Key(NamedTuple):
    """A placeholder that a loop varies, with its value for each turn; several together tell what a turn asked for.

    `columns` have to equal it, or a member of it where it is an `array`, whose only members are the `values` then.
    `oid` is that of its type, 0 if it is not known. `asks`: it stands in a condition, and is never NULL.
    """

    number: int
    oid: int
    columns: tuple[str, ...]
    array: bool
    asks: bool
    values: list[str]


def keys_of(first: Execution, rows: list[Values], varying: set[int], compared: Sequence[Compared]) -> list[Key]:
    """All placeholders that vary, in the order of the statement; several of one number are members of a list."""
    columns: dict[int, dict[str, None]] = {}
    arrays: set[int] = set()
    for one in compared:
        columns.setdefault(one.number, {})[one.column] = None
        if one.array:
            arrays.add(one.number)
    keys: list[Key] = []
    for slot, column in zip(first.text.slots, zip(*rows, strict=True), strict=True):
        number = slot.number
        if number not in varying:
            continue
        array = number in arrays
        values = [member(value) if array else value for value in column if value is not None]
        literal = INT8 if slot.kind == "number" and slot.value.isdecimal() else 0
        keys.append(
            Key(
                number,
                first.parameters[slot.parameter - 1].oid if slot.parameter else literal,
                tuple(columns.get(number, ())),
                array,
                len(values) == len(column) and (number in columns or slot.where in ("where", "on")),
                values,
            )
        )
    return keys


def names_of(columns: Sequence[str]) -> list[str]:
    """Columns without their tables where that is clear."""
    names = [column.rpartition(".")[2] for column in columns]
    return names if len(set(names)) == len(names) else list(columns)


class Finder(NamedTuple):
    """The columns by which a loop finds its rows: those whose value is the `same` in all turns, and its `keys`."""

    same: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def condition(self) -> str:
        """What finds the rows of all turns; without one of the columns it would find others, too."""
        if not self.keys:
            return ""
        places = [f"${place}" for place in range(1, len(self.same) + len(self.keys) + 1)]
        arrays = places[len(self.same) :]
        several = f"({', '.join(self.keys)}) IN (SELECT * FROM unnest({', '.join(arrays)}))"
        last = several if len(self.keys) > 1 else f"{self.keys[0]} = ANY({arrays[0]})"
        return " AND ".join([f"{name} = {place}" for name, place in zip(self.same, places, strict=False)] + [last])


NO_FINDER: Final = Finder()


def finder_of(keys: Sequence[Key], compared: Sequence[Compared]) -> Finder:
    """By which columns the rows of a loop are found; none if one of them is not known."""
    if not keys or not all(key.columns for key in keys):
        return NO_FINDER
    varying = {key.number for key in keys}
    same = [one.column for one in compared if one.always and not one.array and one.number not in varying]
    names = names_of([*same, *(key.columns[0] for key in keys)])
    return Finder(tuple(names[: len(same)]), tuple(names[len(same) :]))


def member(value: str) -> str:
    """The only member of an array in PostgreSQL's text form; any other value as it is."""
    if _array_length(value) > 1 or not (value.startswith("{") and value.endswith("}")):
        return value
    found = value[1:-1]
    return _ESCAPED.sub(r"\1", found[1:-1]) if found.startswith('"') else found


def is_paged(first: Execution, varying: set[int] | None) -> bool:
    """True where only the page changes: OFFSET, or a keyset condition (`> $1`) under a LIMIT."""
    if varying is None:
        return False
    limits = {slot.number for slot in first.text.slots if slot.where == "limit"}
    if varying <= limits:
        return True
    sql = first.statement.sql
    limited = bool(limits) or " LIMIT " in sql or " FETCH " in sql
    return limited and all(number in limits or _compared(sql, number) for number in varying)


def _compared(sql: str, number: int) -> bool:
    place = re.search(rf"\${number}(?!\d)", sql)
    if place is None:
        return False
    behind = _COMPARED.search(sql, max(0, place.start() - 80), place.start())
    return behind is not None or _COMPARING.match(sql, place.end()) is not None


def is_listed(executions: Sequence[Execution], rows: list[Values], varying: set[int] | None) -> bool:
    """True where most executions ask for several values at once in what varies: chunks of a batch."""
    arrays = _ANY.search(executions[0].statement.sql) is not None
    several = 0
    for execution, values in zip(executions, rows, strict=True):
        text = execution.text
        lengths = [length for number, length in text.lists if varying is None or number in varying]
        if arrays:
            lengths += [
                _array_length(value)
                for slot, value in zip(text.slots, values, strict=True)
                if varying is None or slot.number in varying
            ]
        several += max(lengths, default=1) > 1
    return several >= MOST * len(executions)


def _array_length(value: str | None) -> int:
    """The number of members of an array in PostgreSQL's text form; 1 for anything else."""
    if value is None or not (value.startswith("{") and value.endswith("}")):
        return 1
    return value.count(",") + 1
