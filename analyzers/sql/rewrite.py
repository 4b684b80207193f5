"""One query in place of a loop of reads: a candidate that asks for all values at once.

Enters: a normal form, the placeholder that the loop varies, and its type where that is known. Leaves: a statement whose
placeholder of that number is an array of all values, or nothing where it could be wrong: other tables of values, row
locks, functions that answer differently each time, constants to sort by: what was the number of a column is one in a
normal form. Every row can be told apart by the loop's value, which is the first column where the query did not have it.

| query by `k = $1` | becomes |
|---|---|
| rows | `k = ANY($1)` |
| aggregates | the same, `GROUP BY k`; a value without rows has no row |
| only whether there are any: constants, and one row at most | `SELECT DISTINCT k` |
| the first row, `k` being unique | as if all rows were asked for |
| the first rows for each | a LATERAL join with `unnest($1)` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

# Types whose array a driver passes as it passes one: of a text nobody knows what it stands for. Of integers drivers
# take the smallest that a value fits in.
_TYPES: Final = {20: "bigint", 21: "bigint", 23: "bigint", 1082: "date", 1700: "numeric", 2950: "uuid"}
_SLOT: Final = "pgtattle_slot_"
_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_BACK: Final = re.compile(_SLOT + r"(\d+)", re.I)


@lru_cache(512)
def for_all(
    sql: str,
    number: int,
    oid: int = 0,
    unique: frozenset[str] = frozenset(),
    counts: frozenset[tuple[int, int]] = frozenset(),
) -> str:
    """The query for all values of `$number`, whose type has the given oid; empty where there is none.

    Each of the `unique` columns tells one row of the query's only table. `counts` are what LIMIT and OFFSET come to in
    every turn, by their placeholder: 0, 1, or 2 for more.
    """
    if len(sql) > MAX_LENGTH or _SLOT in sql:
        return ""
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(_PLACEHOLDER.sub(_SLOT + r"\1", sql), read="postgres")
        rewritten = (
            _rewritten(tree, f"{_SLOT}{number}", _TYPES.get(oid, ""), unique, dict(counts))
            if isinstance(tree, exp.Select)
            else None
        )
        return "" if rewritten is None else _BACK.sub(r"$\1", rewritten.sql(dialect="postgres"))
    except Exception:
        return ""


def _rewritten(
    tree: exp.Select, slot: str, type_: str, unique: frozenset[str], counts: Mapping[int, int]
) -> exp.Expression | None:
    from sqlglot import exp

    where = tree.args.get("where")
    parts = ("with_", "with", "distinct", "group", "having", "locks", "windows", "into")
    barred = any(tree.args.get(part) for part in parts) or len(list(tree.find_all(exp.Select))) > 1
    barred = barred or any(_is_slot(ordered.this.unnest()) for ordered in tree.find_all(exp.Ordered))
    places = [column for column in tree.find_all(exp.Column) if column.name.lower() == slot]
    if where is None or barred or len(places) != 1 or tree.find(exp.Subquery, exp.SetOperation, exp.Window):
        return None
    if any(not isinstance(function, known_functions()) for function in tree.find_all(exp.Func)):
        return None
    condition = _condition(where.this, places[0])
    if condition is None:
        return None
    key = condition.this if isinstance(condition.this, exp.Column) and condition.this is not places[0] else None
    if key is None:
        return None
    limited = tree.args.get("limit") is not None or tree.args.get("offset") is not None
    least, most = _limits(tree, counts)
    # A table's columns may have other names in the query.
    (table, *others) = tree.find_all(exp.Table)
    alone = not others and not tree.args.get("joins") and not table.alias_column_names
    one_row = alone and key.name in unique
    selected = [one.unalias() for one in tree.expressions]
    if all(isinstance(one, exp.Literal | exp.Boolean) or _is_slot(one) for one in selected):
        # More rows than one would be counted.
        return _existing(tree, condition, key) if least and (one_row or most == 1) else None
    aggregates = [one for one in selected if one.find(exp.AggFunc)]
    if aggregates:
        plain = [one for one in selected if not isinstance(one, exp.AggFunc)]
        return None if plain or limited or tree.args.get("order") else _grouped(tree, condition, key)
    if limited and one_row and least:
        for part in ("limit", "offset", "order"):
            tree.set(part, None)
    elif limited:
        return _lateral(tree, condition, type_) if type_ else None
    return _listed(tree, condition, key)


def known_functions() -> tuple[type[Any], ...]:
    """Functions that answer the same for the same arguments."""
    from sqlglot import exp

    return (exp.AggFunc, exp.Coalesce, exp.Lower, exp.Upper, exp.Length, exp.Cast, exp.Abs, exp.Round, exp.And, exp.Or)


def _limits(tree: exp.Select, counts: Mapping[int, int]) -> tuple[int, int]:
    """How many of a turn's rows LIMIT leaves, at least and at most: 0, 1, or 2 for more. (0, 2) where not known."""
    from sqlglot import exp

    limit, offset = tree.args.get("limit"), tree.args.get("offset")
    if offset is not None and _count(offset.expression, counts) != 0:
        return 0, 2
    if limit is None:
        return 2, 2
    if not isinstance(limit, exp.Fetch):
        count = _count(limit.expression, counts)
    else:
        # FETCH FIRST ROW says no number.
        count = _count(limit.args["count"], counts) if limit.args.get("count") is not None else 1
    if count is None:
        return 0, 2
    options = limit.args.get("limit_options")
    return count, 2 if options is not None and options.args.get("with_ties") else count


def _count(value: exp.Expression, counts: Mapping[int, int]) -> int | None:
    from sqlglot import exp

    while isinstance(value, exp.Paren | exp.Cast):
        value = value.this
    found = _BACK.fullmatch(value.name)
    return counts.get(int(found[1])) if found is not None else None


def _is_slot(one: exp.Expression) -> bool:
    from sqlglot import exp

    return isinstance(one, exp.Column) and one.name.lower().startswith(_SLOT)


def _condition(where: exp.Expression, place: exp.Column) -> exp.Expression | None:
    """The comparison `k = $n` among the conjuncts of a WHERE; None where the placeholder stands elsewhere."""
    from sqlglot import exp

    value: exp.Expression = place
    while isinstance(value.parent, exp.Cast):
        value = value.parent
    condition = value.parent
    if not isinstance(condition, exp.EQ) or condition.expression is not value:
        return None
    above = condition.parent
    while isinstance(above, exp.And | exp.Paren):
        above = above.parent
    return condition if isinstance(above, exp.Where) else None


def _any(condition: exp.Expression) -> None:
    """Compare with the members of an array instead."""
    from sqlglot import exp

    value = condition.expression
    if isinstance(value, exp.Cast):
        value.set("to", exp.DataType.build(f"{value.to.sql(dialect='postgres')}[]", dialect="postgres"))
    condition.set("expression", exp.Any(this=exp.Paren(this=value.copy())))


def _has(tree: exp.Select, key: exp.Column) -> bool:
    from sqlglot import exp

    for one in tree.expressions:
        plain = one.unalias()
        if isinstance(plain, exp.Star):
            return True
        if isinstance(plain, exp.Column) and plain.name in ("*", key.name):
            return plain.table == key.table or len(list(tree.find_all(exp.Table))) == 1
    return False


def _listed(tree: exp.Select, condition: exp.Expression, key: exp.Column) -> exp.Expression:
    if not _has(tree, key):
        tree.set("expressions", [key.copy(), *tree.expressions])
    _any(condition)
    return tree


def _grouped(tree: exp.Select, condition: exp.Expression, key: exp.Column) -> exp.Expression:
    tree.set("expressions", [key.copy(), *tree.expressions])
    _any(condition)
    return tree.group_by(key.copy(), copy=False)


def _existing(tree: exp.Select, condition: exp.Expression, key: exp.Column) -> exp.Expression:
    tree.set("expressions", [key.copy()])
    tree.set("limit", None)
    tree.set("order", None)
    _any(condition)
    return tree.distinct(copy=False)


def _lateral(tree: exp.Select, condition: exp.Expression, type_: str) -> exp.Expression | None:
    import sqlglot
    from sqlglot import exp

    if any("wanted" in (table.name.lower(), table.alias.lower()) for table in tree.find_all(exp.Table)):
        return None
    value = condition.expression
    slot = (value.find(exp.Column) or value).copy()
    condition.set("expression", exp.column("value", table="wanted"))
    whole = (
        f"SELECT wanted.value, found.* FROM unnest({slot.sql(dialect='postgres')}::{type_}[]) AS wanted(value) "
        f"CROSS JOIN LATERAL ({tree.sql(dialect='postgres')}) AS found"
    )
    return cast("exp.Expression", sqlglot.parse_one(whole, read="postgres"))
