"""The question before leaving a dashboard whose session ends with it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from pgtattle.tui import keymap
from pgtattle.tui.widgets.safe import SafeText


class Leave(ModalScreen[bool]):
    """True when it is confirmed that the sessions of so many connected clients shall end."""

    BINDINGS = keymap.LEAVE

    def __init__(self, clients: int) -> None:
        super().__init__()
        self._clients = clients

    def compose(self) -> ComposeResult:
        """A box of text."""
        with Vertical(id="leave"):
            yield SafeText(id="leave-text")

    def on_mount(self) -> None:
        """Fill the text."""
        clients = "1 client is" if self._clients == 1 else f"{self._clients:,} clients are"
        sessions = "its session" if self._clients == 1 else "their sessions"
        self.query_one("#leave-text", SafeText).show(
            [
                f"{clients} connected through pgtattle; leaving ends {sessions}.\n\n",
                ("Leave?  ", "bold"),
                ("y", "bold cyan"),
                " leave   ",
                ("n", "bold cyan"),
                " stay",
            ]
        )

    def action_answer(self, leave: bool) -> None:
        """Close with the answer."""
        self.dismiss(leave)
