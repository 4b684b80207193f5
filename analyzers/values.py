"""What varies between the executions of one statement, and how: a page, a list, a clock, or a key.

Enters: executions of one statement and their values. Leaves: the placeholders that vary and what they are compared to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from pgtattle.proxy.execution import Execution

Values = tuple[str | None, ...]

INT8: Final = 20
MOST: Final = 0.8
"""Of a group that must look alike for the whole to count as such."""

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")
_ANY: Final = re.compile(r"\b(?:any|all|unnest)\s*\(", re.IGNORECASE)
_COMPARED: Final = re.compile(r"(?:<|>|<=|>=)\s*(?:row\s*)?\(?\s*(?:\$\d+\s*,\s*)*$", re.IGNORECASE)


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


def compared_to(first: Execution, rows: list[Values], varying: set[int]) -> list[tuple[str, list[str]]]:
    """The columns that varying values are compared to, each with the values in order."""
    found: list[tuple[str, list[str]]] = []
    for slot, column in zip(first.text.slots, zip(*rows, strict=True), strict=True):
        values = [value for value in column if value is not None]
        if slot.number in varying and slot.where in ("where", "on") and len(values) == len(column):
            place = re.search(rf"([\w.\"]+)\s*=\s*(?:any\s*)?\(?\s*\${slot.number}(?!\d)", first.statement.sql, re.I)
            found.append((place[1] if place else "", [value.strip("{}") for value in values]))
    return found


def one_place(first: Execution, varying: set[int] | None) -> tuple[int, int]:
    """The one placeholder that varies, and the oid of its type; zeros where there is no such one."""
    if varying is None or len(varying) != 1:
        return 0, 0
    (number,) = varying
    slots = [slot for slot in first.text.slots if slot.number == number]
    if len(slots) != 1:
        return 0, 0
    if slots[0].parameter:
        return number, first.parameters[slots[0].parameter - 1].oid
    return number, INT8 if slots[0].kind == "number" and slots[0].value.isdecimal() else 0


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
    return place is not None and _COMPARED.search(sql, max(0, place.start() - 80), place.start()) is not None


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
