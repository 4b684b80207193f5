"""PostgreSQL's protocol by hand, where a driver cannot misbehave: a raw client, and a server that follows a script."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.conftest import Database
from tests.waiting import PATIENCE

CHUNK = 1 << 20


class Frame(NamedTuple):
    kind: bytes
    body: bytes


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def startup(**parameters: str | bytes) -> bytes:
    body = struct.pack("!I", 3 << 16)
    for name, value in parameters.items():
        body += name.encode() + b"\0" + _bytes(value) + b"\0"
    return struct.pack("!I", len(body) + 5) + body + b"\0"


def query(sql: str | bytes) -> bytes:
    return frame(b"Q", _bytes(sql) + b"\0")


def parse(sql: str | bytes, name: str = "") -> bytes:
    return frame(b"P", name.encode() + b"\0" + _bytes(sql) + b"\0\0\0")


def bind(statement: str = "", portal: str = "") -> bytes:
    return frame(b"B", f"{portal}\0{statement}\0".encode() + b"\0\0" * 3)


def execute(portal: str = "", rows: int = 0) -> bytes:
    return frame(b"E", f"{portal}\0".encode() + struct.pack("!I", rows))


SYNC = frame(b"S")
FLUSH = frame(b"H")
TERMINATE = frame(b"X")
SSL_REQUEST = struct.pack("!iI", 8, 80877103)
LOGIN = frame(b"R", b"\0\0\0\0") + frame(b"K", b"\0\0\0\1\0\0\0\2") + frame(b"Z", b"I")
"""What a server says to a client that needs no password."""


class Client:
    """A raw connection; a context manager."""

    def __init__(self, database: Database, patience: float = PATIENCE) -> None:
        self.database = database
        self.socket = socket.create_connection((database.host, database.port), patience)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def reset(self) -> None:
        """Vanish: the other side gets an RST, whatever was under way."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def login(self, **parameters: str | bytes) -> list[Frame]:
        self.begin(**parameters)
        return self.until(b"Z")

    def begin(self, **parameters: str | bytes) -> None:
        self.send(startup(**{"user": self.database.user, "database": self.database.name, **parameters}))

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def frame(self) -> Frame:
        """The next frame. Raises EOFError at the end of the stream."""
        head = self._exactly(5)
        return Frame(head[:1], self._exactly(int.from_bytes(head[1:], "big") - 4))

    def until(self, kind: bytes) -> list[Frame]:
        """Frames up to one of a kind."""
        frames = [self.frame()]
        while frames[-1].kind != kind:
            frames.append(self.frame())
        return frames

    def ask(self, *data: bytes) -> list[Frame]:
        """Send, and give the answers up to ReadyForQuery."""
        self.send(*data)
        return self.until(b"Z")

    def rest(self) -> bytes:
        """All bytes up to the end of the stream, or to its reset."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while chunk := self._reader.read1(CHUNK):
                data += chunk
        return data

    def discard(self, size: int) -> None:
        """Read so many bytes and keep none of them."""
        buffer = memoryview(bytearray(CHUNK))
        while size:
            got = self._reader.readinto(buffer[: min(size, CHUNK)])
            if not got:
                raise EOFError(f"{size} bytes did not come")
            size -= got

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise EOFError(f"the stream ended with {data!r}")
        return data


def kinds(frames: list[Frame]) -> bytes:
    """The types of frames, without what a server may say at any time."""
    return b"".join(one.kind for one in frames if one.kind not in (b"S", b"N"))


def split(data: bytes) -> list[Frame]:
    """The frames of a whole stream."""
    frames = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        frames.append(Frame(data[:1], data[5 : 1 + size]))
        data = data[1 + size :]
    return frames


def begun(frames: list[Frame]) -> int:
    """How many executions these answers tell of, by the project's own definition."""
    return sum(one.kind in (b"C", b"I", b"E") for one in frames)


def sqlstate(one: Frame) -> str:
    assert one.kind == b"E", one
    return next(field[1:] for field in one.body.split(b"\0") if field[:1] == b"C").decode()


@contextlib.contextmanager
def scripted(script: Callable[[socket.socket], None]) -> Iterator[Database]:
    """A server of which every connection follows a script, and then ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)

    def follow(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            script(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=follow, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Database("any", "127.0.0.1", listening.getsockname()[1], "postgres", "", None)  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def read_startup(connection: socket.socket) -> bytes:
    """A script's first step: the client's StartupMessage."""
    size = connection.recv(4, socket.MSG_WAITALL)
    return size + connection.recv(int.from_bytes(size, "big") - 4, socket.MSG_WAITALL)
