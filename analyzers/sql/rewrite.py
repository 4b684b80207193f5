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

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pgtattle.analyzers.sql.comparisons import is_equal

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

# Types whose array a driver passes as it passes one: of a text nobody knows what it stands for. Of integers drivers
# take the smallest that a value fits in. Those of arrays stand for their members.
_TYPES: Final = {
    20: "bigint", 21: "bigint", 23: "bigint", 1082: "date", 1700: "numeric", 2950: "uuid",
    1016: "bigint", 1005: "bigint", 1007: "bigint", 1182: "date", 1231: "numeric", 2951: "uuid",
}  # fmt: skip
_SLOT: Final = "pgtattle_slot_"
_PLACEHOLDER: Final = re.compile(r"\$(\d+)")
_BACK: Final = re.compile(_SLOT + r"(\d+)", re.I)


class Batch(NamedTuple):
    """A statement for all turns. `again` are the placeholders that the second row repeats; empty: all are arrays.

    `key` are those that tell a turn's rows: where two turns have the same, a write is not what the loop was.
    """

    sql: str
    again: tuple[int, ...] = ()
    key: tuple[int, ...] = ()


class _Equal(NamedTuple):
    """A conjunct `key = value`, the value being the placeholder of that number, maybe cast, or an `array` of one."""

    key: exp.Expr
    value: exp.Expr
    number: int
    array: bool


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
    if len(sql) > MAX_LENGTH or _SLOT in sql or not keys:
        return None
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(_PLACEHOLDER.sub(_SLOT + r"\1", sql), read="postgres")
        if not isinstance(tree, exp.Select):
            return None
        last = max(int(number) for number in _PLACEHOLDER.findall(sql))
        return _Reads(tree, dict(keys), last).rewritten(unique, dict(counts))
    except Exception:
        return None


class _Reads:
    """One rewriting of a tree, which it changes. `oids` are those of the keys, by number."""

    def __init__(self, tree: exp.Select, oids: Mapping[int, int], last: int) -> None:
        from sqlglot import exp

        self._tree = tree
        self._oids = oids
        self._last = last
        self._equal: list[_Equal] = []
        self._place = exp.true()

    def rewritten(self, unique: frozenset[str], counts: Mapping[int, int]) -> Batch | None:
        """The statement for all values."""
        from sqlglot import exp

        tree = self._tree
        where = tree.args.get("where")
        parts = ("with_", "with", "distinct", "group", "having", "locks", "windows", "into")
        barred = any(tree.args.get(part) for part in parts) or len(list(tree.find_all(exp.Select))) > 1
        barred = barred or any(_number(ordered.this.unnest()) for ordered in tree.find_all(exp.Ordered))
        if where is None or barred or tree.find(exp.Subquery, exp.SetOperation, exp.Window):
            return None
        conditions = self._take_keys(where.this)
        numbers = [one.number for one in self._equal]
        if sorted(numbers) != sorted(self._oids):
            return None
        where.set("this", exp.and_(*conditions, copy=False))
        if any(_number(column) in self._oids for column in tree.find_all(exp.Column)):
            return None
        if any(not isinstance(function, known_functions()) for function in tree.find_all(exp.Func)):
            return None
        limited = tree.args.get("limit") is not None or tree.args.get("offset") is not None
        least, most = _limits(tree, counts)
        # A table's columns may have other names in the query.
        (table, *more) = tree.find_all(exp.Table)
        alone = not more and not tree.args.get("joins") and not table.alias_column_names
        one_row = alone and any(isinstance(one.key, exp.Column) and one.key.name in unique for one in self._equal)
        selected = [one.unalias() for one in tree.expressions]
        if all(isinstance(one, exp.Literal | exp.Boolean) or _number(one) for one in selected):
            # More rows than one would be counted.
            return self._existing() if least and (one_row or most == 1) else None
        if any(one.find(exp.AggFunc) for one in selected):
            plain = [one for one in selected if not isinstance(one, exp.AggFunc)]
            return None if plain or limited or tree.args.get("order") else self._grouped()
        if limited and one_row and least:
            for part in ("limit", "offset", "order"):
                tree.set(part, None)
        elif limited:
            return self._lateral()
        return self._listed()

    def _take_keys(self, condition: exp.Expr) -> list[exp.Expr]:
        """Take the conjuncts that are keys, and leave one place for what is asked for in their stead."""
        from sqlglot import exp

        conditions: list[exp.Expr] = []
        for conjunct in conjuncts(condition):
            pairs = _pairs(conjunct)
            found = [_equal(*pair) or _equal(*reversed(pair)) for pair in pairs]
            if not any(one is not None and one.number in self._oids for one in found):
                conditions.append(conjunct)
                continue
            for one, (left, right) in zip(found, pairs, strict=True):
                if one is None or one.number not in self._oids:
                    conditions.append(exp.EQ(this=left, expression=right))
                    continue
                if not self._equal:
                    conditions.append(self._place)
                self._equal.append(one)
        return conditions

    def _listed(self) -> Batch | None:
        lacking = [one.key.copy() for one in self._equal if not _has(self._tree, one.key)]
        self._tree.set("expressions", [*lacking, *self._tree.expressions])
        return self._asked()

    def _grouped(self) -> Batch | None:
        keys = [one.key for one in self._equal]
        self._tree.set("expressions", [*(key.copy() for key in keys), *self._tree.expressions])
        self._tree.group_by(*(key.copy() for key in keys), copy=False)
        return self._asked()

    def _existing(self) -> Batch | None:
        self._tree.set("expressions", [one.key.copy() for one in self._equal])
        for part in ("limit", "offset", "order"):
            self._tree.set(part, None)
        self._tree.distinct(copy=False)
        return self._asked()

    def _asked(self) -> Batch | None:
        """The statement with one condition for all values."""
        from sqlglot import exp

        if len(self._equal) == 1:
            (one,) = self._equal
            self._place.replace(exp.EQ(this=one.key, expression=exp.Any(this=exp.Paren(this=_arrayed(one.value)))))
            return Batch(_text(self._tree))
        keys = ", ".join(one.key.sql(dialect="postgres") for one in self._equal)
        arrays = self._arrays()
        again: list[int] = []
        if arrays:
            condition = f"({keys}) IN (SELECT * FROM unnest({arrays}))"
        elif any(one.array for one in self._equal):
            return None
        else:
            again = [one.number for one in self._equal]
            first = ", ".join(one.value.sql(dialect="postgres") for one in self._equal)
            second = ", ".join(
                _BACK.sub(f"{_SLOT}{self._last + place}", one.value.sql(dialect="postgres"))
                for place, one in enumerate(self._equal, start=1)
            )
            condition = f"({keys}) IN (({first}), ({second}))"
        self._place.replace(_parsed(condition))
        return Batch(_text(self._tree), tuple(again))

    def _lateral(self) -> Batch | None:
        from sqlglot import exp

        tree, arrays = self._tree, self._arrays()
        named = any("wanted" in (table.name.lower(), table.alias.lower()) for table in tree.find_all(exp.Table))
        if named or not arrays:
            return None
        names = ["value"] if len(self._equal) == 1 else [f"value{place}" for place in range(1, len(self._equal) + 1)]
        wanted = [exp.column(name, table="wanted") for name in names]
        equal = [exp.EQ(this=one.key, expression=value.copy()) for one, value in zip(self._equal, wanted, strict=True)]
        self._place.replace(exp.and_(*equal, copy=False))
        whole = (
            f"SELECT {', '.join(value.sql() for value in wanted)}, found.* FROM unnest({arrays}) AS "
            f"wanted({', '.join(names)}) CROSS JOIN LATERAL ({tree.sql(dialect='postgres')}) AS found"
        )
        return Batch(_text(_parsed(whole)))

    def _arrays(self) -> str:
        """The arguments of unnest(); empty where a type is not known."""
        from sqlglot import exp

        found: list[str] = []
        for one in self._equal:
            value = _arrayed(one.value)
            if not isinstance(value, exp.Cast):
                type_ = _TYPES.get(self._oids[one.number])
                if type_ is None:
                    return ""
                value = exp.cast(value, f"{type_}[]", dialect="postgres")
            found.append(value.sql(dialect="postgres"))
        return ", ".join(found)


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
    found = _BACK.fullmatch(value.name)
    return counts.get(int(found[1])) if found is not None else None


def _number(one: exp.Expr) -> int | None:
    """The number of a placeholder; None for everything else."""
    from sqlglot import exp

    found = _BACK.fullmatch(one.name) if isinstance(one, exp.Column) else None
    return int(found[1]) if found is not None else None


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """The conditions that all have to be true, without brackets around several of them."""
    from sqlglot import exp

    inner = condition.unnest()
    if isinstance(inner, exp.And):
        yield from conjuncts(inner.this)
        yield from conjuncts(inner.expression)
    else:
        yield condition


def _pairs(conjunct: exp.Expr) -> list[tuple[exp.Expr, exp.Expr]]:
    """The two sides of an equality; of one between rows those of each column."""
    from sqlglot import exp

    node = conjunct.unnest()
    if isinstance(node, exp.In):
        if len(node.expressions) != 1:
            return []
        left, right = node.this.unnest(), node.expressions[0].unnest()
    elif isinstance(node, exp.EQ | exp.NullSafeEQ) or (isinstance(node, exp.Operator) and is_equal(node)):
        left, right = node.this.unnest(), node.expression.unnest()
    else:
        return []
    if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple) and not isinstance(node, exp.NullSafeEQ):
        return list(zip(left.expressions, right.expressions, strict=True))
    return [(left, right)]


def _equal(key: exp.Expr, value: exp.Expr) -> _Equal | None:
    """A column, maybe cast, and a placeholder; None for anything else."""
    from sqlglot import exp

    key, value = key.unnest(), value.unnest()
    array = isinstance(value, exp.Any)
    if array:
        value = value.this.unnest()
        if isinstance(value, exp.Array):
            if len(value.expressions) != 1:
                return None
            value, array = value.expressions[0].unnest(), False
    column, place = _uncast(key), _uncast(value)
    number = _number(place)
    if not isinstance(column, exp.Column) or _number(column) is not None or number is None:
        return None
    return _Equal(key, value, number, array)


def _uncast(value: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    while isinstance(value, exp.Paren | exp.Cast):
        value = value.this
    return value


def _arrayed(value: exp.Expr) -> exp.Expr:
    """A placeholder with the casts around it, for an array of its values."""
    from sqlglot import exp

    value = value.unnest()
    if not isinstance(value, exp.Cast):
        return value.copy()
    type_ = value.to.sql(dialect="postgres")
    array = value.to if type_.endswith("[]") else exp.DataType.build(f"{type_}[]", dialect="postgres")
    return exp.Cast(this=_arrayed(value.this), to=array.copy())


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


def _parsed(sql: str) -> exp.Expr:
    import sqlglot

    return sqlglot.parse_one(sql, read="postgres")


def _text(tree: exp.Expr) -> str:
    return _BACK.sub(r"$\1", tree.sql(dialect="postgres"))
