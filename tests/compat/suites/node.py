"""The integration tests of node-postgres, each file a process of its own, as its Makefile runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.compat.outcomes import Outcomes
from tests.compat.server import Server
from tests.compat.suites.suite import run_logged
from tests.compat.workshop import Unavailable, Workshop

TESTED_WITH: Final = ("async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0")
FILE_SECONDS: Final = 90


@dataclass
class NodeSuite:
    """`npm` gets the packages that the tests need, of the versions that the sources name."""

    name: str = "node-postgres"

    _package: Path = field(default=Path(), init=False)

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        if shutil.which("npm") is None:
            raise Unavailable("npm is not installed")
        source = workshop.source(self.name) / "packages" / "pg"
        package = json.loads((source / "package.json").read_text())
        version: str = package["version"]
        self._package = workshop.cache / "sources" / f"node-postgres-{version}"
        if not (self._package / "complete").exists():
            shutil.rmtree(self._package, ignore_errors=True)
            shutil.copytree(source, self._package)
            # Of the packages for development, its tests want only a few; npm would also leave those out.
            del package["devDependencies"]
            (self._package / "package.json").write_text(json.dumps(package))
            install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--omit=peer"]
            done = subprocess.run([*install, *TESTED_WITH], cwd=self._package, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"npm failed: {done.stderr.strip()[-800:]}")
            (self._package / "complete").touch()
        return version

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        outcomes: Outcomes = {}
        for path in sorted((self._package / "test" / "integration").rglob("*-tests.js")):
            file = str(path.relative_to(self._package / "test" / "integration"))
            if only and not any(name.split("::")[0] == file for name in only):
                continue
            log = folder / (file.replace("/", "_") + ".txt")
            code = run_logged(
                ["node", str(path)],
                cwd=self._package,
                environment={**server.environment(), "PGTESTNOSSL": "1"},
                log=log,
                seconds=FILE_SECONDS,
            )
            outcomes[file] = "passed" if code == 0 else f"failed {code}"
            # A file's suites print the name of a test, and a sign when it passed; a failure ends the file.
            for name in re.findall(r"^  (\S.*) ✔$", log.read_text(errors="replace"), flags=re.MULTILINE):
                outcomes[f"{file}::{name}"] = "passed"
        return {name: outcome for name, outcome in outcomes.items() if not only or name in only}


SUITE: Final = NodeSuite()
