"""The help: made from the keymap, so that it is never stale."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from pgtattle.tui import keymap
from pgtattle.tui.widgets.safe import Part, SafeText


class Help(ModalScreen[None]):
    """Keys, the filter language, and all `notes` of the session, of which the header shows one at a time."""

    BINDINGS = keymap.HELP

    def __init__(self, notes: Sequence[str]) -> None:
        super().__init__()
        self._notes = notes

    def compose(self) -> ComposeResult:
        """A box of text."""
        with VerticalScroll(id="help"):
            yield SafeText(id="help-text")

    def on_mount(self) -> None:
        """Fill the text."""
        parts: list[Part] = [("keys\n", "bold")]
        for key, what in keymap.described():
            parts += [(f"  {key:20}", "cyan"), f"{what}\n"]
        parts.append(("\nfilter of Live: all terms must hold\n", "bold"))
        for example, what in keymap.FILTERS:
            parts += [(f"  {example:26}", "cyan"), f"{what}\n"]
        if self._notes:
            parts.append(("\nnotes of this session\n", "bold"))
            parts += [(f"  {note}\n", "yellow") for note in self._notes]
        self.query_one("#help-text", SafeText).show(parts)

    def action_scroll(self, by: int) -> None:
        """Scroll by so many lines."""
        self.query_one("#help", VerticalScroll).scroll_relative(y=by, animate=False)
