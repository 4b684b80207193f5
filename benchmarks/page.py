"""The page: tables of what was measured, and for each bar of the design whether it is met and by how much not.

Enters: `Results` and template.md, which has the prose. Leaves: README.md.
"""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.large import STATEMENTS
from benchmarks.relay import MODES
from benchmarks.results import Machine, Results, Run
from pgtattle.proxy import session

TEMPLATE: Final = Path(__file__).with_name("template.md")
OURS, OPAQUE, BOUNCER, DIRECT, OTHER = "pgtattle", "pgtattle, opaque", "PgBouncer", "direct", "sql-tap"

HEAD: Final = "| measure | bar | measured | |\n|---|---|---|---|"


@dataclass(frozen=True)
class Verdict:
    """One bar: a figure that may be `bar` at most, or at `least`."""

    measure: str
    bar: float
    value: float
    unit: str = ""
    least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bar if self.least else self.value <= self.bar

    @property
    def line(self) -> str:
        sign = "≥" if self.least else "≤"
        by = abs(self.value - self.bar)
        share = f" ({by / self.bar:.1%})" if self.bar else ""
        verdict = "met" if self.met else f"**missed** by {_number(by)}{self.unit}{share}"
        if math.isnan(self.value):
            verdict = "not measured"
        return (
            f"| {self.measure} | {sign} {_number(self.bar)}{self.unit} | {_number(self.value)}{self.unit} | {verdict} |"
        )


def machine(server_version: str, sql_tap: Path | None) -> Machine:
    """This one."""
    processors = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    how = "interpreted" if session.__file__.endswith(".py") else "compiled"
    programs = {
        "PostgreSQL": server_version,
        "PgBouncer": _version("pgbouncer", "--version"),
        "pgbench and psql": _version("pgbench", "--version"),
        "pgtattle": f"{metadata.version('pgtattle')}, {how}",
    }
    if sql_tap is not None:
        programs["sql-tap"] = _version(str(sql_tap), "-version")
    return Machine(
        processor=processors[0] if processors else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        programs={name: version for name, version in programs.items() if version},
    )


def page(results: Results) -> str:
    """All of it."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        machine=_machine(results),
        verdicts="\n".join([HEAD, *(verdict.line for verdict in verdicts(results))]),
        runs=_runs(results),
        accounts=_accounts(results),
        transfers=_transfers(results),
        memory=_memory(results),
        rates=_rates(results),
    )


def verdicts(results: Results) -> list[Verdict]:
    """Every bar that the run has figures for."""
    found: list[Verdict] = []
    if results.runs:
        for mode in MODES:
            found.append(Verdict(f"relay CPU / PgBouncer, {mode}", 1.15, _cpu(results, mode, OURS, BOUNCER, _relay)))
        for mode in MODES:
            value = _cpu(results, mode, OPAQUE, BOUNCER, _relay)
            found.append(Verdict(f"relay CPU / PgBouncer, {mode}, `--mode opaque`", 1.1, value))
        for name, bar in ((BOUNCER, 1.75), (OTHER, 0.6)):
            for mode in MODES:
                value = _cpu(results, mode, OURS, name, _both)
                found.append(Verdict(f"relay + profiler CPU / {name}, {mode}", bar, value))
        for mode in MODES if results.latencies else ():
            value = _quotient(_added(results, mode, OURS), _added(results, mode, BOUNCER))
            found.append(Verdict(f"added median latency / PgBouncer's, {mode}", 1.2, value))
        accounts = [run.accounts for run in results.runs if run.accounts]
        found.append(Verdict("executions shed in these runs", 0, sum(one.shed for one in accounts)))
        astray = sum(abs(one.sent - one.seen - one.shed - one.lost) for one in accounts)
        found.append(Verdict(f"executions not accounted for, of {sum(one.sent for one in accounts):,}", 0, astray))
    for kind in STATEMENTS if results.transfers else ():
        found.append(Verdict(f"{kind} of 300,000 rows: time / direct", 1.15, _time(results, kind, OURS)))
    for memory in results.memory:
        if memory.target == OURS:
            found.append(Verdict("memory over idle, client that stops reading 1 GB", 64, memory.stalled_mib, " MiB"))
            found.append(
                Verdict(f"memory of each of {memory.connections} idle connections", 40, memory.idle_kib, " KiB")
            )
    for rate in results.rates:
        value = rate.executions / rate.seconds
        found.append(Verdict(f"profiler, executions/s, {rate.traffic}", 50_000, value, least=True))
    return found


def failures(results: Results) -> list[str]:
    """What no noise excuses: executions that are in none of the three places."""
    return [
        f"{run.target}, {run.mode}, {run.clients} clients: {run.accounts.sent:,} sent, "
        f"{run.accounts.seen:,} seen + {run.accounts.shed:,} shed + {run.accounts.lost:,} lost"
        for run in results.runs
        if run.accounts and not run.accounts.exact
    ]


def _machine(results: Results) -> str:
    one = results.machine
    programs = ", ".join(f"{name} {version}" for name, version in one.programs.items())
    return (
        f"{one.processor}, {one.cores} cores, {one.memory_gib} GiB, Linux {one.kernel}; Python {one.python}, "
        f"{programs}. {results.rounds} alternating rounds, pgbench for {results.seconds} s each."
    )


def _runs(results: Results) -> str:
    if not results.runs:
        return ""
    lines = [
        "| pgbench -S | through | tps, 4 clients | relay, CPU µs a query | + profiler | 1 client, µs | added |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode in MODES:
        for name in _names(run.target for run in results.runs):
            busy, alone = _of(results, name, mode), _latencies(results, name, mode)
            if not busy:
                continue
            between = name != DIRECT
            cells = [
                *(mode, name, f"{_middle(run.tps for run in busy):,.0f}"),
                f"{_middle(map(_relay, busy)):.1f}" if between else "",
                f"{_middle(map(_both, busy)):.1f}" if name in (OURS, OPAQUE) else "",
                f"{_middle(alone):.1f}" if alone else "",
                f"{_added(results, mode, name):.1f}" if between and alone else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _accounts(results: Results) -> str:
    lines = ["| pgbench -S | sent | seen | shed | lost | exact in |", "|---|---|---|---|---|---|"]
    modes = dict.fromkeys(run.mode for run in results.runs)
    for mode in modes:
        found = [run.accounts for run in _of(results, OURS, mode) if run.accounts]
        sums = (sum(getattr(one, name) for one in found) for name in ("sent", "seen", "shed", "lost"))
        cells = [*(f"{number:,}" for number in sums), f"{sum(one.exact for one in found)} of {len(found)} runs"]
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return "\n".join(lines) if modes else ""


def _transfers(results: Results) -> str:
    if not results.transfers:
        return ""
    names = _names(one.target for one in results.transfers)
    lines = [f"| ms | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for kind in STATEMENTS:
        cells = [f"{_middle(_times(results, kind, name)):.0f} ({_time(results, kind, name):.2f})" for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _memory(results: Results) -> str:
    lines = ["| through | MiB over idle, 1 GB not read | KiB each idle connection |", "|---|---|---|"]
    lines += [f"| {one.target} | {one.stalled_mib:.1f} | {one.idle_kib:.1f} |" for one in results.memory]
    return "\n".join(lines) if results.memory else ""


def _rates(results: Results) -> str:
    lines = [
        "| traffic | executions | executions/s of one core | µs each | memory grown by MiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.traffic} | {one.executions:,} | {one.executions / one.seconds:,.0f} "
        f"| {one.seconds * 1e6 / one.executions:.1f} | {one.grown_mib:.1f} |"
        for one in results.rates
    ]
    return "\n".join(lines) if results.rates else ""


def _of(results: Results, target: str, mode: str) -> list[Run]:
    return [run for run in results.runs if (run.target, run.mode) == (target, mode)]


def _latencies(results: Results, target: str, mode: str) -> list[float]:
    return [one.median_us for one in results.latencies if (one.target, one.mode) == (target, mode)]


def _relay(run: Run) -> float:
    return next(iter(run.cpu_us.values()), 0.0)


def _both(run: Run) -> float:
    return sum(run.cpu_us.values())


def _cpu(results: Results, mode: str, ours: str, other: str, of: Callable[[Run], float]) -> float:
    """Round by round, so that what slows the whole machine slows both sides of a ratio."""
    pairs = zip(_of(results, ours, mode), _of(results, other, mode), strict=False)
    return _middle(of(one) / _relay(beside) for one, beside in pairs)


def _added(results: Results, mode: str, name: str) -> float:
    """Microseconds over the direct connection of the same round."""
    pairs = zip(_latencies(results, name, mode), _latencies(results, DIRECT, mode), strict=True)
    return _middle(one - beside for one, beside in pairs)


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


def _times(results: Results, kind: str, name: str) -> list[float]:
    return [one.milliseconds for one in results.transfers if (one.kind, one.target) == (kind, name)]


def _time(results: Results, kind: str, name: str) -> float:
    return _middle(a / b for a, b in zip(_times(results, kind, name), _times(results, kind, DIRECT), strict=True))


def _names(names: Iterable[str]) -> list[str]:
    found = set(names)
    return [name for name in (DIRECT, BOUNCER, OURS, OPAQUE, OTHER) if name in found]


def _middle(values: Iterable[float]) -> float:
    found: Sequence[float] = list(values)
    return statistics.median(found) if found else math.nan


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.2f}" if abs(value) < 20 else f"{value:,.0f}"


def _version(program: str, flag: str) -> str:
    try:
        said = subprocess.run([program, flag], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
    return said.strip().split("\n")[0].split(" ")[-1 if "(" not in said else 2]
