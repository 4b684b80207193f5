"""Text from the wire → text that a terminal shows as it is, and nothing else.

What a terminal acts on or a reader cannot see becomes a visible symbol: C0 and DEL their picture (U+2400…), the rest
(C1, bidirectional and invisible controls, line separators, lone surrogates) U+FFFD.
"""

from __future__ import annotations

import re
from typing import Final

_HARMFUL: Final = re.compile(
    "[\0-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_PICTURES: Final = 0x2400


def harmless(text: str, newline: bool = False) -> str:
    """The text with visible symbols in place of controls; `newline` keeps line feeds, and tabs become spaces then."""
    if newline:
        return "\n".join(harmless(line.replace("\t", "    ")) for line in text.replace("\r\n", "\n").split("\n"))
    return _HARMFUL.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
