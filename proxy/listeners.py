"""Listening sockets, made by the relay and inherited by the profiler, and what is accepted from them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from typing import Final

from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import Address

BACKLOG: Final = 1024
SOCKET_NAME: Final = ".s.PGSQL.5432"
ACCEPTED_AT_ONCE: Final = 64
PAUSE_SECONDS: Final = 1.0
MANY_DESCRIPTORS: Final = 1 << 20
SPARE_DESCRIPTORS: Final = 64


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


class Door:
    """Accepts from a listening socket until closed. When descriptors run out, it waits a second and goes on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        admit: Callable[[socket.socket], None],
        crowded: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._admit = admit
        self._crowded = crowded
        self._timer: asyncio.TimerHandle | None = None
        self._open()

    def close(self) -> None:
        """Accept no more: whoever comes from now on is refused by the kernel."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _open(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self._loop.remove_reader(self._listening)
                self._timer = self._loop.call_later(PAUSE_SECONDS, self._open)
                self._crowded(error)
                return
            accepted.setblocking(False)
            self._admit(accepted)


async def first_byte(loop: asyncio.AbstractEventLoop, accepted: socket.socket, seconds: float) -> bytes | None:
    """The first byte that a client sends, left where it is; empty when it left, None when none came in time."""
    readable = asyncio.Event()
    loop.add_reader(accepted, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
        return accepted.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return None
    except OSError:
        return b""
    finally:
        loop.remove_reader(accepted)


def raise_descriptor_limit(connections: int) -> None:
    """Allow this process all the descriptors it may have: a connection takes two. Raises UsageError for too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MANY_DESCRIPTORS)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, MANY_DESCRIPTORS), hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 2 * connections + SPARE_DESCRIPTORS > allowed:
        needed = 2 * connections + SPARE_DESCRIPTORS
        raise UsageError(
            f"--max-connections {connections} takes {needed} open files, but only {allowed} are allowed here; "
            "raise ulimit -n"
        )
