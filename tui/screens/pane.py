"""A screenful: a list, and the detail of its current row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from pgtattle.tui.widgets.rows import Cells, Column, Item, Rows
from pgtattle.tui.widgets.safe import Part, SafeText


class Pane(Vertical, Generic[Item]):
    """`empty` is what to say while there is no row; `detail` gives the pieces of a row's detail."""

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        cells: Callable[[Item], Cells],
        detail: Callable[[Item], list[Part]],
        empty: str,
        *,
        follow: bool = False,
    ) -> None:
        super().__init__(id=name, classes="pane")
        self._empty = empty
        self._detail_of = detail
        self.rows: Rows[Item] = Rows(columns, cells, follow=follow)
        self._hint = SafeText(classes="hint")
        self._detail = SafeText(classes="detail-text")
        self._scroll = VerticalScroll(self._detail, classes="detail")

    def compose(self) -> ComposeResult:
        """The hint, the list and the detail."""
        yield self._hint
        yield self.rows
        yield self._scroll

    def on_mount(self) -> None:
        """Begin without rows and without a detail."""
        self._scroll.display = False
        self.show([])

    def show(self, items: Sequence[Item], *, dropped: int = 0, hint: str = "") -> None:
        """Show these rows, or say why there are none."""
        self._hint.display = not items
        if not items:
            self._hint.show([hint or self._empty])
        self.rows.show(items, dropped=dropped)
        if self.detail_is_open:
            self._refresh_detail()

    @property
    def detail_is_open(self) -> bool:
        """True while the detail is shown."""
        return bool(self._scroll.display)

    def open_detail(self) -> None:
        """Show the detail of the current row."""
        if self.rows.current is not None:
            self._scroll.display = True
            self._refresh_detail()
            self._scroll.scroll_home(animate=False)

    def close_detail(self) -> None:
        """Hide the detail."""
        self._scroll.display = False
        self.rows.focus()

    def on_rows_highlighted(self) -> None:
        """The detail follows the cursor."""
        if self.detail_is_open:
            self._refresh_detail()
            self._scroll.scroll_home(animate=False)

    def on_rows_opened(self) -> None:
        """Enter shows the detail."""
        self.open_detail()

    def _refresh_detail(self) -> None:
        current = self.rows.current
        if current is not None:
            self._detail.show(self._detail_of(current))
