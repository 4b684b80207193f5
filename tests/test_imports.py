"""What a process loads, and what the tree must never name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANALYSIS = ("sqlglot", "textual", "starlette", "uvicorn", "psycopg", "prometheus_client", "pgtattle.analyzers")
NOT_OURS = {"__pycache__", "build", "dist"}
DOT_NAMES = {".ci", ".github", ".gitignore", ".gitattributes", ".dockerignore"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize(
    "module",
    [
        "announce", "server", "supervisor", "standin", "child_output", "relay", "dismissals", "tap", "listeners",
        "wire.frames", "wire.startup",
    ],
)  # fmt: skip
def test_the_relay_process_loads_no_analysis(module: str) -> None:
    loaded = loaded_by(f"import pgtattle.proxy.{module}")
    assert f"pgtattle.proxy.{module}" in loaded
    assert loaded.isdisjoint(ANALYSIS)


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["run", "--help"], ["--version"]])
def test_help_loads_neither_the_terminal_nor_the_analysis(arguments: list[str]) -> None:
    loaded = loaded_by(
        "from pgtattle.proxy.cli import main\n"
        f"sys.argv = ['pgtattle', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert "click" in loaded
    assert loaded.isdisjoint(ANALYSIS)


def test_the_analyzers_load_no_io() -> None:
    modules = [
        ".".join(("pgtattle", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in (ROOT / "analyzers").rglob("*.py")
    ]
    loaded = loaded_by("import " + ", ".join(sorted(modules)))
    assert loaded.isdisjoint({"psycopg", "starlette", "uvicorn", "textual", "httpx", "structlog"})


def test_type_checkers_see_the_packages_under_their_names() -> None:
    links = {path.name: os.readlink(path) for path in (ROOT / ".typing" / "pgtattle").iterdir()}
    assert links == {name: f"../../{name}" for name in ("proxy", "analyzers", "tui")}


def texts() -> Iterator[tuple[str, str]]:
    """Our files as (path, text): the tree without what tools leave in it."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in NOT_OURS and (not name.startswith(".") or name in DOT_NAMES)]
        for name in files:
            if name.startswith(".") and name not in DOT_NAMES:
                continue
            path = Path(folder, name)
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_package_registry_or_a_machine() -> None:
    # In halves, so that this file does not name them either.
    hosts = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "registry." + "npmjs",
        "proxy.go" + "lang.org",
        "debian" + ".org",
    ]
    paths = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/"]
    named = [(path, word) for path, text in texts() for word in (*hosts, *paths) if word in text]
    assert named == []
