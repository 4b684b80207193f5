"""Which framework wrote a query, so that advice is in the words of what the user has.

Enters: executions. Leaves: the framework, or nothing where it is not known: wrong words are worse than none. A tag
tells it, then the way a framework writes its SQL, where no other writes like it, then a name in application_name, which
may be set after the login. The names that drivers give to prepared statements tell the language, which rules others
out. Out of scope: the words (`advice_words`).

A driver's own name (`PostgreSQL JDBC Driver`) is no framework's: most of its users write their SQL by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pgtattle.proxy.execution import Execution

LOOKED_AT: Final = 600
"""Characters of a text."""
MAX_STATEMENTS: Final = 32


class _Style(NamedTuple):
    """A way of writing SQL that is of one framework; `language` is that of its drivers. Others may write like it where
    it is `shared`: then the driver has to be known, too.
    """

    framework: str
    language: str
    pattern: re.Pattern[str]
    shared: bool


def _style(framework: str, language: str, pattern: str, shared: bool = False) -> _Style:
    return _Style(framework, language, re.compile(pattern, re.S), shared)


_JVM: Final = "jvm"
_LANGUAGES: Final = (
    ("python", re.compile(r"_pg3_|__asyncpg_")),
    ("go", re.compile(r"stmtcache_|lrupsc_")),
    (_JVM, re.compile(r"S_\d+$")),
    ("php", re.compile(r"pdo_stmt_")),
    ("ruby", re.compile(r"a\d+$")),
    ("rust", re.compile(r"sqlx_s_|__diesel_stmt_")),
    ("perl", re.compile(r"dbdpg_")),
    ("elixir", re.compile(r"ecto_")),
)
"""How drivers name the statements that they prepare."""

# Names of the one table that is read, with and without quotes, and lists of its columns.
_COLUMNS: Final = r'SELECT (?:DISTINCT )?"(\w+)"\."\w+"(?:(?:::\w+)?, "\1"\."\w+")*(?:::\w+)? FROM "\1"'
_AS: Final = r'"\w+"(?: AS "\w+")?'
_UNQUOTED: Final = r"SELECT (?:(?:t\d\.)?\w+, )*(?:t\d\.)?\w+ FROM \w+(?: t\d)?(?:, \w+ t\d)*"
_END: Final = r";?\s*(?:/\*.*)?$"
_STYLES: Final = (
    _style("prisma", "js", r'SELECT "\w+"\."\w+"\."\w+"(?:, "\w+"\."\w+"\."\w+")* FROM "\w+"\."\w+" WHERE'),
    _style("prisma", "js", r'INSERT INTO "\w+"\."\w+" .* RETURNING "\w+"\."\w+"\."\w+"'),
    _style("peewee", "python", r'SELECT "t1"\."\w+"(?:, "t1"\."\w+")* FROM "\w+" AS "t1"'),
    _style("diesel", "rust", _COLUMNS + r' WHERE \(+"\1"\."\w+" (?:=|<>|IN|>|<|>=|<=) \(?\$\d+(?:, \$\d+)*\)'),
    _style("seaorm", "rust", _COLUMNS + r" WHERE .*\$\d", shared=True),
    # Others bind what is written like this; what Django binds in the server has an end of its own.
    _style("django", "python", _COLUMNS + r"(?: [^$]*|.* LIMIT 21| .* (?:A|DE)SC(?: LIMIT \d+)?)?" + _END),
    _style("django", "python", r'SELECT COUNT\(\*\) AS "__count" FROM|INSERT INTO "(\w+)" .* RETURNING "\1"\."\w+"'),
    _style("activerecord", "ruby", r'SELECT (?:DISTINCT )?"(\w+)"\.\* FROM "\1"(?: |$)|SELECT 1 AS one FROM "'),
    _style("activerecord", "ruby", r'SELECT COUNT\(\*\) FROM "(\w+)" WHERE "\1"\."\w+"'),
    _style("activerecord", "ruby", r'INSERT INTO "\w+" \((?:"\w+", )*"created_at"(?:, |\)).* RETURNING "id"'),
    _style("activerecord", "ruby", r'UPDATE "(\w+)" SET (?:"\w+" = \$\d+, )*"updated_at" = \$\d+ WHERE "\1"\.'),
    _style("sequel", "ruby", r'SELECT \* FROM "(\w+)" WHERE \(*\("(?:\1"\.")?\w+" (?:=|IN|IS) '),
    _style("gorm", "go", r'SELECT (?:\*|count\(\*\)) FROM "(\w+)" WHERE .*"\1"\."\w+"'),
    _style("gorm", "go", r'SELECT \* FROM "\w+" WHERE ', shared=True),
    _style("gorm", "go", r'INSERT INTO "\w+" \("created_at","updated_at"|UPDATE "\w+" SET .*"updated_at"='),
    _style("bun", "go", r'SELECT "(\w+)"\."\w+"(?:, "\1"\."\w+")* FROM "\w+" AS "\1" WHERE \('),
    _style("laravel", "php", r'select (?:\*|"\w+"(?:, "\w+")*) from "[a-z0-9_]+" where ".*\S limit 1' + _END),
    _style("laravel", "php", r'select \* from "(\w+)" where "\1"\."\w+" (?:=|in)'),
    _style(
        "laravel", "php", r'select count\(\*\) as aggregate from "|insert into "\w+" \(.*"updated_at", "created_at"\)'
    ),
    _style("objection", "js", r'select "(\w+)"\.\* from "\1" where "\1"\."\w+" (?:=|in)'),
    _style("mikroorm", "js", r'select "(\w0)"\.\* from "\w+" as "\1" where'),
    _style("drizzle", "js", r'select (?:"\w+", )*"\w+" from "(\w+)"(?: "\1")? where \(*"\1"\."\w+"'),
    _style("drizzle", "js", r'select "d0"\."\w+" as "\w+"'),
    _style("typeorm", "js", r'SELECT (?:DISTINCT )?"(\w+)"\."(\w+)" AS "\1_\2"|SELECT COUNT\(.*\) AS "cnt" FROM'),
    _style("typeorm", "js", r'INSERT INTO "\w+"\("\w+".* VALUES \(DEFAULT, '),
    _style("sequelize", "js", r"SELECT " + _AS + "(?:, " + _AS + r')* FROM "\w+" AS "\w+"(?: |;?$)'),
    _style("sequelize", "js", r'SELECT count\(\*\) AS "count" FROM "|INSERT INTO "\w+" \("\w+",.* VALUES \(DEFAULT,'),
    _style("sequelize", "js", r'SELECT "(\w+)"\."\w+".* FROM "\w+" AS "\1" (?:LEFT OUTER|INNER) JOIN "\w+" AS "'),
    # Only a program ends a line with a space.
    _style("sqlalchemy", "python", r"SELECT (\w+)\.(\w+)(?: AS \1_\2)?(?:, \w+\.\w+(?: AS \w+)?)* \nFROM \w+"),
    _style("sqlalchemy", "python", r"INSERT INTO (\w+) \(.*\) VALUES .* RETURNING \1\.\w+"),
    _style("tortoise", "python", r'SELECT (?:"\w+"\.)?"\w+"(?:,(?:"\w+"\.)?"\w+")+ FROM "\w+"'),
    _style("ecto", "elixir", r'SELECT (?:[a-z]+\d\."\w+"|count\(\*\) FROM "\w+" AS [a-z]+\d)'),
    _style("ecto", "elixir", r'INSERT INTO .*"inserted_at"'),
    _style("hibernate", _JVM, r"select (?:distinct )?(?:\w+\d_\d\.\w+|\w+\d_\.\w+ as \w+?\d+_)"),
    _style("dbix", "perl", r'SELECT "?me"?\."?\w+"?.* WHERE \( '),
    _style("doctrine", "php", r"SELECT t0\.\w+ AS \w+_\d+|SELECT \w\d_\.\w+ AS \w+_\d+"),
    _style("entityframework", "dotnet", r'SELECT .*\nFROM "[A-Z]\w*" AS \w\d?\s+WHERE \w\d?\."[A-Z]'),
    _style("jooq", _JVM, r'select "\w+"\."(\w+)"\."\w+"(?:, "\w+"\."\1"\."\w+")* from "\w+"\."\1"'),
    _style("eclipselink", _JVM, _UNQUOTED + r" WHERE \(+(?:t\d\.)?\w+ = ", shared=True),
    _style("eclipselink", _JVM, _UNQUOTED.replace(r"\w", "[A-Z0-9_]") + r" WHERE \(+(?:t\d\.)?[A-Z0-9_]+ = "),
    _style("alembic", "python", r"(?:SELECT|UPDATE|INSERT INTO) alembic_version\b"),
)
_NAMES: Final = (
    ("django", "django"),
    ("sqlalchemy", "sqlalchemy"),
    ("alembic", "alembic"),
    ("peewee", "peewee"),
    ("tortoise", "tortoise"),
    ("rails", "activerecord"),
    ("activerecord", "activerecord"),
    ("active_record", "activerecord"),
    ("laravel", "laravel"),
    ("eloquent", "laravel"),
    ("doctrine", "doctrine"),
    ("hibernate", "hibernate"),
    ("eclipselink", "eclipselink"),
    ("jooq", "jooq"),
    ("prisma", "prisma"),
    ("sequelize", "sequelize"),
    ("typeorm", "typeorm"),
    ("drizzle", "drizzle"),
    ("objection", "objection"),
    ("mikroorm", "mikroorm"),
    ("mikro-orm", "mikroorm"),
    ("entityframework", "entityframework"),
    ("entity framework", "entityframework"),
    ("efcore", "entityframework"),
    ("gorm", "gorm"),
    ("sequel", "sequel"),
    ("dbix", "dbix"),
    ("ecto", "ecto"),
    ("diesel", "diesel"),
    ("seaorm", "seaorm"),
    ("sea-orm", "seaorm"),
)
_IN_NAME: Final = re.compile(r"(?<![a-z])(" + "|".join(re.escape(name) for name, _ in _NAMES) + r")(?![a-z])")
_FRAMEWORKS: Final = dict(_NAMES)
_TAGS: Final = ("orm", "framework", "db_driver")
_BARE: Final = re.compile(r"\b(?:FROM|INTO|JOIN|WHERE|AND)\s+\(*(?!NOT\b|EXISTS\b)[a-z_]", re.I)
"""A name without quotes where an ORM quotes it."""
_QUALIFIED: Final = re.compile(r'"\w+"\."\w+"')
_LITERALS: Final = re.compile(r"'(?:[^']|'')*'")
_WRITE: Final = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+"', re.I)
_COMMENT: Final = re.compile(r"\s*/\*.*?\*/\s*", re.S)


def framework_of(executions: Sequence[Execution], others: Iterable[Execution] = ()) -> str:
    """The framework that sent these, of one statement; empty where it is not known. `others` of its unit may tell."""
    for execution in executions:
        tags = execution.text.tags
        named = _named(" ".join([tags[key] for key in _TAGS if key in tags])) if tags else ""
        if named:
            return named
        if "application" in tags and "controller" in tags:
            # Rails names itself nowhere else.
            return "activerecord"
    first = executions[0]
    found = style_of(first)
    if not found:
        seen = {first.text.statement.fingerprint}
        for other in others:
            fingerprint = other.text.statement.fingerprint
            if fingerprint not in seen and other.connection.application == first.connection.application:
                seen.add(fingerprint)
                found = style_of(other)
                if found or len(seen) > MAX_STATEMENTS:
                    break
    return found or _named(application_of(first))


def style_of(execution: Execution) -> str:
    """The framework whose way of writing this is; empty where it is nobody's own."""
    sql = execution.text.sql[:LOOKED_AT].lstrip()
    if sql.startswith("/*"):
        sql = _COMMENT.sub("", sql, count=1)
    language = language_of(execution)
    for style in _STYLES:
        known = language == style.language
        if (known or not (language or style.shared)) and style.pattern.match(sql):
            return style.framework
    return ""


def language_of(execution: Execution) -> str:
    """The language of the driver, as the name of the connection or of the prepared statement tells it; or empty."""
    if application_of(execution).lower() == "postgresql jdbc driver":
        return _JVM
    name = execution.prepared
    return next((language for language, pattern in _LANGUAGES if pattern.match(name)), "") if name else ""


def application_of(execution: Execution) -> str:
    """The application_name in force."""
    return execution.settings.get("application_name") or execution.connection.application


def is_generated(sql: str) -> bool:
    """True for the SQL of an ORM that quotes every name, and in reads writes the table of each column."""
    start = _LITERALS.sub("''", sql[:LOOKED_AT])
    return _BARE.search(start) is None and (_WRITE.match(start) or _QUALIFIED.search(start)) is not None


def _named(text: str) -> str:
    found = _IN_NAME.search(text.lower()) if text else None
    return _FRAMEWORKS[found[1]] if found is not None else ""
