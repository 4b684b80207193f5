"""What mypyc is given: classes that it can compile, and the same C wherever it is built."""

from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def compiled() -> list[str]:
    """The paths that setup.py hands to mypyc."""
    (value,) = (
        node.value
        for node in ast.walk(ast.parse(SETUP))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED"
    )
    names: tuple[str, ...] = ast.literal_eval(value)
    return list(names)


@dataclass(frozen=True)
class Module:
    """A module's classes, and where its imported names come from."""

    tree: ast.Module

    @property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}

    @property
    def imported(self) -> dict[str, str]:
        """What a name of this module is elsewhere, as a dotted path."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for one in node.names:
                    found[one.asname or one.name.partition(".")[0]] = (
                        one.name if one.asname else one.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, "a relative import"
                found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        return found


def foreign(source: str) -> list[str]:
    """The classes of a module that mypyc cannot be given, each with its reason."""
    module = Module(ast.parse(source))
    return [
        f"{name}: {reason}"
        for name, node in module.classes.items()
        for reason in [
            *(f"keyword {keyword.arg}" for keyword in node.keywords),
            *(f"base {ast.unparse(base)}" for base in node.bases if not _allowed(base, module)),
        ]
    ]


def _allowed(base: ast.expr, module: Module) -> bool:
    """True for a class of the standard library, a builtin, and one of ours for which the same is true."""
    if isinstance(base, ast.Subscript):
        base = base.value
    name, *rest = ast.unparse(base).split(".")
    if not rest and name in module.classes:
        return True
    if not rest and hasattr(builtins, name):
        return True
    target = ".".join((module.imported.get(name, ""), *rest))
    place, _, cls = target.rpartition(".")
    if place.startswith("pgtattle."):
        other = Module(ast.parse((ROOT / f"{place.removeprefix('pgtattle.').replace('.', '/')}.py").read_text()))
        node = other.classes[cls]
        return not node.keywords and all(_allowed(one, other) for one in node.bases)
    return target.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("path", compiled())
def test_no_compiled_class_has_a_base_of_another_distribution(path: str) -> None:
    assert foreign((ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("from prometheus_client.registry import Collector\nclass A(Collector): ...", ["A: base Collector"]),
        ("import prometheus_client.registry\nclass A(prometheus_client.registry.Collector): ...", 1),
        ("import msgspec as m\nclass A(m.Struct): ...", ["A: base m.Struct"]),
        ("from msgspec import Struct as Record\nclass A(Record, frozen=True): ...", 2),
        ("from pgtattle.proxy.schema import FindingView\nclass A(FindingView): ...", ["A: base FindingView"]),
        ("from pgtattle.proxy.collector import Families\nclass A(Families): ...", ["A: base Families"]),
        ("class M(type): ...\nclass A(metaclass=M): ...", ["A: keyword metaclass"]),
        ("def f():\n    from starlette.routing import Route\n    class A(Route): ...", ["A: base Route"]),
        ("from typing import Generic, NamedTuple, TypeVar\nT = TypeVar('T')\nclass A(Generic[T]): ...", []),
        ("import typing\nclass A(typing.NamedTuple):\n    x: int\nclass B(Exception): ...", []),
        ("from pgtattle.analyzers.analyzer import Analyzer\nclass A(Analyzer): ...\nclass B(A): ...", []),
    ],
)
def test_a_foreign_base_is_found_however_it_is_imported(source: str, classes: list[str] | int) -> None:
    found = foreign(source)
    assert (found if isinstance(classes, list) else len(found)) == classes


def generated(python: Path, copy: Path) -> dict[str, bytes]:
    """The C that mypyc makes of a copy of the tree, by the distributions of this Python."""
    for folder in re.findall(r'"(\w+)"', SETUP[SETUP.index("FOLDERS =") : SETUP.index("\n", SETUP.index("FOLDERS ="))]):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    # It generates when it reads the arguments, and stops at the help.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PGTATTLE_PURE")}
    made = subprocess.run(
        [python, "setup.py", "build_ext", "--help"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    build = copy / "build"
    return {str(one.relative_to(build)): one.read_bytes() for one in build.rglob("*.[ch]")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_c_is_the_same_with_and_without_the_run_time_dependencies(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=True)
    requirements = ROOT / "requirements" / "build.txt"
    subprocess.run(
        [bare / "bin" / "pip", "install", "--quiet", "--require-hashes", "-r", requirements],
        check=True,
        capture_output=True,
    )
    assert subprocess.run(
        [bare / "bin" / "python", "-c", "import msgspec"], check=False, capture_output=True
    ).returncode
    copies = tmp_path / "with", tmp_path / "without"
    for copy in copies:
        copy.mkdir()
    full, none = generated(Path(sys.executable), copies[0]), generated(bare / "bin" / "python", copies[1])
    assert len(full) > len(compiled())
    assert [name for name in full.keys() | none.keys() if full.get(name) != none.get(name)] == []
