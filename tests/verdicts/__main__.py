"""`make verdicts`: one suite run again and again, half of the times beside other load: is the verdict the same?

Prints a row a run, then what was found. Exit code 1 where two runs differ or a verdict is not what it has to be.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.targets import cluster
from tests.verdicts.runs import EXPECTED, fill, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--loaded", type=int, default=10, help="so many of them beside processes that load every core")
    options = parser.parse_args()
    print("| run | load | seconds | exit code | findings | id, severity and confidence of all |")
    print("|---|---|---|---|---|---|")
    seen = set()
    with cluster() as server:
        for number in range(1, options.runs + 1):
            fill(server)
            loaded = number > options.runs - options.loaded
            one = run(server, loaded=loaded)
            seen.add((one.code, one.findings))
            load = "every core" if loaded else "none"
            cells = (str(number), load, f"{one.seconds:.1f}", str(one.code), str(len(one.findings)), one.digest)
            print(f"| {' | '.join(cells)} |", flush=True)
    print("\n| id | rule | severity | confidence | of the suite |\n|---|---|---|---|---|")
    wrong = len(seen) > 1
    for code, findings in seen:
        for found in findings:
            print(f"| {found.id} | {found.rule} | {found.severity} | {found.confidence} | {found.sql} |")
        wrong = wrong or code != 1 or {found.about for found in findings} != EXPECTED
    print(f"\n{len(seen)} verdict{'s' * (len(seen) != 1)} in {options.runs} runs: {'wrong' if wrong else 'right'}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
