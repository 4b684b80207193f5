"""Which databases a statement needs to itself."""

from __future__ import annotations

import pytest

from pgtattle.analyzers.sql.database_ddl import claimed
from pgtattle.analyzers.sql.texts import Texts


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("DROP DATABASE shop", ("shop",)),
        ("drop database if exists Shop with (force);", ("shop",)),
        ('/* x */ DROP /* y */ DATABASE\n"My ""odd"" One" -- z', ('My "odd" One',)),
        ("ALTER DATABASE shop RENAME TO store", ("shop",)),
        ("ALTER DATABASE shop SET TABLESPACE fast", ("shop",)),
        ("CREATE DATABASE a TEMPLATE b", ("b",)),
        ('CREATE DATABASE "a" ENCODING = \'unicode\' TEMPLATE = "B"', ("B",)),
        ("create database a with owner me template 'b' strategy file_copy", ("b",)),
        ("CREATE DATABASE template TEMPLATE template0", ("template0",)),
        ("CREATE DATABASE a", ()),
        ('CREATE DATABASE "test_shop"', ()),
        ("CREATE DATABASE template", ()),
        ("CREATE DATABASE a TEMPLATE", ()),
        ("DROP DATABASE", ()),
        ("DROP DATABASE IF EXISTS", ()),
        ("ALTER DATABASE shop SET search_path = x", ()),
        ("ALTER DATABASE shop OWNER TO me", ()),
        ("DROP TABLE database", ()),
        ("CREATE TABLE database (template int)", ()),
        ("SELECT 'DROP DATABASE shop'", ()),
        ("", ()),
    ],
)
def test_the_databases_of_a_statement(sql: str, names: tuple[str, ...]) -> None:
    assert tuple(name for text in Texts().read(sql) for name in claimed(text)) == names
