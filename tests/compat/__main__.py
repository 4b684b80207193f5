"""Public test suites directly and through pgtattle, compared by test name.

    python -m tests.compat [SUITE...] [--source SUITE=FOLDER] [--postgres 15|16|18] [--cache FOLDER] [--list]

Each suite runs twice, each time against a fresh PostgreSQL of its own, and what differs runs once more both ways: tests
that ever came out alike are told as settled, the others are differences. Exit code 1 for a difference that
explained.toml has no reason for, 0 without any; a suite that cannot be had here is left out, and said to be.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pgtattle.proxy.demo.cluster import FOLDERS
from tests import debian
from tests.compat.outcomes import Comparison, passed, read_explanations
from tests.compat.runner import Run, compare
from tests.compat.suites import SUITES
from tests.compat.workshop import Unavailable, Workshop

EXPLAINED = Path(__file__).with_name("explained.toml")
COLUMNS = (
    *("suite", "version", "PostgreSQL", "tests", "passed direct", "passed through", "differences"),
    *("executions seen", "shed", "lost", "opaque connections"),
)


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pgtattle", "compat")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def row(run: Run) -> str:
    both: Comparison = run.comparison
    explained = len(both.differences) - len(both.unexplained)
    told = f"{len(both.unexplained)}" + (f" (+ {explained} explained)" if explained else "")
    cells = [
        *(run.suite, run.version, run.postgres, len({*both.direct, *both.through})),
        *(passed(both.direct), passed(both.through), told),
        *(run.accounts.get(name, "") for name in ("executions", "shed", "lost", "opaque_connections")),
    ]
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="default: all of " + " ".join(SUITES))
    parser.add_argument("--source", action="append", default=[], metavar="SUITE=FOLDER", help="sources that you have")
    parser.add_argument(
        "--postgres",
        type=int,
        choices=sorted({*FOLDERS, debian.VERSION} - {0}),
        default=debian.VERSION or 18,
        help="16 and 18 are a wheel's; Debian's has the extensions that many tests want (default: %(default)s)",
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="name the suites and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(SUITES))
        return 0
    if unknown := [name for name in options.suites if name not in SUITES]:
        parser.error(f"no such suite: {' '.join(unknown)}; there are: {' '.join(SUITES)}")
    sources = dict(source.split("=", 1) for source in options.source)
    workshop = Workshop(options.cache.resolve(), {name: Path(path) for name, path in sources.items()})
    explanations = read_explanations(EXPLAINED)
    rows, failed = [], False
    for name in options.suites or SUITES:
        try:
            run = compare(SUITES[name], options.postgres, workshop, explanations, say)
        except Unavailable as reason:
            say(f"{name}: left out: {reason}")
            continue
        failed = failed or run.failed
        rows.append(row(run))
    print("\n".join([f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *rows]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
