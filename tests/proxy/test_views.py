"""What people see of an execution, by how much `--values` lets them see."""

from __future__ import annotations

import msgspec
import pytest

from pgtattle.proxy.events import Parameter
from pgtattle.proxy.views import Anchor, cleaned, execution_view, masked
from tests.proxy.records import STARTED_NS, STARTED_UNIX_NS, execution, finding, parameter

ANCHOR = Anchor(STARTED_UNIX_NS, STARTED_NS)
SECRET = execution(
    normal="SELECT * FROM users WHERE mail = $1 AND id = $2 AND note = $3",
    sent="SELECT * FROM users WHERE mail = 'eve@example.org' AND id = $1 AND note = $2",
    parameters=(parameter("42", 23), parameter("sesame")),
)


def test_full_shows_the_sql_as_sent_and_the_values() -> None:
    view = execution_view(SECRET, ANCHOR, "full")
    assert "eve@example.org" in view.sql
    assert view.parameters == ["42", "sesame"]


def test_redacted_shows_the_normal_form_types_and_lengths() -> None:
    view = execution_view(SECRET, ANCHOR, "redacted")
    assert view.sql == "SELECT * FROM users WHERE mail = $1 AND id = $2 AND note = $3"
    assert view.parameters == ["<int4>", "<text 6>"]


def test_hidden_shows_the_normal_form_alone() -> None:
    view = execution_view(SECRET, ANCHOR, "hidden")
    assert "eve" not in view.sql
    assert view.parameters == []


@pytest.mark.parametrize("values", ["redacted", "hidden"])
def test_no_value_leaks_into_any_field(values: str) -> None:
    encoded = msgspec.json.encode(execution_view(SECRET, ANCHOR, values)).decode()  # type: ignore[arg-type]
    assert "eve@example.org" not in encoded
    assert "sesame" not in encoded


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (parameter(None), None),
        (parameter(""), "<text 0>"),
        (parameter("123456", 23), "<int4>"),
        (parameter("x" * 1024, 1043, truncated=True), "<varchar 1024+>"),
        (parameter("{1,2}", 1007), "<int4[] 5>"),
        (parameter("a", 0), "<unknown 1>"),
        (Parameter(99999, "\\x0102", b"\x01\x02"), "<oid 99999 2>"),
    ],
)
def test_masks(given: Parameter, shown: str | None) -> None:
    assert masked(given) == shown


def test_times_are_milliseconds_and_moments_utc() -> None:
    started = STARTED_NS + 1_500_000_000
    one = execution(
        started_ns=started, ended_ns=started + 7_000_000, first_row_ns=started + 2_000_000, stalled_ns=3_000_000
    )
    view = execution_view(one, ANCHOR, "redacted")
    assert view.at == "2023-11-14T22:13:21.500000Z"
    assert (view.duration_ms, view.first_row_ms, view.stalled_ms) == (4.0, 2.0, 3.0)
    assert execution_view(execution(), ANCHOR, "redacted").first_row_ms is None


def test_a_comments_tag_wins_over_a_setting() -> None:
    one = execution(tags={"route": "/comment"}, settings={"route": "/setting", "application_name": "web"})
    assert execution_view(one, ANCHOR, "redacted").tags == {"route": "/comment", "application_name": "web"}


def test_lone_surrogates_do_not_break_the_encoding_and_controls_stay() -> None:
    one = execution(
        normal="SELECT '\udc80'",
        sent="SELECT '\udc80\x1b[0m'",
        parameters=(parameter("\ud800"),),
        sqlstate="\udcff",
        tags={"\udc01": "\udc02"},
    )
    for values in ("full", "redacted", "hidden"):
        msgspec.json.encode(execution_view(one, ANCHOR, values))  # type: ignore[arg-type]
    assert execution_view(one, ANCHOR, "full").sql == "SELECT '\ufffd\x1b[0m'"


def test_cleaned_reaches_into_nested_records() -> None:
    dirty = finding(title="\udc80 title", fingerprints=("\udc80",))
    clean = cleaned(dirty)
    assert clean.title == "\ufffd title"
    assert clean.fingerprints == ("\ufffd",)
    assert clean.evidence == dirty.evidence
    assert cleaned(clean) is clean
