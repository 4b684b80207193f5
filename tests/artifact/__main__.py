"""Build what people install, install it as they do, and try it.

    python -m tests.artifact [--only VERSION]… [PYTEST ARGUMENT]…

sdist and wheels are built in isolation, and installed with [demo] in environments outside the checkout, for every
Python from 3.11 on that is at hand. `smoke.py` tries each, and one that is built from the sdist by the Python that runs
this; over the wheel of that Python the profiler's tests run, too. Exit code 1 when something fails.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.artifact import build

SMOKE = Path(__file__).with_name("smoke.py")
PARTS = ("tests/proxy", "tests/analyzers")
AT_ONCE = 2


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    print(f"{what} …", flush=True)
    began = time.monotonic()
    yield
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


def smoke(python: Path, made: Path, folder: Path) -> None:
    """Install a wheel as a user does, and try it from elsewhere."""
    own = build.environment(python, folder / "environment", f"{made}[demo]")
    place = folder / "elsewhere"
    place.mkdir()
    subprocess.run([own, "-P", SMOKE, *build.compiled()], cwd=place, check=True)


def contents(made: Path) -> set[str]:
    with zipfile.ZipFile(made) as archive:
        return {one.filename for one in archive.infolist() if ".dist-info/" not in one.filename}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.artifact", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="VERSION", help="such as 3.12; may be repeated")
    options, arguments = parser.parse_known_args()
    pythons = build.pythons()
    own = next(iter(pythons))
    chosen = [version for version in pythons if version in (options.only or pythons)]
    with tempfile.TemporaryDirectory(prefix="pgtattle-artifact-") as name:
        base = Path(name)
        base.chmod(0o755)
        with step(f"building for Python {', '.join(chosen)}, and from the sdist"):
            # setuptools builds in the tree: each has its own.
            sources = {version: build.tree(base / version / "tree") for version in chosen}
            sources[f"{own} sdist"] = build.sdist(build.tree(base / "tree"), base)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                made = {
                    what: pool.submit(build.wheel, pythons[what.split()[0]], source, base / what)
                    for what, source in sources.items()
                }
            wheels = {what: one.result() for what, one in made.items()}
        if own in wheels:
            assert contents(wheels[own]) == contents(wheels[f"{own} sdist"]), (
                "the sdist does not hold what the tree has"
            )
        for what, wheel in wheels.items():
            with step(f"trying the wheel of Python {what}"):
                smoke(pythons[what.split()[0]], wheel, base / f"{what} tried")
        if own in wheels:
            with step("the profiler's tests over the wheel"):
                python = build.with_tools(wheels[own], base / "tools")
                words = arguments or list(PARTS)
                return subprocess.run([python, "-m", "pytest", "-q", *words], cwd=build.ROOT, check=False).returncode
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, subprocess.CalledProcessError, AssertionError) as error:
        sys.exit(str(error))
