"""The command line. A command loads what it needs when it runs: `--help` is quick and the relay stays light."""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from pgtattle.proxy import checks, config, dsn
from pgtattle.proxy.errors import PgtattleError, UpstreamNotGiven, UsageError
from pgtattle.proxy.schema import SEVERITIES
from pgtattle.proxy.settings import RuleSettings, Settings, Upstream

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PASSWORD_VARIABLES = {"upstream": "PGPASSWORD", "analyze_dsn": "PGTATTLE_ANALYZE_DSN"}


class _Seconds(click.FloatRange):
    """A time that ends: neither nan nor inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


def _option(*names: str, **more: Any) -> Callable[[_Command], _Command]:
    """An option that PGTATTLE_<NAME> sets too."""
    name = names[0].removeprefix("--").split("/")[0].upper().replace("-", "_")
    return click.option(*names, envvar=f"PGTATTLE_{name}", show_envvar=True, **more)


def _load_config(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Make the file's options the defaults of this command; runs before any other option is read."""
    path = Path(value) if value else config.find_file(Path.cwd())
    if path is None:
        return
    group = main.commands.values()
    options_of_all = (one for command in group for one in command.params if isinstance(one, click.Option))
    known = {one.name for one in options_of_all if one.name and one.name not in ("config", "help")}
    options, rules = config.load(path, known)
    for one in context.command.params:
        if isinstance(one, click.Option) and one.name in options:
            options[one.name] = _file_value(context, one, options[one.name], path)
    context.default_map = {**(context.default_map or {}), **options}
    context.meta["rules"] = rules


def _file_value(context: click.Context, option: click.Option, value: Any, path: Path) -> Any:
    """A value of the file as a flag's text; a repeatable option may be a list. Raises UsageError naming the key."""
    values = value if option.multiple and isinstance(value, list) else [value]
    try:
        if option.type is click.STRING and not all(isinstance(one, str) for one in values):
            raise click.BadParameter("write text in quotes")
        for one in values:
            option.type.convert(str(one), option, context)
    except click.BadParameter as error:
        raise UsageError(f"{path}: {(option.name or '').replace('_', '-')}: {error.message}") from None
    texts = [str(one) for one in values]
    return texts if option.multiple else texts[0]


_CONFIG = click.option(
    "--config",
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    envvar="PGTATTLE_CONFIG",
    help="A TOML file; default: pgtattle.toml, or [tool.pgtattle] of pyproject.toml, in this folder.",
)
_UPSTREAM = _option(
    "--upstream",
    default="",
    metavar="DSN",
    help="PostgreSQL: a libpq URI or keywords, without a password; default: DATABASE_URL, else the PG* variables.",
)
_LISTEN = _option(
    "--listen", multiple=True, default=[config.DEFAULT_LISTEN], show_default=True, metavar="ADDR",
    help="Where applications connect: HOST:PORT or unix:/path; may be repeated.",
)  # fmt: skip
_API = _option(
    "--api",
    default=config.DEFAULT_API,
    show_default=True,
    metavar="ADDR",
    help="Where the HTTP API and the TUI's data are.",
)
_METRICS = _option(
    "--metrics", default="", metavar="ADDR", help="Serve /metrics, /livez and /readyz here too, without SQL."
)
_VALUES = _option(
    "--values", type=click.Choice(["hidden", "redacted", "full"]), default="redacted", show_default=True,
    help="What is shown of parameters and literals.",
)  # fmt: skip
_REPORT = _option(
    "--report", multiple=True, metavar="FORMAT=PATH", help="Write a report; PATH - is stdout. May be repeated."
)
_PROXY = (
    _option(
        "--drain",
        type=_Seconds(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time to end exchanges at SIGTERM.",
    ),
    _option(
        "--max-connections",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Refuse clients beyond N; 0: no limit.",
    ),
    _option("--behind-pooler", is_flag=True, help="The clients are poolers: only tags and transactions tell requests."),
    _option("--analyze-dsn", default="", metavar="DSN", help="The role that runs EXPLAIN; default: the upstream's."),
    _option("--token-file", default="", metavar="FILE", help="The API asks for this bearer token."),
    _option("--allow-plain", is_flag=True, help="Listen off loopback without TLS."),
    _option("--tls-cert", default="", metavar="FILE", help="Take TLS from clients: the certificate, in PEM."),
    _option("--tls-key", default="", metavar="FILE", help="Its private key; read again, with it, on SIGHUP."),
    _option(
        "--tls-passthrough",
        is_flag=True,
        help="Leave the clients' TLS to the server: forwarded and counted, but not looked at.",
    ),
    _option(
        "--mode",
        type=click.Choice(["profile", "opaque"]),
        default="profile",
        show_default=True,
        help="opaque: forward only, look at nothing.",
    ),
    _option(
        "--login-timeout",
        type=_Seconds(min=0.1),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Time for a client to say what it wants.",
    ),
    _option(
        "--idle-timeout",
        type=_Seconds(min=0),
        default=0.0,
        metavar="SECONDS",
        help="End sessions that do nothing for so long between transactions; 0: never.",
    ),
    _option(
        "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Lines on stderr."
    ),
)


def _options(*groups: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for group in reversed(groups):
            command = group(command)
        return command

    return decorate


def _settings(options: Mapping[str, Any]) -> Settings:
    """Settings of a command's options. Raises UsageError, also for an upstream that is the proxy itself."""
    upstream = _upstream(options)
    settings = config.settings(options, upstream, click.get_current_context().meta.get("rules", RuleSettings()))
    for address in upstream.addresses:
        if any(config.same_place(address, listen) for listen in settings.listen):
            where = dsn.source(_given(options), os.environ)[0]
            raise UsageError(
                f"{where}: {address} is where this proxy listens itself; set PGTATTLE_UPSTREAM to PostgreSQL's own "
                "address, or --listen elsewhere"
            )
    return settings


def _upstream(options: Mapping[str, Any]) -> Upstream:
    """The upstream of a command's options; refuses passwords that came by the command line."""
    context = click.get_current_context()
    for name, variable in _PASSWORD_VARIABLES.items():
        by_flag = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if by_flag and dsn.holds_password(options[name]):
            raise UsageError(
                f"--{name.replace('_', '-')}: a password on the command line can be read by everybody on this machine; "
                f"set {variable} instead"
            )
    upstream = dsn.upstream(_given(options), os.environ)
    if upstream.ignored:
        names = ", ".join(upstream.ignored)
        click.echo(f"pgtattle: {names} of the database URL left out: not an option of libpq", err=True)
    return upstream


def _given(options: Mapping[str, Any]) -> str:
    """The upstream where it was not given by a variable."""
    by_variable = click.get_current_context().get_parameter_source("upstream") is ParameterSource.ENVIRONMENT
    return "" if by_variable else str(options["upstream"])


def _outputs(reports: tuple[str, ...]) -> list[Any]:
    from pgtattle.proxy.commands import Output

    outputs = []
    for text in reports:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--report {text}: write FORMAT=PATH, such as json=report.json")
        outputs.append(Output(name, path))
    return outputs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("pgtattle"), package_name="pgtattle")
def main() -> None:
    """Tells on your PostgreSQL queries: N+1 loops, missing indexes, pasted SQL.

    Begin with `pgtattle demo`, which needs no set-up, or with `pgtattle watch --upstream DSN`.
    """


@main.command()
@_options(_CONFIG, _UPSTREAM, _LISTEN, _API, _METRICS, _VALUES, *_PROXY)
@click.option("--print-addresses", is_flag=True, help="Write the addresses and pids to stdout, as one line of JSON.")
def serve(print_addresses: bool, **options: Any) -> None:
    """Run as a sidecar: forward, analyze, serve the API and the metrics until SIGTERM."""
    settings = _settings(options)
    from pgtattle.proxy import commands, server

    sys.exit(server.run(lambda: commands.serve(settings, print_addresses)))


@main.command()
@_options(_CONFIG, _UPSTREAM, _VALUES, _REPORT, *_PROXY)
@_option(
    "--fail-on", type=click.Choice([*SEVERITIES, "never"]), default="high", show_default=True, help="Exit 1 for these."
)
@_option("--baseline", default="", metavar="FILE", help="Findings of this file are excused.")
@_option("--update-baseline", is_flag=True, help="Write the findings of this run to the baseline file.")
@_option("--gate-time", is_flag=True, help="Findings that are about time alone, such as slow-query, fail the run too.")
@_option("--allow-empty", is_flag=True, help="A run in which no query reached the proxy is no failure.")
@_option("--require-explain", is_flag=True, help="Exit 4 when the server's planner could not be asked (EXPLAIN).")
@_option(
    "--set-env", multiple=True, metavar="NAME", help="Rewrite this database URL for the command too; may be repeated."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- COMMAND…")
def run(
    command: tuple[str, ...],
    report: tuple[str, ...],
    fail_on: Any,
    baseline: str,
    update_baseline: bool,
    gate_time: bool,
    allow_empty: bool,
    require_explain: bool,
    set_env: tuple[str, ...],
    **options: Any,
) -> None:
    """Profile a command, such as a test suite, and fail on what it finds.

    Exit code: the command's own if it is not 0, else 1 for findings, 4 for an incomplete analysis, 0.
    """
    if update_baseline and not baseline:
        raise UsageError("--update-baseline needs --baseline FILE to write to")
    settings = _private(options)
    from pgtattle.proxy import commands, server

    gate = commands.Gate(
        fail_on=fail_on,
        baseline=baseline,
        update=update_baseline,
        gate_time=gate_time,
        allow_empty=allow_empty,
        require_explain=require_explain,
    )
    outputs = _outputs(report)
    with commands.private_folder() as folder:
        settings = _with_private_api(settings, folder)
        sys.exit(server.run(lambda: commands.run(settings, command, outputs, gate, set_env)))


@main.command()
@_options(_CONFIG, _UPSTREAM, _LISTEN, _METRICS, _REPORT, *_PROXY)
@_option(
    "--values", type=click.Choice(["hidden", "redacted", "full"]), default="full", show_default=True,
    help="What is shown of parameters and literals; the API is a private socket.",
)  # fmt: skip
def watch(report: tuple[str, ...], **options: Any) -> None:
    """Forward and show the dashboard in this terminal; leaving it ends the sessions and prints a summary."""
    settings = _settings({**options, "api": "unix:/unset"})
    from pgtattle.proxy import commands, server

    outputs = _outputs(report)
    with commands.private_folder() as folder:
        settings = _with_private_api(settings, folder, log_file=str(folder / "pgtattle.log"))
        sys.exit(server.run(lambda: commands.watch(settings, outputs)))


@main.command()
@click.argument("url", default=f"http://{config.DEFAULT_API}")
@_option("--token-file", default="", metavar="FILE", help="The token that the API asks for.")
def tui(url: str, token_file: str) -> None:
    """Show the dashboard of a running pgtattle: http://HOST:PORT or unix:/path."""
    token = config.read_token(token_file) if token_file else ""
    from pgtattle.tui.app import run as run_tui

    sys.exit(run_tui(url, token))


@main.command()
@click.option("--headless", is_flag=True, help="Print a report instead of opening the dashboard.")
@click.option("--seconds", type=_Seconds(min=1), help="How long; default: 10 without a terminal, else until you quit.")
@_REPORT
def demo(headless: bool, seconds: float | None, report: tuple[str, ...]) -> None:
    """See it work: an embedded PostgreSQL, a bookshop with mistakes, and the dashboard. Needs no set-up."""
    from pgtattle.proxy import server
    from pgtattle.proxy.demo import session

    headless = headless or not (sys.stdin.isatty() and sys.stdout.isatty())
    sys.exit(session.demo(server.run, headless=headless, seconds=seconds, outputs=_outputs(report)))


@main.command()
@_options(_CONFIG, _UPSTREAM, _LISTEN, _API)
@_option("--analyze-dsn", default="", metavar="DSN", help="The role that runs EXPLAIN; default: the upstream's.")
@_option("--token-file", default="", metavar="FILE", help="The token that a running pgtattle's API asks for.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def doctor(form: Literal["text", "json"], **options: Any) -> None:
    """Check the set-up and say what mends it: PostgreSQL, EXPLAIN, ports, and a pgtattle that runs.

    Changes nothing. Exit code: 0, or 1 where a check failed.
    """
    listen, api = config.address(options["listen"][0], "--listen"), config.address(options["api"], "--api")
    token = config.read_token(options["token_file"]) if options["token_file"] else ""
    upstream, analyze_dsn = None, ""
    with contextlib.suppress(UpstreamNotGiven):
        upstream = _upstream(options)
        analyze_dsn = dsn.analyze_dsn(options["analyze_dsn"], upstream) if options["analyze_dsn"] else ""
    from pgtattle.proxy import doctor

    found = doctor.examine(upstream, listen, api, token=token, analyze_dsn=analyze_dsn)
    click.echo(doctor.render(found, form, _given(options), api))
    sys.exit(int(checks.failed(found)))


@main.command("explain-rule")
@click.argument("rule", default="")
def explain_rule(rule: str) -> None:
    """What RULE means, what it rests on, how to fix it and how to silence it; without RULE, a line for each rule."""
    from importlib.resources import files

    from pgtattle.analyzers.registry import RULES

    if not rule:
        width = max(map(len, RULES))
        for name, says in RULES.items():
            click.echo(f"{name:{width}}  {says}")
        return
    if rule not in RULES:
        raise UsageError(f"there is no rule {rule!r}{config.nearest(rule, RULES)}")
    here = files("pgtattle.analyzers")
    # The pages are beside the analyzers in a wheel, and among the documents in a checkout.
    folders = (here / "pages", here / ".." / "docs" / "rules")
    page = next(folder / f"{rule}.md" for folder in folders if folder.is_dir())
    click.echo(page.read_text(encoding="utf-8"), nl=False)


@main.command()
@_LISTEN
def healthcheck(listen: tuple[str, ...]) -> None:
    """Exit 0 when the proxy accepts connections: for containers."""
    where = config.address(listen[0], "--listen")
    try:
        if where.path:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(3)
                probe.connect(where.path)
        else:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)
            socket.create_connection((host, where.port), 3).close()
    except OSError as error:
        raise PgtattleError(f"nothing accepts connections at {where}: {error.strerror or error}") from error


def _private(options: Mapping[str, Any]) -> Settings:
    """Settings of a command that brings its own listener."""
    return _settings({**options, "listen": ["127.0.0.1:0"], "api": "unix:/unset"})


def _with_private_api(settings: Settings, folder: Path, log_file: str = "") -> Settings:
    from msgspec.structs import replace

    from pgtattle.proxy.commands import private_api

    return replace(settings, api=private_api(folder), log_file=log_file)


def entry() -> None:
    """The console script: errors made for people end with their message and exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # SQL is in any script; a terminal of another encoding gets question marks, not a traceback.
        sys.stdout.reconfigure(errors="replace")
    try:
        main()
    except PgtattleError as error:
        click.echo(f"pgtattle: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    entry()
