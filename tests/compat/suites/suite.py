"""What a suite is to the runner, and the parts that several share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from tests.compat.outcomes import Outcomes
from tests.compat.server import Server
from tests.compat.workshop import Workshop

INSIDE: Final = Path(__file__).parents[1] / "inside"
WORST_FIRST: Final = ("error", "failed", "xpassed", "xfailed", "skipped", "passed")

LONGEST_SECONDS: Final = 1800
"""A suite that takes longer hangs; what it did not get to is absent from its outcomes."""


class Suite(Protocol):
    """Tests of a client. `run` may be called again with the names of some tests."""

    @property
    def name(self) -> str: ...

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        """Get everything that is needed, and give the version of what is tested; raises Unavailable."""

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        """Run all tests, or those named; `folder` is empty and takes what they leave behind."""


def run_telling(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], folder: Path, only: Collection[str]
) -> Outcomes:
    """Run a command whose plugin in `inside/` tells outcomes, and gather them."""
    told = folder / "outcomes.jsonl"
    told.touch()
    environment = {**environment, "COMPAT_OUTCOMES": str(told), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(INSIDE), environment.get("PYTHONPATH"))))
    if only:
        names = folder / "only.json"
        names.write_text(json.dumps(sorted(only)), encoding="utf-8")
        environment["COMPAT_ONLY"] = str(names)
    run_logged(command, cwd=cwd, environment=environment, log=folder / "output.txt")
    outcomes: Outcomes = {}
    for line in told.read_text(encoding="utf-8").splitlines():
        name, outcome = json.loads(line)
        outcomes[name] = min(outcome, outcomes.get(name, outcome), key=WORST_FIRST.index)
    return outcomes


def run_logged(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path, seconds: float = LONGEST_SECONDS
) -> int:
    """Run a command in a process group of its own, so that a hanging one ends with its children; give its exit code."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
