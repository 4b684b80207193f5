"""The dashboard: three panes over one stream of events. It reads the API and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import ContentSwitcher, Footer, Input

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.schema import ExecutionView, FindingView, StatementView
from pgtattle.tui import views
from pgtattle.tui.client import Client, Refused
from pgtattle.tui.harmless import line
from pgtattle.tui.model import Model
from pgtattle.tui.screens.help import Help
from pgtattle.tui.screens.pane import Pane
from pgtattle.tui.widgets.header import Header
from pgtattle.tui.widgets.safe import SafeText

FRAME_SECONDS = 0.1
POLL_SECONDS = 1.0
SORTS = ("total_ms", "calls", "mean_ms", "p95_ms", "rows", "errors")


class Dashboard(App[int]):
    """Live executions, statements and findings of one pgtattle."""

    TITLE = "pgtattle"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Header { height: 2; }
    #tabs { height: 1; }
    ContentSwitcher { height: 1fr; }
    .pane { height: 1fr; }
    Rows { height: 1fr; scrollbar-size-horizontal: 0; }
    .hint { height: auto; padding: 1 2; color: $text-muted; }
    .detail { height: 55%; border-top: solid $primary; padding: 0 1; }
    .detail-text { height: auto; }
    #filter { display: none; dock: bottom; height: 1; border: none; }
    #filter.open { display: block; }
    #help { width: 76; height: 90%; border: round $primary; padding: 1 2; background: $surface; }
    #help-text { height: auto; }
    Help { align: center middle; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('live')", "Live"),
        Binding("2", "show('statements')", "Statements"),
        Binding("3", "show('findings')", "Findings"),
        Binding("space", "pause", "Pause"),
        Binding("f,slash", "filter", "Filter"),
        Binding("s", "sort", "Sort statements", show=False),
        Binding("c", "copy_sql", "Copy SQL", show=False),
        Binding("y", "copy_suggestion", "Copy suggestion", show=False),
        Binding("escape", "back", "Back", show=False),
        Binding("question_mark", "help", "Help"),
        Binding("q,ctrl+c", "quit", "Quit"),
    ]

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._model = Model()
        self._filter = ""
        self._sort = 0
        self._changed = True
        self._stream: asyncio.Task[None] | None = None
        self._header = Header(id="header")
        self._tab_line = SafeText(id="tab-line")
        self._switcher = ContentSwitcher(initial="live")
        self._filter_line = Input(
            placeholder='filter: dur>100ms op:select table:users app:web err "text" -op:select', id="filter"
        )
        self._live: Pane[ExecutionView] = Pane(
            "live",
            views.LIVE,
            views.execution_cells,
            views.execution_detail,
            "Waiting for queries: point your application at the proxy's address.",
            follow=True,
        )
        self._statements: Pane[StatementView] = Pane(
            "statements", views.STATEMENTS, views.statement_cells, views.statement_detail, "No statement was seen yet."
        )
        self._findings: Pane[FindingView] = Pane(
            "findings",
            views.FINDINGS,
            views.finding_cells,
            views.finding_detail,
            "Nothing to tell so far: no finding about the queries that were seen.",
        )

    def compose(self) -> ComposeResult:
        """Header, tabs, the three panes, and the line for the filter."""
        yield self._header
        yield Horizontal(self._tab_line, id="tabs")
        with self._switcher:
            yield self._live
            yield self._statements
            yield self._findings
        yield self._filter_line
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Attach to the server and begin to draw."""
        self._watch()
        self.set_interval(FRAME_SECONDS, self._draw)
        self.set_interval(POLL_SECONDS, self._poll)
        self._live.rows.focus()
        self._draw_tabs()

    async def on_unmount(self) -> None:
        """Let go of the server."""
        if self._stream is not None:
            self._stream.cancel()
        await self._client.close()

    # -- events ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self._stream = asyncio.create_task(self._follow(self._filter))

    async def _follow(self, filter_: str) -> None:
        async for event in self._client.events(filter_):
            if isinstance(event, Refused) and filter_:
                self.notify(line(event.reason), title="filter", severity="error", markup=False)
                self._filter = ""
                self._watch()
                return
            self._model.apply(event)
            self._changed = True

    async def _poll(self) -> None:
        if self._shown == "statements" and self._model.connected:
            self._model.statements = await self._client.statements()
            self._changed = True

    def _draw(self) -> None:
        if not self._header.is_attached:
            return
        self._header.refresh_from(self._model, self._client.url)
        if not self._changed:
            return
        self._changed = False
        if self._shown == "live":
            hint = f"No execution matches {self._filter}" if self._filter else ""
            self._live.show(self._model.executions, dropped=self._model.take_dropped(), hint=hint)
        elif self._shown == "findings":
            self._show_keeping(self._findings, self._model.findings)
        else:
            key = SORTS[self._sort]
            ordered = sorted(self._model.statements, key=lambda one: getattr(one, key), reverse=True)
            self._show_keeping(self._statements, ordered)

    def _show_keeping(self, pane: Pane[Any], items: list[Any]) -> None:
        """Show rows that may have changed their order, with the cursor on the one it was on."""
        current = pane.rows.current
        pane.show(items)
        if current is not None:
            key = "id" if isinstance(current, FindingView) else "fingerprint"
            same = next((one for one in items if getattr(one, key) == getattr(current, key)), None)
            if same is not None:
                pane.rows.select(same)

    def _draw_tabs(self) -> None:
        tabs = {"live": "1 Live", "statements": "2 Statements", "findings": "3 Findings"}
        parts = [(f" {title} ", "reverse" if name == self._shown else "dim") for name, title in tabs.items()]
        if self._filter:
            parts.append((f"  filter: {self._filter}", "yellow"))
        if self._shown == "statements":
            parts.append((f"  by {SORTS[self._sort].replace('_', ' ')}", "dim"))
        self._tab_line.show(parts)

    @property
    def _shown(self) -> str:
        return self._switcher.current or "live"

    @property
    def _pane(self) -> Pane[Any]:
        panes: dict[str, Pane[Any]] = {
            "live": self._live,
            "statements": self._statements,
            "findings": self._findings,
        }
        return panes[self._shown]

    # -- actions -----------------------------------------------------------------------------------------------------

    async def action_show(self, name: str) -> None:
        """Another pane."""
        self._switcher.current = name
        self._changed = True
        self._draw_tabs()
        await self._poll()
        self._draw()
        self._pane.rows.focus()

    def action_pause(self) -> None:
        """Hold new executions back, and let them in again."""
        self._model.pause(not self._model.paused)
        self._changed = True

    def action_filter(self) -> None:
        """Edit the filter."""
        field = self._filter_line
        field.value = self._filter
        field.add_class("open")
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Use the filter: the server does the filtering."""
        self._filter = event.value.strip()
        self._close_filter()
        self._watch()

    async def action_back(self) -> None:
        """Close what is open."""
        if self._filter_line.has_class("open"):
            self._close_filter()
        else:
            self._pane.close_detail()

    def _close_filter(self) -> None:
        self._filter_line.remove_class("open")
        self._draw_tabs()
        self._pane.rows.focus()

    async def action_sort(self) -> None:
        """The next order of the statements."""
        self._sort = (self._sort + 1) % len(SORTS)
        self._changed = True
        self._draw_tabs()

    def action_copy_sql(self) -> None:
        """Copy the current row's SQL as it is."""
        current = self._pane.rows.current
        if current is not None:
            self.copy_to_clipboard(current.sql)
            self.notify("SQL copied", markup=False, timeout=2)

    def action_copy_suggestion(self) -> None:
        """Copy the suggested SQL of the current finding."""
        current = self._pane.rows.current
        if isinstance(current, FindingView) and current.suggestion.sql:
            self.copy_to_clipboard(current.suggestion.sql)
            self.notify("suggested SQL copied", markup=False, timeout=2)
        else:
            self.notify("there is no suggested SQL here", severity="warning", markup=False, timeout=2)

    def action_help(self) -> None:
        """Keys and filters."""
        bindings = [one for one in (*self.BINDINGS, *type(self._live.rows).BINDINGS) if isinstance(one, Binding)]
        names = {"question_mark": "?", "slash": "/"}
        shown = [(" ".join(names.get(key, key) for key in one.key.split(",")), one.description) for one in bindings]
        self.push_screen(Help(shown))

    async def action_quit(self) -> None:
        """Leave."""
        self.exit(0)


def run(url: str, token: str = "") -> int:
    """Show the dashboard of the pgtattle at `url` until it is left. Raises UsageError for an impossible address."""
    try:
        client = Client(url, token)
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    return Dashboard(client).run() or 0
