"""What a database's catalogue says of keys: which columns hold the same thing by a foreign key.

Enters: executions, for the databases they are of; later the catalogue's answers. Leaves: a question for each database
when it is first seen and after its DDL, and whether two columns are linked. Where nobody can be asked, nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pgtattle.analyzers.analyzer import Analyzer, Outcome
from pgtattle.analyzers.questions import Answer, KeysAnswer, KeysQuestion
from pgtattle.analyzers.sql.texts import Bounded
from pgtattle.proxy.execution import Execution

MAX_DATABASES: Final = 20
AGAIN_NS: Final = 10_000_000_000
"""Between two questions about one database, however much DDL comes."""
UNANSWERED_NS: Final = 60_000_000_000
"""After which a question that had an error for an answer, or none, is asked again; then after twice as long."""
MAX_DOUBLED: Final = 6

Name = tuple[str, str]


class _Known:
    """The keys of one database. `refers` leads from a column to the one that it refers to, `names` from oids.

    `unique` has the columns of a table, by schema and name, that are unique by themselves.
    """

    __slots__ = ("answered", "asked", "asked_ns", "names", "refers", "stale", "unique")

    def __init__(self, asked_ns: int) -> None:
        self.asked_ns = asked_ns
        self.stale = False
        self.answered = False
        self.asked = 0
        self.names: dict[tuple[int, int], Name] = {}
        self.refers: dict[Name, Name] = {}
        self.unique: dict[Name, set[str]] = {}

    def learn(self, answer: KeysAnswer) -> None:
        keys = answer.keys
        self.unique = {}
        for schema, table, column in answer.unique:
            self.unique.setdefault((schema, table), set()).add(column)
        self.names = {key.column: _folded(key.column_name) for key in keys}
        self.names |= {key.referred: _folded(key.referred_name) for key in keys}
        self.refers = {_folded(key.column_name): _folded(key.referred_name) for key in keys}

    def root(self, name: Name) -> Name:
        """The column that a chain of references ends at."""
        seen = {name}
        while (following := self.refers.get(name)) is not None and following not in seen:
            name = following
            seen.add(name)
        return name


class Keys(Analyzer):
    """Asks for the keys and remembers them; other analyzers ask it. It has no rule."""

    def __init__(self) -> None:
        self._known: Bounded[str, _Known] = Bounded(MAX_DATABASES)

    def execution(self, execution: Execution) -> Iterable[Outcome]:
        """Ask, once for each database and again when its tables may have changed."""
        database = execution.connection.database
        known = self._known.get(database)
        if known is None:
            self._known.put(database, _Known(execution.ended_ns))
            return (KeysQuestion(database=database),)
        if execution.text.statement.kind == "ddl":
            known.stale = True
        # A server that lets nobody in is not knocked at forever.
        again_ns = AGAIN_NS if known.answered else UNANSWERED_NS << min(known.asked, MAX_DOUBLED)
        if (known.stale or not known.answered) and execution.ended_ns - known.asked_ns >= again_ns:
            known.stale, known.asked_ns, known.asked = False, execution.ended_ns, known.asked + 1
            return (KeysQuestion(database=database),)
        return ()

    def answer(self, answer: Answer) -> Iterable[Outcome]:
        """Remember."""
        if isinstance(answer, KeysAnswer) and not answer.error:
            known = self._known.get(answer.question.database)
            if known is not None:
                known.answered = True
                known.learn(answer)
        return ()

    def linked(self, database: str, place: tuple[int, int], column: str, tables: Sequence[str]) -> bool:
        """True where a column, by (oid, number), and `column` of one of `tables` hold one thing by foreign keys."""
        known = self._known.get(database)
        name = known.names.get(place) if known is not None else None
        if known is None or name is None:
            return False
        root = known.root(name)
        return any(known.root(_folded((table, column))) == root for table in tables)

    def unique(self, database: str, tables: Sequence[str]) -> frozenset[str]:
        """The columns that tell a row of the one table, as the catalogue spells them; none where there are several.

        Without a schema the statement may mean any table of that name.
        """
        known = self._known.get(database)
        if known is None or len(tables) != 1:
            return frozenset()
        schema, _, table = tables[0].replace('"', "").rpartition(".")
        return frozenset(known.unique.get((schema, table), ()))


def _folded(name: Name) -> Name:
    """Without schema and quotes, in small letters: how statements and the catalogue spell differs."""
    table, column = (part.replace('"', "").rpartition(".")[2].lower() for part in name)
    return table, column
