"""The languages of the shops: what each needs, how its folder of tests/orm is made ready, and how its program is run.

Enters: a language. Leaves: a folder and a command there, or the reason why none can be had on this machine.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent
ROOT: Final = SOURCES.parents[1]
FOLDERS: Final = ROOT / ".venv" / "orm"
PATIENCE_SECONDS: Final = 900

Command = tuple[str, ...]


class Unavailable(Exception):
    """What a shop needs is not here, and why."""


@dataclass(frozen=True)
class Language:
    """A program in tests/orm/NAME. Its folder is copied; in the copy `fetch` gets the packages, then `build` runs.

    `tools` are commands that have to be installed; `packages` those of the system, each with a command that fails
    without it. Where `fetch` fails, no registry can be reached and the rows are skipped; where `build` fails, the
    program is wrong.
    """

    name: str
    run: Command
    tools: tuple[str, ...] = ()
    packages: tuple[tuple[str, Command], ...] = ()
    fetch: Command = ()
    build: tuple[Command, ...] = ()

    @property
    def excuses(self) -> tuple[str, ...]:
        """How every reason begins for which the rows of this language may be skipped."""
        missing = (*self.tools, *(package for package, _ in self.packages))
        fetched = (f"{_name_of(self.fetch)} failed", f"{_name_of(self.fetch)} took more than")
        return (*(f"{one} is not installed" for one in missing), *(fetched if self.fetch else ()))


PYTHON: Final = Language("python", (sys.executable, "-m", "tests.orm.python"))
NODE: Final = Language(
    "node",
    ("node", "shop.mjs"),
    tools=("node", "npm"),
    fetch=("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"),
    build=(("node", "generate.mjs"),),
)
GO: Final = Language(
    "go", ("./shop",), tools=("go",), fetch=("go", "mod", "download"), build=(("go", "build", "-o", "shop", "."),)
)
PHP: Final = Language(
    "php",
    ("php", "shop.php"),
    tools=("php",),
    packages=(
        ("php-pgsql", ("php", "-r", "exit((int) !extension_loaded('pdo_pgsql'));")),
        ("php-illuminate-database", ("php", "-r", "require 'Illuminate/Database/autoload.php';")),
    ),
)
RUBY: Final = Language(
    "ruby",
    ("ruby", "shop.rb"),
    tools=("ruby",),
    packages=(
        ("ruby-activerecord", ("ruby", "-e", "require 'active_record'")),
        ("ruby-pg", ("ruby", "-e", "require 'pg'")),
    ),
)
JAVA: Final = Language(
    "java",
    ("java", "-cp", "classes:lib/*", "Shop"),
    tools=("java", "javac", "mvn"),
    fetch=("mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", "-DoutputDirectory=lib"),
    build=(("javac", "-cp", "lib/*", "-d", "classes", "Shop.java", "Plain.java", "Orm.java"),),
)
RUST: Final = Language(
    "rust",
    ("target/debug/shop",),
    tools=("cargo",),
    packages=(("libpq-dev", ("sh", "-c", "test -n \"$(ldconfig -p | grep 'libpq.so ')\"")),),
    fetch=("cargo", "fetch"),
    build=(("nice", "-n", "19", "cargo", "build"),),
)
LANGUAGES: Final = (PYTHON, NODE, GO, PHP, RUBY, JAVA, RUST)


@functools.cache
def _attempt(language: Language) -> Path | Unavailable:
    """One attempt for all rows: one that fails may have taken minutes."""
    try:
        return _ready(language)
    except Unavailable as reason:
        return reason


def folder_of(language: Language) -> Path:
    """Where the program runs, made ready if it is not yet; raises Unavailable. Unchanged, it takes no network."""
    folder = _attempt(language)
    if isinstance(folder, Unavailable):
        raise folder
    return folder


def _ready(language: Language) -> Path:
    if language is PYTHON:
        return ROOT
    for tool in language.tools:
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    for package, probe in language.packages:
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            raise Unavailable(f"{package} is not installed")
    source, folder = SOURCES / language.name, FOLDERS / language.name
    wanted = _digest(source)
    done = folder / "ready"
    if not done.exists() or done.read_text() != wanted:
        done.unlink(missing_ok=True)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        if language.fetch and (complaint := _complaint(folder, language.fetch)):
            raise Unavailable(complaint)
        for command in language.build:
            complaint = _complaint(folder, command)
            assert not complaint, complaint
        done.write_text(wanted)
    return folder


def _digest(source: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(source.rglob("*")):
        if file.is_file():
            found.update(f"{file.relative_to(source)}\n".encode() + file.read_bytes())
    return found.hexdigest()


def _name_of(command: Command) -> str:
    return " ".join(command[:2])


def _complaint(folder: Path, command: Command) -> str:
    """What went wrong with a command; empty where it did its work."""
    name = _name_of(command)
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{name} took more than {PATIENCE_SECONDS} seconds"
    if not ran.returncode:
        return ""
    return f"{name} failed: {ran.stderr.strip() or ran.stdout.strip() or 'no output'}"
