"""Suites of Python packages that pytest runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from tests.compat.outcomes import Outcomes
from tests.compat.server import CONTRIB, Server
from tests.compat.suites.suite import run_telling
from tests.compat.workshop import Unavailable, Workshop

PYTEST: Final = ("pytest==9.0.2", "pytest-timeout==2.4.0")


@dataclass
class PytestSuite:
    """Tests from a release's sdist or, without a `version`, from a folder that the user names.

    They run in a copy of `parts` of the sources, so that the installed package is tested and not the one beside them.
    `arguments` go to pytest; `set_up` prepares the server, which must have PostgreSQL's own extensions where
    `contrib` says so.
    """

    name: str
    package: str
    version: str | None
    requirements: Sequence[str]
    parts: Sequence[str]
    arguments: Callable[[Server], Sequence[str]]
    set_up: Callable[[Server], None] = lambda server: None
    environment: Mapping[str, str] = field(default_factory=dict)
    contrib: bool = False

    _source: Path = field(default=Path(), init=False)
    _python: Path = field(default=Path(), init=False)

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        if self.contrib and server_version not in CONTRIB:
            raise Unavailable("its tests want hstore and citext: install Debian's postgresql")
        self._source = workshop.sdist(self.package, self.version) if self.version else workshop.source(self.name)
        requirements = [one.format(source=self._source, version=self.version) for one in self.requirements]
        self._python = workshop.python(self.name, [*requirements, *PYTEST])
        ask = f"from importlib.metadata import version; print(version({self.package!r}))"
        return subprocess.run([str(self._python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        tree = folder / "tree"
        tree.mkdir()
        for part in self.parts:
            if (self._source / part).is_dir():
                shutil.copytree(self._source / part, tree / part)
            else:
                shutil.copy(self._source / part, tree / part)
        self.set_up(server)
        command = [str(self._python), "-m", "pytest", "-p", "compat_pytest", "--timeout=120"]
        environment = server.environment()
        environment["PATH"] = f"{self._python.parent}:{environment['PATH']}"
        return run_telling(
            [*command, *self.arguments(server)],
            cwd=tree,
            environment={**environment, **self.environment},
            folder=folder,
            only=only,
        )


def execute(server: Server, *statements: str, database: str = "postgres") -> None:
    with psycopg.connect(server.dsn(database), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


ASYNCPG: Final = PytestSuite(
    name="asyncpg",
    package="asyncpg",
    version="0.32.0",
    requirements=("asyncpg=={version}", "uvloop", "distro"),
    parts=("tests", "pyproject.toml"),
    # The others start servers of their own, or look at the sources' style and version.
    arguments=lambda server: ["tests", "--ignore=tests/test__sourcecode.py", "--ignore=tests/test__environment.py"],
)

PG8000: Final = PytestSuite(
    name="pg8000",
    package="pg8000",
    version="1.31.6",
    requirements=("pg8000=={version}", "pytest-benchmark==5.2.3", "pytest-mock==3.15.1", "pytz"),
    parts=("test", "README.md"),
    # Those in auth/ want a server for each method of authentication.
    arguments=lambda server: ["test", "--ignore-glob=*/auth/*", "--benchmark-disable"],
)


def _sqlalchemy(name: str, driver: str, requirement: str) -> PytestSuite:
    def set_up(server: Server) -> None:
        # What the tests want of a server is in README.unittests.rst of their sources.
        execute(server, "CREATE DATABASE compat")
        execute(server, "ALTER DATABASE compat SET default_text_search_config = 'pg_catalog.english'")
        execute(server, "CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2", database="compat")
        execute(server, "CREATE EXTENSION hstore", "CREATE EXTENSION citext", database="compat")

    return PytestSuite(
        name=name,
        package="sqlalchemy",
        version="2.0.44",
        requirements=("sqlalchemy=={version}", "greenlet", requirement),
        parts=("test", "lib", "setup.cfg", "pyproject.toml"),
        arguments=lambda server: [
            *("test/dialect/postgresql", "-q", "--maxfail=100000"),
            *("--dburi", server.dsn("compat", f"postgresql+{driver}")),
        ],
        set_up=set_up,
        contrib=True,
    )


SQLALCHEMY_PSYCOPG: Final = _sqlalchemy("sqlalchemy-psycopg", "psycopg", "psycopg[binary]==3.3.*")
SQLALCHEMY_ASYNCPG: Final = _sqlalchemy("sqlalchemy-asyncpg", "asyncpg", "asyncpg==0.32.0")

PSYCOPG: Final = PytestSuite(
    name="psycopg",
    package="psycopg",
    version=None,
    requirements=("{source}/psycopg", "{source}/psycopg_pool", "anyio", "pproxy", "dnspython"),
    parts=("tests", "pyproject.toml"),
    # The others take minutes, or type-check, or judge times on an otherwise idle machine.
    arguments=lambda server: [
        *("tests", "-m", "not slow and not mypy and not timing and not subprocess", "--ignore=tests/test_typing.py"),
        *("--test-dsn", server.dsn()),
    ],
    environment={"PSYCOPG_IMPL": "python"},
)

SUITES: Final = (PG8000, ASYNCPG, SQLALCHEMY_PSYCOPG, SQLALCHEMY_ASYNCPG, PSYCOPG)
