"""What `serve`, `run` and `watch` do, from settings to an exit code. stdout is data, stderr is narration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from pgtattle.proxy import log
from pgtattle.proxy.environment import child_environment, is_url
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.gate import FailOn, judge, marked, read_baseline, write_baseline
from pgtattle.proxy.schema import Report
from pgtattle.proxy.server import Proxy
from pgtattle.proxy.settings import Address, Settings

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
INCOMPLETE: Final = 4
LONGEST_FOLDER: Final = 70


class Output(Struct, frozen=True):
    """A report to write: the format's name, and a path or `-` for stdout."""

    format: str
    path: str


class Gate(Struct, frozen=True, kw_only=True):
    """What decides the exit code of `run`."""

    fail_on: FailOn = "high"
    baseline: str = ""
    update: bool = False


def say(text: str) -> None:
    """Narrate on stderr."""
    print(text, file=sys.stderr, flush=True)


async def serve(settings: Settings, print_addresses: bool) -> int:
    """The sidecar: until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    log.configure(settings.log_format, settings.log_file)
    async with _proxy(settings) as proxy:
        stop, again = asyncio.Event(), asyncio.Event()
        _on_signals((signal.SIGINT, signal.SIGTERM), lambda number: again.set() if stop.is_set() else stop.set())
        _on_signals((signal.SIGHUP,), lambda number: proxy.reload())
        addresses = await proxy.start()
        if print_addresses:
            print(msgspec.json.encode(addresses).decode(), flush=True)
        await stop.wait()
        drain = asyncio.create_task(proxy.drain())
        await asyncio.wait({drain, asyncio.create_task(again.wait())}, return_when=asyncio.FIRST_COMPLETED)
    return 0


async def run(
    settings: Settings, command: Sequence[str], outputs: Sequence[Output], gate: Gate, set_env: Sequence[str]
) -> int:
    """Profile a command: its PostgreSQL is the proxy. Raises UpstreamUnreachable before it starts anything."""
    check_outputs(outputs)
    check_variables(set_env)
    baseline = read_baseline(Path(gate.baseline)) if gate.baseline and not gate.update else {}
    log.configure(settings.log_format, settings.log_file, "warning")
    async with _proxy(settings) as proxy:
        await proxy.probe()
        addresses = await proxy.start()
        host, port = addresses.listen.rsplit(":", 1)
        environment = child_environment(os.environ, settings.upstream, host.strip("[]"), int(port), set_env)
        code = await _command(command, environment)
        if code in (NOT_FOUND, NOT_EXECUTABLE):
            return code
        report = await proxy.finish()
    if report is None:
        say("pgtattle: the analysis did not end: there is no report")
        return code or INCOMPLETE
    missing = 0
    try:
        write(outputs, marked(report, baseline))
    except UsageError as error:
        say(f"pgtattle: {error}")
        missing = INCOMPLETE
    judged = _judge(report, gate, baseline, failed=bool(code))
    return code or judged or missing


async def watch(settings: Settings) -> int:
    """The proxy with the dashboard before it, until the dashboard is left."""
    log.configure(settings.log_format, settings.log_file)
    async with _proxy(settings) as proxy:
        await proxy.probe()
        addresses = await proxy.start()
        return await dashboard(addresses.api)


async def dashboard(api: str, seconds: float | None = None) -> int:
    """Run the TUI as a child on this terminal, until it is left or for so many seconds; it gets the signals."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "pgtattle.tui", api)
    _on_signals((signal.SIGINT, signal.SIGTERM), lambda number: _signal(process, number))
    try:
        return exit_code(await asyncio.wait_for(process.wait(), seconds))
    except TimeoutError:
        _signal(process, signal.SIGTERM)
        await process.wait()
        return 0


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder of mode 0700 for sockets and logs."""
    # The path of a unix socket may have 107 bytes.
    short = len(os.fsencode(tempfile.gettempdir())) <= LONGEST_FOLDER
    with tempfile.TemporaryDirectory(prefix="pgtattle-", dir=None if short else "/tmp") as folder:
        yield Path(folder)


def private_api(folder: Path) -> Address:
    """The API's unix socket in a private folder."""
    return Address(path=str(folder / "api.sock"))


def check_outputs(outputs: Sequence[Output]) -> None:
    """Raise UsageError for a report that could not be written, before anything is run."""
    from pgtattle.analyzers.reports import FORMATS

    for output in outputs:
        if output.format not in FORMATS:
            raise UsageError(f"--report {output.format}=…: known formats are {', '.join(FORMATS)}")
        folder = Path(output.path).absolute().parent
        if output.path != "-" and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UsageError(f"--report {output.format}={output.path}: the folder {folder} cannot be written to")


def check_variables(names: Sequence[str]) -> None:
    """Raise UsageError for a variable that cannot be rewritten: the command would go past the proxy."""
    for name in names:
        if not is_url(os.environ.get(name, "")):
            what = "is no postgresql:// URL" if name in os.environ else "is not set"
            raise UsageError(f"--set-env {name}: {what} here; set it to the database's URL, as the command wants it")


def write(outputs: Sequence[Output], report: Report) -> None:
    """Write the reports. Raises UsageError, which names those that could not be written, after the others are."""
    from pgtattle.analyzers.reports import FORMATS

    failures = []
    for output in outputs:
        text = FORMATS[output.format](report)
        try:
            if output.path == "-":
                print(text, flush=True)
            else:
                Path(output.path).write_text(text, encoding="utf-8")
        except OSError as error:
            failures.append(f"--report {output.format}={output.path}: {error.strerror}")
    if failures:
        raise UsageError("; ".join(failures))


def exit_code(returned: int) -> int:
    """A process's exit code as a shell tells it: 128 + n for signal n."""
    return 128 - returned if returned < 0 else returned


def _judge(report: Report, gate: Gate, baseline: dict[str, str], *, failed: bool) -> int:
    """Say what was found, and give the exit code for it. What a command that `failed` did is no baseline."""
    if gate.update and gate.baseline and failed:
        say(f"pgtattle: {gate.baseline} is not updated: the command failed")
    elif gate.update and gate.baseline:
        write_baseline(Path(gate.baseline), report.findings)
        baseline = read_baseline(Path(gate.baseline))
        say(f"pgtattle: findings that {gate.baseline} excuses now: {len(baseline)}")
    verdict = judge(report.findings, gate.fail_on, baseline)
    session = report.session
    say(
        f"pgtattle: {session.executions:,} executions, {len(report.findings)} findings, "
        f"{len(verdict.failing)} of them new and {gate.fail_on} or graver"
        if gate.fail_on != "never"
        else f"pgtattle: {session.executions:,} executions, {len(report.findings)} findings"
    )
    if not session.executions:
        say(
            "pgtattle: nothing was asked through it. Does the command connect by DATABASE_URL or PGHOST and PGPORT?"
            " --set-env NAME rewrites the URL in another variable"
        )
    for finding in report.findings:
        mark = "excused" if finding in verdict.excused else finding.severity
        since = "" if finding.state == "open" else f" ({finding.state})"
        say(f"  {mark:8} {finding.rule}: {finding.title}{since}")
    for stale in verdict.stale:
        say(f"  stale    {stale} of {gate.baseline} was not seen: {baseline[stale]}")
    if session.shed or session.lost:
        say(f"pgtattle: not analyzed: {session.shed} executions shed, {session.lost} lost")
    if verdict.failing:
        return 1
    return INCOMPLETE if session.lost else 0


@contextlib.asynccontextmanager
async def _proxy(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(settings)
    try:
        yield proxy
    finally:
        await proxy.stop()


async def _command(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment)
    except FileNotFoundError:
        say(f"pgtattle: {command[0]}: command not found")
        return NOT_FOUND
    except (PermissionError, OSError) as error:
        say(f"pgtattle: {command[0]}: {error.strerror}")
        return NOT_EXECUTABLE
    _on_signals(FORWARDED, lambda number: None if _typed(number) else _signal(process, number))
    return exit_code(await process.wait())


def _typed(number: int) -> bool:
    """True for a signal that the terminal's keys make: the command, in the same foreground group, has it already."""
    if number not in (signal.SIGINT, signal.SIGQUIT):
        return False
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _on_signals(numbers: Sequence[signal.Signals], act: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, act, number)
