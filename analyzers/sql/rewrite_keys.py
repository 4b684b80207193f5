"""The key of a loop in a WHERE: the columns that equal what its turns change, and one condition for all of its values.

Enters: a WHERE, and the placeholders that change. Leaves: the same WHERE with one condition in the place of these
equalities: `k = ANY($1)`, for several `(k, l) IN (SELECT * FROM unnest($1, $2))`, or where a type is not known
`(k, l) IN (($1, $2), ($3, $4))`, two rows that show how many would look. Placeholders are columns with a name of their
own in these trees, for a normal form's `$n` means something else to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from pgtattle.analyzers.sql.comparisons import is_equal

if TYPE_CHECKING:
    from sqlglot import exp

SLOT: Final = "pgtattle_slot_"
PLACEHOLDER: Final = re.compile(r"\$(\d+)")
BACK: Final = re.compile(SLOT + r"(\d+)", re.I)


class Batch(NamedTuple):
    """A statement for all turns. `again` are the placeholders that the second row repeats; empty: all are arrays.

    `key` are those that tell a turn's rows: where two turns have the same, a write is not what the loop was.
    """

    sql: str
    again: tuple[int, ...] = ()
    key: tuple[int, ...] = ()


class Equal(NamedTuple):
    """A conjunct `key = value`, the value being the placeholder of that number, maybe cast, or an `array` of one."""

    key: exp.Expr
    value: exp.Expr
    number: int
    array: bool


class Keys:
    """The keys of a WHERE, which they are taken out of; `place` stands for the condition that will be there instead."""

    def __init__(self, where: exp.Where, numbers: Collection[int]) -> None:
        from sqlglot import exp

        self.found: list[Equal] = []
        self.place: exp.Expr = exp.true()
        conditions: list[exp.Expr] = []
        for conjunct in conjuncts(where.this):
            pairs = pairs_of(conjunct)
            equals = [equal(*pair) or equal(*reversed(pair)) for pair in pairs]
            if not any(one is not None and one.number in numbers for one in equals):
                conditions.append(conjunct)
                continue
            for one, (left, right) in zip(equals, pairs, strict=True):
                if one is None or one.number not in numbers:
                    conditions.append(exp.EQ(this=left, expression=right))
                    continue
                if not self.found:
                    conditions.append(self.place)
                self.found.append(one)
        where.set("this", exp.and_(*conditions, copy=False))
        self.complete = sorted(one.number for one in self.found) == sorted(numbers) and all(
            number_of(column) not in numbers for column in where.root().find_all(exp.Column)
        )

    def ask(self, types: Mapping[int, str], last: int) -> tuple[int, ...] | None:
        """Put the condition in; the placeholders that a second row repeats, from `last` on. None if there is none."""
        from sqlglot import exp

        if len(self.found) == 1:
            (one,) = self.found
            self.place.replace(exp.EQ(this=one.key, expression=exp.Any(this=exp.Paren(this=_arrayed(one.value)))))
            return ()
        keys = ", ".join(one.key.sql(dialect="postgres") for one in self.found)
        arrays = self.arrays(types)
        if arrays:
            self.place.replace(parsed(f"({keys}) IN (SELECT * FROM unnest({arrays}))"))
            return ()
        if any(one.array for one in self.found):
            return None
        values = [one.value.sql(dialect="postgres") for one in self.found]
        again = [BACK.sub(f"{SLOT}{last + place}", value) for place, value in enumerate(values, start=1)]
        self.place.replace(parsed(f"({keys}) IN (({', '.join(values)}), ({', '.join(again)}))"))
        return tuple(one.number for one in self.found)

    def arrays(self, types: Mapping[int, str]) -> str:
        """The arguments of unnest(), whose types are those of a cast or these; empty where one is not known."""
        from sqlglot import exp

        found: list[str] = []
        for one in self.found:
            value = _arrayed(one.value)
            if not isinstance(value, exp.Cast):
                if not types.get(one.number):
                    return ""
                value = exp.cast(value, f"{types[one.number]}[]", dialect="postgres")
            found.append(value.sql(dialect="postgres"))
        return ", ".join(found)


def number_of(one: exp.Expr) -> int | None:
    """The number of a placeholder; None for everything else."""
    from sqlglot import exp

    found = BACK.fullmatch(one.name) if isinstance(one, exp.Column) else None
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


def pairs_of(conjunct: exp.Expr) -> list[tuple[exp.Expr, exp.Expr]]:
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


def equal(key: exp.Expr, value: exp.Expr) -> Equal | None:
    """A column, maybe cast, and a placeholder; None for anything else."""
    from sqlglot import exp

    key, value = key.unnest(), value.unnest()
    some = isinstance(value, exp.Anonymous) and value.name.upper() == "SOME" and len(value.expressions) == 1
    array = some or isinstance(value, exp.Any)
    if array:
        value = (value.expressions[0] if some else value.this).unnest()
        if isinstance(value, exp.Array):
            if len(value.expressions) != 1:
                return None
            value, array = value.expressions[0].unnest(), False
    column, place = _uncast(key), _uncast(value)
    number = number_of(place)
    if not isinstance(column, exp.Column) or number_of(column) is not None or number is None:
        return None
    return Equal(key, value, number, array)


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


def parsed(sql: str) -> exp.Expr:
    """The tree of a text."""
    import sqlglot

    return sqlglot.parse_one(sql, read="postgres")


def text(tree: exp.Expr) -> str:
    """The text of a tree, with `$n` for its placeholders."""
    return BACK.sub(r"$\1", tree.sql(dialect="postgres"))
