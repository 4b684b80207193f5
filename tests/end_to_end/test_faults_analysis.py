"""The analysis dies, stands still, has no disk or no steady clock: the traffic does not notice, and the counts hold."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgtattle.proxy.schema import ExecutionPage
from tests.conftest import Database, Serve
from tests.end_to_end.pgbench import Pgbench
from tests.end_to_end.watching import Load, Log, answers, await_count, metric, report
from tests.end_to_end.wire import Client, kinds, query
from tests.waiting import PATIENCE, wait_for

FULL = Path("/dev/full")


def test_killing_the_profiler_under_load_hurts_no_client_and_loses_no_count(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    load = Load(served.database)
    with load.running():
        load.goes_on()
        wait_for(lambda: metric(served, "pgtattle_bytes_total") > 0)
        bytes_before = metric(served, "pgtattle_bytes_total")
        os.kill(int(served.addresses["profiler_pid"]), signal.SIGKILL)
        wait_for(lambda: answers(served))
        load.goes_on()
    assert not load.errors
    found = served.report().session
    assert found.restarts == 1
    assert (found.connections, found.connections_total) == (0, 3)
    assert metric(served, "pgtattle_bytes_total") > bytes_before > 0
    assert metric(served, "pgtattle_profiler_restarts_total") == 1
    # Each is counted once: looked at, shed while nobody looked, or lost with the one that was killed.
    assert found.executions + found.shed + found.lost == load.executions
    assert found.lost + found.shed > 0


def test_a_profiler_that_stands_still_under_full_load_is_shed_and_recovers(trusting: Database, serve: Serve) -> None:
    served = serve(trusting)
    profiler = int(served.addresses["profiler_pid"])
    with psycopg.connect(trusting.dsn, autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE answers")

        def answered(many: int) -> bool:
            row = connection.execute("SELECT last_value FROM answers").fetchone()
            return row is not None and row[0] > many

        # Long statements fill the queue soon: of 16 MiB, and the socket's.
        with Pgbench(served.database, f"SELECT length('{'x' * 5000}'), nextval('answers');", times=4_000) as bench:
            wait_for(lambda: answered(1_000), "some traffic")
            os.kill(profiler, signal.SIGSTOP)
            wait_for(lambda: answered(8_000), "traffic while nobody looks at it")
            os.kill(profiler, signal.SIGCONT)
            bench.end(0)
        connection.execute("DROP SEQUENCE answers")
    await_count(served, bench.transactions)
    found = report(served).session
    assert found.shed > 0
    assert found.executions > 0
    assert (found.lost, found.restarts, found.opaque_connections) == (0, 0, 0)
    with Client(served.database) as client:
        client.login()
        client.ask(query("SELECT 1"))
    await_count(served, bench.transactions + 1)
    assert report(served).session.executions == found.executions + 1


needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@needs_full
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_under_the_log_is_no_matter(trusting: Database, serve: Serve, form: str) -> None:
    with FULL.open("w") as full:
        served = serve(trusting, "--log-format", form, stderr=full)
        for _ in range(20):
            with Client(served.database) as client:
                client.login()
                assert kinds(client.ask(query("SELECT 1"))) == b"TDCZ"
        await_count(served, 20)
        assert served.stop() == 0


@needs_full
@pytest.mark.parametrize(("command", "code"), [("print('done')", 4), ("raise SystemExit(7)", 7)])
def test_a_report_on_a_full_disk_is_said_and_the_others_are_written(
    trusting: Database, tmp_path: Path, command: str, code: int
) -> None:
    (tmp_path / "full.json").symlink_to(FULL)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pgtattle.proxy.cli", "run", "--upstream", trusting.dsn),
            *("--report", "json=full.json", "--report", "text=report.txt", "--", sys.executable, "-c", command),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code
    assert "--report json=full.json: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "report.txt").read_text()


STEPPING_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && access(getenv("CLOCK_STEPS_WITH"), F_OK) == 0) now->tv_sec -= 3600;
    return result;
}
"""


def test_a_clock_that_steps_back_changes_no_duration(
    trusting: Database,
    serve: Serve,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: Log,
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    (tmp_path / "clock.c").write_text(STEPPING_CLOCK)
    library, step = tmp_path / "clock.so", tmp_path / "step"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    monkeypatch.setenv("CLOCK_STEPS_WITH", str(step))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    served = serve(trusting, "--log-format", "json")
    monkeypatch.delenv("LD_PRELOAD")
    with Client(served.database) as client:
        client.login()
        for number in range(6):
            client.send(query("SELECT pg_sleep(0.2)"))
            if number == 3:
                # In the middle of it, or not far from there.
                time.sleep(0.1)
                step.touch()
            client.until(b"Z")
    await_count(served, 6)
    page = msgspec.json.decode(served.get("/api/v1/executions").content, type=ExecutionPage)
    # An hour is what it stepped by.
    assert [200 <= one.duration_ms < 600_000 for one in page.items] == [True] * 6
    assert all(earlier.at < later.at for earlier, later in pairwise(page.items))
    assert 1.2 <= metric(served, "pgtattle_query_duration_seconds_sum") < 600
    assert 1.2 <= report(served).session.seconds < 600
    served.stop()
    lines = log.lines()
    first, last = lines[0]["timestamp"], lines[-1]["timestamp"]
    assert last < first, "the clock did not step"
    assert lines[-1]["seconds"] >= 1.2
