"""The gate and the environment of the command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pgtattle.proxy.dsn import upstream
from pgtattle.proxy.environment import child_environment, rewrite_url
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.gate import FailOn, Known, baseline_to_update, judge, marked, read_baseline, write_baseline
from pgtattle.proxy.schema import (
    ChattyEvidence,
    Evidence,
    FindingView,
    RepeatEvidence,
    Report,
    Severity,
    SlowEvidence,
    Suggestion,
    UnitRef,
)
from tests.proxy.records import session


def repeats(count: int) -> RepeatEvidence:
    return RepeatEvidence(executions=count, distinct=1, units=3, database_ms=1, signal="")


def finding(
    name: str,
    severity: Severity = "high",
    title: str = "slow",
    *,
    evidence: Evidence | None = None,
    rule: str = "repeated-read",
) -> FindingView:
    return FindingView(
        id=name, rule=rule, severity=severity, confidence="proven", title=title,
        fingerprints=[], sql="SELECT $1",
        count=1, total_ms=1.0, unit=None, suggestion=Suggestion(text="x"), first_seen="", last_seen="",
        evidence=evidence or repeats(25),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fail_on", "failing"),
    [("high", ["a"]), ("medium", ["a", "b"]), ("critical", []), ("never", []), ("info", ["a", "b", "c"])],
)
def test_severities(fail_on: FailOn, failing: list[str]) -> None:
    findings = [finding("a"), finding("b", "medium"), finding("c", "info")]
    assert [one.id for one in judge(findings, fail_on, {}).failing] == failing


def test_a_baseline_excuses_and_grows_stale() -> None:
    verdict = judge([finding("a"), finding("b")], "high", {"a": Known("known"), "gone": Known("old")})
    assert [one.id for one in verdict.failing] == ["b"]
    assert [one.id for one in verdict.excused] == ["a"]
    assert verdict.stale == ("gone",)


@pytest.mark.parametrize(("before", "now", "is_new"), [(25, 250, True), (25, 51, True), (25, 50, False), (25, 3, False),
                                                    (None, 250, False)])  # fmt: skip
def test_a_finding_of_the_baseline_that_grew_is_new(before: int | None, now: int, is_new: bool) -> None:
    verdict = judge([finding("a", evidence=repeats(now))], "high", {"a": Known("known", before)})
    assert [one.id for one in verdict.failing] == ["a"] * is_new
    assert verdict.failing == verdict.worse
    assert [one.id for one in verdict.excused] == ["a"] * (not is_new)


def test_what_is_about_time_alone_fails_only_when_asked() -> None:
    slow = SlowEvidence(target_ms=1, executions=1, over_target=1, p50_ms=1, max_ms=1, rows=1)
    few = ChattyEvidence(queries=3, statements=3, units=1, budget_queries=100, budget_ms=10, database_ms=99, span_ms=99,
                         most=[], signal="")  # fmt: skip
    many = msgspec.structs.replace(few, queries=101)
    findings = [
        finding("slow", rule="slow-query", evidence=slow),
        finding("few", rule="chatty-unit", evidence=few),
        finding("many", rule="chatty-unit", evidence=many),
    ]
    assert [one.id for one in judge(findings, "high", {}).failing] == ["many"]
    assert [one.id for one in judge(findings, "high", {}, gate_time=True).failing] == ["slow", "few", "many"]


def test_a_baseline_comes_back_and_keeps_reasons(tmp_path: Path) -> None:
    path = tmp_path / "baseline.toml"
    hostile = 'quotes " \\ \x00 \x1b[2J \x7f \ud800 ünï\nline'
    write_baseline(path, [finding("b", title=hostile), finding("a")], {})
    assert {id: known.count for id, known in read_baseline(path).items()} == {"a": 25, "b": 25}
    path.write_text(path.read_text().replace('reason = ""', 'reason = "we know"', 1))
    write_baseline(path, [finding("a"), finding("c")], baseline_to_update(path))
    assert path.read_text().count("we know") == 1
    assert list(read_baseline(path)) == ["a", "c"]


@pytest.mark.parametrize("content", ["[", "finding = 3", "[[finding]]\nrule = 'x'",
                                     "[[finding]]\nid = 'x'\ncount = 'many'",
                                     "findings = 5", "[[finding]]\nid = 3", "\udcff"])  # fmt: skip
def test_a_file_that_is_no_baseline(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text(content, errors="surrogateescape")
    for read in (read_baseline, baseline_to_update):
        with pytest.raises(UsageError, match="no baseline"):
            read(path)


def test_a_baseline_that_cannot_be_updated_is_refused_before_anything_runs(tmp_path: Path) -> None:
    assert baseline_to_update(tmp_path / "new.toml") == {}
    with pytest.raises(UsageError, match="cannot be written to"):
        baseline_to_update(tmp_path)


def test_the_first_version_of_a_baseline_excuses_any_count_and_a_later_one_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "baseline.toml"
    path.write_text('[[finding]]\nid = "a"\ntitle = "known"\n')
    assert read_baseline(path) == {"a": Known("known", None)}
    path.write_text("version = 3\n")
    with pytest.raises(UsageError, match="version 3"):
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
    shown = marked(report, {"a": Known("known")}).findings
    assert [(one.id, one.state) for one in shown] == [("b", "open"), ("a", "ignored")]
