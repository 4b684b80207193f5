"""A network that does harm: a relay to be put on either side of the proxy, with the vocabulary of toxiproxy."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
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


@contextlib.contextmanager
def network(database: Database, to_server: Toxic = HARMLESS, to_client: Toxic = HARMLESS) -> Iterator[Database]:
    """The database as it is reached over such a network."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    open_sockets: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listening.accept()[0]
                try:
                    server = socket.create_connection((database.host, database.port))
                except OSError:
                    client.close()
                    continue
                open_sockets.extend((client, server))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, sink, toxic in ((client, server, to_server), (server, client, to_client)):
                    threading.Thread(target=_pump, args=(source, sink, toxic), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield replace(database, host="127.0.0.1", port=listening.getsockname()[1])
    finally:
        for one in (listening, *open_sockets):
            _end(one)
            one.close()
        thread.join(5)


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
            if toxic.reset_peer is not None:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.close()
            else:
                _end(one)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
