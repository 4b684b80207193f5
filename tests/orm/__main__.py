"""`make orm`: print the table of the matrix. Exit code 1 where a row is not as the table of shops says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from benchmarks.targets import cluster
from pgtattle.proxy.demo.cluster import Cluster
from tests.orm.languages import Unavailable
from tests.orm.matrix import LOOPS, SCENARIOS, Outcome, Scenario, fill, outcome
from tests.orm.shops import KNOWN, ROWS, Row

HEAD: Final = (
    f"| ORM | driver | tags | way | {' | '.join(SCENARIOS)} | signal | advice | cured | |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help="only rows with all of these in their name")
    parser.add_argument("--page", type=Path, help="a page whose last table has these columns: write it anew")
    options = parser.parse_args()
    lines = list(HEAD)
    wrong = False
    print(*lines, sep="\n", flush=True)
    with cluster() as server:
        fill(server)
        for row in ROWS:
            if all(part in str(row) for part in options.part):
                line, is_wrong = _line(server, row)
                lines.append(line)
                wrong = wrong or is_wrong
                print(line, flush=True)
    if options.page is not None:
        before = options.page.read_text().partition(HEAD[0])[0]
        options.page.write_text(before + "\n".join(lines) + "\n")
    sys.exit(wrong)


def _line(server: Cluster, row: Row) -> tuple[str, bool]:
    """The row of the table, and whether it is other than expected."""
    program = row.shop.orm, row.shop.driver, "yes" if row.tagged else "no", row.way
    try:
        one = outcome(server, row)
    except Unavailable as reason:
        return f"| {' | '.join(program)} | – | – | – | – | – | – | skipped: {reason} |", False
    signals = sorted({seen.signal for seen in one.loops.values()})
    cells = (
        *program,
        *(_found(one, scenario) for scenario in SCENARIOS),
        *("; ".join(signals) or "–", _advice(one), "; ".join(one.alarms) or "silent", _verdict(one)),
    )
    return f"| {' | '.join(cells)} |", bool(one.faults) != (str(row) in KNOWN)


def _found(one: Outcome, scenario: Scenario) -> str:
    cells = []
    for table, parent in LOOPS[scenario]:
        seen = one.loops.get(table)
        if seen is None:
            cells.append("–")
        elif seen.is_driven_by(parent):
            cells.append(f"{seen.severity} {seen.confidence}")
        else:
            cells.append(f"{seen.severity} {seen.confidence}, parent {seen.parent or 'unknown'}")
    return "; ".join(dict.fromkeys(cells))


def _advice(one: Outcome) -> str:
    if not one.loops:
        return "–"
    return f"`{one.row.shop.advice}`" if one.worded else "other"


def _verdict(one: Outcome) -> str:
    known = KNOWN.get(str(one.row))
    if not one.faults:
        return "**right, but known as wrong**" if known else "right"
    return f"known: {known}" if known else f"**wrong**: {'; '.join(one.faults)}"


if __name__ == "__main__":
    main()
