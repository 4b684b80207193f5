"""One write in place of a loop of writes: a candidate that writes all rows at once.

Enters: a normal form, for each placeholder the type of its values, and which of them change. Leaves: a statement, with
what its placeholders stand for; or nothing where it is not plainly the same. A row is told by nothing but columns that
equal what changes, and these are not SET: so no turn sees what another did, as long as each has its own key.

| write | becomes |
|---|---|
| `INSERT … VALUES ($1, $2)` | `VALUES ($1, $2), ($3, $4)`: two rows show how many would look |
| the same with `ON CONFLICT (k) DO UPDATE` | the same, `k` being the key |
| `MERGE … USING (VALUES ($1, $2)) v ON t.k = v.k` | the same; a SELECT without FROM becomes VALUES |
| `UPDATE … SET a = $1 WHERE k = $2` | `UPDATE … FROM unnest($1, $2) AS wanted …`, an array for each that changes |
| `UPDATE`, and only its key changes; `DELETE` | by all keys at once (`rewrite_keys`) |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pgtattle.analyzers.sql.comparisons import equalities, selected
from pgtattle.analyzers.sql.rewrite import known_functions
from pgtattle.analyzers.sql.rewrite_keys import PLACEHOLDER, SLOT, Batch, Keys, conjuncts, number_of, text

if TYPE_CHECKING:
    from sqlglot import exp

MAX_LENGTH: Final = 4_000

_ROWS: Final = f"{SLOT}rows"
"""Stands in a tree for the rows of arrays."""

# Functions whose answer does not depend on the rows that were written before.
_CALLS: Final = frozenset(("nextval", "random", "uuid_generate_v4", "clock_timestamp"))

_KEEPING: Final = frozenset(("SMALLINT", "INT", "BIGINT", "UUID", "TEXT", "VARCHAR"))
"""Types to which a key may be cast: different values stay different."""
UNKNOWN: Final = "unknown"
"""The type of a literal that is a text where it is SET, and where it is compared of the column's own."""


@lru_cache(256)
def write_all(sql: str, types: tuple[tuple[int, str], ...], varying: frozenset[int]) -> Batch | None:
    """The write for all rows; None where there is none.

    `types` are those of the placeholders, by number, empty where not known; `varying` those that change in the loop.
    """
    if len(sql) > MAX_LENGTH or SLOT in sql or not types:
        return None
    try:
        import sqlglot
        from sqlglot import exp

        tree = sqlglot.parse_one(PLACEHOLDER.sub(SLOT + r"\1", sql), read="postgres")
        last = max(number for number, _ in types)
        if tree.args.get("with_") or tree.args.get("with"):
            return None
        if isinstance(tree, exp.Merge):
            return _merge(tree, dict(types), last, varying)
        if tree.find(exp.Select, exp.Subquery) or not all(map(_is_known, tree.find_all(exp.Func))):
            return None
        match tree:
            case exp.Insert():
                return _insert(tree, last, varying)
            case exp.Update():
                return _update(tree, dict(types), last, varying)
            case exp.Delete():
                where = tree.args.get("where")
                barred = any(tree.args.get(part) for part in ("using", "order", "limit"))
                return None if barred or where is None else _by_keys(where, dict(types), last, varying)
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


def _insert(tree: exp.Insert, last: int, varying: Collection[int]) -> Batch | None:
    from sqlglot import exp

    values, conflict = tree.expression, tree.args.get("conflict")
    key: tuple[int, ...] = ()
    if not isinstance(values, exp.Values) or len(values.expressions) != 1:
        return None
    if conflict is not None and conflict.args["action"].name.upper() != "DO NOTHING":
        # One statement does not change a row twice, so it has to be known by what a row is found.
        asked = conflict.args.get("conflict_keys") or ()
        found = [one for one in equalities(tree, number_of) if one.node is conflict]
        key = tuple(one.number for one in found)
        if not key or len(key) < len(asked) or {one.column.name for one in found} & _assigned(conflict):
            return None
    again = _second_row(tree, values, last, varying)
    return Batch(text(tree), again, key) if again else None


def _merge(tree: exp.Merge, types: Mapping[int, str], last: int, varying: Collection[int]) -> Batch | None:
    """By its source, a row of constants, which tells the row of the target."""
    from sqlglot import exp

    source, on = tree.args["using"], tree.args.get("on")
    row = selected(source)
    names = source.alias_column_names or [one.alias_or_name for one in source.find_all(exp.Alias)]
    queries = {id(one) for one in source.find_all(exp.Select)}
    if not row or len(names) != len(row) or any(id(one) not in queries for one in tree.find_all(exp.Select)):
        return None
    if any(when.args.get("source") for when in tree.find_all(exp.When)) or not all(
        map(_is_known, tree.find_all(exp.Func))
    ):
        # What no row of the source matches is another set for many rows.
        return None
    asked = [one for one in equalities(tree, number_of) if one.node.find_ancestor(exp.Merge) is tree]
    key = tuple(one.number for one in asked if one.number in varying and not one.array)
    changed = {name for update in tree.find_all(exp.Update) for name in _assigned(update)}
    if on is None or on.find(exp.Or, exp.Not) or not key or changed & {one.column.name for one in asked}:
        return None
    # A parameter of no type is a text in VALUES, where a literal has one of its own.
    kinds = [types.get(number_of(one) or 0, "").replace(UNKNOWN, "") for one in row]
    typed = [exp.cast(one.copy(), kind) if kind else one.copy() for one, kind in zip(row, kinds, strict=True)]
    values = exp.Values(
        expressions=[exp.Tuple(expressions=typed)],
        alias=exp.TableAlias(this=exp.to_identifier(source.alias), columns=[exp.to_identifier(name) for name in names]),
    )
    tree.set("using", values)
    again = _second_row(tree, values, last, varying)
    return Batch(text(tree), again, key) if again else None


def _second_row(tree: exp.Expr, values: exp.Values, last: int, varying: Collection[int]) -> tuple[int, ...]:
    """Say the one row of VALUES twice; the placeholders of the second. None where another clause has some that change.

    What another clause asks for is each turn's own, and there is one such clause.
    """
    from sqlglot import exp

    (row,) = values.expressions
    within = [number_of(column) for column in row.find_all(exp.Column)]
    everywhere = [number for column in tree.find_all(exp.Column) if (number := number_of(column)) is not None]
    if not within or None in within or any(number in varying and number not in within for number in everywhere):
        return ()
    second = row.copy()
    again: list[int] = []
    for column in list(second.find_all(exp.Column)):
        again.append(number_of(column) or 0)
        column.replace(exp.column(f"{SLOT}{last + len(again)}"))
    values.set("expressions", [row, second])
    return tuple(again)


def _assigned(tree: exp.Expr) -> set[str]:
    """The columns that a SET changes; `a = excluded.a` is the value that the row was found by, if it was by that."""
    from sqlglot import exp

    found: set[str] = set()
    for one in tree.expressions:
        columns = [column.name for column in one.this.find_all(exp.Column)]
        value = one.expression
        same = isinstance(value, exp.Column) and value.table.lower() == "excluded" and [value.name] == columns
        found.update(() if same else columns)
    return found


def _update(tree: exp.Update, types: Mapping[int, str], last: int, varying: Collection[int]) -> Batch | None:
    from sqlglot import exp

    where = tree.args.get("where")
    if where is None or any(tree.args.get(part) for part in ("from_", "from", "order", "limit")):
        return None
    if not all(isinstance(one, exp.EQ) and isinstance(one.this, exp.Column) for one in tree.expressions):
        return None
    told = {column.name for column in where.find_all(exp.Column)}
    if _assigned(tree) & told:
        return None
    asked = {number for column in where.find_all(exp.Column) if (number := number_of(column)) is not None}
    if asked.issuperset(varying):
        return _by_keys(where, types, last, varying)
    keys = _keys(where, frozenset(varying) & asked)
    if keys is None:
        return None
    values = [exp.EQ(this=one.key, expression=one.value) for one in keys.found]
    keys.place.replace(exp.and_(*values, copy=False))
    # What is a whole number in all turns may go to a column that takes others; the server casts what is assigned.
    numeric = {number: "numeric" for number, type_ in types.items() if type_ == "bigint" and number not in asked}
    wanted = _wanted(tree, {**types, **numeric}, varying, [one.this for one in tree.expressions])
    if not wanted:
        return None
    tree.set("from_", exp.From(this=exp.to_table(_ROWS)))
    return Batch(text(tree).replace(_ROWS, wanted), key=tuple(one.number for one in keys.found))


def _by_keys(where: exp.Where, types: Mapping[int, str], last: int, varying: Collection[int]) -> Batch | None:
    """The statement for all keys, where nothing else changes."""
    keys = _keys(where, varying)
    sure = {number: type_ for number, type_ in types.items() if type_ != UNKNOWN}
    again = keys.ask(sure, last) if keys is not None else None
    if keys is None or again is None:
        return None
    return Batch(text(where.root()), again, tuple(one.number for one in keys.found))


def _keys(where: exp.Where, varying: Collection[int]) -> Keys | None:
    """The keys of a WHERE; None where a row is told by something else, or two values may be one."""
    from sqlglot import exp

    if not varying or where.find(exp.Or, exp.Not):
        return None
    if any(isinstance(one.unnest(), exp.NullSafeEQ) for one in conjuncts(where.this)):
        return None
    keys = Keys(where, varying)
    plain = all(
        isinstance(one.key, exp.Column)
        and not one.array
        and all(cast.to.sql(dialect="postgres") in _KEEPING for cast in one.value.find_all(exp.Cast))
        for one in keys.found
    )
    return keys if keys.complete and plain else None


def _wanted(
    tree: exp.Update, types: Mapping[int, str], varying: Collection[int], assigned: Collection[exp.Expr]
) -> str:
    """Make what varies columns of `wanted`, and the other columns, but those `assigned`, ones of the table.

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
        number = number_of(column)
        if number is not None and number in varying:
            numbers.append(number)
            column.replace(exp.column(f"v{number}", table="wanted"))
        elif (
            number is None
            and not column.table
            and not any(column is one for one in assigned)
            and column.sql() != "DEFAULT"
        ):
            column.set("table", name.copy())
    numbers = sorted(set(numbers))
    if not all(types[number] for number in numbers):
        return ""
    arrays = ", ".join(f"${number}::{types[number].replace(UNKNOWN, 'text')}[]" for number in numbers)
    return f"unnest({arrays}) AS wanted({', '.join(f'v{number}' for number in numbers)})"
