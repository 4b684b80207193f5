"""The gate and the environment of the command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pgtattle.proxy.dsn import upstream
from pgtattle.proxy.environment import child_environment, rewrite_url
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.gate import FailOn, judge, marked, read_baseline, write_baseline
from pgtattle.proxy.schema import FindingView, Report, Severity, SlowEvidence, Suggestion, UnitRef
from tests.proxy.records import session


def finding(name: str, severity: Severity = "high", title: str = "slow") -> FindingView:
    return FindingView(
        id=name, rule="slow-query", severity=severity, confidence="proven", title=title,
        fingerprints=[], sql="SELECT $1",
        count=1, total_ms=1.0, unit=None, suggestion=Suggestion(text="x"), first_seen="", last_seen="",
        evidence=SlowEvidence(target_ms=1, executions=1, over_target=1, p50_ms=1, max_ms=1, rows=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fail_on", "failing"),
    [("high", ["a"]), ("medium", ["a", "b"]), ("critical", []), ("never", []), ("info", ["a", "b", "c"])],
)
def test_severities(fail_on: FailOn, failing: list[str]) -> None:
    findings = [finding("a"), finding("b", "medium"), finding("c", "info")]
    assert [one.id for one in judge(findings, fail_on, {}).failing] == failing


def test_a_baseline_excuses_and_grows_stale() -> None:
    verdict = judge([finding("a"), finding("b")], "high", {"a": "known", "gone": "old"})
    assert [one.id for one in verdict.failing] == ["b"]
    assert [one.id for one in verdict.excused] == ["a"]
    assert verdict.stale == ("gone",)


def test_a_baseline_comes_back_and_keeps_reasons(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    hostile = 'quotes " \\ \x00 \x1b[2J \x7f \ud800 ünï\nline'
    write_baseline(path, [finding("b", title=hostile), finding("a")])
    assert list(read_baseline(path)) == ["a", "b"]
    path.write_text(path.read_text().replace('reason = ""', 'reason = "we know"', 1))
    write_baseline(path, [finding("a"), finding("c")])
    assert path.read_text().count("we know") == 1
    assert list(read_baseline(path)) == ["a", "c"]


@pytest.mark.parametrize("content", ["[", "finding = 3", "[[finding]]\nrule = 'x'"])
def test_a_file_that_is_no_baseline(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match="no baseline"):
        read_baseline(path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:p@127.0.0.1:9/d?sslmode=disable"),
        ("postgres://u@h/d?sslmode=require&x=1", "postgres://u@127.0.0.1:9/d?x=1&sslmode=disable"),
        ("postgresql+asyncpg://u:p%40@h:1/d?ssl=require", "postgresql+asyncpg://u:p%40@127.0.0.1:9/d?ssl=disable"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg2://127.0.0.1:9/d?sslmode=disable"),
        ("postgresql+pg8000://u@h/d", "postgresql+pg8000://u@127.0.0.1:9/d"),
        ("postgresql:///d?host=/var/run", "postgresql://127.0.0.1:9/d?sslmode=disable"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("mysql://u@h/d", "mysql://u@h/d"),
    ],
)
def test_urls_keep_everything_but_the_place(url: str, expected: str) -> None:
    assert rewrite_url(url, "127.0.0.1", 9) == expected


def test_the_environment_of_the_command() -> None:
    target = upstream("postgresql://u@h:1/d", {"PGPASSWORD": "geheim"})
    found = child_environment(
        {"PGHOSTADDR": "1.2.3.4", "PGSERVICE": "s", "PATH": "/bin", "MY": "postgres://u@h/d"},
        target,
        "127.0.0.1",
        9,
        ["MY"],
    )
    assert found == {
        "PATH": "/bin",
        "PGHOST": "127.0.0.1",
        "PGPORT": "9",
        "PGUSER": "u",
        "PGDATABASE": "d",
        "PGPASSWORD": "geheim",
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
        "DATABASE_URL": "postgresql://u:geheim@127.0.0.1:9/d?sslmode=disable",
        "MY": "postgres://u@127.0.0.1:9/d?sslmode=disable",
    }


def test_what_happened_counts_and_what_is_of_the_schema_counts_as_it_is() -> None:
    unit = UnitRef(kind="request", key="r")
    loop = msgspec.structs.replace(finding("loop"), unit=unit)
    every = [msgspec.structs.replace(one, state="gone") for one in (loop, finding("index"))]
    assert [one.id for one in judge(every, "high", {}).failing] == ["loop"]
    improved = msgspec.structs.replace(loop, state="improved")
    assert [one.id for one in judge([improved], "high", {}).failing] == ["loop"]


def test_a_report_shows_what_the_baseline_excuses() -> None:
    report = Report(session=session(), findings=[finding("a"), finding("b", "low")], statements=[])
    shown = marked(report, {"a": "known"}).findings
    assert [(one.id, one.state) for one in shown] == [("b", "open"), ("a", "ignored")]
