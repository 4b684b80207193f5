"""Listening sockets, made by the relay and inherited by the profiler."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Final

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import Address

BACKLOG: Final = 1024
SOCKET_NAME: Final = ".s.PGSQL.5432"


def listen(address: Address, what: str, *, private: bool = False) -> list[socket.socket]:
    """Sockets that listen at `address`, one for each address of its host.

    A unix path that is a folder gets libpq's file name for port 5432; a stale socket file is replaced. `private` makes
    the file 0600. Raises UsageError, which names `what`.
    """
    try:
        if address.path:
            return [_unix(address.path, private)]
        return _tcp(address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = "; choose another port, or 0 for any free one" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(f"cannot listen at {address} ({what}): {reason}{hint}") from error


def name(listening: socket.socket) -> str:
    """The address as text, with the port that was given."""
    bound = listening.getsockname()
    return str(Address(host=bound[0], port=bound[1])) if isinstance(bound, tuple) else f"unix:{bound}"


def _tcp(address: Address) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port = address.port
    found = socket.getaddrinfo(address.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, target in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((target[0], port, *target[2:]))
            port = port or listening.getsockname()[1]
            _start(listening)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def _unix(path: str, private: bool) -> socket.socket:
    if os.path.isdir(path):
        path = os.path.join(path, SOCKET_NAME)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177 if private else 0o000)
    try:
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(previous)
    _start(listening)
    return listening


def _start(listening: socket.socket) -> None:
    listening.listen(BACKLOG)
    listening.setblocking(False)


def _remove_stale(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
