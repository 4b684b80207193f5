"""Loops that feed themselves: each turn asks for what an earlier turn answered. A tree or a list is walked.

Enters: a loop, and the hashed samples of its own results. Leaves: the column that leads on, or nothing. As with
parents, that the values stand in a column is not enough: the names must be of a way (`parent_id`, `next`), a foreign
key must lead from the table to itself, or the values must be sparse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pgtattle.analyzers.keys import Keys
from pgtattle.analyzers.parents import CONTAINED, LEAST, Loop, is_sparse
from pgtattle.analyzers.samples import Samples
from pgtattle.proxy.wire.rows import Field, Sample, hashed

_WAY: Final = re.compile(
    r"(?:^|_)(?:parent|manager|supervisor|boss|next|prev|previous|ancestor|predecessor|successor|replaces|replied"
    r"|reply_to|in_reply_to)(?:_?(?:id|uuid|guid|key|pk))?$",
    re.IGNORECASE,
)


def walked(loop: Loop, samples: Samples, keys: Keys) -> str:
    """The column of a loop's own results that holds the values of its later turns; empty where it is no walk."""
    results = [samples.of(execution.id) for execution in loop.executions]
    first = next((result for result in results if result is not None), None)
    if first is None:
        return ""
    database = loop.executions[0].connection.database
    for key in loop.keys:
        child = key.columns[0] if key.columns else ""
        values = key.values
        asked = [hashed(value) for value in values]
        distinct = len(set(asked))
        if distinct < LEAST:
            continue
        for number, column in enumerate(first.columns):
            fed, held = _fed(asked, results, number)
            if fed >= CONTAINED * (distinct - 1) and _leads(column.field, child, values, held, database, loop, keys):
                return column.field.name
    return ""


def _fed(asked: Sequence[int], results: Sequence[Sample | None], number: int) -> tuple[int, int]:
    """How many new values stood in the column in an earlier turn, and how many different ones that held in all."""
    seen: set[int] = set()
    held: set[int] = set()
    fed = 0
    for value, result in zip(asked, results, strict=True):
        fed += value in held and value not in seen
        seen.add(value)
        if result is not None and number < len(result.columns):
            held.update(result.columns[number].hashes)
    return fed, len(held)


def _leads(field: Field, child: str, values: Sequence[str], held: int, database: str, loop: Loop, keys: Keys) -> bool:
    asked = child.replace('"', "").rpartition(".")[2]
    if field.name == asked:
        return False
    return (
        _WAY.search(field.name) is not None
        or _WAY.search(asked) is not None
        or (bool(asked) and keys.linked(database, (field.table, field.attribute), asked, loop.tables))
        or is_sparse(values, held)
    )
