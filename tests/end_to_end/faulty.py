"""A network that does harm: a relay to be put on either side of the proxy, with the vocabulary of toxiproxy."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, replace

from tests.conftest import Database

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket whose close is an RST."""


@dataclass(frozen=True)
class Toxic:
    """What happens to the bytes of one direction. Zero, or None, is nothing."""

    latency: float = 0.0
    """Seconds by which every chunk is late."""
    bandwidth: int = 0
    """Bytes a second."""
    slicer: int = 0
    """Bytes of each packet."""
    slow_close: float = 0.0
    """Seconds from an end of stream until it is passed on."""
    limit_data: int | None = None
    """After so many bytes the connection ends in both directions."""
    reset_peer: int | None = None
    """After so many bytes both sides get an RST."""
    timeout: int | None = None
    """After so many bytes nothing comes any more, and nothing ends."""

    @property
    def last(self) -> int | None:
        """How many bytes go through; None: all."""
        return next((one for one in (self.limit_data, self.reset_peer, self.timeout) if one is not None), None)


HARMLESS = Toxic()


class Network:
    """A context manager: `database`, as it is reached over this network. Toxics hold for connections to come."""

    def __init__(self, behind: Database, to_server: Toxic = HARMLESS, to_client: Toxic = HARMLESS) -> None:
        self.to_server = to_server
        self.to_client = to_client
        self._behind = behind
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.database = replace(behind, host="127.0.0.1", port=self._listening.getsockname()[1])

    def __enter__(self) -> Network:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listening, *self._open):
            _end(one)
            one.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                try:
                    server = socket.create_connection((self._behind.host, self._behind.port))
                except OSError:
                    client.close()
                    continue
                self._open += (client, server)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for way in ((client, server, self.to_server), (server, client, self.to_client)):
                    threading.Thread(target=_pump, args=way, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, toxic: Toxic) -> None:
    """Carry one direction until its end, or until the toxic's."""
    left = toxic.last
    with contextlib.suppress(OSError):
        while left is None or left > 0:
            data = source.recv(min(CHUNK, left or CHUNK))
            if not data:
                time.sleep(toxic.slow_close)
                sink.shutdown(socket.SHUT_WR)
                return
            time.sleep(toxic.latency + (len(data) / toxic.bandwidth if toxic.bandwidth else 0))
            step = toxic.slicer or len(data)
            for start in range(0, len(data), step):
                sink.sendall(data[start : start + step])
            left = None if left is None else left - len(data)
    if left is not None and toxic.timeout is None:
        for one in (source, sink):
            if toxic.reset_peer is None:
                _end(one)
            else:
                _reset(one)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        # A thread that waits in recv would keep the socket from being closed.
        one.shutdown(socket.SHUT_RD)
    one.close()


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
