"""pgbench -S through every target: CPU time a query, and the accounts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.results import Run
from benchmarks.targets import Target, alternating

MODES: Final = ("simple", "extended", "prepared")
CLIENTS: Final = 4

SET_UP_QUERIES: Final = 2
"""What pgbench asks on a connection of its own before it begins: the scale, and how its tables are partitioned."""

SCALE: Final = 5


def prepare(target: Target, scale: int = SCALE) -> None:
    """Make pgbench's tables."""
    _pgbench(target, "-i", "-q", "-s", str(scale))


def measure(
    targets: Sequence[Target], rounds: int, seconds: int, progress: Callable[[], None], modes: Sequence[str] = MODES
) -> list[Run]:
    """Alternating rounds."""
    for target in targets:
        once(target, modes[-1], 4, seconds=1)
    runs = []
    for order in alternating(targets, rounds):
        for mode in modes:
            for target in order:
                runs.append(once(target, mode, CLIENTS, seconds))
                progress()
    return runs


@dataclass(frozen=True)
class Load:
    """What pgbench says of a run."""

    transactions: int
    tps: float

    @property
    def sent(self) -> int:
        """Executions."""
        return self.transactions + SET_UP_QUERIES


def once(target: Target, mode: str, clients: int, seconds: int) -> Run:
    """One pgbench run, with all that it caused."""
    session = target.session() if target.api else None
    before = target.cpu_ns()
    done = load(target, mode, clients, seconds)
    after = target.cpu_ns()
    return Run(
        target=target.name,
        mode=mode,
        clients=clients,
        transactions=done.transactions,
        tps=done.tps,
        cpu_us={name: round((after[name] - before[name]) / 1e3 / done.transactions, 3) for name in after},
        accounts=target.accounts(session, done.sent) if session is not None else None,
    )


def load(target: Target, mode: str, clients: int, seconds: int) -> Load:
    """Send it and wait for its end."""
    words = _pgbench(target, "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(seconds)).split()
    return Load(
        transactions=int(words[words.index("processed:") + 1].split("/")[0]),
        tps=float(words[words.index("tps") + 2]),
    )


def _pgbench(target: Target, *arguments: str) -> str:
    done = subprocess.run(["pgbench", *arguments], env=target.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pgbench through {target.name}: {done.stderr.strip()[-500:]}")
    return done.stdout
