"""Text in a client's encoding: PostgreSQL's names of encodings to Python's codecs.

Enters: bytes as a client sent them. Leaves: text in which each character of ASCII is one of the SQL and no part of
another character, or nothing where that cannot be known.
Source: `src/common/encnames.c`, `src/common/wchar.c`; the client-only encodings, whose second byte may be one of ASCII
(a backslash, a quote), are at the end of the list there.
"""

from __future__ import annotations

import codecs
from typing import Final

_SHIFTED: Final = {ord("\u00a5"): "\\", ord("\u203e"): "~"}


class Codec:
    """One encoding. `name` is Python's, empty where it has none; `errors` is what becomes of bytes that are no text.

    `mixed`: a byte of ASCII may be part of another character, so that bytes that are no text may hide a quote.
    """

    __slots__ = ("errors", "mixed", "name")

    def __init__(self, name: str, errors: str = "replace", mixed: bool = False) -> None:
        self.name: Final = name
        self.errors: Final = errors
        self.mixed: Final = mixed

    def decode(self, raw: bytes, whole: bool = True) -> str | None:
        """The text; None where it is not known. `whole` is false where the end is missing."""
        if not self.name:
            return raw.decode("ascii") if raw.isascii() else None
        try:
            if whole or not self.mixed:
                text = raw.decode(self.name, self.errors)
            else:
                text = codecs.getincrementaldecoder(self.name)("strict").decode(raw)
        except UnicodeError:
            return None if self.mixed else raw.decode("ascii", "replace")
        # Python reads the ASCII of this one as JIS X 0201, PostgreSQL as ASCII.
        return text.translate(_SHIFTED) if self.name == "shift_jis_2004" else text


UTF8: Final = Codec("utf-8")
UNKNOWN: Final = Codec("")
_CODECS: Final = {
    "UTF8": UTF8,
    "UNICODE": UTF8,
    # Whatever the application means by its bytes: those that are no UTF-8 are kept, as lone surrogates.
    "SQL_ASCII": Codec("utf-8", "surrogateescape"),
    "EUC_JP": Codec("euc_jp", "strict"),
    "EUC_CN": Codec("gb2312", "strict"),
    "EUC_KR": Codec("euc_kr", "strict"),
    "EUC_JIS_2004": Codec("euc_jis_2004", "strict"),
    **{f"LATIN{n}": Codec(f"iso8859-{part}") for n, part in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15, 16), 1)},
    **{f"ISO_8859_{part}": Codec(f"iso8859-{part}") for part in (5, 6, 7, 8)},
    **{f"WIN{page}": Codec(f"cp{page}") for page in (866, 874, *range(1250, 1259))},
    "KOI8R": Codec("koi8_r"),
    "KOI8U": Codec("koi8_u"),
    "SJIS": Codec("cp932", "strict", mixed=True),
    "BIG5": Codec("cp950", "strict", mixed=True),
    "GBK": Codec("gbk", "strict", mixed=True),
    "UHC": Codec("cp949", "strict", mixed=True),
    "GB18030": Codec("gb18030", "strict", mixed=True),
    "JOHAB": Codec("johab", "strict", mixed=True),
    "SHIFT_JIS_2004": Codec("shift_jis_2004", "strict", mixed=True),
}


def codec(client_encoding: str) -> Codec:
    """The codec of a client_encoding as the server reports it."""
    return _CODECS.get(client_encoding.upper(), UNKNOWN)
