"""The banner of a start and the check list, of facts that are given."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgtattle.proxy import checks, doctor, probes, server_checks
from pgtattle.proxy.checks import Check, Start, Style
from pgtattle.proxy.schema import ExplainView, SessionView, UnitView
from pgtattle.proxy.settings import Address, Settings, Upstream
from tests.proxy.records import session

GOOD = (
    Check(name="upstream", state="ok", words="PostgreSQL 15.20 at 127.0.0.1:5432, user app, database shop"),
    Check(name="EXPLAIN", state="ok", words="works as app in shop"),
    Check(name="HypoPG", state="warn", words="available, but not installed", cure="CREATE EXTENSION hypopg;"),
    Check(name="pooler", state="ok", words="none"),
)


def start(**changes: Any) -> Start:
    fields: dict[str, Any] = {
        "version": "1.2.3",
        "listen": "127.0.0.1:7432",
        "upstream": "127.0.0.1:5432",
        "database_url": "postgresql://app@127.0.0.1:7432/shop?sslmode=disable",
        "needs_password": False,
        "api": "127.0.0.1:7433",
        "checks": GOOD,
    }
    return Start(**(fields | changes))


def settings(**changes: Any) -> Settings:
    upstream = Upstream(
        addresses=(Address("127.0.0.1", 5432),), dsn="", user="app", database="shop", password="the-secret"
    )
    fields: dict[str, Any] = {"upstream": upstream, "listen": (), "api": Address()}
    return Settings(**(fields | changes))


def test_the_banner_is_aligned_and_plain() -> None:
    assert checks.banner(start(), Style()) == [
        "pgtattle 1.2.3",
        "  listen    127.0.0.1:7432, forwards to 127.0.0.1:5432",
        "  connect   DATABASE_URL=postgresql://app@127.0.0.1:7432/shop?sslmode=disable",
        "  API       http://127.0.0.1:7433",
        "  metrics   http://127.0.0.1:7433/metrics",
        "✓ upstream  PostgreSQL 15.20 at 127.0.0.1:5432, user app, database shop",
        "✓ EXPLAIN   works as app in shop",
        "! HypoPG    available, but not installed",
        "            fix: CREATE EXTENSION hypopg;",
    ]


def test_the_banner_names_pgpassword_and_the_port_of_the_metrics() -> None:
    shown = checks.banner(start(needs_password=True, metrics="0.0.0.0:9464", api="unix:/tmp/api.sock"), Style())
    assert "(and PGPASSWORD)" in shown[2]
    assert shown[3:5] == ["  API       unix:/tmp/api.sock", "  metrics   http://0.0.0.0:9464/metrics"]


def test_the_short_banner_has_a_line_for_what_is_wrong() -> None:
    assert checks.short_banner(start(), Style()) == [
        "pgtattle 1.2.3 at 127.0.0.1:7432  ✓ PostgreSQL 15.20 at 127.0.0.1:5432, user app, database shop"
        "  ✓ EXPLAIN  ! HypoPG",
        "pgtattle: HypoPG: available, but not installed (fix: CREATE EXTENSION hypopg;)",
    ]


def test_what_a_server_says_does_not_act_on_the_terminal() -> None:
    evil = Check(name="upstream", state="failed", words="\x1b[2Jno\r\n such", cure="\x07")
    for lines in (checks.banner(start(checks=[evil]), Style()), checks.short_banner(start(checks=[evil]), Style())):
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("listen", "changes", "url"),
    [
        ("127.0.0.1:7432", {}, "postgresql://app@127.0.0.1:7432/shop?sslmode=disable"),
        ("0.0.0.0:7432", {"tls_cert": "c"}, "postgresql://app@127.0.0.1:7432/shop?sslmode=require"),
        ("[::]:7432", {"tls_passthrough": True}, "postgresql://app@[::1]:7432/shop"),
        ("unix:/run/x/.s.PGSQL.5433", {}, "postgresql://app@/shop?host=/run/x&port=5433"),
        ("unix:/run/x/socket", {}, ""),
    ],
)
def test_the_url_to_paste_has_no_password(listen: str, changes: dict[str, Any], url: str) -> None:
    assert checks.database_url(settings(**changes), listen) == url


def test_names_in_the_url_are_quoted() -> None:
    upstream = Upstream(addresses=(Address("h", 1),), dsn="", user="a@b/c", database="d?e")
    assert checks.database_url(settings(upstream=upstream), "h:2") == "postgresql://a%40b%2Fc@h:2/d%3Fe?sslmode=disable"


def test_colours_and_marks_are_those_that_the_stream_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert checks.style(Terminal(io.BytesIO(), "utf-8")) == Style(colour=True)
    assert checks.style(io.TextIOWrapper(io.BytesIO(), "utf-8")) == Style()
    assert checks.style(io.TextIOWrapper(io.BytesIO(), "ascii")) == Style(ascii=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert checks.style(Terminal(io.BytesIO(), "utf-8")) == Style()
    assert Style(colour=True).glyph("failed") == "\x1b[31m✗\x1b[0m"
    assert [Style(ascii=True).glyph(state) for state in ("ok", "warn", "failed", "unknown")] == ["+", "!", "x", "?"]


# -- what a running profiler knows -------------------------------------------------------------------------------------


def of_server(failure: str | None, version: str, **explain: Any) -> list[tuple[str, str]]:
    upstream = Upstream(addresses=(Address("db", 5432),), dsn="", user="app", database="shop")
    found = server_checks.of_server(upstream, failure, version, ExplainView(**explain))
    assert [one.name for one in found] == ["upstream", "EXPLAIN", "HypoPG"]
    return [(one.state, one.words) for one in found]


def test_a_server_that_answers_everything() -> None:
    assert of_server("", "18.4", state="ok", hypopg=True) == [
        ("ok", "PostgreSQL 18.4 at db:5432, user app, database shop"),
        ("ok", "available"),
        ("ok", "installed"),
    ]


def test_a_server_that_lets_nobody_in() -> None:
    assert of_server("", "", state="no_password", reason="no password supplied") == [
        ("ok", "PostgreSQL answers at db:5432"),
        ("failed", "no password supplied"),
        ("unknown", "not known without EXPLAIN"),
    ]


def test_a_server_that_is_not_there_or_not_yet_known() -> None:
    assert of_server("refused there", "", state="unreachable", reason="refused")[:2] == [
        ("failed", "refused there"),
        ("failed", "needs a server that answers"),
    ]
    assert [state for state, _ in of_server(None, "")] == ["unknown"] * 3


def test_rights_that_are_missing_warn() -> None:
    assert [state for state, _ in of_server("", "18.4", state="no_rights", reason="permission denied")] == [
        "ok",
        "warn",
        "warn",
    ]


def test_a_server_that_is_too_old_is_said() -> None:
    """None so old can be had any more: what psycopg says of one."""
    info = SimpleNamespace(server_version=120_022, parameter_status=lambda name: "12.22 (Debian)")
    (found,) = probes._old(cast(Any, SimpleNamespace(info=info)))
    assert (found.state, found.words[:27]) == ("failed", "PostgreSQL 12.22 is too old")
    info.server_version = 130_000
    assert list(probes._old(cast(Any, SimpleNamespace(info=info)))) == []


# -- what doctor makes of a running pgtattle ---------------------------------------------------------------------------


def unit(kind: str) -> UnitView:
    return UnitView(
        id="u", kind=kind, key="", confidence="weak", signal="", route="", source="", started_at="", span_ms=0.0,
        database_ms=0.0, executions=1, connections=1, statements=[],
    )  # fmt: skip


def seen(*kinds: str, **changes: Any) -> dict[str, Check]:
    sidecar = doctor.Sidecar(session=session(**changes), units=[unit(kind) for kind in kinds])
    return {one.name: one for one in doctor.seen(sidecar)}


def test_a_healthy_session_has_nothing_to_mend() -> None:
    found = seen("request", "burst", executions=5, connections=1, connections_total=3)
    assert {name: one.state for name, one in found.items()} == {"traffic": "ok", "tags": "ok"}
    assert found["traffic"].words == "5 executions over 3 connections (1 open)"
    assert found["tags"].words == "1 of the latest 2 units have an id"


def test_everything_that_is_wrong_with_a_session_is_said() -> None:
    found = seen(
        "burst", executions=5, shed=7, lost=2, restarts=3, opaque_connections=4, tls_declined=1, notes=["no password"]
    )
    states = {name: one.state for name, one in found.items()}
    assert states.pop("TLS") == "failed"
    assert states.pop("traffic") == "ok"
    assert states == dict.fromkeys(("tags", "note", "analysis", "opaque", "restarts"), "warn")
    assert "7 executions shed" in found["analysis"].words


def test_no_traffic_names_the_url() -> None:
    url = "postgresql://app@127.0.0.1:7432/shop"
    assert seen(database_url=url)["traffic"].cure.endswith(f"export DATABASE_URL='{url}'")
    connected = seen(connections_total=2)["traffic"].words
    assert connected == "2 connections and no query has come through pgtattle yet"


def test_bypassing_sessions_are_grouped() -> None:
    one: SessionView = session(executions=1)
    many = [doctor.Backend(number, "web", "10.0.0.1") for number in range(3)] + [doctor.Backend(9, "", "unix socket")]
    (found,) = doctor.bypassing(one, many)
    assert found.state == "warn"
    assert "web from 10.0.0.1 (3), no application_name from unix socket" in found.words
    assert [check.state for check in doctor.bypassing(one, [])] == ["ok"]
    assert [check.state for check in doctor.bypassing(one, None)] == ["unknown"]
    several = [doctor.Backend(number, f"app {number}", "h") for number in range(8)]
    assert next(iter(doctor.bypassing(one, several))).words.endswith("and 3 more")
