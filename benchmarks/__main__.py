"""Measure everything in one run and write the page.

    python -m benchmarks [--rounds 10] [--seconds 3] [--sql-tap PROGRAM] [--only PART]…
    python -m benchmarks --redraw

Everything runs on this machine and needs it for itself. The figures of every round go to results.json, from which
`--redraw` makes the page anew, with the prose of template.md. A run of some parts only, or of less than five rounds,
is printed and not written. Exit code 1 when an execution is not accounted for.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from benchmarks import large, latency, memory, page, pipeline, relay
from benchmarks.results import Results
from benchmarks.targets import Target, cluster, openers

HERE: Final = Path(__file__).parent
PARTS: Final = ("relay", "latency", "large", "memory", "pipeline")
LEAST_ROUNDS: Final = 5
REST_SECONDS: Final = 0.75
"""What a pgbench run takes beyond its own time: coming to rest, and the accounts."""


class Progress:
    """A line on stderr while it runs."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0

    def __call__(self) -> None:
        self._done += 1
        print(f"\r{self._what}: {self._done} of {self._total} ", end="", file=sys.stderr, flush=True)
        if self._done == self._total:
            print(file=sys.stderr)


def run(options: argparse.Namespace) -> Results:
    """The parts that were asked for."""
    parts = options.only or PARTS
    ways = openers(options.sql_tap)
    _tell(parts, len(ways), options)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(cluster())
        with psycopg.connect(server.dsn()) as connection:
            version = str(connection.execute("SHOW server_version").fetchone()[0])  # type: ignore[index]
        results = Results(
            machine=page.machine(version, options.sql_tap), rounds=options.rounds, seconds=options.seconds
        )
        direct = Target("direct", server.port)
        relay.prepare(direct)
        if "memory" in parts:
            progress = Progress("memory", len(ways) - 1)
            for way in ways[1:]:
                results.memory.append(memory.measure(server, way))
                progress()
        if "pipeline" in parts:
            progress = Progress("profiler", len(pipeline.TRAFFIC))
            for traffic in pipeline.TRAFFIC:
                results.rates.append(pipeline.measure(direct, traffic, options.executions))
                progress()
        targets = [stack.enter_context(way(server)) for way in ways]
        if "large" in parts:
            total = (options.rounds + 1) * len(large.STATEMENTS) * len(targets)
            results.transfers = large.measure(direct, targets, options.rounds, Progress("large results", total))
        if "relay" in parts:
            total = options.rounds * len(relay.MODES) * len(targets)
            results.runs = relay.measure(targets, options.rounds, options.seconds, Progress("pgbench", total))
        if "latency" in parts:
            rounds = Progress("latency", options.rounds * len(relay.MODES))
            results.latencies = latency.measure(targets, options.rounds, options.seconds / 2, rounds)
    return results


def _tell(parts: tuple[str, ...], ways: int, options: argparse.Namespace) -> None:
    seconds = {
        "relay": options.rounds * len(relay.MODES) * ways * (options.seconds + REST_SECONDS),
        "latency": options.rounds * len(relay.MODES) * ways * options.seconds / 2,
        "large": (options.rounds + 1) * len(large.STATEMENTS) * ways * 0.6,
        "memory": ways * 15,
        "pipeline": len(pipeline.TRAFFIC) * (10 + options.executions / 25_000),
    }
    minutes = sum(seconds[part] for part in parts) / 60
    print(
        f"about {minutes:.0f} minutes, until {time.strftime('%H:%M', time.localtime(time.time() + minutes * 60))}",
        file=sys.stderr,
    )


def main() -> None:
    """Run, write, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--executions", type=int, default=500_000, help="through the profiler, of each traffic")
    parser.add_argument("--sql-tap", type=Path, metavar="PROGRAM", help="a sql-tapd to measure beside")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--output", type=Path, default=HERE / "README.md")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    kept = not options.only and options.rounds >= LEAST_ROUNDS
    if options.redraw:
        results = msgspec.json.decode(options.results.read_bytes(), type=Results)
    else:
        for program in ("pgbench", "psql"):
            if shutil.which(program) is None:
                raise SystemExit(f"{program} is not installed (Debian: postgresql-client and postgresql-contrib)")
        results = run(options)
        if kept:
            options.results.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    text = page.page(results)
    print(text)
    if kept or options.redraw:
        options.output.write_text(text, encoding="utf-8")
    failures = page.failures(results)
    for failure in failures:
        print(f"NOT ACCOUNTED FOR: {failure}", file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
