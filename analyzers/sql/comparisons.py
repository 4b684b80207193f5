"""Which columns have to equal a placeholder, in whatever spelling: `a = $1`, `$1 = a`, `a IN ($1)`, `a = ANY($1)`, …

Enters: a parsed statement, and which of its nodes are placeholders. Leaves: pairs of a column and a placeholder. A row
counts for each of its columns. Brackets, casts, lower() and the like on either side do not matter, nor does the name of
the operator: OPERATOR(pg_catalog.=), IS NOT DISTINCT FROM, NOT … <>. A placeholder may come by way of a source of
constants: VALUES, a SELECT without FROM, unnest(). Out of scope: what is computed from a placeholder, and equality
between columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sqlglot import exp

NumberOf = Callable[["exp.Expr"], "int | None"]
"""The number of a placeholder; None for every other node."""


class Equality(NamedTuple):
    """A column that equals a placeholder, or a member of it where it is an `array`; `node` compares them.

    `always`: a row of the statement is not found without it. Others stand in a join, a subquery or beside an OR; or the
    placeholder may stand for a list of them.
    """

    column: exp.Column
    number: int
    array: bool
    node: exp.Expr
    always: bool


def equalities(tree: exp.Expr, number_of: NumberOf) -> Iterator[Equality]:
    """The equalities of all conditions: of WHERE, HAVING, joins and MERGE; and what ON CONFLICT finds a row by."""
    from sqlglot import exp

    constants = _Constants(tree, number_of)
    for node in tree.find_all(exp.EQ, exp.NullSafeEQ, exp.NEQ, exp.NullSafeNEQ, exp.In, exp.Operator):
        negated = _negated(node)
        if negated is None or negated is not isinstance(node, (exp.NEQ, exp.NullSafeNEQ)):
            continue
        if isinstance(node, exp.Operator) and not is_equal(node):
            continue
        for one, other in _sides(node):
            for column, value in ((plain(one), other), (plain(other), one)):
                if isinstance(column, exp.Column) and number_of(column) is None and not constants.has(column):
                    for number, array in constants.behind(value):
                        yield Equality(column, number, array, node, _always(node, tree))
    for insert in tree.find_all(exp.Insert):
        yield from _conflicts(insert, constants)


def is_equal(operator: exp.Operator) -> bool:
    """True for OPERATOR(=), whatever its schema."""
    return str(operator.args["operator"]).rpartition(".")[2] == "="


def plain(node: exp.Expr) -> exp.Expr:
    """A value without what does not change which rows it finds: brackets, casts, and what makes texts alike."""
    from sqlglot import exp

    while isinstance(node, (exp.Paren, exp.Cast, exp.Collate, exp.Lower, exp.Upper, exp.Trim)):
        node = node.this
    return node


def _negated(node: exp.Expr) -> bool | None:
    """Whether a comparison is under an odd number of NOTs; None where it is no part of a condition."""
    from sqlglot import exp

    negated = False
    above = node.parent
    while isinstance(above, (exp.And, exp.Or, exp.Not, exp.Paren)):
        negated = negated is not isinstance(above, exp.Not)
        node, above = above, above.parent
    conditions = isinstance(above, (exp.Where, exp.Having))
    return negated if conditions or (isinstance(above, (exp.Join, exp.Merge)) and node.arg_key == "on") else None


def _always(node: exp.Expr, tree: exp.Expr) -> bool:
    from sqlglot import exp

    above = node.parent
    while isinstance(above, (exp.And, exp.Paren)):
        above = above.parent
    listed = node.find(exp.Any, exp.Array) or (isinstance(node, exp.In) and not isinstance(node.this, exp.Tuple))
    return isinstance(above, exp.Where) and above.parent is tree and not listed


def _sides(node: exp.Expr) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    """The two sides of a comparison; of one between rows those of each column."""
    from sqlglot import exp

    if isinstance(node, exp.In):
        query = node.args.get("query") or node.args.get("unnest")
        others = [query] if query is not None else node.expressions
        if len(others) > 1:
            return
    else:
        others = [node.expression]
    row = _row(node.this)
    for other in others:
        members = _row(other)
        if len(row) == len(members):
            yield from zip(row, members, strict=True)


def _row(node: exp.Expr) -> list[exp.Expr]:
    """The columns of a row: `(a, b)`, `ROW(a, b)`, or a query without FROM; of anything else it alone."""
    from sqlglot import exp

    while isinstance(node, (exp.Paren, exp.Subquery)):
        node = node.this
    if isinstance(node, exp.Tuple) or (isinstance(node, exp.Anonymous) and node.name.upper() == "ROW"):
        return list(node.expressions)
    found = selected(node)
    return found if len(found) > 1 else [node]


def selected(node: exp.Expr) -> list[exp.Expr]:
    """What a query without FROM, or the one row of VALUES, gives; nothing for anything else."""
    from sqlglot import exp

    while isinstance(node, (exp.Subquery, exp.Paren)):
        node = node.this
    if isinstance(node, exp.Values):
        rows = node.expressions
        return list(rows[0].expressions or rows) if len(rows) == 1 else []
    if not isinstance(node, exp.Select):
        return []
    source = node.args.get("from_") or node.args.get("from")
    if any(node.args.get(part) for part in ("joins", "where", "group", "having", "limit", "offset")):
        return []
    if source is None:
        return [one.unalias() for one in node.expressions]
    # SELECT … FROM unnest($1), or FROM (VALUES ($1)).
    inner = source.this
    if isinstance(inner, exp.Unnest):
        return [inner] if len(inner.expressions) == 1 else []
    return selected(inner) if isinstance(inner, (exp.Values, exp.Subquery)) else []


class _Constants:
    """The columns of a statement that stand for a placeholder, by the names of their source and their own."""

    def __init__(self, tree: exp.Expr, number_of: NumberOf) -> None:
        from sqlglot import exp

        self._number_of = number_of
        self._values: dict[tuple[str, str], exp.Expr] = {}
        for source in tree.find_all(exp.Values, exp.Subquery, exp.CTE, exp.Unnest):
            alias = source.alias
            if not alias:
                continue
            if isinstance(source, exp.Unnest):
                values: list[exp.Expr] = [exp.Unnest(expressions=[one.copy()]) for one in source.expressions]
            else:
                values = selected(source.this if isinstance(source, exp.CTE) else source)
            names = source.alias_column_names or [one.alias_or_name for one in _projections(source)] or [alias]
            for name, value in zip(names, values, strict=False):
                self._values[alias.lower(), name.lower()] = value

    def has(self, column: exp.Column) -> bool:
        """True for a column of a source of constants."""
        return self._of(column) is not None

    def _of(self, column: exp.Column) -> exp.Expr | None:
        if column.table:
            return self._values.get((column.table.lower(), column.name.lower()))
        found = [value for (_, name), value in self._values.items() if name == column.name.lower()]
        return found[0] if len(found) == 1 else None

    def behind(self, node: exp.Expr, array: bool = False, depth: int = 0) -> Iterator[tuple[int, bool]]:
        """The placeholders that a side of a comparison stands for, and whether it is a member of them."""
        from sqlglot import exp

        value = plain(node)
        number = self._number_of(value)
        following: list[Any] = []
        if number is not None:
            yield number, array
        elif isinstance(value, exp.Any):
            following, array = [value.this], True
        elif isinstance(value, exp.Anonymous) and value.name.upper() == "SOME":
            following, array = value.expressions, True
        elif isinstance(value, exp.Array):
            following, array = value.expressions, False
        elif isinstance(value, (exp.Unnest, exp.Explode)):
            following, array = value.expressions or [value.this], True
        elif isinstance(value, (exp.Query, exp.Values)):
            following, array = selected(value), False
        elif isinstance(value, exp.Column):
            constant = self._of(value)
            following = [constant] if constant is not None else []
        if depth < 8:
            for one in following:
                yield from self.behind(one, array, depth + 1)


def _projections(source: exp.Expr) -> list[exp.Expr]:
    from sqlglot import exp

    while isinstance(source, (exp.Subquery, exp.CTE)):
        source = source.this
    return list(source.expressions) if isinstance(source, exp.Select) else []


def _conflicts(insert: exp.Insert, constants: _Constants) -> Iterator[Equality]:
    """The columns of ON CONFLICT (…), whose values tell which row is changed."""
    from sqlglot import exp

    conflict, schema = insert.args.get("conflict"), insert.this
    values = selected(insert.expression) if insert.expression is not None else []
    if conflict is None or not isinstance(schema, exp.Schema):
        return
    keys = {column.name for key in conflict.args.get("conflict_keys") or () for column in key.find_all(exp.Column)}
    for name, value in zip(schema.expressions, values, strict=False):
        if name.name in keys:
            for number, array in constants.behind(value):
                yield Equality(exp.column(name.name), number, array, conflict, True)
