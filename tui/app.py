"""The dashboard: three screens over one stream of events. It reads the API and nothing else.

Enters: the client's events and keys. Leaves: the terminal. Out of scope: what a record looks like (`views`), what is
kept (`model`), how the server is reached (`client`).
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import Any, ClassVar, Final

from textual.app import App, ComposeResult
from textual.widgets import ContentSwitcher, Footer, Input

from pgtattle.proxy.errors import NoTerminal
from pgtattle.proxy.schema import ExecutionView, FindingView, StatementView
from pgtattle.tui import keymap, views
from pgtattle.tui.client import Client
from pgtattle.tui.model import Model
from pgtattle.tui.screens.help import Help
from pgtattle.tui.screens.leave import Leave
from pgtattle.tui.screens.pane import Pane
from pgtattle.tui.widgets.filter_line import FilterLine
from pgtattle.tui.widgets.header import Header
from pgtattle.tui.widgets.safe import Part, SafeText

FRAME_SECONDS: Final = 0.1
POLL_SECONDS: Final = 1.0
SORTS: Final = {
    "total": "total time",
    "calls": "calls",
    "mean": "mean time",
    "p95": "95th percentile",
    "max": "longest",
    "rows": "rows",
    "errors": "errors",
}
"""The server's orders of statements, in words."""
TABS: Final = {"live": "1 Live", "statements": "2 Statements", "findings": "3 Findings"}
WAITING: Final = "Waiting for queries: point your application at pgtattle's address instead of PostgreSQL's."


class Dashboard(App[int]):
    """Live executions, statements and findings of one pgtattle."""

    TITLE = "pgtattle"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH: ClassVar[str] = "dashboard.tcss"
    BINDINGS = keymap.DASHBOARD

    def __init__(self, client: Client, *, owns_session: bool = False) -> None:
        super().__init__()
        self._owns_session = owns_session
        self._client = client
        self._model = Model()
        self._filter = ""
        self._sort = "total"
        self._changed = True
        self._live: Pane[ExecutionView] = Pane(
            "live",
            views.LIVE,
            views.execution_cells,
            views.execution_detail,
            attrgetter("id"),
            WAITING,
            follow=True,
        )
        self._statements: Pane[StatementView] = Pane(
            "statements",
            views.STATEMENTS,
            views.statement_cells,
            views.statement_detail,
            attrgetter("fingerprint"),
            f"No statement was seen yet. {WAITING}",
        )
        self._findings: Pane[FindingView] = Pane(
            "findings",
            views.FINDINGS,
            views.finding_cells,
            views.finding_detail,
            attrgetter("id"),
            "Nothing to tell so far: no finding about the queries that were seen.",
        )
        # Held, not queried: a frame may be due while the screen is being torn down.
        self._header = Header(client.url)
        self._tabs = SafeText(fixed=True, id="tabs")
        self._switcher = ContentSwitcher(initial="live")
        self._filter_line = FilterLine()
        self._panes: dict[str, Pane[Any]] = {
            "live": self._live,
            "statements": self._statements,
            "findings": self._findings,
        }

    @property
    def trouble(self) -> str:
        """Why it is not connected; empty when it is."""
        return self._model.trouble

    def compose(self) -> ComposeResult:
        """Header, tabs, the three screens, and the line for the filter."""
        yield self._header
        yield self._tabs
        with self._switcher:
            yield from self._panes.values()
        yield self._filter_line
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Attach to the server and begin to draw."""
        self._watch()
        self.set_interval(FRAME_SECONDS, self._draw)
        self.set_interval(POLL_SECONDS, self._poll)
        self.call_after_refresh(self._live.rows.focus)

    async def on_unmount(self) -> None:
        """Let go of the server."""
        self.workers.cancel_all()
        await self._client.close()

    # -- events ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self.run_worker(self._follow(self._filter), group="events", exclusive=True)

    async def _follow(self, filter_: str) -> None:
        async for event in self._client.events(filter_):
            self._model.apply(event)
            self._changed = True

    def _poll(self) -> None:
        if self._shown == "statements" and self._model.connected:
            self.run_worker(self._fetch_statements(self._sort), group="statements", exclusive=True)

    async def _fetch_statements(self, sort: str) -> None:
        statements = await self._client.statements(sort)
        if statements is not None:
            self._model.statements = statements
            self._changed = True

    # -- drawing -----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        self._header.refresh_from(self._model)
        self._tabs.show(self._tab_line())
        if not self._changed:
            return
        self._changed = False
        if self._shown == "live":
            hint = f"No execution matches {self._filter} so far." if self._filter else ""
            self._live.show(self._model.executions, dropped=self._model.take_dropped(), hint=hint)
        elif self._shown == "findings":
            self._findings.show(self._model.findings)
        else:
            self._statements.show(self._model.statements)

    def _tab_line(self) -> list[Part]:
        shown = self._shown
        parts: list[Part] = [(f" {title} ", "reverse" if name == shown else "dim") for name, title in TABS.items()]
        if shown == "live" and self._filter:
            parts.append((f"  filter: {self._filter}", "yellow"))
        elif shown == "live" and not self._live.rows.follows:
            parts.append(("  G follows the newest", "dim"))
        elif shown == "statements":
            parts.append((f"  s: by {SORTS[self._sort]}", "dim"))
        return parts

    @property
    def _shown(self) -> str:
        return self._switcher.current or "live"

    @property
    def _pane(self) -> Pane[Any]:
        return self._panes[self._shown]

    # -- actions -----------------------------------------------------------------------------------------------------

    def action_show(self, name: str) -> None:
        """Another screen."""
        self._switcher.current = name
        self._changed = True
        self._poll()
        self._draw()
        self._pane.rows.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While the filter is typed, its line has the keys."""
        return not self._filter_line.is_open or action in ("back", "quit")

    def action_pause(self) -> None:
        """Hold new executions back, and let them in again."""
        self._model.pause(not self._model.paused)
        self._changed = True

    def action_filter(self) -> None:
        """Edit the filter; it is one of Live."""
        self.action_show("live")
        self._filter_line.open(self._filter)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Use the filter, if the server takes it."""
        self.run_worker(self._use_filter(event.value.strip()), group="filter", exclusive=True)

    async def _use_filter(self, filter_: str) -> None:
        refusal = await self._client.refusal(filter_) if filter_ else ""
        self._filter_line.say(refusal)
        if refusal:
            return
        self._close_filter()
        if filter_ != self._filter:
            self._filter = filter_
            self._live.close_detail()
            self._watch()

    async def action_back(self) -> None:
        """Close what is open."""
        if self._filter_line.is_open:
            self._close_filter()
        else:
            self._pane.close_detail()

    def _close_filter(self) -> None:
        self._filter_line.close()
        self._pane.rows.focus()

    def action_sort(self) -> None:
        """The next order of the statements."""
        if self._shown == "statements":
            orders = list(SORTS)
            self._sort = orders[(orders.index(self._sort) + 1) % len(orders)]
            self._poll()

    def action_scroll_detail(self, by: int) -> None:
        """Scroll the detail, while the keys of the list stay the list's."""
        self._pane.scroll_detail(by)

    def action_copy_sql(self) -> None:
        """Copy the current row's SQL as it came, by the terminal (OSC 52)."""
        current = self._pane.current
        self._copy(current.sql if current is not None else "", "SQL")

    def action_copy_suggestion(self) -> None:
        """Copy the suggested SQL of the current finding."""
        current = self._pane.current
        self._copy(current.suggestion.sql if isinstance(current, FindingView) else "", "suggested SQL")

    def _copy(self, text: str, what: str) -> None:
        if text:
            self.copy_to_clipboard(text)
            self.notify(f"{what} copied: {len(text):,} characters", markup=False, timeout=2)
        else:
            self.notify(f"there is no {what} here", severity="warning", markup=False, timeout=2)

    def action_help(self) -> None:
        """Keys, filters and notes."""
        self.push_screen(Help(self._model.session.notes if self._model.session is not None else ()))

    async def action_quit(self) -> None:
        """Leave; where that ends sessions of clients, only when it is confirmed."""
        session = self._model.session
        if self._owns_session and session is not None and session.connections:
            self.push_screen(Leave(session.connections), self._left)
        else:
            self.exit(0)

    def _left(self, confirmed: bool | None) -> None:
        if confirmed:
            self.exit(0)


def run(url: str, token: str = "", *, owns_session: bool = False) -> int:
    """Show the dashboard of the pgtattle at `url` until it is left; the exit code.

    `owns_session`: pgtattle ends with it, so it asks before it is left while clients are connected.
    Raises UsageError for an impossible address, NoTerminal where there is none.
    """
    client = Client(url, token)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoTerminal
    return Dashboard(client, owns_session=owns_session).run() or 0
