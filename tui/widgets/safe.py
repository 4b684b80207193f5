"""The only road of foreign text to the screen: `rich.Text` of harmless characters, never markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.widgets import Static

from pgtattle.tui.harmless import block

Part = str | tuple[str, str]


def styled(parts: Iterable[Part]) -> Text:
    """Pieces of text, each plain or with a style; all of them made harmless."""
    text = Text(no_wrap=False)
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(block(words), style)
    return text


class SafeText(Static):
    """Shows pieces of text."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__("", markup=False, id=id, classes=classes)

    def show(self, parts: Iterable[Part]) -> None:
        """Replace what is shown."""
        self.update(styled(parts))
