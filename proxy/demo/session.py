"""`pgtattle demo`: starts everything, shows it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pgtattle.proxy import announce, commands, dsn, log
from pgtattle.proxy.demo import bookshop
from pgtattle.proxy.demo.cluster import Cluster, signals_later
from pgtattle.proxy.errors import AnalysisIncomplete, PgtattleError
from pgtattle.proxy.schema import Report
from pgtattle.proxy.server import Proxy
from pgtattle.proxy.settings import Address, Settings

HEADLESS_SECONDS: Final = 10.0
ENDLESS_SECONDS: Final = 24 * 3600.0


def demo(
    run: Callable[[Callable[[], Coroutine[Any, Any, int]]], int],
    *,
    headless: bool,
    seconds: float | None,
    outputs: Sequence[commands.Output],
) -> int:
    """Run the demo and give its exit code; `run` runs a coroutine."""
    commands.check_outputs(outputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_leaving_on_signals())
        folder = stack.enter_context(commands.private_folder())
        with _step("starting PostgreSQL 18"):
            cluster = stack.enter_context(Cluster(18, authentication="scram-sha-256", password="bookshop"))
        with _step("filling the bookshop"):
            rows = bookshop.fill(cluster.dsn())
        commands.say(f"  {rows:,} rows at {cluster.dsn(password=False)}")
        settings = Settings(
            upstream=dsn.upstream(cluster.dsn(), {}),
            listen=(Address("127.0.0.1", 0),),
            api=commands.private_api(folder),
            values="full",
            drain_seconds=1.0,
            log_file=str(folder / "pgtattle.log"),
        )
        if headless:
            return run(lambda: _headless(settings, cluster, seconds or HEADLESS_SECONDS, outputs))
        return run(lambda: _dashboard(settings, cluster, seconds, outputs, folder))


async def _headless(settings: Settings, cluster: Cluster, seconds: float, outputs: Sequence[commands.Output]) -> int:
    from pgtattle.analyzers.reports import FORMATS

    async with _proxied(settings) as (proxy, listen, _):
        step = _step(f"the application works for {seconds:g} seconds through {listen}")
        with step, _application(cluster, listen, seconds) as process:
            code = await _unless_it_fails(proxy, asyncio.to_thread(process.wait))
        if code:
            raise PgtattleError(f"the sample application failed with {code}")
        with _step("finishing the analysis"):
            report = await proxy.finish()
    if report is None:
        raise AnalysisIncomplete(f"there is no report: {proxy.why_no_report}")
    commands.write(outputs, report)
    if not any(output.path == "-" for output in outputs):
        print(FORMATS["text"](report))
    return 0


async def _dashboard(
    settings: Settings, cluster: Cluster, seconds: float | None, outputs: Sequence[commands.Output], folder: Path
) -> int:
    report: Report | None = None
    async with _proxied(settings) as (proxy, listen, api):
        with _application(cluster, listen, seconds or ENDLESS_SECONDS) as process:
            code = await _unless_it_fails(proxy, commands.dashboard(api, seconds))
            process.terminate()
        if outputs:
            report = await proxy.finish()
    if report is not None:
        commands.write(outputs, report)
    return code


@contextlib.asynccontextmanager
async def _proxied(settings: Settings) -> Any:
    log.configure(settings.log_format, settings.log_file)
    proxy = Proxy(settings)
    try:
        with _step("starting the proxy and the profiler"):
            addresses = await proxy.start()
        if proxy.failure:
            raise AnalysisIncomplete(proxy.failure)
        await announce.announce(proxy, addresses)
        yield proxy, addresses.listen, addresses.api
    finally:
        await proxy.stop()


async def _unless_it_fails(proxy: Proxy, work: Coroutine[Any, Any, int]) -> int:
    """The result of `work`. Raises AnalysisIncomplete at once when nothing can be analyzed any more."""
    working, failing = asyncio.create_task(work), asyncio.create_task(proxy.failed())
    try:
        await asyncio.wait({working, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise AnalysisIncomplete(failing.result())
        return working.result()
    finally:
        for task in (working, failing):
            task.cancel()
        await asyncio.wait({working, failing})


@contextlib.contextmanager
def _application(cluster: Cluster, listen: str, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    address = f"postgresql://{cluster.user}:{cluster.password}@{listen}/postgres"
    command = [sys.executable, "-m", "pgtattle.proxy.demo.application", address, "--seconds", str(seconds)]
    process: subprocess.Popen[bytes] | None = None
    try:
        with signals_later():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        yield process
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    """Narrate a step and how long it took."""
    began = time.monotonic()
    print(f"  {what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f" {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _leaving_on_signals() -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and SIGHUP leave through the context managers, with a shell's exit code."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
