"""The line for the filter, and above it what the server has against it. Out of scope: the language (the API has it)."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input

from pgtattle.tui import keymap
from pgtattle.tui.widgets.safe import SafeText

EXAMPLE = "filter, such as: dur>100ms op:select table:users err"


class FilterInput(Input):
    """Where it is typed."""

    BINDINGS = keymap.FILTER_LINE


class FilterLine(Vertical):
    """Hidden until it is opened. What is entered comes as `Input.Submitted`."""

    def __init__(self) -> None:
        super().__init__(id="filter-line")
        self._error = SafeText(id="filter-error")
        self._input = FilterInput(placeholder=EXAMPLE, id="filter", select_on_focus=False)

    @property
    def is_open(self) -> bool:
        """True while it is shown."""
        return self.has_class("open")

    def compose(self) -> ComposeResult:
        """The error and the input."""
        yield self._error
        yield self._input

    def open(self, text: str) -> None:
        """Show it for editing `text`."""
        self.say("")
        self.add_class("open")
        self._input.value = text
        self._input.cursor_position = len(text)
        self._input.focus()

    def say(self, error: str) -> None:
        """What is wrong with it; empty when nothing is."""
        self._error.display = bool(error)
        self._error.show([error])

    def close(self) -> None:
        """Hide it."""
        self.remove_class("open")
