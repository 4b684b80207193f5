"""Draws the README's screenshot from the real program: `python docs/screenshot.py docs/tui.svg`, or `make screenshot`.

The demo's parts are started one by one, because the demo keeps its API on a private socket.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pgtattle.proxy.demo import bookshop
from pgtattle.proxy.demo.cluster import Cluster

SECONDS = 15


def main(output: str) -> int:
    """Write the picture and give the exit code of what drew it."""
    python = [sys.executable, "-m"]
    with Cluster(18, authentication="scram-sha-256", password="bookshop") as cluster:
        bookshop.fill(cluster.dsn())
        serve = subprocess.Popen(
            [
                *(
                    *python,
                    "pgtattle.proxy.cli",
                    "serve",
                    "--upstream",
                    cluster.dsn(password=False),
                    "--values",
                    "full",
                ),
                *("--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--print-addresses"),
            ],
            env={**os.environ, "PGPASSWORD": cluster.password},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert serve.stdout is not None
            addresses = json.loads(serve.stdout.readline())
            through = f"postgresql://{cluster.user}:{cluster.password}@{addresses['listen']}/postgres"
            application = subprocess.Popen(
                [*python, "pgtattle.proxy.demo.application", through, "--seconds", str(SECONDS)]
            )
            try:
                return subprocess.call(
                    [*python, "pgtattle.tui.screenshot", f"http://{addresses['api']}", "-o", output], timeout=60
                )
            finally:
                application.terminate()
                application.wait()
        finally:
            serve.terminate()
            serve.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
