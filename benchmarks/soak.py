"""pgbench at full load through pgtattle for as long as you like: memory, descriptors and the accounts, every minute.

    python -m benchmarks.soak [--seconds 3600] [--every 60] [--output FILE]

One line an interval: resident memory and open descriptors of both processes, and executions seen, shed and lost beside
what pgbench sent. Exit code 1 when they do not add up or a descriptor was left behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks import relay
from benchmarks.targets import cluster, direct, pgtattle, resident_kib

CLIENTS: Final = 4
HEAD: Final = (
    "| minutes | relay MiB | profiler MiB | relay files | profiler files | seen | shed | lost | sent |\n"
    + "|---" * 9
    + "|"
)


def files(pid: int) -> int:
    """Open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def soak(seconds: int, every: int) -> tuple[str, bool]:
    """The table, and whether everything was accounted for and given back."""
    with cluster() as server, direct(server) as around, pgtattle(server) as target:
        relay.prepare(around)
        pids = list(target.processes.values())
        start = target.session()
        lines = [HEAD]
        sent, runs = 0, 0
        exact = True
        begun = time.monotonic()
        idle = files(target.relay)
        while time.monotonic() - begun < seconds:
            mode = relay.MODES[runs % len(relay.MODES)]
            sent += relay.load(target, mode, CLIENTS, every).sent
            runs += 1
            target.cpu_ns()
            now = target.accounts(start, sent)
            exact = exact and now.exact
            cells = [
                f"{(time.monotonic() - begun) / 60:.1f}",
                *(f"{resident_kib(pid) / 1024:.1f}" for pid in pids),
                *(f"{files(pid)}" for pid in pids),
                *(f"{number:,}" for number in (now.seen, now.shed, now.lost, now.sent)),
            ]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        return "\n".join(lines) + "\n", exact and files(target.relay) <= idle + 1


def main() -> None:
    """Run it, and write the table with `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--every", type=int, default=60)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    print(HEAD, flush=True)
    table, good = soak(options.seconds, options.every)
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    sys.exit(not good)


if __name__ == "__main__":
    main()
