"""What several of these tests share: a server that asks for no password, so that raw clients can log in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgtattle.proxy.demo.cluster import Cluster
from tests.conftest import STDERR, Database, Served, serving
from tests.end_to_end.watching import Log

MANY = 2_200
"""Sessions that the trusting server takes."""


@pytest.fixture(scope="session")
def trusting() -> Iterator[Database]:
    with Cluster(18, settings={"max_connections": str(MANY)}) as cluster:
        yield Database("postgres", cluster.host, cluster.port, cluster.user, "", cluster)


@pytest.fixture(scope="module")
def served(trusting: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One proxy before the trusting server for a whole module."""
    with serving(tmp_path_factory.mktemp("served")) as start:
        yield start(trusting)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """What `serve` of this test writes to stderr."""
    return Log(tmp_path / STDERR)
