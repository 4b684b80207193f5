"""Outcomes by test name, two ways, and which differences are explained."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Outcomes = dict[str, str]
"""Test name → what came out, beginning with one word such as `passed`; what differs after it counts as a difference."""

ABSENT = "absent"


@dataclass(frozen=True)
class Explanation:
    """Why tests whose names match may differ."""

    suite: str
    test: re.Pattern[str]
    reason: str


@dataclass(frozen=True)
class Difference:
    """A test with another outcome through the proxy."""

    test: str
    direct: str
    through: str
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A suite both ways. `settled` names tests that came out alike when run again."""

    direct: Outcomes
    through: Outcomes
    differences: Sequence[Difference]
    settled: Sequence[str] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Difference]:
        return [difference for difference in self.differences if difference.reason is None]


def passed(outcomes: Outcomes) -> int:
    return sum(outcome.split(maxsplit=1)[0] == "passed" for outcome in outcomes.values())


def differing(direct: Outcomes, through: Outcomes) -> list[str]:
    names = dict.fromkeys((*direct, *through))
    return [name for name in names if direct.get(name, ABSENT) != through.get(name, ABSENT)]


def differences(
    direct: Outcomes, through: Outcomes, suite: str, explanations: Iterable[Explanation]
) -> list[Difference]:
    mine = [one for one in explanations if one.suite == suite]

    def explain(name: str) -> str | None:
        return next((one.reason for one in mine if one.test.fullmatch(name)), None)

    return [
        Difference(name, direct.get(name, ABSENT), through.get(name, ABSENT), explain(name))
        for name in differing(direct, through)
    ]


def read_explanations(path: Path) -> list[Explanation]:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Explanation(one["suite"], re.compile(one["test"]), one["reason"]) for one in table.get("explained", [])]
