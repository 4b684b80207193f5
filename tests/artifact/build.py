"""sdist, wheels and environments, made by pip as a user's are: isolated, from a tree without what was built in it.

python -m tests.artifact.build FOLDER    # an environment in FOLDER with the wheel and this environment's tools
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAST = 11
UNTRACKED = (
    *(".git", ".venv", "build", "dist", "__pycache__", "*.egg-info", "*.so"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache", ".hypothesis"),
)


def run(*command: str | Path, folder: Path | None = None) -> str:
    """The stdout of a command; what it said when it fails. Nothing of this environment goes along."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PGTATTLE_", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def pythons() -> dict[str, Path]:
    """By version, this interpreter and one of every other version at hand: on the path, then of pyenv."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": Path(sys.executable)}
    for candidate in _candidates():
        ask = "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))"
        told = subprocess.run([candidate, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if told.returncode == 0 and int(told.stdout.strip().partition(".")[2]) >= LEAST:
            found.setdefault(told.stdout.strip(), candidate)
    return found


def _candidates() -> Iterator[Path]:
    for minor in range(LEAST, LEAST + 10):
        if program := shutil.which(f"python3.{minor}"):
            yield Path(program)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    yield from sorted(pyenv.glob("3.*/bin/python3"), reverse=True)


def tree(folder: Path) -> Path:
    """A copy of the checkout without what was built in it."""
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*UNTRACKED), symlinks=True))


def environment(python: Path, folder: Path, *requirements: str) -> Path:
    """The interpreter of a new virtual environment that has these."""
    run(python, "-m", "venv", folder)
    own = folder / "bin" / "python"
    if requirements:
        run(own, "-m", "pip", "install", "--quiet", *requirements)
    return own


def sdist(source: Path, folder: Path) -> Path:
    """The source distribution of a tree."""
    builder = environment(Path(sys.executable), folder / "builder", "build")
    run(builder, "-m", "build", "--sdist", "--outdir", folder, source)
    (made,) = folder.glob("*.tar.gz")
    return made


def wheel(python: Path, source: Path, folder: Path) -> Path:
    """The wheel of a tree or sdist, as `pip install` makes it."""
    pip = environment(python, folder / "pip")
    run(pip, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (made,) = folder.glob("*.whl")
    return made


def compiled() -> list[str]:
    """The names of the modules that a wheel has compiled: those of setup.py, and the ones in C."""
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED"
    )
    in_c = [one.relative_to(ROOT) for part in ("proxy", "analyzers") for one in (ROOT / part).rglob("*.c")]
    sources = [*map(Path, names), *in_c]
    return [".".join(("pgtattle", *source.with_suffix("").parts)) for source in sources]


def with_tools(made: Path, folder: Path) -> Path:
    """An environment with the wheel, and with what this one has but the project itself: its tools and dependencies.

    A .pth file in a folder that a .pth file names is not read, so that the editable installation stays out.
    """
    python = environment(Path(sys.executable), folder)
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", made)
    place = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (place / "tools.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    ask = "import pgtattle.proxy.session as module; print(module.__file__)"
    file = run(python, "-c", ask, folder=ROOT).strip()
    if not file.startswith(str(place)) or file.endswith(".py"):
        raise RuntimeError(f"{file} is not what the wheel has compiled")
    return python


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        with_tools(wheel(Path(sys.executable), tree(Path(name, "tree")), Path(name)), Path(sys.argv[1]).absolute())
