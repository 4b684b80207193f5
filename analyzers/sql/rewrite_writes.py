"""One write in place of a loop of writes: a candidate that writes all rows at once.

Enters: a normal form, and for each placeholder the type of its values. Leaves: a statement, with what its placeholders
stand for; or nothing where it is not plainly the same.

| write | becomes |
|---|---|
| `INSERT … VALUES ($1, $2)` | `VALUES ($1, $2), ($3, $4)`: two rows show how many would look |
| `UPDATE … SET a = $1 WHERE k = $2` | `UPDATE … FROM unnest($1, $2) AS wanted …`, an array for each |
| `DELETE … WHERE k = $1` | `k = ANY($1)`, or `USING unnest(…)` where several values tell the row |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

_SLOT: Final = "pgtattle_slot_"
_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_BACK: Final = re.compile(_SLOT + r"(\d+)", re.I)


class Write(NamedTuple):
    """A statement for all rows. `again` are the placeholders that the second row repeats; empty: all are arrays."""

    sql: str
    again: tuple[int, ...] = ()


@lru_cache(256)
def write_all(sql: str, types: tuple[tuple[int, str], ...]) -> Write | None:
    """The write for all rows; `types` are those of the placeholders, by number. None where there is none."""
    if len(sql) > MAX_LENGTH or _SLOT in sql or not types:
        return None
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(_PLACEHOLDER.sub(_SLOT + r"\1", sql), read="postgres")
        if tree.args.get("with_") or tree.args.get("with") or tree.find(exp.Subquery):
            return None
        match tree:
            case exp.Insert():
                return _insert(tree, max(number for number, _ in types))
            case exp.Update():
                return _update(tree, dict(types))
            case exp.Delete():
                return _delete(tree, dict(types))
        return None
    except Exception:
        return None


def _insert(tree: exp.Insert, last: int) -> Write | None:
    from sqlglot import exp

    values = tree.expression
    if not isinstance(values, exp.Values) or len(values.expressions) != 1:
        return None
    (row,) = values.expressions
    again: list[int] = []
    second = row.copy()
    for column in list(second.find_all(exp.Column)):
        number = _number(column)
        if number is None:
            return None
        again.append(number)
        column.replace(exp.column(f"{_SLOT}{last + len(again)}"))
    everywhere = [column for column in tree.find_all(exp.Column) if _number(column) is not None]
    if not again or len(everywhere) > len(again):
        # What another clause asks for is each turn's own, and there is one such clause.
        return None
    values.set("expressions", [row, second])
    return Write(_text(tree), tuple(again))


def _update(tree: exp.Update, types: Mapping[int, str]) -> Write | None:
    from sqlglot import exp

    where = tree.args.get("where")
    if where is None or tree.args.get("from_") or tree.args.get("from") or not _by_key(where):
        return None
    target = tree.this
    name = target.alias or target.name
    for column in list(where.find_all(exp.Column)):
        if _number(column) is None and not column.table:
            column.set("table", exp.to_identifier(name, quoted=target.this.args.get("quoted")))
    wanted = _wanted(tree, types)
    text = _text(tree)
    head, _, tail = text.rpartition(" WHERE ")
    return Write(f"{head} FROM {wanted} WHERE {tail}") if head else None


def _delete(tree: exp.Delete, types: Mapping[int, str]) -> Write | None:
    from sqlglot import exp

    where = tree.args.get("where")
    if where is None or tree.args.get("using") or not _by_key(where):
        return None
    slots = [column for column in where.find_all(exp.Column) if _number(column) is not None]
    if len(slots) == 1:
        value: exp.Expression = slots[0]
        while isinstance(value.parent, exp.Cast):
            value = value.parent
        array = value.copy()
        if isinstance(array, exp.Cast):
            array.set("to", exp.DataType.build(f"{array.to.sql(dialect='postgres')}[]", dialect="postgres"))
        value.replace(exp.Any(this=exp.Paren(this=array)))
        return Write(_text(tree))
    wanted = _wanted(tree, types)
    text = _text(tree)
    head, _, tail = text.rpartition(" WHERE ")
    return Write(f"{head} USING {wanted} WHERE {tail}") if head else None


def _by_key(where: exp.Where) -> bool:
    """True where a conjunct compares a column with a placeholder for equality, and nothing is an alternative."""
    from sqlglot import exp

    if where.find(exp.Or, exp.Not, exp.In):
        return False
    return any(
        isinstance(one.this, exp.Column)
        and _number(one.this) is None
        and any(_number(column) is not None for column in one.expression.find_all(exp.Column))
        for one in where.find_all(exp.EQ)
    )


def _wanted(tree: exp.Expression, types: Mapping[int, str]) -> str:
    """Make every placeholder a column of `wanted`; the call that makes the rows of these."""
    from sqlglot import exp

    numbers: list[int] = []
    for column in list(tree.find_all(exp.Column)):
        number = _number(column)
        if number is not None:
            if number not in numbers:
                numbers.append(number)
            column.replace(exp.column(f"v{number}", table="wanted"))
    numbers.sort()
    arrays = ", ".join(f"${number}::{types[number]}[]" for number in numbers)
    return f"unnest({arrays}) AS wanted({', '.join(f'v{number}' for number in numbers)})"


def _number(column: exp.Column) -> int | None:
    found = _BACK.fullmatch(column.name)
    return int(found[1]) if found is not None else None


def _text(tree: exp.Expression) -> str:
    return _BACK.sub(r"$\1", tree.sql(dialect="postgres"))
