"""What sqlglot knows of a statement: its tables, which columns filter, join, sort and group it, and by which values.

Enters: a normal form. Leaves: its facts. Out of scope: which statements sqlglot can bear (`facts_cache`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from pgtattle.analyzers.sql.comparisons import equalities

if TYPE_CHECKING:
    from sqlglot import exp

MAX_TABLES: Final = 32
MAX_USES: Final = 64

Role = Literal["eq", "null", "range", "like", "join", "order", "group"]

_PLACEHOLDER: Final = re.compile(r"\$(\d+)")


class ColumnUse(Struct, frozen=True):
    """A column in a role. `table` is the base table as named, empty where it is not sure; `function` wraps it.

    `source` tells the mentions of a table apart: each is read by itself. `compared_to` is the column that a join
    compares it to, where that may be one of the same row.
    """

    table: str
    column: str
    role: Role
    descending: bool = False
    function: str = ""
    source: str = ""
    compared_to: str = ""


class Compared(Struct, frozen=True):
    """A column, named as in the statement, that has to equal the placeholder `number`, or a member of its `array`.

    `always`: in every row that the statement finds.
    """

    number: int
    column: str
    array: bool = False
    always: bool = False


class Facts(Struct, frozen=True):
    """`tables` are base tables as the statement names them, folded; `reason` says why it was not parsed.

    `compared` is in the order of the placeholders; `assigned` are the columns that UPDATE, MERGE or ON CONFLICT sets.
    """

    parsed: bool
    tables: tuple[str, ...] = ()
    uses: tuple[ColumnUse, ...] = ()
    compared: tuple[Compared, ...] = ()
    assigned: frozenset[str] = frozenset()
    has_limit: bool = False
    has_aggregate: bool = False
    locks: bool = False
    reason: str = ""


def parse(sql: str) -> Facts:
    """The facts of a read or write. Raises whatever sqlglot raises, ValueError for what it kept as it is."""
    import sqlglot
    from sqlglot import exp

    # A normal form has no numbers, so one stands for a placeholder: sqlglot's tokenizer trips over `$1, $2`.
    tree = sqlglot.parse_one(_PLACEHOLDER.sub(r"\1", sql), read="postgres")
    if isinstance(tree, exp.Command):
        raise ValueError("kept as an opaque command")
    hidden = {cte.alias for cte in tree.find_all(exp.CTE)}
    tables: dict[str, None] = {}
    for table in tree.find_all(exp.Table):
        if table.name and not (table.name in hidden and not table.db):
            tables.setdefault(_table_name(table))
    uses: dict[ColumnUse, None] = {}
    for number, node in enumerate(tree.find_all(exp.Select, exp.Update, exp.Delete, exp.Merge)):
        for use in _uses(node, hidden, number):
            uses.setdefault(use)
    return Facts(
        parsed=True,
        tables=tuple(tables)[:MAX_TABLES],
        uses=tuple(uses)[:MAX_USES],
        compared=_compared(tree),
        assigned=_assigned(tree),
        has_limit=tree.find(exp.Limit, exp.Fetch) is not None,
        has_aggregate=tree.find(exp.AggFunc) is not None,
        locks=tree.find(exp.Lock) is not None,
    )


def _compared(tree: exp.Expr) -> tuple[Compared, ...]:
    from sqlglot import exp

    def number_of(node: exp.Expr) -> int | None:
        return int(node.name) if isinstance(node, exp.Literal) and node.name.isdecimal() else None

    found: dict[Compared, None] = {}
    for one in equalities(tree, number_of):
        name = ".".join(part.name for part in one.column.parts)
        found.setdefault(Compared(one.number, name, one.array, one.always))
    return tuple(sorted(found, key=lambda one: one.number))[:MAX_USES]


def _assigned(tree: exp.Expr) -> frozenset[str]:
    from sqlglot import exp

    setting = [one for node in tree.find_all(exp.Update, exp.OnConflict) for one in node.args.get("expressions") or ()]
    targets = [one.this for one in setting if isinstance(one, exp.EQ)]
    return frozenset(column.name for target in targets for column in target.find_all(exp.Column))


def _table_name(table: exp.Table) -> str:
    return f"{table.db}.{table.name}" if table.db else str(table.name)


def _uses(node: exp.Expression, hidden: set[str], number: int) -> Iterator[ColumnUse]:
    """The uses of columns in one SELECT, UPDATE or DELETE, without its subqueries."""
    from sqlglot import exp

    names: dict[str, str] = {}
    unknown = False
    joins = [join for join in node.args.get("joins") or [] if isinstance(join, exp.Join)]
    sources: list[object] = [node.this] if isinstance(node, (exp.Update, exp.Delete, exp.Merge)) else []
    from_ = node.args.get("from_") or node.args.get("from")
    if from_ is not None:
        sources.append(from_.this)
    using = node.args.get("using")
    sources += using if isinstance(using, list) else [using] if using else []
    sources += [join.this for join in joins]
    for source in sources:
        if isinstance(source, exp.Table) and source.name and (source.db or source.name not in hidden):
            names[source.alias_or_name] = _table_name(source)
            joins += [join for join in source.args.get("joins") or [] if isinstance(join, exp.Join)]
        else:
            unknown = True
    for join in joins:
        if isinstance(join.this, exp.Table) and join.this.name not in hidden:
            names[join.this.alias_or_name] = _table_name(join.this)

    def use(column: exp.Column, role: Role, **more: Any) -> ColumnUse:
        name = column.table or (next(iter(names)) if len(names) == 1 and not unknown else "")
        return ColumnUse(names.get(name, ""), column.name, role, source=f"{number}.{name}", **more)

    where = node.args.get("where")
    conditions = list(_conjuncts(where.this)) if where is not None else []
    for join in joins:
        on = join.args.get("on")
        if on is not None:
            conditions += _conjuncts(on)
    for condition in conditions:
        yield from _condition(condition, use)
    order = node.args.get("order")
    for ordered in order.expressions if order is not None else []:
        if isinstance(ordered.this, exp.Column):
            yield use(ordered.this, "order", descending=bool(ordered.args.get("desc")))
    group = node.args.get("group")
    for grouped in group.expressions if group is not None else []:
        if isinstance(grouped, exp.Column):
            yield use(grouped, "group")


def _conjuncts(condition: exp.Expression) -> Iterator[exp.Expression]:
    from sqlglot import exp

    stack = [condition]
    while stack:
        one = stack.pop()
        if isinstance(one, exp.And):
            stack += [one.expression, one.this]
        elif isinstance(one, exp.Paren):
            stack.append(one.this)
        else:
            yield one


def _condition(condition: exp.Expression, use: Callable[..., ColumnUse]) -> Iterator[ColumnUse]:
    from sqlglot import exp

    role: Role
    if isinstance(condition, (exp.EQ, exp.In, exp.Is)):
        role = "null" if isinstance(condition.args.get("expression"), exp.Null) else "eq"
    elif isinstance(condition, (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between)):
        role = "range"
    elif isinstance(condition, (exp.Like, exp.ILike, exp.SimilarTo, exp.RegexpLike)):
        role = "like"
    elif isinstance(condition, (exp.Column, exp.Boolean)):
        if isinstance(condition, exp.Column):
            yield use(condition, "eq")
        return
    else:
        return
    if isinstance(condition, exp.Is) and condition.args.get("negate"):
        return
    left, right = condition.this, condition.args.get("expression")
    sides = [side for side in (left, right) if side is not None]
    columns = [list(side.find_all(exp.Column)) for side in sides]
    if isinstance(condition, exp.EQ) and isinstance(left, exp.Column) and isinstance(right, exp.Column):
        one_row = left.table == right.table or not (left.table and right.table)
        for side, other in ((left, right), (right, left)):
            yield use(side, "join", compared_to=other.name if one_row else "")
        return
    for number, side in enumerate(sides):
        others = [column for n, found in enumerate(columns) if n != number for column in found]
        plain = side
        while isinstance(plain, exp.Paren):
            plain = plain.this
        if isinstance(plain, exp.Column):
            # A subquery of the other side may look anything up; columns of this query there make it no constant.
            if not others or isinstance(condition, exp.In) or any(s.find(exp.Select) for s in sides):
                yield use(plain, role)
        elif len(columns[number]) == 1 and not others and not isinstance(plain, (exp.Subquery, exp.Select)):
            yield use(columns[number][0], role, function=type(plain).__name__.lower())
