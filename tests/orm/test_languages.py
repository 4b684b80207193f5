"""What is skipped for want of a tool, and what fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.orm import languages
from tests.orm.languages import Language, Unavailable, folder_of

FAILS = (sys.executable, "-c", "import sys; sys.exit('no network')")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources" / "shop").mkdir(parents=True)
    (tmp_path / "sources" / "shop" / "program").write_text("1")
    monkeypatch.setattr(languages, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(languages, "FOLDERS", tmp_path / "made")


@pytest.mark.parametrize(
    ("language", "reason"),
    [
        (Language("shop", (), tools=("no-such-tool",)), "no-such-tool is not installed"),
        (Language("shop", (), packages=(("no-such-package", FAILS),)), "no-such-package is not installed"),
        (Language("shop", (), fetch=FAILS), f"{sys.executable} -c failed: no network"),
    ],
    ids=["tool", "package", "registry"],
)
def test_what_is_missing_is_an_excuse(language: Language, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason) as caught:
        folder_of(language)
    assert str(caught.value).startswith(language.excuses)


def test_a_build_that_fails_is_no_excuse() -> None:
    with pytest.raises(AssertionError, match="no network"):
        folder_of(Language("shop", (), build=(FAILS,)))


def test_a_program_is_made_ready_once(tmp_path: Path) -> None:
    count = (sys.executable, "-c", "open('built', 'a').write('1')")
    for _ in range(2):
        # Another attempt, as another process would make it.
        languages._attempt.cache_clear()
        folder = folder_of(Language("shop", (), build=(count,)))
    assert (folder / "program").read_text() == (folder / "built").read_text() == "1"
