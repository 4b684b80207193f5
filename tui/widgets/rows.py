"""A list of any length that draws only what is seen: for rows that come by the thousand.

Enters: a sequence of records and the function that makes cells of one. Leaves: harmless text in columns, and messages
on where the cursor went. Out of scope: what the records mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pgtattle.tui import keymap
from pgtattle.tui.harmless import line

Item = TypeVar("Item")

Cells = Sequence[tuple[str, str]]
"""The cells of a row: text and style."""


class Column:
    """A column: `width` in cells, 0 takes what is left; `from_width` is the narrowest list that shows it."""

    def __init__(
        self, title: str, width: int = 0, align: Literal["left", "right"] = "left", from_width: int = 0
    ) -> None:
        self.title = title
        self.width = width
        self.align = align
        self.from_width = from_width


class Rows(ScrollView, Generic[Item], can_focus=True):
    """Rows of columns with a cursor. With `follow` it is on the newest row until it is moved, and again after `G`."""

    BINDINGS = keymap.ROWS

    class Moved(Message):
        """The cursor was moved to another row, by a key or a click."""

    class Opened(Message):
        """Enter, or a click on the row of the cursor."""

    def __init__(
        self, columns: Sequence[Column], cells: Callable[[Item], Cells], *, follow: bool = False, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._columns = columns
        self._cells = cells
        self._items: Sequence[Item] = []
        self._cursor = 0
        self._may_follow = follow
        self._follows = follow
        self._held = False

    @property
    def current(self) -> Item | None:
        """The row of the cursor."""
        return self._items[self._cursor] if 0 <= self._cursor < len(self._items) else None

    @property
    def follows(self) -> bool:
        """True while the cursor goes with the newest row."""
        return self._follows

    def show(self, items: Sequence[Item], *, dropped: int = 0) -> None:
        """Show these rows; `dropped` of the former ones are gone from the beginning."""
        # A copy: who gives the rows adds to them until the next frame, and cursor and rows must go together.
        self._items = list(items)
        if self._follows:
            self._cursor = len(items) - 1
        else:
            self._cursor = max(0, min(self._cursor - dropped, len(items) - 1))
        self.virtual_size = Size(self.size.width, len(items) + 1)
        if dropped and not self._follows:
            self.scroll_to(y=max(0, self.scroll_offset.y - dropped), animate=False, force=True)
        self.keep_visible()
        self.refresh()

    def select(self, row: int | None) -> None:
        """Put the cursor on a row that is the former one under a new number; None leaves it where it is."""
        if row is not None and row != self._cursor:
            self._cursor = row
            self.keep_visible()

    def release(self) -> None:
        """Follow again, if that was so when the current row was opened."""
        if self._held:
            self.action_bottom()

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        self._to(self._cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by a page."""
        self._to(self._cursor + by * max(1, self.size.height - 2))

    def action_top(self) -> None:
        """To the first row."""
        self._to(0)

    def action_bottom(self) -> None:
        """To the last row, and follow the new ones."""
        self._to(len(self._items) - 1)
        self._held, self._follows = False, self._may_follow

    def action_open(self) -> None:
        """Ask for the detail of the current row, which stays the current one."""
        if self.current is not None:
            self._held, self._follows = self._follows or self._held, False
            self.post_message(self.Opened())

    def on_click(self, event: Click) -> None:
        """A click moves the cursor; on the cursor it opens the detail."""
        if event.y == 0:
            return
        row = self.scroll_offset.y + event.y - 1
        if row == self._cursor:
            self.action_open()
        elif 0 <= row < len(self._items):
            self._to(row)

    def on_resize(self) -> None:
        """Fit the rows to the new width."""
        self.virtual_size = Size(self.size.width, len(self._items) + 1)
        self.keep_visible()

    def render_line(self, y: int) -> Strip:
        """The titles, then the rows that are scrolled to."""
        width = self.size.width
        if y == 0:
            return self._strip([(column.title, "bold") for column in self._columns], width, self.rich_style)
        number = self.scroll_offset.y + y - 1
        if number >= len(self._items):
            return Strip.blank(width, self.rich_style)
        base = self.rich_style
        if number == self._cursor:
            base += Style(reverse=True) if self.has_focus else Style(underline=True)
        return self._strip(self._cells(self._items[number]), width, base)

    def _strip(self, cells: Cells, width: int, base: Style) -> Strip:
        shown = [
            (column, cell) for column, cell in zip(self._columns, cells, strict=True) if column.from_width <= width
        ]
        fixed = sum(column.width + 1 for column, _ in shown if column.width)
        loose = max(1, sum(1 for column, _ in shown if not column.width))
        segments: list[Segment] = []
        for column, (text, style) in shown:
            room = column.width or max(4, (width - fixed) // loose - 1)
            text = line(text, room * 4)
            if column.align == "right":
                text = text.rjust(room)
            segments.append(Segment(set_cell_size(text, room) + " ", base + Style.parse(style)))
        return Strip(segments).adjust_cell_length(width, base)

    def keep_visible(self) -> None:
        """Scroll to the cursor."""
        height = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True)

    def _to(self, row: int) -> None:
        row = max(0, min(row, len(self._items) - 1))
        if row == self._cursor or not self._items:
            return
        self._held = self._follows = False
        self._cursor = row
        self.post_message(self.Moved())
        self.keep_visible()
        self.refresh()
