"""What `serve`, `run` and `watch` do, from settings to an exit code. stdout is data, stderr is narration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from pgtattle.proxy import announce, log
from pgtattle.proxy.environment import child_environment, is_url
from pgtattle.proxy.errors import AnalysisIncomplete, NoTerminal, UsageError
from pgtattle.proxy.files import can_write, write_whole
from pgtattle.proxy.gate import Baseline, FailOn, baseline_to_update, judge, marked, read_baseline, write_baseline
from pgtattle.proxy.schema import Report
from pgtattle.proxy.server import Proxy
from pgtattle.proxy.settings import Address, Settings

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
INCOMPLETE: Final = 4
DRAIN_FAILED: Final = 1
LONGEST_FOLDER: Final = 70
SUMMARY_SECONDS: Final = 10.0
SUMMARY_FINDINGS: Final = 10


class Output(Struct, frozen=True):
    """A report to write: the format's name, and a path or `-` for stdout."""

    format: str
    path: str


class Drains(Protocol):
    """A proxy that can be drained."""

    async def drain(self) -> None:
        """Return when nothing is under way any more."""


class Gate(Struct, frozen=True, kw_only=True):
    """What decides the exit code of `run`."""

    fail_on: FailOn = "high"
    baseline: str = ""
    update: bool = False
    gate_time: bool = False
    allow_empty: bool = False
    require_explain: bool = False


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
        async with _beside(announce.narrate(proxy, addresses, asyncio.Event())):
            await stop.wait()
        return await drained(proxy, again)


async def run(
    settings: Settings, command: Sequence[str], outputs: Sequence[Output], gate: Gate, set_env: Sequence[str]
) -> int:
    """Profile a command: its PostgreSQL is the proxy. Raises UpstreamUnreachable before it starts anything."""
    check_outputs(outputs)
    check_variables(set_env)
    baseline: Baseline = {}
    if gate.baseline:
        baseline = (baseline_to_update if gate.update else read_baseline)(Path(gate.baseline))
    log.configure(settings.log_format, settings.log_file, "warning")
    async with _proxy(settings) as proxy:
        await proxy.probe()
        addresses = await proxy.start()
        if proxy.failure:
            say("pgtattle: the command was not run: there would be no report of it")
            raise AnalysisIncomplete(proxy.failure)
        host, port = addresses.listen.rsplit(":", 1)
        environment = child_environment(os.environ, settings.upstream, host.strip("[]"), int(port), set_env)
        said = asyncio.Event()
        async with _beside(announce.narrate(proxy, addresses, said, "short")):
            code = await _command(command, environment)
            await said.wait()
        if code in (NOT_FOUND, NOT_EXECUTABLE):
            return code
        report = await proxy.finish()
    if report is None:
        say(f"pgtattle: there is no report: {proxy.why_no_report}")
        return code or INCOMPLETE
    missing = 0
    try:
        write(outputs, marked(report, baseline))
    except UsageError as error:
        say(f"pgtattle: {error}")
        missing = INCOMPLETE
    judged = _judge(report, gate, baseline, failed=bool(code))
    return code or judged or missing


async def watch(settings: Settings, outputs: Sequence[Output]) -> int:
    """The proxy with the dashboard before it, until the dashboard is left; then a summary."""
    check_outputs(outputs)
    log.configure(settings.log_format, settings.log_file)
    async with _proxy(settings) as proxy:
        await proxy.probe()
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise NoTerminal
        addresses = await proxy.start()
        said, again = asyncio.Event(), asyncio.Event()
        async with _beside(announce.narrate(proxy, addresses, said)):
            await said.wait()
            code = await dashboard(addresses.api, owns=True)
        report = await proxy.finish(SUMMARY_SECONDS)
        _on_signals((signal.SIGINT, signal.SIGTERM), lambda number: again.set())
        code = await drained(proxy, again) or code
    if report is None:
        say(f"pgtattle: there is no summary: {proxy.why_no_report}")
        return code
    say("\n".join(summary(report)))
    write(outputs, report)
    if not outputs:
        say("pgtattle: no report was written: watch --report text=FILE (or json=FILE) writes one on leaving")
    return code


async def dashboard(api: str, seconds: float | None = None, *, owns: bool = False) -> int:
    """Run the TUI as a child on this terminal, until it is left or for so many seconds; it gets the signals.

    `owns`: the session ends with it, so it asks before it is left while clients are connected.
    """
    arguments = ("--owns-session",) if owns else ()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "pgtattle.tui", api, *arguments)
    _on_signals((signal.SIGINT, signal.SIGTERM), lambda number: _signal(process, number))
    try:
        return exit_code(await asyncio.wait_for(process.wait(), seconds))
    except TimeoutError:
        return 0
    finally:
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            await process.wait()


async def drained(proxy: Drains, again: asyncio.Event) -> int:
    """Let what runs come to its end, or until `again` is set; the exit code. A drain that fails is not one."""
    drain, second = asyncio.create_task(proxy.drain()), asyncio.create_task(again.wait())
    await asyncio.wait({drain, second}, return_when=asyncio.FIRST_COMPLETED)
    failure = drain.exception() if drain.done() else None
    for task in (drain, second):
        task.cancel()
    await asyncio.wait({drain, second})
    if failure is None:
        return 0
    say(f"pgtattle: the drain failed and sessions may have been cut: {type(failure).__name__}: {failure}")
    return DRAIN_FAILED


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
        if output.path != "-" and not can_write(output.path):
            raise UsageError(f"--report {output.format}={output.path}: this cannot be written to; name another path")


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
                write_whole(output.path, text)
        except OSError as error:
            failures.append(f"--report {output.format}={output.path}: {error.strerror}")
    if failures:
        raise UsageError("; ".join(failures))


def summary(report: Report) -> list[str]:
    """The session in a few lines: what was seen, and the worst findings."""
    from pgtattle.analyzers.plural import plural
    from pgtattle.analyzers.reports.harmless import harmless
    from pgtattle.analyzers.reports.text import connections

    session, findings = report.session, report.findings
    executions, found = plural(session.executions, "execution"), plural(len(findings), "finding")
    lines = [f"pgtattle: {executions} over {connections(session)}, {found}"]
    lines += [f"  {one.severity:8} {harmless(f'{one.rule}: {one.title}')}" for one in findings[:SUMMARY_FINDINGS]]
    if len(findings) > SUMMARY_FINDINGS:
        lines.append(f"  … and {len(findings) - SUMMARY_FINDINGS:,} more")
    if session.shed or session.lost:
        lines.append(f"pgtattle: not analyzed: {plural(session.shed, 'execution')} shed, {session.lost:,} lost")
    return lines


def exit_code(returned: int) -> int:
    """A process's exit code as a shell tells it: 128 + n for signal n."""
    return 128 - returned if returned < 0 else returned


def _judge(report: Report, gate: Gate, baseline: Baseline, *, failed: bool) -> int:
    """Say what was found, and give the exit code for it. What a command that `failed` did is no baseline."""
    from pgtattle.analyzers.plural import plural

    if gate.update and gate.baseline and failed:
        say(f"pgtattle: {gate.baseline} is not updated: the command failed")
    elif gate.update and gate.baseline:
        write_baseline(Path(gate.baseline), report.findings, baseline)
        baseline = read_baseline(Path(gate.baseline))
        say(f"pgtattle: findings that {gate.baseline} excuses now: {len(baseline)}")
    verdict = judge(report.findings, gate.fail_on, baseline, gate_time=gate.gate_time)
    session = report.session
    seen = f"pgtattle: {plural(session.executions, 'execution')}, {plural(len(report.findings), 'finding')}"
    say(f"{seen}, {len(verdict.failing)} of them new and {gate.fail_on} or graver" if gate.fail_on != "never" else seen)
    if not session.executions:
        say(
            "pgtattle: no query reached the proxy. Does the command connect by DATABASE_URL or PGHOST and PGPORT?"
            " --set-env NAME rewrites the URL in another variable"
        )
    for finding in report.findings:
        mark = "excused" if finding in verdict.excused else finding.severity
        since = "" if finding.state == "open" else f" ({finding.state})"
        worse = f" ({baseline[finding.id].count} in {gate.baseline})" if finding in verdict.worse else ""
        say(f"  {mark:8} {finding.rule}: {finding.title}{since}{worse}")
    for stale in verdict.stale:
        say(f"  stale    {stale} of {gate.baseline} was not seen: {baseline[stale].title}")
    if session.shed or session.lost:
        say(f"pgtattle: not analyzed: {plural(session.shed, 'execution')} shed, {session.lost:,} lost")
    if session.restarts:
        again = plural(session.restarts, "time")
        say(f"pgtattle: the analysis was started again {again}: findings from before are missing")
    unexplained = gate.require_explain and session.explain.state != "ok"
    if unexplained:
        reason = f": {session.explain.reason}; {session.explain.cure}" if session.explain.reason else ""
        say(f"pgtattle: --require-explain: EXPLAIN is not available ({session.explain.state}){reason}")
    if verdict.failing:
        return 1
    empty = not session.executions and not gate.allow_empty
    return INCOMPLETE if session.lost or session.restarts or empty or unexplained else 0


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Do some work while the body runs, and no longer; what it raises is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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
