"""The CI gate: which findings of a report fail a run, and the baseline file that excuses known ones."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.files import write_whole
from pgtattle.proxy.schema import SEVERITIES, FindingView, Severity

FailOn = Severity | Literal["never"]


class Verdict(Struct, frozen=True):
    """`failing` findings are new and grave enough; `stale` are ids of the baseline that were not seen."""

    failing: tuple[FindingView, ...]
    excused: tuple[FindingView, ...]
    stale: tuple[str, ...]


def judge(findings: Sequence[FindingView], fail_on: FailOn, baseline: dict[str, str]) -> Verdict:
    """Compare findings with the baseline (titles by id)."""
    grave = [] if fail_on == "never" else [one for one in findings if at_least(one.severity, fail_on)]
    seen = {one.id for one in findings}
    return Verdict(
        failing=tuple(one for one in grave if one.id not in baseline),
        excused=tuple(one for one in findings if one.id in baseline),
        stale=tuple(sorted(id for id in baseline if id not in seen)),
    )


def at_least(severity: Severity, bound: Severity) -> bool:
    """True when `severity` is as grave as `bound` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(bound)


def read_baseline(path: Path) -> dict[str, str]:
    """Titles of the excused findings by id. Raises UsageError for a file that is no baseline."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return {block["id"]: block.get("title", "") for block in content.get("finding", [])}
    except FileNotFoundError:
        raise UsageError(f"--baseline {path}: there is no such file; --update-baseline writes it") from None
    except OSError as error:
        raise UsageError(f"--baseline {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--baseline {path} is no baseline ({error}); --update-baseline writes one") from error


def write_baseline(path: Path, findings: Sequence[FindingView]) -> None:
    """Write all findings as excused, sorted by rule and id; reasons that people wrote are kept."""
    reasons: dict[str, str] = {}
    if path.exists():
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        reasons = {block["id"]: block.get("reason", "") for block in content.get("finding", []) if "id" in block}
    blocks = ["# Findings that pgtattle excuses. Write a reason to each; remove a block to hear of it again.\n"]
    for finding in sorted(findings, key=lambda one: (one.rule, one.id)):
        lines = {
            "id": finding.id,
            "rule": finding.rule,
            "severity": finding.severity,
            "title": finding.title,
            "sql": finding.sql,
            "reason": reasons.get(finding.id, ""),
        }
        blocks.append("[[finding]]\n" + "".join(f"{key} = {_string(value)}\n" for key, value in lines.items()))
    try:
        write_whole(path, "\n".join(blocks))
    except OSError as error:
        raise UsageError(f"--baseline {path}: {error.strerror}") from error


def _string(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for DEL, and lone surrogates are neither's."""
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
