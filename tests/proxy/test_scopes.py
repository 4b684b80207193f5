"""Scopes and the processes that they match: what falls in one, what does not, and that both are bounded."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.events import Connection
from pgtattle.proxy.processes import is_of
from pgtattle.proxy.schema import ScopeMatch, ScopeRequest
from pgtattle.proxy.scopes import KEPT_NS, MAX_KEPT, MAX_SPAN_NS, Scopes

SECOND = 1_000_000_000


def connection(number: int = 1, application: str = "shop") -> Connection:
    return Connection(id=number, client=f"127.0.0.1:{number}", opened_ns=0, application=application)


def of_application(name: str = "shop", key: str = "t1") -> ScopeRequest:
    return ScopeRequest(kind="test", key=key, match=ScopeMatch(application_name=name))


def test_an_execution_falls_in_the_scope_that_it_began_in() -> None:
    scopes = Scopes(is_of)
    scope = scopes.open(of_application(), 10 * SECOND)
    assert scopes.of(connection(), 9 * SECOND) is None
    mark = scopes.of(connection(), 11 * SECOND)
    assert mark is not None
    assert (mark.kind, mark.id) == ("scope", "t1")
    assert scopes.of(connection(application="other"), 11 * SECOND) is None
    assert scopes.close(scope.id, 12 * SECOND)
    assert scopes.of(connection(), 11 * SECOND) == mark
    assert scopes.of(connection(), 13 * SECOND) is None


def test_of_two_scopes_the_later_counts() -> None:
    scopes = Scopes(is_of)
    scopes.open(of_application(key="outer"), 10)
    scopes.open(of_application(key="inner"), 20)
    found = [scopes.of(connection(), at) for at in (15, 25)]
    assert [mark.id for mark in found if mark is not None] == ["outer", "inner"]


def test_a_scope_is_forgotten_a_while_after_its_end() -> None:
    scopes = Scopes(is_of)
    scope = scopes.open(of_application(), 0)
    scopes.close(scope.id, SECOND)
    assert scopes.any
    assert scopes.close(scope.id, SECOND + KEPT_NS)
    assert not scopes.close(scope.id, 3 * SECOND + KEPT_NS)
    assert not scopes.any


def test_ended_scopes_are_bounded_and_forgotten_by_traffic_too() -> None:
    scopes = Scopes(is_of)
    for number in range(5_000):
        scopes.close(scopes.open(of_application(key=f"t{number}"), number).id, number)
    assert len(scopes._scopes) <= MAX_KEPT
    assert scopes.of(connection(), 3 * KEPT_NS) is None
    assert not scopes.any


def test_a_key_of_a_scope_that_ended_begins_a_new_one() -> None:
    scopes = Scopes(is_of)
    first = scopes.open(of_application(), 0, "k")
    assert scopes.open(of_application(), 1, "k") == first
    with pytest.raises(UsageError, match="another scope"):
        scopes.open(of_application(key="t2"), 2, "k")
    scopes.close(first.id, 3)
    assert scopes.open(of_application(), 4, "k").id != first.id


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (ScopeRequest(kind="test", key="a\x1b[0m", match=ScopeMatch(client_pid=1)), "printable"),
        (ScopeRequest(kind="test", key="k", match=ScopeMatch(client_pid=-5)), "client_pid is a number"),
        (ScopeRequest(kind="test", key="k", match=ScopeMatch(client_pid=10**30)), "client_pid is a number"),
        (ScopeRequest(kind="test", key="k", match=ScopeMatch(application_name="a" * 64)), "at most 63"),
    ],
)
def test_what_could_never_match_is_refused(asked: ScopeRequest, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Scopes(is_of).open(asked, 0)


def test_a_scope_that_nobody_closes_ends() -> None:
    scopes = Scopes(is_of)
    scopes.open(of_application(), 0)
    assert scopes.of(connection(), MAX_SPAN_NS + 1) is None


def test_a_process_is_asked_for_once_a_connection() -> None:
    asked = []

    def mine(client: str, pid: int) -> bool:
        asked.append((client, pid))
        return client == "127.0.0.1:1"

    scopes = Scopes(mine)
    scopes.open(ScopeRequest(kind="request", key="r1", match=ScopeMatch(client_pid=42)), 0)
    assert [scopes.of(connection(number), 1) is not None for number in (1, 2, 1, 2)] == [True, False, True, False]
    assert asked == [("127.0.0.1:1", 42), ("127.0.0.1:2", 42)]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="either client_pid"):
        Scopes(is_of).open(ScopeRequest(kind="test", key="k", match=ScopeMatch()), 0)


def test_a_socket_is_of_the_process_that_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as mine:
            client = f"127.0.0.1:{mine.getsockname()[1]}"
            assert is_of(client, os.getpid())
            assert not is_of(f"10.9.9.9:{mine.getsockname()[1]}", os.getpid())
            assert not is_of(f"127.0.0.1:{listening.getsockname()[1]}", os.getpid() + 1)
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
                assert not is_of(client, other.pid)
                other.communicate(b"\n")
                assert not is_of(client, other.pid)
        assert not is_of("unix", os.getpid())
