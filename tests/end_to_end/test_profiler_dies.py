"""A profiler that cannot run: said at once and everywhere, with its last words, while the traffic goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import answers, wait_for

NOTHING = "traffic goes on, nothing is analyzed"

AT_IMPORT = "os.kill(os.getpid(), signal.SIGSEGV)"
AT_START = """
import pgtattle.proxy.api
def broken(**_): raise LookupError("no application today")
pgtattle.proxy.api.application = broken
"""
AT_FIRST_BATCH = """
import pgtattle.proxy.pipeline as pipeline
class Broken:
    def __init__(self, *arguments): self._whole = whole(*arguments)
    def __getattr__(self, name): return getattr(self._whole, name)
    def take(self, *batch): raise ArithmeticError("cannot count these")
whole, pipeline.Pipeline = pipeline.Pipeline, Broken
"""
CRASHES = {
    "import": (AT_IMPORT, "signal SIGSEGV", "Fatal Python error: Segmentation fault"),
    "start": (AT_START, "exit code 1", "LookupError: no application today"),
    "first batch": (AT_FIRST_BATCH, "exit code 1", "ArithmeticError: cannot count these"),
}


def breaking(folder: Path, crash: str) -> dict[str, str]:
    """The environment in which a profiler, and nothing else, dies so; without the file `broken` it lives."""
    (folder / "sabotage").mkdir()
    (folder / "broken").touch()
    lines = "\n".join(f"    {line}" for line in crash.strip().splitlines())
    (folder / "sabotage" / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"if 'pgtattle.proxy.profiler' in sys.orig_argv and os.path.exists({str(folder / 'broken')!r}):\n{lines}\n"
    )
    return {**os.environ, "PYTHONPATH": str(folder / "sabotage")}


def ask(database: Database) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        assert connection.execute("SELECT 41 + 1").fetchone() == (42,)


def problem(answer: httpx.Response) -> str:
    """The message of a 503 in the API's error shape."""
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"code", "message", "details"}
    assert error["code"] in ("no_profiler", "not_ready")
    return str(error["message"])


def metrics(served: Served, path: str) -> httpx.Response:
    return httpx.get(f"http://{served.addresses['metrics']}{path}", timeout=10)


def seldom(*slow: str) -> list[Any]:
    """Every crash; these ones in the slow tier only."""
    return [pytest.param(when, marks=pytest.mark.slow if when in slow else ()) for when in CRASHES]


@pytest.mark.parametrize("when", seldom("import", "start"))
def test_a_sidecar_says_it_once_and_forwards(
    when: str, database: Database, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash, ending, words = CRASHES[when]
    monkeypatch.setenv("PYTHONPATH", breaking(tmp_path, crash)["PYTHONPATH"])
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        served = serve(database, "--log-format", "json", "--metrics", "127.0.0.1:0", stderr=stderr)

    def said() -> list[str]:
        # The last line may not be whole yet.
        whole = log.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [one["message"] for one in lines if one["level"] == "error"]

    def asked_and_said() -> bool:
        ask(served.database)
        return bool(said())

    wait_for(asked_and_said, 60)
    (line,) = said()
    assert ending in line
    assert words in line
    assert NOTHING in line
    # What it wrote is in the log as it wrote it, too.
    assert words in [one.strip() for one in log.read_text().splitlines()]
    ask(served.database)
    wait_for(lambda: served.get("/api/v1/session").status_code == 503)
    assert words in problem(served.get("/readyz"))
    assert NOTHING in problem(served.get("/api/v1/findings"))
    # This socket may be open to others.
    wait_for(lambda: NOTHING in problem(metrics(served, "/readyz")))
    assert words not in metrics(served, "/readyz").text
    assert (metrics(served, "/livez").status_code, served.get("/livez").status_code) == (200, 200)
    (tmp_path / "broken").unlink()
    wait_for(lambda: served.get("/readyz").status_code == 200, 90)
    assert "a profiler runs again" in log.read_text()
    assert len(said()) == 1
    assert served.stop() == 0


def test_a_profiler_that_hangs_is_stood_in_for(database: Database, serve: Serve, tmp_path: Path) -> None:
    """Whoever looks whether the relay lives must not end it for its analysis' sake."""
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        served = serve(database, stderr=stderr)
    profiler = int(served.addresses["profiler_pid"])
    os.kill(profiler, signal.SIGSTOP)
    try:
        wait_for(lambda: "the profiler does not answer" in log.read_text())
        ask(served.database)
        # Requests from before may wait in its backlog; these are answered by the relay.
        assert served.get("/livez").status_code == 200
        assert "has not answered for" in problem(served.get("/readyz"))
    finally:
        os.kill(profiler, signal.SIGCONT)
    wait_for(lambda: "the profiler answers again" in log.read_text())
    assert served.report().session.executions == 1
    assert served.stop() == 0


@pytest.mark.parametrize("when", [pytest.param("import", marks=pytest.mark.slow), "start"])
def test_run_does_not_begin_without_a_profiler(when: str, database: Database, tmp_path: Path) -> None:
    crash, ending, words = CRASHES[when]
    done = run(database, tmp_path, crash, "open('began', 'w')")
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / "began").exists()
    summary = done.stderr.splitlines()[-1]
    assert summary.startswith("pgtattle: ")
    assert all(one in summary for one in (ending, words, NOTHING))


@pytest.mark.parametrize(("code", "command"), [(4, "0"), pytest.param(9, "9", marks=pytest.mark.slow)])
def test_run_ends_with_its_command_when_the_profiler_dies_of_the_traffic(
    database: Database, tmp_path: Path, code: int, command: str
) -> None:
    crash, ending, words = CRASHES["first batch"]
    # It asks until the profiler was given up, which the relay says on the stderr that both share.
    script = f"""
import os, psycopg, time
with psycopg.connect("", autocommit=True) as connection:
    for turn in range(3000):
        connection.execute("SELECT 1")
        time.sleep(0.02)
        if {NOTHING!r} in open("stderr").read(): break
raise SystemExit({command})
"""
    done = run(database, tmp_path, crash, script)
    assert done.returncode == code, done.stderr
    summary = done.stderr.splitlines()[-1]
    assert summary.startswith("pgtattle: there is no report: ")
    assert all(one in summary for one in (ending, words, NOTHING))


def run(database: Database, folder: Path, crash: str, script: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", database.dsn_without_password]
    environment = {**breaking(folder, crash), "PGPASSWORD": database.password}
    with (folder / "stderr").open("wb") as stderr:
        done = subprocess.run(
            [*words, "--", sys.executable, "-c", script], cwd=folder, env=environment, stderr=stderr, check=False
        )
    return subprocess.CompletedProcess(done.args, done.returncode, "", (folder / "stderr").read_text())


@pytest.mark.parametrize("when", seldom("start", "first batch"))
def test_the_demo_ends_at_once(when: str, tmp_path: Path) -> None:
    crash, ending, words = CRASHES[when]
    command = [sys.executable, "-m", "pgtattle.proxy.cli", "demo", "--headless", "--seconds", "600"]
    done = subprocess.run(
        command, cwd=tmp_path, env=breaking(tmp_path, crash), capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    summary = done.stderr.splitlines()[-1]
    assert summary.startswith("pgtattle: ")
    assert all(one in summary for one in (ending, words, NOTHING))


def test_one_death_is_no_failure(database: Database, serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        served = serve(database, stderr=stderr)
    os.kill(served.addresses["profiler_pid"], signal.SIGKILL)  # type: ignore[arg-type]
    wait_for(lambda: "signal SIGKILL" in log.read_text())
    wait_for(lambda: answers(served), 60)
    assert served.report().session.restarts == 1
    assert served.get("/readyz").status_code == 200
    assert NOTHING not in log.read_text()


def test_the_api_answers_at_once_while_no_profiler_runs(
    database: Database, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", breaking(tmp_path, AT_IMPORT)["PYTHONPATH"])
    served = serve(database, "--metrics", "127.0.0.1:0")
    host, port = served.addresses["api"].rsplit(":", 1)
    # Those who say nothing, or too much, hold nobody up.
    silent = [socket.create_connection((host, int(port)), 30) for _ in range(100)]
    with socket.create_connection((host, int(port)), 30) as big:
        big.sendall(b"POST /api/v1/scopes HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert big.recv(100).startswith(b"HTTP/1.1 503 ")
    for where in (served.addresses["api"], served.addresses["metrics"]):
        for path in ("/metrics", "/readyz", "/api/v1/session?x=1"):
            answer = httpx.get(f"http://{where}{path}", timeout=30)
            problem(answer)
            assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"http://{where}/livez", timeout=30).text == "ok\n"
        head = httpx.head(f"http://{where}/readyz", timeout=30)
        assert (head.status_code, head.content) == (503, b"")
        posted = httpx.post(f"http://{where}/api/v1/scopes", content=b"x" * 100_000, timeout=30)
        assert posted.status_code == 503
    for one in silent:
        assert one.recv(100) == b""
        one.close()
    (tmp_path / "broken").unlink()
    wait_for(lambda: served.get("/api/v1/session").status_code == 200, 60)


def test_nobody_is_left_unanswered_while_profilers_come_and_go(
    database: Database, serve: Serve, tmp_path: Path
) -> None:
    served = serve(database)
    statuses = set()
    for _ in range(3):
        before = served.get("/api/v1/session").json()["restarts"] if answers(served) else 0
        (pid,) = re.findall(r"^\d+", profilers(served.addresses["pid"]), re.MULTILINE)  # type: ignore[arg-type]
        os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = served.get("/api/v1/session")
            except httpx.TransportError:
                # Accepted by the one that was killed.
                continue
            statuses.add(answer.status_code)
            if answer.status_code == 200 and answer.json()["restarts"] > before:
                break
            assert time.monotonic() < deadline
    assert statuses <= {200, 503}


def profilers(relay: int) -> str:
    """The pids of a relay's children."""
    return Path(f"/proc/{relay}/task/{relay}/children").read_text().replace(" ", "\n")
