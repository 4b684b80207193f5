"""One write in place of a loop of writes: a candidate that writes all rows at once.

Enters: a normal form, for each placeholder the type of its values, and which of them change. Leaves: a statement, with
what its placeholders stand for; or nothing where it is not plainly the same. A row is told by nothing but columns that
equal what changes, and these are not SET: so no turn sees what another did, as long as each has its own key.

| write | becomes |
|---|---|
| `INSERT … VALUES ($1, $2)` | `VALUES ($1, $2), ($3, $4)`: two rows show how many would look; no DO UPDATE |
| `UPDATE … SET a = $1 WHERE k = $2` | `UPDATE … FROM unnest($1, $2) AS wanted …`, an array for each |
| `DELETE … WHERE k = $1` | `k = ANY($1)`, or `USING unnest(…)` where several values tell the row |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from pgtattle.analyzers.sql.rewrite import known_functions

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

_SLOT: Final = "pgtattle_slot_"
_ROWS: Final = f"{_SLOT}rows"
"""Stands in a tree for the rows of arrays."""
_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_BACK: Final = re.compile(_SLOT + r"(\d+)", re.I)

# Functions whose answer does not depend on the rows that were written before.
_CALLS: Final = frozenset(("nextval", "random", "uuid_generate_v4", "clock_timestamp"))

_KEEPING: Final = frozenset(("SMALLINT", "INT", "BIGINT", "UUID", "TEXT", "VARCHAR"))
"""Types to which a key may be cast: different values stay different."""


class Write(NamedTuple):
    """A statement for all rows. `again` are the placeholders that the second row repeats; empty: all are arrays.

    `key` are those that tell a turn's rows: where two turns have the same, the statement is not what the loop was.
    """

    sql: str
    again: tuple[int, ...] = ()
    key: tuple[int, ...] = ()


@lru_cache(256)
def write_all(sql: str, types: tuple[tuple[int, str], ...], varying: frozenset[int]) -> Write | None:
    """The write for all rows; None where there is none.

    `types` are those of the placeholders, by number, empty where not known; `varying` those that change in the loop.
    """
    if len(sql) > MAX_LENGTH or _SLOT in sql or not types:
        return None
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(_PLACEHOLDER.sub(_SLOT + r"\1", sql), read="postgres")
        if tree.args.get("with_") or tree.args.get("with") or tree.find(exp.Select, exp.Subquery):
            return None
        if not all(_is_known(function) for function in tree.find_all(exp.Func)):
            return None
        match tree:
            case exp.Insert():
                return _insert(tree, max(number for number, _ in types))
            case exp.Update():
                return _update(tree, dict(types), varying)
            case exp.Delete():
                return _delete(tree, dict(types), varying)
        return None
    except Exception:
        return None


def _is_known(function: exp.Func) -> bool:
    """True for a function that answers the same at the end of a loop; of one's own nobody knows."""
    from sqlglot import exp

    if isinstance(function, exp.Anonymous):
        return function.name.lower() in _CALLS
    clocks = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Localtimestamp)
    return isinstance(function, (*known_functions(), *clocks, exp.Uuid, exp.Rand, exp.Case, exp.If))


def _insert(tree: exp.Insert, last: int) -> Write | None:
    from sqlglot import exp

    values = tree.expression
    conflict = tree.args.get("conflict")
    if not isinstance(values, exp.Values) or len(values.expressions) != 1:
        return None
    if conflict is not None and conflict.args["action"].name.upper() != "DO NOTHING":
        # One statement does not change a row twice.
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


def _update(tree: exp.Update, types: Mapping[int, str], varying: Collection[int]) -> Write | None:
    from sqlglot import exp

    where = tree.args.get("where")
    if where is None or any(tree.args.get(part) for part in ("from_", "from", "order", "limit")):
        return None
    key = _key(where, varying)
    changed: set[str] = set()
    for one in tree.expressions:
        if not isinstance(one, exp.EQ) or not isinstance(one.this, exp.Column):
            return None
        changed.add(one.this.name)
    if not key or changed & {column.name for column in where.find_all(exp.Column)}:
        return None
    # What is a whole number in all turns may go to a column that takes others; the server casts what is assigned.
    told = {_number(column) for column in where.find_all(exp.Column)}
    numeric = {number: "numeric" for number, type_ in types.items() if type_ == "bigint" and number not in told}
    wanted = _wanted(tree, {**types, **numeric}, [one.this for one in tree.expressions])
    if not wanted:
        return None
    tree.set("from_", exp.From(this=exp.to_table(_ROWS)))
    return Write(_text(tree).replace(_ROWS, wanted), key=key)


def _delete(tree: exp.Delete, types: Mapping[int, str], varying: Collection[int]) -> Write | None:
    from sqlglot import exp

    where = tree.args.get("where")
    if where is None or any(tree.args.get(part) for part in ("using", "order", "limit")):
        return None
    key = _key(where, varying)
    if not key:
        return None
    slots = [column for column in tree.find_all(exp.Column) if _number(column) is not None]
    if len(slots) == 1:
        value: exp.Expression = slots[0]
        while isinstance(value.parent, exp.Cast):
            value = value.parent
        array = value.copy()
        if isinstance(array, exp.Cast):
            array.set("to", exp.DataType.build(f"{array.to.sql(dialect='postgres')}[]", dialect="postgres"))
        value.replace(exp.Any(this=exp.Paren(this=array)))
        return Write(_text(tree), key=key)
    wanted = _wanted(tree, types, ())
    if not wanted:
        return None
    tree.set("using", [exp.to_table(_ROWS)])
    return Write(_text(tree).replace(_ROWS, wanted), key=key)


def _key(where: exp.Where, varying: Collection[int]) -> tuple[int, ...]:
    """The placeholders that change, if each stands in a conjunct `column = $n`; none where one stands elsewhere."""
    from sqlglot import exp

    if where.find(exp.Or, exp.Not, exp.In):
        return ()
    key: list[int] = []
    for one in _conjuncts(where.this):
        numbers = [number for column in one.find_all(exp.Column) if (number := _number(column)) is not None]
        slots = [number for number in numbers if number in varying]
        if not slots:
            continue
        value = one.expression if isinstance(one, exp.EQ) else None
        if isinstance(value, exp.Cast) and value.to.sql(dialect="postgres") in _KEEPING:
            value = value.this
        if not isinstance(one.this, exp.Column) or not isinstance(value, exp.Column) or _number(one.this) is not None:
            return ()
        key += slots
    return tuple(key)


def _conjuncts(condition: exp.Expression) -> Iterator[exp.Expression]:
    from sqlglot import exp

    while isinstance(condition, exp.Paren):
        condition = condition.this
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.this)
        yield from _conjuncts(condition.expression)
    else:
        yield condition


def _wanted(tree: exp.Update | exp.Delete, types: Mapping[int, str], assigned: Collection[exp.Expression]) -> str:
    """Make every placeholder a column of `wanted`, and the others, but those `assigned`, columns of the table.

    Gives the call that makes the rows of `wanted`; empty where a type is not known, or a name would mean two things.
    """
    from sqlglot import exp

    table = tree.this
    returning = tree.args.get("returning")
    if not isinstance(table, exp.Table) or "wanted" in (table.name.lower(), table.alias.lower()):
        return ""
    if returning is not None and any(isinstance(one.unalias(), exp.Star) for one in returning.expressions):
        return ""
    if tree.find(exp.DPipe):
        # What stands beside a literal there decides whether it is a text or an array.
        return ""
    alias = table.args.get("alias")
    name = alias.this if alias is not None else table.this
    numbers: list[int] = []
    for column in list(tree.find_all(exp.Column)):
        number = _number(column)
        if number is not None:
            numbers.append(number)
            column.replace(exp.column(f"v{number}", table="wanted"))
        elif not column.table and not any(column is one for one in assigned) and column.sql() != "DEFAULT":
            column.set("table", name.copy())
    numbers = sorted(set(numbers))
    if not all(types[number] for number in numbers):
        return ""
    arrays = ", ".join(f"${number}::{types[number]}[]" for number in numbers)
    return f"unnest({arrays}) AS wanted({', '.join(f'v{number}' for number in numbers)})"


def _number(column: exp.Column) -> int | None:
    found = _BACK.fullmatch(column.name)
    return int(found[1]) if found is not None else None


def _text(tree: exp.Expression) -> str:
    return _BACK.sub(r"$\1", tree.sql(dialect="postgres"))
