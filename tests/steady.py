"""Run the tests again and again, on an idle machine and beside load, and say how often they passed.

`python -m tests.steady` runs the fast tier ten times, then both tiers three times each beside a busy process on every
core. It prints a row a run and exits with 1 if any run failed. `--runs`, `--tier` and `--load` make one series of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parents[1]
CORES: Final = os.cpu_count() or 1
TIERS: Final = {
    "fast": ("-m", "not slow", "--hypothesis-profile=fast"),
    "slow": ("-m", "slow", "--hypothesis-profile=full"),
}
BUSY: Final = "while True: pass"
HEAD: Final = "tier   load  run  passed  failed skipped  seconds     CPU"


@dataclass(frozen=True)
class Series:
    """So many runs of a tier beside so many busy processes."""

    tier: str
    runs: int
    load: int


EVERYTHING: Final = (Series("fast", 10, 0), Series("fast", 3, CORES), Series("slow", 3, CORES))


@dataclass(frozen=True)
class Run:
    """What became of one run; `cpu` is the time of all its processes, in seconds as `wall` is."""

    exit_code: int
    counts: dict[str, int]
    broken: list[str]
    wall: float
    cpu: float


@contextlib.contextmanager
def loaded(processes: int) -> Iterator[None]:
    """As many processes that compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def run(tier: str, workers: str, arguments: Sequence[str], log: Path) -> Run:
    """Run a tier once; what pytest says goes to `log`."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        command = [sys.executable, "-m", "pytest", "-n", workers, "--dist", "loadscope", *TIERS[tier]]
        began = time.monotonic()
        with log.open("w") as out:
            process = subprocess.Popen([*command, f"--junitxml={found}", *arguments], cwd=ROOT, stdout=out, stderr=out)
            _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - began
        counts, broken = read(found) if found.exists() else ({}, ["no result was written"])
    return Run(os.waitstatus_to_exitcode(status), counts, broken, wall, used.ru_utime + used.ru_stime)


def read(path: Path) -> tuple[dict[str, int], list[str]]:
    """How many tests there were of each outcome, and the names of those that failed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    broken = []
    for case in ElementTree.parse(path).iter("testcase"):
        outcomes = {part.tag for part in case}
        if outcomes & {"failure", "error"}:
            counts["failed"] += 1
            broken.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            counts["skipped" if "skipped" in outcomes else "passed"] += 1
    return counts, broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.steady", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", choices=TIERS, help="one series only, of this tier")
    parser.add_argument("--runs", type=int, default=3, help="of that series (3)")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside that series (0)")
    parser.add_argument("--workers", default="4", help="processes of pytest-xdist (4)")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "steady", help="where pytest's output goes")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    given = parser.parse_args()
    given.logs.mkdir(parents=True, exist_ok=True)
    plan = [Series(given.tier, given.runs, given.load)] if given.tier else EVERYTHING
    print(HEAD, flush=True)
    failures = 0
    for series in plan:
        for number in range(1, series.runs + 1):
            log = given.logs / f"{series.tier}-{series.load}-{number}.log"
            with loaded(series.load):
                one = run(series.tier, given.workers, given.arguments, log)
            counts = "".join(f"{one.counts.get(name, 0):>8}" for name in ("passed", "failed", "skipped"))
            print(f"{series.tier:<6}{series.load:>5}{number:>5}{counts}{one.wall:>9.0f}{one.cpu:>8.0f}", flush=True)
            for name in one.broken:
                print(f"       {name}", flush=True)
            if one.exit_code:
                failures += 1
                print(f"       exit code {one.exit_code}; see {log}", flush=True)
    print(f"{failures} of {sum(series.runs for series in plan)} runs failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
