"""Text from the wire, made harmless where it enters the dashboard: nothing in it can speak to a terminal."""

from __future__ import annotations

import re
from typing import Final

_PICTURES: Final = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_UNSAFE_IN_BLOCK: Final = re.compile(_UNSAFE.pattern.replace("[\x00-\x1f", "[\x00-\x09\x0b-\x1f"))


def line(text: str, limit: int = 2_000) -> str:
    """One line: control characters, newlines and tabs too, as visible symbols; cut at `limit` characters."""
    return _UNSAFE.sub(_shown, text[:limit])


def block(text: str, limit: int = 100_000) -> str:
    """Lines: newlines stay, tabs become spaces, the rest as in `line`."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return _UNSAFE_IN_BLOCK.sub(_shown, text[:limit]) + (" …" if len(text) > limit else "")


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _PICTURES.get(code, "\ufffd")
