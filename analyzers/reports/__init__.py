"""Reports: a `Report` → the text of a file, by the name of its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pgtattle.analyzers.reports import as_json, text
from pgtattle.proxy.schema import Report

FORMATS: Final[Mapping[str, Callable[[Report], str]]] = {"json": as_json.render, "text": text.render}
