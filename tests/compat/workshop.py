"""What the suites are made of: unpacked sdists, virtual environments and sources at hand, kept in a cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Unavailable(Exception):
    """A suite cannot run here; the message says what to do."""


@dataclass(frozen=True)
class Workshop:
    """`sources` holds, by suite, a folder that the user has; the rest is had with pip, as it is configured."""

    cache: Path
    sources: Mapping[str, Path]

    def sdist(self, package: str, version: str) -> Path:
        """The unpacked folder of a release's sdist."""
        folder = self.cache / "sources" / f"{package}-{version}"
        if not folder.exists():
            downloads = self.cache / "downloads" / f"{package}-{version}"
            downloads.mkdir(parents=True, exist_ok=True)
            _run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package),
                    *("--dest", str(downloads), f"{package}=={version}"),
                ]
            )
            unpacked = downloads / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            unpacked.mkdir()
            _run(["tar", "-xzf", str(next(downloads.glob("*.tar.gz"))), "-C", str(unpacked)])
            folder.parent.mkdir(parents=True, exist_ok=True)
            next(unpacked.iterdir()).rename(folder)
        return folder

    def source(self, suite: str) -> Path:
        """The folder that the user named for this suite."""
        try:
            return self.sources[suite].resolve(strict=True)
        except KeyError:
            raise Unavailable(f"its tests are in no package; check them out and add --source {suite}=FOLDER") from None
        except FileNotFoundError as error:
            raise Unavailable(f"no such folder: {error.filename}") from None

    def python(self, suite: str, requirements: Sequence[str]) -> Path:
        """The interpreter of a virtual environment with these requirements."""
        digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
        folder = self.cache / "environments" / f"{suite}-{digest}"
        python = folder / "bin" / "python"
        done = folder / "complete"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
            done.touch()
        return python


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise Unavailable(f"{' '.join(command[1:5])} … failed: {done.stdout.strip()[-800:]}")
