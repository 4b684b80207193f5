"""`make orm`: print the table of the matrix. Exit code 1 where a sick shop is missed or a cured one accused."""

from __future__ import annotations

import argparse
import sys

from benchmarks.targets import cluster
from tests.orm.matrix import ROWS, Row, fill, outcome
from tests.orm.npm import Unavailable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="", help="only rows with this in their name")
    part = parser.parse_args().part
    wrong = 0
    print("| ORM | driver | tags | way | sick: severity | confidence | parent | proof | told apart by | cured | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with cluster() as server:
        fill(server)
        for row in ROWS:
            if part not in str(row):
                continue
            try:
                one = outcome(server, row)
            except Unavailable as reason:
                print(f"| {' | '.join(_program(row))} | – | – | – | – | – | – | skipped: {reason} |", flush=True)
                continue
            wrong += not one.right
            cells = (
                *(*_program(row), one.severity or "–", one.confidence or "–"),
                *(one.parent or "–", " ".join(one.proof) or "–", one.signal or "–", "; ".join(one.alarms) or "silent"),
                "right" if one.right else "**wrong**",
            )
            print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(bool(wrong))


def _program(row: Row) -> tuple[str, ...]:
    return row.orm, row.driver, "yes" if row.tagged else "no", row.way


if __name__ == "__main__":
    main()
