"""One screen: a list, and the detail of its current row. Out of scope: where the rows come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from pgtattle.tui.widgets.rows import Cells, Column, Item, Rows
from pgtattle.tui.widgets.safe import Part, SafeText


class Pane(Vertical, Generic[Item]):
    """`key` tells a row from the others over its changes, `detail` gives the pieces of its detail.

    `empty` is what to say while there is no row. With `follow` the cursor stays on the newest row; without it, on
    the row that it is on, wherever that goes.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        cells: Callable[[Item], Cells],
        detail: Callable[[Item], list[Part]],
        key: Callable[[Item], object],
        empty: str,
        *,
        follow: bool = False,
    ) -> None:
        super().__init__(id=name, classes="pane")
        self._empty = empty
        self._detail_of = detail
        self._key = key
        self._follow = follow
        self._opened: Item | None = None
        self.rows: Rows[Item] = Rows(columns, cells, follow=follow)
        self._hint = SafeText(classes="hint")
        self._detail = SafeText(classes="detail-text")
        self._scroll = VerticalScroll(self._detail, classes="detail", can_focus=False)

    def compose(self) -> ComposeResult:
        """The hint, the list and the detail."""
        yield self._hint
        yield self.rows
        yield self._scroll

    def on_mount(self) -> None:
        """Begin without rows and without a detail."""
        self._scroll.display = False
        self.show([])

    @property
    def current(self) -> Item | None:
        """What keys act on: what the detail shows, else the row of the cursor."""
        return self._opened or self.rows.current

    @property
    def detail_is_open(self) -> bool:
        """True while the detail is shown."""
        return self._opened is not None

    def show(self, items: Sequence[Item], *, dropped: int = 0, hint: str = "") -> None:
        """Show these rows, or say why there are none; `dropped` of the former ones are gone from the beginning."""
        self._hint.display = not items
        if not items:
            self._hint.show([hint or self._empty])
        before = self.rows.current
        self.rows.show(items, dropped=dropped)
        if self._follow:
            return
        if before is not None:
            self.rows.select(next((n for n, one in enumerate(items) if self._key(one) == self._key(before)), None))
        current = self.rows.current
        if self._opened is not None and current is not None and self._key(current) == self._key(self._opened):
            self._show_detail(current)

    def open_detail(self) -> None:
        """Show the detail of the current row. It stays what it is until the cursor moves, even if the row goes."""
        current = self.rows.current
        if current is not None:
            self._scroll.display = True
            self._show_detail(current)
            self._scroll.scroll_home(animate=False)
            self.call_after_refresh(self.rows.keep_visible)

    def close_detail(self) -> None:
        """Hide the detail."""
        self._opened = None
        self._scroll.display = False
        self.rows.release()
        self.rows.focus()

    def scroll_detail(self, by: int) -> None:
        """Scroll the detail by so many lines."""
        self._scroll.scroll_relative(y=by, animate=False)

    def on_rows_moved(self) -> None:
        """The detail follows the cursor."""
        if self._opened is not None and self.rows.current is not None:
            self.open_detail()

    def on_rows_opened(self) -> None:
        """Enter shows the detail."""
        self.open_detail()

    def _show_detail(self, item: Item) -> None:
        if item is not self._opened:
            self._opened = item
            self._detail.show(self._detail_of(item))
