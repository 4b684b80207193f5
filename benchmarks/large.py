"""Large results through every target: a SELECT, a COPY out and a COPY in of as many rows.

The client is psql, which times a statement from its sending to the last of its answer; its own start is not in it.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.results import Transfer
from benchmarks.targets import Target, alternating

ROWS: Final = 300_000

SELECT, COPY_OUT, COPY_IN = "SELECT", "COPY out", "COPY in"
STATEMENTS: Final = {
    SELECT: "SELECT * FROM large",
    COPY_OUT: "COPY large TO STDOUT",
    COPY_IN: "COPY large_copy FROM STDIN",
}


def measure(
    direct: Target, targets: Sequence[Target], rounds: int, progress: Callable[[], None], rows: int = ROWS
) -> list[Transfer]:
    """Alternating rounds, after one that is not counted. `direct` makes the tables."""
    _execute(
        direct,
        "DROP TABLE IF EXISTS large, large_copy",
        "CREATE TABLE large AS SELECT n AS id, 'customer ' || n AS name, (n % 9973) / 7.0::numeric(8, 2) AS price, "
        f"now() + n * interval '1 second' AS at, n % 3 = 0 AS paid FROM generate_series(1, {rows}) AS n",
        "CREATE UNLOGGED TABLE large_copy (LIKE large)",
        "VACUUM ANALYZE large",
    )
    transfers = []
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder, "rows")
        rows_file.write_bytes(_psql(direct, "COPY large TO STDOUT"))
        for turn, order in enumerate(alternating(targets, rounds + 1)):
            for kind in STATEMENTS:
                for target in order:
                    one = _once(direct, target, kind, rows_file)
                    if turn:
                        transfers.append(one)
                    progress()
    return transfers


def _once(direct: Target, target: Target, kind: str, rows: Path) -> Transfer:
    if kind == COPY_IN:
        _execute(direct, "TRUNCATE large_copy")
    said = _psql(target, STATEMENTS[kind], timed=True, given=rows if kind == COPY_IN else None)
    return Transfer(target=target.name, kind=kind, milliseconds=float(said.split()[1]))


def _execute(target: Target, *statements: str) -> None:
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _psql(target: Target, statement: str, *, timed: bool = False, given: Path | None = None) -> bytes:
    timing = ["-o", "/dev/null", "-c", r"\timing on"] if timed else []
    with open(given or "/dev/null", "rb") as source:
        done = subprocess.run(
            ["psql", "-X", "-q", *timing, "-c", statement],
            stdin=source,
            env=target.environment,
            capture_output=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"psql through {target.name}: {done.stderr.decode().strip()[-500:]}")
    return done.stdout
