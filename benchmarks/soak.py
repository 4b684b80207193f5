"""pgbench at full load through pgtattle for as long as you like: memory, descriptors and the accounting, every minute.

    python benchmarks/soak.py [--seconds 3600] [--every 60] [--output FILE]

One line an interval: resident memory and open descriptors of both processes, and executions seen, shed and lost beside
the transactions that pgbench counted. Exit code 1 when they do not add up or a descriptor was left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from pgtattle.proxy.demo.cluster import Cluster

MODES = ("simple", "extended", "prepared")
SET_UP_QUERIES = 2
HEAD = (
    "| minutes | relay MiB | profiler MiB | relay files | profiler files | seen | shed | lost | pgbench |\n"
    + "|---" * 9
    + "|"
)


def resident(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def files(pid: int) -> int:
    """Open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def session(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The session's part of the report, once it stands still."""
    before: dict[str, Any] = {}
    while True:
        found: dict[str, Any] = httpx.get(f"http://{addresses['api']}/api/v1/report", timeout=60).json()["session"]
        if [found[key] for key in ("executions", "shed", "lost")] == [
            before.get(key) for key in ("executions", "shed", "lost")
        ]:
            return found
        before = found
        time.sleep(1.0)


def soak(seconds: int, every: int) -> tuple[str, bool]:
    """The table, and whether everything was accounted for and given back."""
    with Cluster(18) as cluster:
        where = ["-h", "127.0.0.1", "-U", cluster.user, "postgres"]
        subprocess.run(
            ["pgbench", "-i", "-q", "-s", "5", "-p", str(cluster.port), *where], check=True, capture_output=True
        )
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", cluster.dsn()),
                *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            addresses = json.loads(process.stdout.readline())
            port = addresses["listen"].rsplit(":", 1)[1]
            pids = addresses["pid"], addresses["profiler_pid"]
            lines = [HEAD]
            transactions = runs = 0
            begun = time.monotonic()
            idle = files(pids[0])
            while time.monotonic() - begun < seconds:
                mode = MODES[runs % len(MODES)]
                load = ["pgbench", "-n", "-S", "-M", mode, "-c", "4", "-T", str(every), "-p", port, *where]
                done = subprocess.run(load, check=True, capture_output=True, text=True)
                transactions += int(done.stdout.split("processed:")[1].split()[0])
                runs += 1
                now = session(addresses)
                lines.append(
                    f"| {(time.monotonic() - begun) / 60:.1f} | {resident(pids[0]):.1f} | {resident(pids[1]):.1f} "
                    f"| {files(pids[0])} | {files(pids[1])} "
                    f"| {now['executions']:,} | {now['shed']:,} | {now['lost']:,} "
                    f"| {transactions + SET_UP_QUERIES * runs:,} |"
                )
                print(lines[-1], flush=True)
            accounted = now["executions"] + now["shed"] + now["lost"] == transactions + SET_UP_QUERIES * runs
            given_back = files(pids[0]) <= idle + 1
            return "\n".join(lines) + "\n", accounted and given_back
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


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
