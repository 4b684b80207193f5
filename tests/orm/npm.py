"""The shops of tests/orm/node with the packages that they need.

Enters: that folder. Leaves: a folder where `node shop.mjs` runs, or the reason why none can be had here.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parent / "node"
FOLDER: Final = Path(__file__).parents[2] / ".venv" / "orm-node"
INSTALL: Final = (
    "npm",
    "install",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--ignore-scripts",
    "--loglevel=error",
)
PATIENCE_SECONDS: Final = 600


class Unavailable(Exception):
    """What a shop needs is not here, and why."""


def installed() -> Path:
    """The folder, installed where it is not yet; raises Unavailable. Where nothing changed, that takes no network."""
    folder = _attempt()
    if isinstance(folder, Unavailable):
        raise folder
    return folder


@functools.cache
def _attempt() -> Path | Unavailable:
    """One attempt for all rows: one that fails may have taken minutes."""
    try:
        return _install()
    except Unavailable as reason:
        return reason


def _install() -> Path:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        shutil.copy(file, FOLDER)
    wanted = "".join((SOURCE / name).read_text() for name in ("package.json", "schema.prisma", "generate.mjs"))
    done = FOLDER / "installed"
    if not done.exists() or done.read_text() != wanted:
        _run(*INSTALL)
        _run("node", "generate.mjs")
        done.write_text(wanted)
    return FOLDER


def _run(*command: str) -> None:
    try:
        ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:2])} took more than {PATIENCE_SECONDS} seconds") from None
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines() or ["nothing was said"]
        raise Unavailable(f"{' '.join(command[:2])} failed: {said[0]}")
