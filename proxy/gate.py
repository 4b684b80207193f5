"""The CI gate: which findings of a report fail a run, and the baseline file that excuses known ones.

A finding that the baseline holds is new again where it is worse: its loop, its repeats or its unit's queries are more
than `GROWN` times as many. What is larger by less is a larger table of the tests.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.files import can_write, write_whole
from pgtattle.proxy.schema import (
    SEVERITIES,
    ChattyEvidence,
    FindingView,
    LoopEvidence,
    RepeatEvidence,
    Report,
    Severity,
    WriteLoopEvidence,
)

FailOn = Severity | Literal["never"]

VERSION: Final = 2
"""Of the baseline file; the first had none, and no counts."""
GROWN: Final = 2


class Known(Struct, frozen=True):
    """A finding of a baseline; without a count any is excused. `reason` is what a person wrote."""

    title: str = ""
    count: int | None = None
    reason: str = ""


Baseline = Mapping[str, Known]
"""Known findings by id."""


class Verdict(Struct, frozen=True):
    """`failing` findings are new or worse, and grave enough; `worse` ones are in the baseline with a smaller count;
    `stale` are ids of the baseline that were not seen.
    """

    failing: tuple[FindingView, ...]
    excused: tuple[FindingView, ...]
    worse: tuple[FindingView, ...]
    stale: tuple[str, ...]


def judge(findings: Sequence[FindingView], fail_on: FailOn, baseline: Baseline, *, gate_time: bool = False) -> Verdict:
    """Compare findings with the baseline. Those that are about time alone fail only with `gate_time`.

    What happened in a unit of work of the run counts, although later units are without it. What is of the schema, such
    as an index, counts as it is at the end.
    """
    counted = [one for one in findings if one.unit is not None or one.state != "gone"]
    grave = [] if fail_on == "never" else [one for one in counted if at_least(one.severity, fail_on)]
    worse = tuple(one for one in counted if one.id in baseline and _is_worse(one, baseline[one.id]))
    excused = tuple(one for one in findings if one.id in baseline and one not in worse)
    seen = {one.id for one in findings}
    return Verdict(
        failing=tuple(one for one in grave if one not in excused and (gate_time or not is_about_time(one))),
        excused=excused,
        worse=worse,
        stale=tuple(sorted(id for id in baseline if id not in seen)),
    )


def marked(report: Report, baseline: Baseline) -> Report:
    """The report with the findings that the baseline excuses as `ignored`, behind the others."""
    excused = {one.id for one in judge(report.findings, "never", baseline).excused}
    findings = [replace(one, state="ignored") if one.id in excused else one for one in report.findings]
    return replace(report, findings=sorted(findings, key=attrgetter("gravity")))


def is_about_time(finding: FindingView) -> bool:
    """True where a faster machine would have said nothing: the statement, or the unit, only took long."""
    evidence = finding.evidence
    if isinstance(evidence, ChattyEvidence):
        return evidence.queries <= evidence.budget_queries
    return finding.rule == "slow-query"


def count_of(finding: FindingView) -> int | None:
    """How many executions of one unit the finding is about; None where its count depends on how much was run."""
    evidence = finding.evidence
    if isinstance(evidence, RepeatEvidence) and evidence.across:
        return None
    if isinstance(evidence, LoopEvidence | RepeatEvidence | WriteLoopEvidence):
        return evidence.executions
    return evidence.queries if isinstance(evidence, ChattyEvidence) else None


def _is_worse(finding: FindingView, known: Known) -> bool:
    count = count_of(finding)
    return count is not None and known.count is not None and count > GROWN * known.count


def at_least(severity: Severity, bound: Severity) -> bool:
    """True when `severity` is as grave as `bound` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(bound)


def read_baseline(path: Path) -> dict[str, Known]:
    """The excused findings by id. Raises UsageError for a file that is no baseline, or a later version's."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        version = content.get("version", 1)
        if unknown := content.keys() - {"version", "finding"}:
            raise TypeError(f"unknown key {min(unknown)}")
        found = {_string_of(block, "id"): _known(block) for block in content.get("finding", [])}
    except FileNotFoundError:
        raise UsageError(f"--baseline {path}: there is no such file; --update-baseline writes it") from None
    except OSError as error:
        raise UsageError(f"--baseline {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        cure = "correct it, or remove it and write a new one with --update-baseline"
        raise UsageError(f"--baseline {path} is no baseline ({error}): {cure}") from error
    if version not in (1, VERSION):
        raise UsageError(f"--baseline {path} has version {version}; this pgtattle reads versions up to {VERSION}")
    return found


def baseline_to_update(path: Path) -> dict[str, Known]:
    """What a baseline that is to be written anew holds now. Raises UsageError for one that cannot be."""
    if not can_write(path):
        raise UsageError(f"--baseline {path}: this cannot be written to; name another file")
    return read_baseline(path) if path.exists() else {}


def _known(block: dict[str, Any]) -> Known:
    return Known(_string_of(block, "title", ""), _count(block), _string_of(block, "reason", ""))


def _string_of(block: dict[str, Any], key: str, default: str | None = None) -> str:
    value = block[key] if default is None else block.get(key, default)
    if not isinstance(value, str):
        raise TypeError(f"{key} = {value!r} is not a string")
    return value


def _count(block: dict[str, Any]) -> int | None:
    count = block.get("count")
    if count is not None and (not isinstance(count, int) or count < 0):
        raise TypeError(f"count = {count!r} is no number of executions")
    return count


def write_baseline(path: Path, findings: Sequence[FindingView], known: Baseline) -> None:
    """Write all findings as excused, sorted by rule and id; reasons that people wrote (in `known`) are kept."""
    blocks = [
        "# Findings that pgtattle excuses. Write a reason to each; remove a block to be told again. `count` is of one\n"
        f"# unit of work: more than {GROWN} times as many is a new finding.\nversion = {VERSION}\n"
    ]
    for finding in sorted(findings, key=lambda one: (one.rule, one.id)):
        count = count_of(finding)
        lines = {
            "id": _string(finding.id),
            "rule": _string(finding.rule),
            "severity": _string(finding.severity),
            "title": _string(finding.title),
            "sql": _string(finding.sql),
            **({} if count is None else {"count": str(count)}),
            "reason": _string(known[finding.id].reason if finding.id in known else ""),
        }
        blocks.append("[[finding]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))
    try:
        write_whole(path, "\n".join(blocks))
    except OSError as error:
        raise UsageError(f"--baseline {path}: {error.strerror}") from error


def _string(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for DEL, and lone surrogates are neither's."""
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
