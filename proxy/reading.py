"""How the SQL of one connection is read: as its server says that it reads it itself.

Enters: the server's reports (ParameterStatus), and SQL in bytes. Leaves: texts; a placeholder in the place of what
cannot be read for sure, since what is taken for a name may be a password then.
Source: PostgreSQL, "Message Flow: Asynchronous Operations", "String Constants", `src/backend/parser/scan.l`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pgtattle.analyzers.sql.texts import unreadable
from pgtattle.proxy.events import Text
from pgtattle.proxy.wire.encodings import UTF8, codec

Read = Callable[[str, bool, bool], tuple[Text, ...]]

ENCODING: Final = "client_encoding"
STRINGS: Final = "standard_conforming_strings"
NOT_TEXT: Final = frozenset(("22021", "22P05"))
"""SQLSTATEs of bytes that the server could not read as text either."""


class Reading:
    """The settings of one connection that the meaning of its bytes hangs on; `read` lexes SQL."""

    __slots__ = ("_read", "codec", "escapes")

    def __init__(self, read: Read) -> None:
        self.codec = UTF8
        self.escapes = False
        self._read = read

    def texts(self, sql: bytes, whole: bool) -> tuple[Text, ...]:
        """The statements of a text; `whole` is false where the end is missing."""
        decoded = self.codec.decode(sql, whole)
        if decoded is None:
            return (unreadable(sql, "in an unknown encoding"),)
        return self._read(decoded, not whole, self.escapes)

    def part(self, sql: str, truncated: bool) -> Text:
        """The statement of a part of a text that was read."""
        return self._read(sql, truncated, False)[0]

    def changes(self, name: str, value: str) -> bool:
        """True where a report of the server changes how text is read."""
        if name == ENCODING:
            return codec(value) is not self.codec
        return name == STRINGS and (value == "off") != self.escapes

    def reported(self, name: str, value: str) -> None:
        """The server reported a setting."""
        if name == ENCODING:
            self.codec = codec(value)
        elif name == STRINGS:
            self.escapes = value == "off"


def doubtful(text: Text) -> Text:
    """In the place of a text of an exchange in which the settings changed: what reads alike before and after."""
    if text.sql.isascii() and "\\" not in text.sql:
        return text
    return unreadable(text.sql.encode("utf-8", "replace"), "beside a change of its encoding or syntax")
