"""What the documents tell people to type exists, and what they link to is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from pgtattle.proxy.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def commands(document: Path) -> list[list[str]]:
    """The commands of a document's sh blocks, without assignments and comments."""
    found = []
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


COMMANDS = [(document, words) for document in DOCUMENTS for words in commands(document)]
PGTATTLE = [(document, words) for document, words in COMMANDS if Path(words[0]).name == "pgtattle"]
MAKE = [(document, words) for document, words in COMMANDS if words[0] == "make"]


def name(value: object) -> str:
    return (
        str(value.relative_to(ROOT)) if isinstance(value, Path) else " ".join(value) if isinstance(value, list) else ""
    )


def parse(words: list[str]) -> None:
    """Parse a command line as the program would, without running it."""
    with click.Context(main, info_name="pgtattle") as context:
        name, command, rest = main.resolve_command(context, words[1:])
        assert command is not None
        command.make_context(name, rest, parent=context).close()


def test_the_readme_opens_with_the_two_commands() -> None:
    assert [words[:2] for words in commands(ROOT / "README.md")[:2]] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize(("document", "words"), PGTATTLE, ids=name)
def test_each_command_parses(document: Path, words: list[str]) -> None:
    parse(words)


def test_a_wrong_command_would_not_parse() -> None:
    with pytest.raises(click.UsageError):
        parse(["pgtattle", "serve", "--no-such-flag"])
    with pytest.raises(click.UsageError):
        parse(["pgtattle", "no-such-command"])


@pytest.mark.parametrize(("document", "words"), MAKE, ids=name)
def test_each_make_target_exists(document: Path, words: list[str]) -> None:
    assert {word for word in words[1:] if "=" not in word} <= TARGETS


def test_the_readme_names_the_flags_that_there_are() -> None:
    flags = {option for command in main.commands.values() for parameter in command.params for option in parameter.opts}
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Flags")[1].split("\n## ")[0]
    assert set(re.findall(r"`(--[a-z-]+)", table)) <= flags


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_make_help_lists_every_target_for_people() -> None:
    listed = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z]+)", listed, re.M)) == TARGETS


def test_python_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python-of-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo Python 3.9.2; exit; }\nexit 1\n')
    old.chmod(0o755)
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "requirements", copy / "requirements")
    for needed in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / needed, copy)
    for program, says in ((old, "Python 3.9.2 is too old"), (tmp_path / "none", "Install Python 3.11")):
        make = ["make", "demo", f"PYTHON={program}"]
        made = subprocess.run(make, cwd=copy, capture_output=True, text=True, check=False)
        assert made.returncode == 2
        assert says in made.stderr
        assert not (copy / ".venv").exists()
