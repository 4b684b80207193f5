"""The JSON Schema of the JSON report, made from its types; shipped beside this module as `report.schema.json`.

`python -m pgtattle.analyzers.reports.json_schema` writes the file anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from pgtattle.proxy.schema import Report

PATH: Final = Path(__file__).with_name("report.schema.json")


def render() -> str:
    """The schema (draft 2020-12) that every report validates against, as the file holds it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgtattle report, version 1",
        **msgspec.json.schema(Report),
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
