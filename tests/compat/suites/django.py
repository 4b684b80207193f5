"""Django's tests of its PostgreSQL backend, with Django's own test runner."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.compat.outcomes import Outcomes
from tests.compat.server import Server
from tests.compat.suites.suite import run_telling
from tests.compat.workshop import Workshop

VERSION: Final = "5.2.19"
LABELS: Final = (
    *("backends", "transactions", "transaction_hooks", "select_for_update", "introspection", "bulk_create"),
    *("delete", "queries", "prefetch_related", "expressions", "raw_query"),
)


@dataclass
class DjangoSuite:
    """Some of Django's tests, by label."""

    name: str = "django"

    _source: Path = field(default=Path(), init=False)
    _python: Path = field(default=Path(), init=False)

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        self._source = workshop.sdist("django", VERSION)
        self._python = workshop.python(
            self.name, [f"django=={VERSION}", "psycopg[binary,pool]==3.3.*", "tblib", "jinja2"]
        )
        return VERSION

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        shutil.copytree(self._source / "tests", folder / "tree" / "tests")
        command = [str(self._python), "runtests.py", "--settings=compat_django", "--parallel=1", "--noinput", "-v2"]
        return run_telling(
            [*command, *(sorted(only) or LABELS)],
            cwd=folder / "tree" / "tests",
            environment=server.environment(),
            folder=folder,
            only=only,
        )


SUITE: Final = DjangoSuite()
