"""pgbench directly, through PgBouncer and through pgtattle, in alternating rounds of one run.

    python benchmarks/relay.py [--rounds 5] [--seconds 4] [--output benchmarks/README.md]

Measured: transactions a second, median latency of one client in a closed loop, and CPU time a query of the middle
process (user and system, from /proc). Medians over the rounds are quoted, and ratios taken round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgtattle.proxy.demo.cluster import Cluster

MODES = ("simple", "extended", "prepared")
TICK = os.sysconf("SC_CLK_TCK")

PAGE = """# Benchmarks

```sh
make bench
```

runs `relay.py` and writes this page: pgbench directly, through PgBouncer (session pooling) and through pgtattle, in
alternating rounds of one run on one machine. CPU is user and system time of the process between, read from /proc, for
each query; pgtattle's relay forwards, its profiler decodes and analyzes beside it. PgBouncer looks at nothing.

{table}"""


@dataclass
class Target:
    """A way to PostgreSQL: where it listens, and the processes between."""

    name: str
    host: str
    port: int
    processes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One pgbench run."""

    transactions: int
    tps: float
    latency_us: float
    cpu_us: dict[str, float]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def pgbench(target: Target, *, mode: str, clients: int, seconds: int, user: str, database: str) -> Round:
    before = {name: cpu_seconds(pid) for name, pid in target.processes.items()}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(seconds), "-l"),
                *("-h", target.host, "-p", str(target.port), "-U", user, database),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        latencies = [
            int(line.split(" ", 3)[2]) for log in Path(folder).iterdir() for line in log.read_text().splitlines()
        ]
    # The profiler ends its work a moment after the last answer.
    time.sleep(0.3)
    words = done.stdout.split()
    transactions = int(words[words.index("processed:") + 1].split("/")[0])
    tps = float(words[words.index("tps") + 2])
    cpu = {name: (cpu_seconds(pid) - before[name]) * 1e6 / transactions for name, pid in target.processes.items()}
    return Round(transactions, tps, statistics.median(latencies), cpu)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def pgbouncer(cluster: Cluster, folder: Path) -> Iterator[Target]:
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = user={cluster.user} host=127.0.0.1 port={cluster.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = any\npool_mode = session\nmax_client_conn = 500\ndefault_pool_size = 100\n"
        f"unix_socket_dir =\nlogfile = {folder}/pgbouncer.log\nlog_connections = 0\nlog_disconnections = 0\n"
    )
    folder.chmod(0o777)
    as_user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["pgbouncer", "-q", str(config)], stderr=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
    try:
        wait_for(port)
        yield Target("PgBouncer", "127.0.0.1", port, {"PgBouncer": process.pid})
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def pgtattle(cluster: Cluster) -> Iterator[Target]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pgtattle.proxy.cli", "serve", "--upstream", cluster.dsn()),
            *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        addresses = json.loads(process.stdout.readline())
        host, port = addresses["listen"].rsplit(":", 1)
        processes = {"relay": addresses["pid"], "profiler": addresses["profiler_pid"]}
        yield Target("pgtattle", host, int(port), processes)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def measure(
    targets: list[Target], rounds: int, seconds: int, cluster: Cluster
) -> dict[tuple[str, str, int], list[Round]]:
    results: dict[tuple[str, str, int], list[Round]] = {}
    total = rounds * len(MODES) * 2 * len(targets)
    done = 0
    for turn in range(rounds):
        for mode in MODES:
            for clients in (4, 1):
                for target in targets if turn % 2 == 0 else targets[::-1]:
                    one = pgbench(
                        target, mode=mode, clients=clients, seconds=seconds, user=cluster.user, database="postgres"
                    )
                    results.setdefault((target.name, mode, clients), []).append(one)
                    done += 1
                    print(f"\r{done}/{total} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def table(results: dict[tuple[str, str, int], list[Round]], rounds: int, seconds: int) -> str:
    def middle(values: list[float]) -> float:
        return statistics.median(values)

    def ratio(above: list[float], below: list[float]) -> str:
        return f"{middle([a / b for a, b in zip(above, below, strict=True)]):.2f}"

    bouncer = any(name == "PgBouncer" for name, _, _ in results)
    lines = [
        f"pgbench -S, {rounds} alternating rounds of {seconds} s, medians; {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| mode | path | tps, 4 clients | CPU µs a query: relay | + profiler | latency µs, 1 client | added µs |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = [
        "",
        "| mode | relay CPU / PgBouncer | relay + profiler CPU / PgBouncer | added latency / PgBouncer's |",
        "|---|---|---|---|",
    ]
    for mode in MODES:
        direct = [one.latency_us for one in results["direct", mode, 1]]
        for name in dict.fromkeys(name for name, _, _ in results):
            busy, alone = results[name, mode, 4], results[name, mode, 1]
            cpu = [next(iter(one.cpu_us.values()), 0.0) for one in busy]
            both = [sum(one.cpu_us.values()) for one in busy]
            added = [one.latency_us - base for one, base in zip(alone, direct, strict=True)]
            lines.append(
                f"| {mode} | {name} | {middle([one.tps for one in busy]):,.0f} "
                f"| {middle(cpu):.1f} | {middle(both):.1f} | "
                f"{middle([one.latency_us for one in alone]):.0f} | {middle(added):.0f} |"
            )
        if bouncer:
            other = [one.cpu_us["PgBouncer"] for one in results["PgBouncer", mode, 4]]
            ours = results["pgtattle", mode, 4]
            added_ours = middle([one.latency_us for one in results["pgtattle", mode, 1]]) - middle(direct)
            added_other = middle([one.latency_us for one in results["PgBouncer", mode, 1]]) - middle(direct)
            ratios.append(
                f"| {mode} | {ratio([one.cpu_us['relay'] for one in ours], other)} | "
                f"{ratio([sum(one.cpu_us.values()) for one in ours], other)} | {added_ours / added_other:.2f} |"
            )
    return "\n".join(lines + (ratios if bouncer else [])) + "\n"


def main() -> None:
    """Run all and print the table; with `--output`, write it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("README.md"))
    options = parser.parse_args()
    if shutil.which("pgbench") is None:
        raise SystemExit("pgbench is not installed (Debian: postgresql-client and postgresql-contrib)")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(18))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run(
            [
                "pgbench",
                "-i",
                "-q",
                "-s",
                "5",
                "-h",
                "127.0.0.1",
                "-p",
                str(cluster.port),
                "-U",
                cluster.user,
                "postgres",
            ],
            check=True,
            capture_output=True,
        )
        targets = [Target("direct", "127.0.0.1", cluster.port)]
        if shutil.which("pgbouncer") is not None:
            targets.append(stack.enter_context(pgbouncer(cluster, folder)))
        targets.append(stack.enter_context(pgtattle(cluster)))
        text = table(measure(targets, options.rounds, options.seconds, cluster), options.rounds, options.seconds)
    print(text)
    options.output.write_text(PAGE.format(table=text), encoding="utf-8")


if __name__ == "__main__":
    main()
