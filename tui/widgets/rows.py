"""A list of any length that draws only what is seen: for rows that come by the thousand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, Literal, TypeVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

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
    """Rows of columns with a cursor. It follows the newest row until the cursor is moved, and again after `G`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False),
        Binding("home,g", "top", "Top", show=False),
        Binding("end,G", "bottom", "End", show=False),
        Binding("enter", "open", "Detail"),
    ]

    class Highlighted(Message):
        """The cursor is on another row."""

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
        self._follow = follow
        self._follows = follow

    @property
    def current(self) -> Item | None:
        """The row of the cursor."""
        return self._items[self._cursor] if 0 <= self._cursor < len(self._items) else None

    def show(self, items: Sequence[Item], *, dropped: int = 0) -> None:
        """Show these rows; `dropped` of the former ones are gone from the beginning."""
        before = self.current
        self._items = items
        if self._follow:
            self._cursor = len(items) - 1
        else:
            self._cursor = max(0, min(self._cursor - dropped, len(items) - 1))
        self.virtual_size = Size(self.size.width, len(items) + 1)
        if dropped and not self._follow:
            self.scroll_to(y=max(0, self.scroll_offset.y - dropped), animate=False, force=True)
        self._keep_visible()
        self.refresh()
        if self.current is not before:
            self.post_message(self.Highlighted())

    def select(self, item: Item) -> None:
        """Put the cursor on a row, where it is still there."""
        for number, one in enumerate(self._items):
            if one is item:
                self._follow = False
                self._to(number)
                return

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
        self._follow = self._follows

    def action_open(self) -> None:
        """Ask for the detail of the current row."""
        if self.current is not None:
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
        self._keep_visible()

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

    def _to(self, row: int) -> None:
        if not self._items:
            return
        row = max(0, min(row, len(self._items) - 1))
        self._follow = self._follows and row == len(self._items) - 1 and self._follow
        if row != self._cursor:
            self._cursor = row
            self.post_message(self.Highlighted())
        self._keep_visible()
        self.refresh()

    def _keep_visible(self) -> None:
        height = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True)
