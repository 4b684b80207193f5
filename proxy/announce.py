"""The banner of a start on stderr, and a log line for each check of it that changes later.

Enters: a started proxy. Leaves: lines, or one log record where logs are JSON. Nobody waits for it: the proxy serves
already.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final, Literal, cast

import msgspec
import structlog

from pgtattle.proxy import checks, server_checks
from pgtattle.proxy.checks import Check, Start
from pgtattle.proxy.schema import ExplainView
from pgtattle.proxy.server import Addresses, Proxy

KNOWN_SECONDS: Final = 3.0
"""How long a banner waits for what the profiler finds out."""

Form = Literal["full", "short"]


async def announce(proxy: Proxy, addresses: Addresses, form: Form = "full") -> Sequence[Check]:
    """Say where the proxy is and what is known of the server within some seconds; gives the latter."""
    settings = proxy.settings
    try:
        found = await asyncio.wait_for(proxy.checks(), KNOWN_SECONDS)
    except TimeoutError:
        found = server_checks.of_server(settings.upstream, None, "", ExplainView())
    start = Start(
        version=version("pgtattle"),
        listen=addresses.listen,
        upstream=checks.places(settings.upstream),
        database_url=checks.database_url(settings, addresses.listen),
        needs_password=bool(settings.upstream.password) or any("PGPASSWORD" in one.cure for one in found),
        api=addresses.api,
        metrics=addresses.metrics,
        checks=found,
    )
    if settings.log_format == "json":
        good = all(one.state == "ok" for one in found)
        _log(good)("started", **msgspec.to_builtins(start))
    else:
        draw = checks.banner if form == "full" else checks.short_banner
        # A full disk or a closed pipe ends no proxy.
        with contextlib.suppress(OSError, ValueError):
            print("\n".join(draw(start, checks.style(sys.stderr))), file=sys.stderr, flush=True)
    return found


async def narrate(proxy: Proxy, addresses: Addresses, said: asyncio.Event, form: Form = "full") -> None:
    """Announce, set `said`, then log each check that becomes another one, for ever."""
    try:
        seen = await announce(proxy, addresses, form)
    finally:
        said.set()
    while True:
        states = {one.name: one.state for one in seen}
        seen = await proxy.checks(seen)
        for one in seen:
            if one.state != states.get(one.name):
                _log(one.state == "ok")(f"{one.name}: {one.words}", state=one.state, fix=one.cure)


def _log(good: bool) -> Callable[..., object]:
    log = structlog.get_logger()
    return cast(Callable[..., object], log.info if good else log.warning)
