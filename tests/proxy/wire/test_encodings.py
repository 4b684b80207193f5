"""Text of clients: ASCII stays what it is to the server, and what may hide a quote is no text."""

from __future__ import annotations

import struct

import pytest

from pgtattle.proxy.wire.encodings import UNKNOWN, codec
from pgtattle.proxy.wire.values import parameter

# pg_enc2name_tbl in src/common/encnames.c.
SERVER = """SQL_ASCII EUC_JP EUC_CN EUC_KR EUC_JIS_2004 UTF8 LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8
LATIN9 LATIN10 WIN1256 WIN1258 WIN866 WIN874 KOI8R WIN1251 WIN1252 ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8 WIN1250
WIN1253 WIN1254 WIN1255 WIN1257 KOI8U""".split()
CLIENT_ONLY = "SJIS BIG5 GBK UHC GB18030 JOHAB SHIFT_JIS_2004".split()
UNKNOWN_TO_PYTHON = ["EUC_TW", "MULE_INTERNAL"]
ASCII = bytes(range(1, 128))


@pytest.mark.parametrize("name", [*SERVER, *CLIENT_ONLY, *UNKNOWN_TO_PYTHON])
def test_ascii_is_ascii(name: str) -> None:
    assert codec(name).decode(ASCII) == ASCII.decode()


@pytest.mark.parametrize("name", SERVER)
def test_no_byte_of_ascii_is_lost_behind_others(name: str) -> None:
    found = codec(name)
    assert found is not UNKNOWN
    for high in range(128, 256):
        for before in (b"", b"\x8e", b"\x8f", b"\xa1", b"\xf0\x9f"):
            raw = before + bytes((high,))
            text = found.decode(raw + b"'\\" + raw)
            assert text is not None
            assert text.count("'\\") == 1, raw


@pytest.mark.parametrize("name", CLIENT_ONLY)
def test_bytes_that_are_no_text_have_none(name: str) -> None:
    found = codec(name)
    assert found.mixed
    assert found.decode(b"'\xff\xff'") is None or name == "SJIS"
    assert found.decode(b"'\x95") is None
    assert found.decode(b"'\x95", whole=False) == "'"


@pytest.mark.parametrize("name", UNKNOWN_TO_PYTHON)
def test_without_a_codec_there_is_no_text(name: str) -> None:
    assert codec(name) is UNKNOWN
    assert codec(name).decode(b"\xa4") is None


def test_values_are_in_the_encoding_of_the_client_in_text_and_binary() -> None:
    sjis, raw = codec("SJIS"), "表".encode("cp932")
    array = struct.pack("!iiIiii", 1, 0, 25, 1, 1, len(raw)) + raw
    assert parameter(25, False, raw, sjis).value == "表"
    assert parameter(25, True, raw, sjis).value == "表"
    assert parameter(3802, True, b"\1" + raw, sjis).value == "表"
    assert parameter(1009, True, array, sjis).value == "{表}"
    for oid, value in ((25, raw), (1009, array), (3802, b"\1" + raw)):
        found = parameter(oid, True, value, UNKNOWN)
        assert (found.value, found.binary) == ("\\x" + value.hex(), value)
    assert parameter(25, False, raw, UNKNOWN).binary == raw
