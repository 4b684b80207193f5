"""One suite both ways, and once more what differed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.compat.outcomes import ABSENT, Comparison, Explanation, Outcomes, differences, differing, passed
from tests.compat.server import WAYS, Server, Way, serving
from tests.compat.suites.suite import Suite
from tests.compat.workshop import Workshop

Serving = Callable[[Way, int, Path], AbstractContextManager[Server]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What came of a suite. `accounts` is what the proxy counted."""

    suite: str
    version: str
    postgres: int
    comparison: Comparison
    accounts: dict[str, int]

    @property
    def failed(self) -> bool:
        """Something differs without a reason, or there was nothing to compare."""
        return bool(self.comparison.unexplained) or not passed(self.comparison.direct)


def compare(
    suite: Suite,
    postgres: int,
    workshop: Workshop,
    explanations: Sequence[Explanation],
    say: Say = lambda text: None,
    serving: Serving = serving,
) -> Run:
    """Run the suite directly and through the proxy, before servers that `serving` starts; raises Unavailable."""
    version = suite.prepare(workshop, postgres)
    accounts: dict[str, int] = {}

    def both(turn: str, only: Collection[str]) -> dict[Way, Outcomes]:
        found: dict[Way, Outcomes] = {}
        for way in WAYS:
            folder = workshop.cache / "results" / suite.name / f"{turn}-{way}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            began = time.monotonic()
            with serving(way, postgres, folder / "proxy.log") as server:
                found[way] = suite.run(server, folder, only)
                if turn == "first":
                    accounts.update(server.accounts())
            if way == "through" and (raised := (folder / "proxy.log").read_text(errors="replace").count("Traceback")):
                say(f"  the proxy logged {raised} tracebacks: {folder / 'proxy.log'}")
            say(f"{suite.name} {version}, {way}: {_told(found[way])} in {time.monotonic() - began:.0f} s ({folder})")
        return found

    first = both("first", ())
    names = differing(first["direct"], first["through"])
    settled: list[str] = []
    if names:
        say(f"{suite.name}: {len(names)} differ, and run again")
        second = both("second", names)
        settled = [name for name in names if _meet(name, first, second)]
        for name in settled:
            first["direct"][name] = first["through"][name] = second["direct"].get(name, ABSENT)
    found = differences(first["direct"], first["through"], suite.name, explanations)
    for name in settled:
        say(f"  settled: {name}")
    for one in found:
        say(
            f"  {'explained' if one.reason else 'DIFFERENCE'}: {one.test}: {one.direct} directly, {one.through} through"
        )
        say(f"    {one.reason}" if one.reason else f"    see {workshop.cache / 'results' / suite.name}")
    return Run(suite.name, version, postgres, Comparison(first["direct"], first["through"], found, settled), accounts)


def _meet(name: str, *turns: dict[Way, Outcomes]) -> bool:
    """True for a test that came out alike at least once: it differs from itself, not because of the way."""
    direct, through = ({turn[way].get(name, ABSENT) for turn in turns} for way in WAYS)
    return not direct.isdisjoint(through)


def _told(outcomes: Outcomes) -> str:
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        word = outcome.split(maxsplit=1)[0]
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "nothing"
