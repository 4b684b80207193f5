"""Text from the wire, made harmless on its way to the screen: nothing in it can speak to a terminal.

Enters: any text. Leaves: text without control characters (C0, DEL, C1), characters that turn or hide their neighbours
(bidirectional controls, zero width), surrogates and tags, each replaced by one visible symbol. Out of scope: markup,
which is never parsed (`widgets.safe`).
"""

from __future__ import annotations

import re
from typing import Final

LINE: Final = 2_000
BLOCK: Final = 20_000

_PICTURES: Final = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_UNSAFE_IN_BLOCK: Final = re.compile(_UNSAFE.pattern.replace("[\x00-\x1f", "[\x00-\x09\x0b-\x1f"))


def line(text: str, limit: int = LINE) -> str:
    """One line: newlines and tabs too become symbols; cut at `limit` characters."""
    return _UNSAFE.sub(_shown, text[:limit])


def block(text: str, limit: int = BLOCK) -> str:
    """Lines: newlines stay, tabs become spaces; what is over `limit` characters is counted instead of shown."""
    shown = text[:limit].replace("\r\n", "\n").replace("\t", "    ")
    rest = f" … {len(text) - limit:,} more characters" if len(text) > limit else ""
    return _UNSAFE_IN_BLOCK.sub(_shown, shown) + rest


def _shown(match: re.Match[str]) -> str:
    return _PICTURES.get(ord(match[0]), "\ufffd")
