"""The help: made from the bindings, so that it is never stale."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from pgtattle.tui.widgets.safe import Part, SafeText

FILTERS = (
    ("dur>100ms", "slower than"),
    ("rows>1000", "more rows than"),
    ("op:select table:users", "command, table"),
    ("app:web user:bob db:shop", "who and where"),
    ("err err:23505", "failed, with this SQLSTATE"),
    ("fp:1a2b conn:12", "statement, connection"),
    ('"text" -op:select', "text of the SQL, and not"),
)


class Help(ModalScreen[None]):
    """Keys and the filter language."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Close")]

    def __init__(self, bindings: list[tuple[str, str]]) -> None:
        super().__init__()
        self._bindings_shown = bindings

    def compose(self) -> ComposeResult:
        """A box of text."""
        with VerticalScroll(id="help"):
            yield SafeText(id="help-text")

    def on_mount(self) -> None:
        """Fill the text."""
        parts: list[Part] = [("keys\n", "bold")]
        for key, what in self._bindings_shown:
            parts += [(f"  {key:16}", "cyan"), f"{what}\n"]
        parts.append(("\nfilter\n", "bold"))
        for example, what in FILTERS:
            parts += [(f"  {example:26}", "cyan"), f"{what}\n"]
        self.query_one("#help-text", SafeText).show(parts)
