"""The only road of foreign text to the screen beside the cells of `rows`: harmless characters, never markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.widgets import Static

from pgtattle.tui.harmless import block

Part = str | tuple[str, str]
"""A piece of text, plain or with a style. The text may be foreign, the style is ours."""


def styled(parts: Iterable[Part]) -> Text:
    """Pieces of text, all of them made harmless."""
    text = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(block(words), style)
    return text


class SafeText(Static):
    """Shows pieces of text. With `fixed` it has as many lines as its style says, each cut at the edge."""

    def __init__(self, *, fixed: bool = False, id: str | None = None, classes: str | None = None) -> None:
        super().__init__("", markup=False, id=id, classes=classes)
        self.set_class(fixed, "fixed")
        self._fixed = fixed
        self._parts: list[Part] = []

    def show(self, parts: Iterable[Part]) -> None:
        """Replace what is shown."""
        given = list(parts)
        if given != self._parts:
            self._parts = given
            self.update(styled(given), layout=not self._fixed)
