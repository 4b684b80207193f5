"""The wheel holds every file of the three packages and nothing else, and its command runs from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("proxy", "analyzers", "tui")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the tree, by the pinned setuptools."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "docs" / "rules", copy / "docs" / "rules")
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    pure = {**os.environ, "PGTATTLE_PURE": "1"}
    built = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, env=pure, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(copy / "dist" / built.stdout.split()[-1])


def test_the_wheel_holds_the_tree(wheel: zipfile.ZipFile) -> None:
    tree = {
        f"pgtattle/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {f"pgtattle/analyzers/pages/{page.name}" for page in (ROOT / "docs" / "rules").iterdir()}
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == tree


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "pgtattle"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"demo", "shadow", "otel", "web"}


def test_the_command_runs_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    # -S: without the .pth file of the editable installation, which would put the tree before the wheel.
    command = (
        "import sys; from importlib.metadata import distribution; import pgtattle.proxy.cli as cli; "
        f"assert cli.__file__.startswith({str(tmp_path)!r}), cli.__file__; sys.argv[0] = 'pgtattle'; "
        "(point,) = distribution('pgtattle').entry_points.select(name='pgtattle'); sys.exit(point.load()())"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", command, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), sysconfig.get_path("purelib")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Usage: pgtattle ")
    assert "serve" in ran.stdout
    ran = subprocess.run(
        [sys.executable, "-S", "-c", command, "explain-rule", "n-plus-one"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), sysconfig.get_path("purelib")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.startswith("# n-plus-one\n"), ran.stderr


PIN = re.compile(r"([\w.-]+)==(\S+)(?: ; ([^\\]+?))? \\(?:\n +--hash=sha256:\w{64}(?: \\)?)+")


def pins(name: str) -> dict[str, str]:
    """The versions of a requirements file by package; every one must have a hash."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").strip()):
        pin = PIN.fullmatch(block)
        assert pin is not None, block
        found[pin[1]] = pin[2]
    return found


def test_one_resolution_pins_everything() -> None:
    everything = pins("dev")
    for name in ("build", "run", "demo"):
        assert pins(name).items() <= everything.items()
    assert pins("run").items() <= pins("demo").items()
