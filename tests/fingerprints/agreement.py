"""Two groupings of statements compared, and each disagreement explained.

A disagreement is a pair of statements that one grouping holds together and the other apart. It is explained by a
smallest set of reasons: once what they speak of is taken out of both parse trees, the trees are equal. Where the trees
are equal as they are, the tokens that only one text has must be spellings of one thing.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from math import comb
from random import Random
from typing import Any, Final, Literal, NamedTuple

import pgparse

from pgtattle.analyzers.sql.texts import Texts
from pgtattle.analyzers.sql.tokens import Token, capitals, tokenize
from tests.fingerprints.corpus import variant

Rule = Callable[[Any, str, str], Any]
"""A node, the field that holds it and the field above in, the node without something out."""
MAX_LENGTH: Final = 16_000
LITERAL: Final = "a literal"
_NOTHING: Final = (LITERAL, [], {"List": {}}, {"Integer": {}})


def _literals(node: Any, field: str, above: str) -> Any:
    constant = node.get("A_Const", {}) if isinstance(node, dict) else {}
    kept = isinstance(constant, dict) and constant.keys() & {"isnull", "boolval"}
    return LITERAL if isinstance(node, dict) and not kept and node.keys() & {"A_Const", "ParamRef"} else node


def _list_class(node: Any, field: str, above: str) -> Any:
    if isinstance(node, dict) and node.get("kind") in ("AEXPR_IN", "AEXPR_OP_ANY"):
        node = {**node, "kind": "AEXPR_OP"}
    if field == "rexpr" and isinstance(node, dict) and node.keys() == {"List"}:
        items = _sorted("items", node["List"].get("items", []), "items", "")
        node = items[0] if len(items) == 1 else items
    return node


def _without(kind: str, name: str, node: Any, field: str, above: str) -> Any:
    """A node of one kind without a field; of any kind where none is named."""
    if isinstance(node, dict) and not kind and name in node:
        return {key: value for key, value in node.items() if key != name}
    if isinstance(node, dict) and kind in node and name in node[kind]:
        return {kind: {key: value for key, value in node[kind].items() if key != name}}
    return node


def _aliases(node: Any, field: str, above: str) -> Any:
    if field == "targetList" and above not in ("UpdateStmt", "onConflictClause", "MergeWhenClause"):
        node = _without("ResTarget", "name", node, field, above)
    return _without("", "join_using_alias", _without("", "alias", node, field, above), field, above)


def _sorted(name: str, node: Any, field: str, above: str) -> Any:
    if field == name and isinstance(node, list):
        return [json.loads(text) for text in sorted({json.dumps(one, sort_keys=True) for one in node})]
    return node


def _constants(node: Any, field: str, above: str) -> Any:
    return LITERAL if isinstance(node, dict) and "A_Const" in node else node


def _cast_literals(node: Any, field: str, above: str) -> Any:
    constant = node["TypeCast"].get("arg") if isinstance(node, dict) and "TypeCast" in node else None
    return constant if constant == LITERAL or (isinstance(constant, dict) and "A_Const" in constant) else node


def _default(node: Any, field: str, above: str) -> Any:
    return LITERAL if isinstance(node, dict) and "SetToDefault" in node else node


def _digits(node: Any, field: str, above: str) -> Any:
    return re.sub(r"\d{2,}", "", node) if field == "relname" else node


def _temporary(node: Any, field: str, above: str) -> Any:
    return _without("", "relname", node, field, above) if "'relpersistence': 't'" in str(node) else node


def _lone_literals(node: Any, field: str, above: str) -> Any:
    if isinstance(node, list):
        return [one for one in node if one and one not in _NOTHING]
    if isinstance(node, dict) and field != "TypeCast":
        return {key: value for key, value in node.items() if value not in _NOTHING}
    return node


_NAMED: Final = """PrepareStmt.name ExecuteStmt.name DeallocateStmt.name TransactionStmt.gid FetchStmt.portalname
    TransactionStmt.savepoint_name FunctionParameter.name ListenStmt.conditionname UnlistenStmt.conditionname
    NotifyStmt.conditionname DeclareCursorStmt.portalname ClosePortalStmt.portalname""".split()
NAMES: Final = "names of cursors, channels, savepoints, prepared statements, parameters of functions"
SPLITS: Final[list[tuple[str, Rule]]] = [
    ("literals alone, how many ever, count as nothing", _lone_literals),
    ("order and repetition in and of rows of VALUES", partial(_sorted, "items")),
    ("order and repetition in and of rows of VALUES", partial(_sorted, "valuesLists")),
    ("order and repetition of arguments, AND and OR", partial(_sorted, "args")),
    ("order and repetition in the select list, SET", partial(_sorted, "targetList")),
    ("order and repetition in FROM", partial(_sorted, "fromClause")),
    ("order of the columns of INSERT", partial(_sorted, "cols")),
    ("a literal and a cast literal", _cast_literals),
    ("NULL, TRUE and FALSE", _constants),
    ("DEFAULT", _default),
    ("aliases", _aliases),
    ("digits in names of tables", _digits),
    ("names of temporary tables", _temporary),
    ("scalar, IN list and array", _list_class),
    *((NAMES, partial(_without, *name.split("."))) for name in _NAMED),
    ("options of a transaction", partial(_without, "TransactionStmt", "options")),
    ("body and options of a function", partial(_without, "CreateFunctionStmt", "options")),
    ("body and options of a function", partial(_without, "DoStmt", "args")),
]
"""What libpg_query leaves out, the more general first: of two that explain a pair the later one is named."""
SPELLINGS: Final = {
    **dict.fromkeys("()", "brackets that change nothing"),
    **dict.fromkeys(("CAST", "::"), "`CAST(x AS t)` and `x::t`"),
    **dict.fromkeys(
        """* : := => ABORT ACCESS ALL AS ASC BACKWARD BY COLUMN COMMIT CURRENT_USER END EXCLUDE EXCLUSIVE FOR FROM
        FUNCTION IN INNER INT INTEGER MODE NO INDENT NULL ON OTHERS OUTER PRIOR PROCEDURE PUBLIC REF RESTRICT ROLE
        ROLLBACK ROW ROWS SELECT TABLE TIME TIMEZONE TO TRANSACTION UNIQUE USER USING VALUE WITH WITHOUT WORK
        ZONE""".split(),
        "synonyms, and words that may be left out",
    ),
}
"""Tokens that may differ where the parse trees do not."""


@lru_cache(20_000)
def _parsed(sql: str) -> Any:
    return pgparse.parse(sql)[0]["stmt"]


def _walk(node: Any, field: str, above: str, rules: list[Rule]) -> Any:
    if isinstance(node, dict):
        node = {key: _walk(value, key, field, rules) for key, value in node.items() if key != "location"}
    elif isinstance(node, list):
        node = [_walk(one, field, above, rules) for one in node]
    for rule in rules:
        node = rule(node, field, above)
    return node


def _tree(sql: str, rules: Iterable[tuple[str, Rule]]) -> str:
    return json.dumps(_walk(_parsed(sql), "", "", [_literals, *(rule for _, rule in rules)]), sort_keys=True)


def why_split(one: str, other: str) -> tuple[str, ...]:
    """Why we keep apart what libpg_query holds together: a smallest set of names; none if nothing explains it."""
    if _tree(one, SPLITS) != _tree(other, SPLITS):
        return ()
    needed = SPLITS
    for rule in SPLITS:
        fewer = [kept for kept in needed if kept is not rule]
        if _tree(one, fewer) == _tree(other, fewer):
            needed = fewer
    return tuple(dict.fromkeys(name for name, _ in needed)) or _spelling(one, other)


def _spelling(one: str, other: str) -> tuple[str, ...]:
    """The same for two statements that are one to the parser."""
    if "VariableSetStmt" in _parsed(one):
        return ("SET and RESET: values that are words, `=` and TO",)
    forms = [re.sub(r"\$\d+", "$", Texts().read(sql)[0].statement.sql) for sql in (one, other)]
    # One row is what FETCH means without a number.
    forms = [re.sub(r"\b(FETCH|MOVE)\b(.*?) \$", r"\1\2", form) for form in forms]
    if len({re.sub(r"\bextract\(\w+ FROM", "", form) for form in forms}) == 1:
        return ("field of EXTRACT",)
    texts = [Counter(capitals(token.text) for token in tokenize(form)) for form in forms]
    names = {SPELLINGS.get(token, "") for token in (texts[0] - texts[1]) + (texts[1] - texts[0])}
    return () if "" in names else tuple(sorted(names)) or ("the same tokens in another order",)


def why_merged(one: str, other: str) -> tuple[str, ...]:
    """Why we hold together what libpg_query keeps apart."""
    literals: list[str] = []
    prints = [_theirs(_with_literals(sql, literals)) for sql in (one, other)]
    return ("literals outside of expressions, signs",) if prints[0] and prints[0] == prints[1] else ()


def _with_literals(sql: str, literals: list[str]) -> str:
    """A statement with literals given in order, which grow by those of its own that are more; numbers lose their sign,
    and lists of literals all but the first."""
    kept: list[Token] = []
    number = 0
    for token in tokenize(sql):
        literal = token.kind in ("string", "number", "bits", "parameter")
        if token.kind == "comment":
            continue
        if literal and len(kept) > 1 and kept[-1].text == "," and kept[-2].kind == "parameter":
            kept.pop()
            continue
        if token.kind == "number" and kept[-1:] and kept[-1].text in ("-", "+") and _is_sign(kept):
            kept.pop()
        if literal:
            literals += [token.text] if number == len(literals) else []
            token = token._replace(kind="parameter", text=literals[number])
            number += 1
        kept.append(token)
    return " ".join(token.text for token in kept)


def _is_sign(kept: list[Token]) -> bool:
    return len(kept) < 2 or (kept[-2].kind in ("operator", "punctuation", "word") and kept[-2].text not in ")]")


def _theirs(sql: str) -> str:
    """The fingerprint by libpg_query; nothing where it cannot parse."""
    try:
        return str(pgparse.fingerprint(sql))
    except pgparse.PGQueryError:
        return ""


class Pair(NamedTuple):
    """Two statements in one group here and two there, and why."""

    direction: Literal["split", "merged"]
    reasons: tuple[str, ...]
    one: str
    other: str


class Comparison(NamedTuple):
    """`cells` counts the statements by both fingerprints; `broken` are statements and variants that we tell apart."""

    counts: Counter[str]
    cells: Counter[tuple[str, str]]
    pairs: list[Pair]
    broken: list[tuple[str, str]]

    @property
    def unexplained(self) -> list[Pair]:
        """The disagreements without a reason."""
        return [pair for pair in self.pairs if not pair.reasons]

    @property
    def same_sets(self) -> float:
        """The share of statements whose two groups hold the same statements."""
        ours, theirs = Counter(one for one, _ in self.cells), Counter(other for _, other in self.cells)
        alike = sum(n for (one, other), n in self.cells.items() if ours[one] == theirs[other] == 1)
        return alike / max(1, self.cells.total())

    @property
    def rand(self) -> float:
        """The adjusted Rand index of the groupings: 1 if they are equal, 0 if they agree as chance would."""
        sides = [Counter[str](), Counter[str]()]
        for key, number in self.cells.items():
            for side, group in zip(sides, key, strict=True):
                side[group] += number
        together, one, other = (sum(comb(n, 2) for n in groups.values()) for groups in (self.cells, *sides))
        expected = one * other / max(1, comb(self.cells.total(), 2))
        most = (one + other) / 2
        return (together - expected) / (most - expected) if most != expected else 1.0


def compare(corpus: Iterable[str], variants: int, seed: int) -> Comparison:
    """Group the statements of a corpus and variants of each, and explain where the groups differ."""
    counts: Counter[str] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    shortest: dict[tuple[str, str], str] = {}
    broken: list[tuple[str, str]] = []
    texts, chance, distinct = Texts(), Random(seed), set()
    for sql in corpus:
        counts["statements"] += 1
        theirs = _theirs(sql) if len(sql) <= MAX_LENGTH else ""
        if not theirs:
            counts["too long" if len(sql) > MAX_LENGTH else "unparsable"] += 1
            continue
        ours = texts.read(sql)[0].statement.fingerprint
        for text in [sql, *(variant(sql, chance) for _ in range(variants))]:
            there = theirs if text is sql else _theirs(text)
            counts["variants"] += text is not sql and bool(there)
            if not there:
                continue
            distinct.add(text)
            read = texts.read(text)
            if len(read) > 1 or read[0].statement.fingerprint != ours:
                broken.append((sql, text))
            key = (read[0].statement.fingerprint, there)
            cells[key] += 1
            shortest[key] = min(shortest.get(key, text), text, key=len)
    counts["texts"] = len(distinct)
    return Comparison(counts, cells, list(_pairs(shortest)), broken)


def _pairs(shortest: dict[tuple[str, str], str]) -> Iterator[Pair]:
    """Each group that is several there: its shortest statement with one of each other group."""
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    for key, sql in shortest.items():
        groups[0, key[0]].append(sql)
        groups[1, key[1]].append(sql)
    for (side, _), members in groups.items():
        one, *others = sorted(members, key=lambda sql: (len(sql), sql))
        for other in others:
            yield (
                Pair("split", why_split(one, other), one, other)
                if side
                else Pair("merged", why_merged(one, other), one, other)
            )
