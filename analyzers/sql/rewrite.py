"""One query in place of a loop of reads: a candidate that asks for all values at once.

Enters: a normal form, and the placeholders that the loop varies with their types where they are known. Leaves: a
statement in which each of these is an array of all values, or nothing where it could be wrong: other tables of values,
row locks, functions that answer differently each time, constants to sort by: what was the number of a column is one in
a normal form. A key is all columns that equal what varies, for what is found by one of several is more than the loop
asked for. Every row can be told apart by the loop's values, which are the first columns where the query lacks them.

| query by `k = $1`, in any spelling | becomes |
|---|---|
| rows | `k = ANY($1)`; of two keys `(k, l) IN (SELECT * FROM unnest($1, $2))` |
| the same, and the types are not known | `(k, l) IN (($1, $2), ($3, $4))`: two rows show how many would look |
| aggregates | the same, `GROUP BY k`; a value without rows has no row |
| only whether there are any: constants, and one row at most | `SELECT DISTINCT k` |
| the first row, `k` being unique | as if all rows were asked for |
| the first rows for each | a LATERAL join with `unnest($1)` |
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pgtattle.analyzers.sql.rewrite_keys import BACK, PLACEHOLDER, SLOT, Batch, Keys, number_of, parsed, text

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

# Types whose array a driver passes as it passes one: of a text nobody knows what it stands for. Of integers drivers
# take the smallest that a value fits in. Those of arrays stand for their members.
_TYPES: Final = {
    20: "bigint", 21: "bigint", 23: "bigint", 1082: "date", 1700: "numeric", 2950: "uuid",
    1016: "bigint", 1005: "bigint", 1007: "bigint", 1182: "date", 1231: "numeric", 2951: "uuid",
}  # fmt: skip


@lru_cache(512)
def for_all(
    sql: str,
    keys: tuple[tuple[int, int], ...],
    unique: frozenset[str] = frozenset(),
    counts: frozenset[tuple[int, int]] = frozenset(),
) -> Batch | None:
    """The query for all values of the `keys`, each a placeholder's number and its type's oid; None where there is none.

    Each of the `unique` columns tells one row of the query's only table. `counts` are what LIMIT and OFFSET come to in
    every turn, by their placeholder: 0, 1, or 2 for more.
    """
    if len(sql) > MAX_LENGTH or SLOT in sql or not keys:
        return None
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(PLACEHOLDER.sub(SLOT + r"\1", sql), read="postgres")
        if not isinstance(tree, exp.Select):
            return None
        last = max(int(number) for number in PLACEHOLDER.findall(sql))
        return _rewritten(tree, {number: _TYPES.get(oid, "") for number, oid in keys}, last, unique, dict(counts))
    except Exception:
        return None


def _rewritten(
    tree: exp.Select, types: Mapping[int, str], last: int, unique: frozenset[str], counts: Mapping[int, int]
) -> Batch | None:
    from sqlglot import exp

    where = tree.args.get("where")
    parts = ("with_", "with", "distinct", "group", "having", "locks", "windows", "into")
    barred = any(tree.args.get(part) for part in parts) or len(list(tree.find_all(exp.Select))) > 1
    barred = barred or any(number_of(ordered.this.unnest()) for ordered in tree.find_all(exp.Ordered))
    if where is None or barred or tree.find(exp.Subquery, exp.SetOperation, exp.Window):
        return None
    keys = Keys(where, types)
    if not keys.complete or any(not isinstance(function, known_functions()) for function in tree.find_all(exp.Func)):
        return None
    limited = tree.args.get("limit") is not None or tree.args.get("offset") is not None
    least, most = _limits(tree, counts)
    # A table's columns may have other names in the query.
    (table, *others) = tree.find_all(exp.Table)
    alone = not others and not tree.args.get("joins") and not table.alias_column_names
    one_row = alone and any(isinstance(one.key, exp.Column) and one.key.name in unique for one in keys.found)
    selected = [one.unalias() for one in tree.expressions]
    if all(isinstance(one, exp.Literal | exp.Boolean) or number_of(one) for one in selected):
        # More rows than one would be counted.
        if not least or not (one_row or most == 1):
            return None
        _select_existing(tree, keys)
    elif any(one.find(exp.AggFunc) for one in selected):
        if limited or tree.args.get("order") or not all(isinstance(one, exp.AggFunc) for one in selected):
            return None
        tree.set("expressions", [*(one.key.copy() for one in keys.found), *tree.expressions])
        tree.group_by(*(one.key.copy() for one in keys.found), copy=False)
    elif limited and not (one_row and least):
        return _lateral(tree, keys, types)
    else:
        if limited:
            _drop(tree, "limit", "offset", "order")
        lacking = [one.key.copy() for one in keys.found if not _has(tree, one.key)]
        tree.set("expressions", [*lacking, *tree.expressions])
    again = keys.ask(types, last)
    return Batch(text(tree), again) if again is not None else None


def _select_existing(tree: exp.Select, keys: Keys) -> None:
    tree.set("expressions", [one.key.copy() for one in keys.found])
    _drop(tree, "limit", "offset", "order")
    tree.distinct(copy=False)


def _drop(tree: exp.Select, *parts: str) -> None:
    for part in parts:
        tree.set(part, None)


def _lateral(tree: exp.Select, keys: Keys, types: Mapping[int, str]) -> Batch | None:
    from sqlglot import exp

    arrays = keys.arrays(types)
    named = any("wanted" in (table.name.lower(), table.alias.lower()) for table in tree.find_all(exp.Table))
    if named or not arrays:
        return None
    names = ["value"] if len(keys.found) == 1 else [f"value{place}" for place in range(1, len(keys.found) + 1)]
    values = [exp.column(name, table="wanted") for name in names]
    equal = [exp.EQ(this=one.key, expression=value.copy()) for one, value in zip(keys.found, values, strict=True)]
    keys.place.replace(exp.and_(*equal, copy=False))
    whole = (
        f"SELECT {', '.join(value.sql() for value in values)}, found.* FROM unnest({arrays}) AS "
        f"wanted({', '.join(names)}) CROSS JOIN LATERAL ({tree.sql(dialect='postgres')}) AS found"
    )
    return Batch(text(parsed(whole)))


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


def _count(value: exp.Expr, counts: Mapping[int, int]) -> int | None:
    from sqlglot import exp

    while isinstance(value, exp.Paren | exp.Cast):
        value = value.this
    found = BACK.fullmatch(value.name)
    return counts.get(int(found[1])) if found is not None else None


def _has(tree: exp.Select, key: exp.Expr) -> bool:
    from sqlglot import exp

    if not isinstance(key, exp.Column):
        return False
    for one in tree.expressions:
        plain = one.unalias()
        if isinstance(plain, exp.Star):
            return True
        if isinstance(plain, exp.Column) and plain.name in ("*", key.name):
            return plain.table == key.table or len(list(tree.find_all(exp.Table))) == 1
    return False
