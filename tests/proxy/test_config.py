"""Addresses, files, precedence and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgtattle.proxy import config
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import Address
from tests.waiting import PATIENCE

UPSTREAM = "postgresql://u@127.0.0.1:1/d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7432", Address("127.0.0.1", 7432)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:5", Address("localhost", 5)),
        (":5", Address("0.0.0.0", 5)),
        ("unix:/tmp/x", Address(path="/tmp/x")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert config.address(text, "--listen") == expected
    assert config.address(str(expected), "--listen") == expected


@pytest.mark.parametrize(
    "text", ["", "7432", "host", "h:70000", "::1:5", "unix:relative", "unix:/" + "x" * 200, "h:-1"]
)
def test_addresses_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        config.address(text, "--listen")


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "pgtattle.proxy.cli", *arguments],
        cwd=folder,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('lisen = "127.0.0.1:1"', ["pgtattle.toml", "'lisen'", "did you mean 'listen'"]),
        ("[rules]\nslow-query-mss = 1", ["[rules]", "slow-query-mss", "did you mean 'slow-query-ms'"]),
        ("[rules]\nslow-query-ms = 'x'", ["[rules]", "slow-query-ms"]),
        ("[rules]\nn-plus-one-min = 1", ["[rules]", "n-plus-one-min", ">= 2"]),
        ("[rules]\nslow-query-ms = -1", ["[rules]", "slow-query-ms", "> 0"]),
        ("listen = [", ["pgtattle.toml is no TOML"]),
        ("listen = 5", ["pgtattle.toml", "listen", "in quotes"]),
        ("rules = 5", ["pgtattle.toml", "[rules]"]),
        ("allow-plain = 5", ["pgtattle.toml", "allow-plain", "boolean"]),
        ("drain = 'long'", ["pgtattle.toml", "drain"]),
        ("drain = nan", ["pgtattle.toml", "drain", "no number of seconds"]),
        ('command = "x"', ["unknown key 'command'"]),
        ('values = "all"', ["values", "redacted"]),
    ],
)
def test_a_bad_file_is_exit_2_and_names_what_is_right(tmp_path: Path, content: str, words: list[str]) -> None:
    (tmp_path / "pgtattle.toml").write_text(content)
    done = run(tmp_path, "serve", "--upstream", UPSTREAM)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--lisen", "x"], "'--listen'"),
        (["serv"], "Did you mean 'serve'"),
        (["serve"], "where is PostgreSQL?"),
        (["serve", "--upstream", "postgresql://u:geheim@h/d"], "PGPASSWORD"),
        (["serve", "--upstream", "mysql://h/d"], "is not PostgreSQL"),
        (["serve", "--upstream", UPSTREAM, "--listen", "0.0.0.0:0"], "--allow-plain"),
        (["serve", "--upstream", UPSTREAM, "--api", "0.0.0.0:0"], "--token-file"),
        (["serve", "--upstream", UPSTREAM, "--token-file", "absent"], "No such file"),
        (["serve", "--upstream", UPSTREAM, "--config", "absent.toml"], "absent.toml"),
        (["serve", "--upstream", UPSTREAM, "--drain", "-1"], "--drain"),
        (["run", "--upstream", UPSTREAM], "COMMAND"),
        (["run", "--upstream", UPSTREAM, "--report", "json", "--", "true"], "FORMAT=PATH"),
        (["run", "--upstream", UPSTREAM, "--report", "jsn=x", "--", "true"], "known formats"),
        (["run", "--upstream", UPSTREAM, "--report", "json=/absent/x", "--", "true"], "/absent"),
        (["run", "--upstream", UPSTREAM, "--update-baseline", "--", "true"], "--baseline"),
        (["run", "--upstream", UPSTREAM, "--baseline", "absent", "--", "true"], "no such file"),
        (["run", "--upstream", UPSTREAM, "--set-env", "ABSENT_URL", "--", "true"], "ABSENT_URL: is not set"),
        (["run", "--upstream", UPSTREAM, "--set-env", "PATH", "--", "true"], "PATH: is no postgresql:// URL"),
        (["demo", "--headless", "--seconds", "nan"], "is no number of seconds"),
        (["serve", "--upstream", UPSTREAM, "--idle-timeout", "inf"], "is no number of seconds"),
        (["tui", "ftp://x"], "http://HOST:PORT"),
    ],
)
def test_wrong_use_is_exit_2_and_says_what_to_do(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, "serve", "--upstream", UPSTREAM, "--listen", f"127.0.0.1:{port}", "--api", "127.0.0.1:0")
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


@pytest.mark.parametrize("content", ["tool = 5", "[tool]\npgtattle = 5", "[tool.pgtattle]\nlisen = 5", "[[["])
def test_a_bad_project_file_is_exit_2(tmp_path: Path, content: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    done = run(tmp_path, "serve", "--upstream", UPSTREAM)
    assert done.returncode == 2
    assert "pyproject.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("listen", ['"0.0.0.0:1"', '["127.0.0.1:1", "0.0.0.0:1"]'])
def test_a_repeatable_option_of_a_file_is_one_or_a_list(tmp_path: Path, listen: str) -> None:
    (tmp_path / "pgtattle.toml").write_text(f"listen = {listen}\nmax-connections = 3\nallow-plain = false")
    assert "--listen 0.0.0.0:1" in run(tmp_path, "serve", "--upstream", UPSTREAM).stderr


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pgtattle]\nlisten = ["0.0.0.0:1"]\n')
    file = run(tmp_path, "serve", "--upstream", UPSTREAM)
    assert "0.0.0.0:1" in file.stderr
    environment = run(tmp_path, "serve", "--upstream", UPSTREAM, PGTATTLE_LISTEN="0.0.0.0:2")
    assert "0.0.0.0:2" in environment.stderr
    flag = run(tmp_path, "serve", "--upstream", UPSTREAM, "--listen", "0.0.0.0:3", PGTATTLE_LISTEN="0.0.0.0:2")
    assert "0.0.0.0:3" in flag.stderr


def test_tokens_are_private_and_long(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)
    assert config.read_token(str(file)) == "0123456789abcdef"
    file.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        config.read_token(str(file))
    file.chmod(0o600)
    file.write_bytes(b"\xff\xfe0123456789abcdef")
    with pytest.raises(UsageError, match="ASCII"):
        config.read_token(str(file))
    with pytest.raises(UsageError, match="directory"):
        config.read_token(str(tmp_path))
    file.write_text("short")
    with pytest.raises(UsageError, match="16 characters"):
        config.read_token(str(file))


@pytest.mark.parametrize(
    ("upstream", "listen", "same"),
    [
        (Address("127.0.0.1", 7432), Address("127.0.0.1", 7432), True),
        (Address("localhost", 7432), Address("127.0.0.1", 7432), True),
        (Address("localhost", 7432), Address("0.0.0.0", 7432), True),
        (Address("db", 7432), Address("0.0.0.0", 7432), False),
        (Address("db", 7432), Address("db", 7432), True),
        (Address("localhost", 5432), Address("127.0.0.1", 7432), False),
        (Address(path="/tmp/.s.PGSQL.5432"), Address(path="/tmp/.s.PGSQL.5432"), True),
        (Address(path="/tmp/.s.PGSQL.5432"), Address("127.0.0.1", 5432), False),
    ],
)
def test_an_upstream_that_is_the_proxy_itself(upstream: Address, listen: Address, same: bool) -> None:
    assert config.same_place(upstream, listen) is same
