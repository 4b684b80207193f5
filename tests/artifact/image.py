"""Build docker/Dockerfile with buildah, run its command before a real server, and write down what it did.

    python -m tests.artifact.image [--base debootstrap] [--page FILE]

As root on Linux, with buildah. The base images are pulled; where no registry can be reached, or with `--base
debootstrap`, they are made once of Debian 13, whose Python is 3.13, from the mirror that apt uses (debootstrap, ten
minutes). pip in the build reaches its index as it does here. The container runs in a network of its own, so that its
ports are free.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from pgtattle.proxy.demo.cluster import Cluster

ROOT = Path(__file__).parents[2]
BASES = ("docker.io/library/python:3.13", "docker.io/library/python:3.13-slim")
IMAGE = "localhost/pgtattle:tried"
PULL_SECONDS = "600"
WAIT_SECONDS = 120.0
PACKAGES = "python3,python3-venv,python3-dev,gcc,libc6-dev,ca-certificates"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
HEAD = """# The image, built and run

What `make image` printed last; it takes docker/Dockerfile as it stands.

```
{lines}
```
"""


class Page:
    """What is said, on stdout and to be kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)


def run(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"[-4000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{said}")
    return done.stdout


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError("it did not come true in time")
        time.sleep(0.1)
    return found


def bases(how: str) -> str:
    """Have the base images in buildah's storage, and say where they come from."""
    if how == "pull" and all(succeeds("buildah", "inspect", "--type", "image", one) for one in BASES):
        return "at hand"
    if how == "pull" and all(succeeds("timeout", PULL_SECONDS, "buildah", "pull", one) for one in BASES):
        return "pulled"
    with tempfile.TemporaryDirectory() as folder:
        debootstrap(Path(folder, "root"))
    return "made by debootstrap"


def debootstrap(root: Path) -> None:
    """Debian 13 with its Python, as the base image. The mirror is apt's own."""
    indexes = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    mirror = next(one for one in indexes if "security" not in one)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", root, mirror)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", "--quiet", container, root, "/")
    run("buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
    for name in BASES:
        run("buildah", "commit", "--quiet", container, name)
    run("buildah", "rm", container)


def pip_configuration(folder: Path) -> Path:
    """A pip.conf with what reaches the index here."""
    written = configparser.ConfigParser()
    written["global"] = {"cert": AUTHORITIES} if Path(AUTHORITIES).exists() else {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in PIP_OPTIONS:
            written["global"][option] = value.strip("'\"").replace("%", "%%")
    path = folder / "pip.conf"
    with path.open("w") as file:
        written.write(file)
    return path


def build(folder: Path) -> None:
    volumes = [f"{pip_configuration(folder)}:/etc/pip.conf:ro"]
    if Path(AUTHORITIES).exists():
        volumes.append(f"{AUTHORITIES}:{AUTHORITIES}:ro")
    # With `docker`, the format keeps the health check.
    run(
        *("buildah", "bud", "--isolation", "chroot", "--network", "host", "--format", "docker"),
        *(word for volume in volumes for word in ("--volume", volume)),
        *("--file", ROOT / "docker" / "Dockerfile", "--tag", IMAGE, ROOT),
    )


@contextmanager
def container() -> Iterator[tuple[str, dict[str, Any]]]:
    """A container of the image, and the image's configuration."""
    config = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    name = run("buildah", "from", IMAGE).strip()
    try:
        yield name, config
    finally:
        run("buildah", "rm", name)


def inside(name: str, *options: str) -> list[str]:
    return ["buildah", "run", "--isolation", "chroot", "--network", "host", *options, name, "--"]


def relay(parent: int) -> int:
    """The pid of the container's command, which is below `parent`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            interpreter, program, *words = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        python = b"python" in interpreter and program.endswith(b"/pgtattle")
        if python and words[0] == b"serve" and _below(int(entry.name), parent):
            return int(entry.name)
    raise RuntimeError("the container's command is not running")


def _below(pid: int, parent: int) -> bool:
    while pid > 1:
        if pid == parent:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def try_it(page: Page) -> None:
    """Run the container's command before a server, and read, ask and end it."""
    run("ip", "link", "set", "lo", "up")
    with Cluster(18) as cluster, container() as (name, config):
        command = [*config["Entrypoint"], *config["Cmd"]]
        page.say(f"user {config['User']}: {' '.join(command)}")
        process = subprocess.Popen(
            [*inside(name, "--env", f"PGTATTLE_UPSTREAM={cluster.dsn()}"), *command],
            stderr=subprocess.PIPE,
            text=True,
        )
        health = config["Healthcheck"]["Test"][1:]
        wait_for(lambda: process.poll() is not None or succeeds(*inside(name), *health))
        if process.poll() is not None:
            raise RuntimeError(process.communicate()[1])
        page.say(f"health check {' '.join(health)}: exit code 0")
        through = cluster.dsn().replace(f":{cluster.port}/", ":7432/")
        with psycopg.connect(through, autocommit=True) as connection:
            for number in range(100):
                connection.execute("SELECT %s::int", [number])

        def counted() -> str:
            lines = read("/metrics").splitlines()
            found = [one for one in lines if one.startswith('pgtattle_queries_total{command="SELECT"')]
            return found[0] if found and found[0].endswith(" 100.0") else ""

        page.say(f"/metrics: {wait_for(counted)}")
        page.say(f"/readyz: {read('/readyz').strip()}")
        modules = "import sys, pgtattle.proxy.session as one; print(*sys.version_info[:3], one.__file__.split('/')[-1])"
        page.say(f"Python and a compiled module: {run(*inside(name), 'python', '-c', modules).strip()}")
        drain(page, process, through)


def read(path: str) -> str:
    return httpx.get(f"http://127.0.0.1:9464{path}", timeout=30).text


def drain(page: Page, process: subprocess.Popen[str], through: str) -> None:
    """SIGTERM while a query runs: it ends, and nobody is let in any more."""
    answers: list[Any] = []

    def sleep() -> None:
        with psycopg.connect(through, autocommit=True) as connection:
            began.set()
            answers.append(connection.execute("SELECT pg_sleep(3), 'slept'").fetchone())

    began = threading.Event()
    sleeping = threading.Thread(target=sleep)
    sleeping.start()
    began.wait(WAIT_SECONDS)
    with psycopg.connect(through, autocommit=True) as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_for(lambda: connection.execute(asked).fetchone() == (1,))
    os.kill(relay(process.pid), signal.SIGTERM)
    page.say("SIGTERM while SELECT pg_sleep(3) runs")
    sleeping.join(WAIT_SECONDS)
    _, said = process.communicate(timeout=WAIT_SECONDS)
    page.say(f"the query answered {answers[0][1]!r}; exit code {process.returncode}")
    if process.returncode or "Traceback" in said:
        raise RuntimeError(said)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.artifact.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=("pull", "debootstrap"), default="pull", help="default: %(default)s")
    parser.add_argument("--page", type=Path, help="write what was said to this file")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    page = Page()
    if options.apart:
        try_it(page)
        return 0
    with tempfile.TemporaryDirectory(prefix="pgtattle-image-") as folder:
        page.say(f"base images: {bases(options.base)}; {run('buildah', '--version').strip()}, {platform.machine()}")
        began = time.monotonic()
        build(Path(folder))
        page.say(f"docker/Dockerfile built in {time.monotonic() - began:.0f} s")
        apart = run("unshare", "--net", sys.executable, "-m", "tests.artifact.image", "--apart", folder=ROOT)
        page.say(apart.rstrip())
    if options.page is not None:
        options.page.write_text(HEAD.format(lines="\n".join(page.lines)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
