"""Fuzzes the frame scanner: hostile bytes of either side, cut anywhere, into the compiled `State` and its Python twin.

    PYTHONPATH=.typing python tests/fuzz/fuzz_frames.py [--mode both|compiled] [--library FILE] [libFuzzer's…]

It needs atheris, which is no dependency of the project. Whatever the bytes, in the mode `both` after each chunk:

* nothing is raised;
* `notice` was called exactly when its documentation says so, at most once, with what it says;
* records and events are no longer than the input by more than a constant factor, and records are well-formed;
* the twins agree on records, events, notices, counts and flags.

It is guided by the coverage of the Python twin. `compiled` runs the other alone, for many more inputs, and asks only
that nothing is raised and nothing grows. With `--library`, a build of `proxy/wire/_frames.c` by clang with
`-fsanitize=address,fuzzer-no-link`, it is guided by its own coverage and every access of memory is checked.

An input is a program: `_steps` says how it is read.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import atheris

with atheris.instrument_imports(include=["pgtattle.proxy.wire.frames"]):
    from pgtattle.proxy.wire import frames
from pgtattle.proxy.wire import batch
from pgtattle.proxy.wire.batch import HEADER

LOGIN = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"
FILLER = 521
"""A prime, so that fillers end at every place around the limits."""

LONG = 96
LARGE = 8192
"""From so many bytes on chunks are larger, or an input takes too long."""

TOGGLE = b""

Step = tuple[bool, bytes]

_compiled: Any = None


def _steps(program: bytes) -> Iterator[Step]:
    """Chunks by direction (True: the server's); an empty one turns `blind`.

    The first byte is the size of chunks while they are few; 0 makes each step one. Then steps: the highest bit of a
    byte is the direction and the next says whether a frame is meant; six bits are the length of what follows. A frame
    has its type after that and gets its true length. Of length 63 is a filler of zeros, by its next byte. A length of 0
    without a frame turns `blind`.
    """
    cut = program[0] if program else 0
    position, end = 1, len(program)
    direction, waiting = False, b""
    while position < end:
        head = program[position]
        backend, framed, size = head >= 0x80, head & 0x40, head & 0x3F
        position += 1
        if framed:
            kind = program[position : position + 1] or b"?"
            position += 1
        if size == 0x3F:
            data = bytes(FILLER * program[position]) if position < end else b""
            position += 1
        else:
            data = program[position : position + size]
            position += size
        if framed:
            data = kind + (len(data) + 4).to_bytes(4, "big") + data
        if not cut or not data:
            yield backend, data
            continue
        if waiting and backend != direction:
            yield direction, waiting
            waiting = b""
        direction, waiting = backend, waiting + data
        step = cut if len(waiting) < LONG else LARGE + cut
        whole = len(waiting) - len(waiting) % step
        for at in range(0, whole, step):
            yield direction, waiting[at : at + step]
        waiting = waiting[whole:]
    if waiting:
        yield direction, waiting


class Twin:
    """One of the twins, used as the tap does it."""

    def __init__(self, module: ModuleType, flags: int) -> None:
        self.out = bytearray()
        self.events: list[tuple[int, bytes]] = []
        self.noticed: list[int] = []
        self.over = False
        self.packed = self.allowed = 0
        self._flushes = flags & 1
        self.state = module.State(7, self.out, self._notice)
        if flags & 2:
            self.feed(True, LOGIN)

    def _notice(self, ended: int) -> None:
        self.noticed.append(ended)
        self.events += self.state.events
        self.state.events.clear()
        if ended < 0:
            self.over = True
            self.state.close()

    def feed(self, backend: bool, chunk: bytes) -> None:
        """One chunk, and what must hold of it alone."""
        state, out, noticed = self.state, self.out, self.noticed
        if self._flushes or len(out) >= frames.FLUSH_BYTES:
            self.packed += len(out)
            out.clear()
        noticed.clear()
        start, events, ended = len(out), len(self.events), state.ended
        blind, over = state.blind, self.over
        (state.backend if backend else state.frontend)(chunk)
        self.allowed += HEADER.size + 4 * len(chunk)
        end = len(out)
        if over:
            assert not noticed, "it was closed"
            assert end == start, "it was closed"
            return
        assert not state.events
        told = len(self.events) > events
        due = self.over or blind or told or (end > start and (not start or end >= frames.FLUSH_BYTES))
        assert len(noticed) == due, (noticed, due)
        if self.over:
            assert 1 <= -noticed[0] < len(frames.REASONS) - 1, "an exception of its own"
        elif noticed and not blind:
            assert noticed[0] == state.ended - ended
        if end > start:
            assert not blind
            _, number, at_ns, size = HEADER.unpack_from(out, start)
            assert (number, size, at_ns > 0) == (7, end - start - HEADER.size, True)
        assert self.packed + end <= self.allowed

    def toggle(self) -> None:
        """As the tap does it: it looks away at any time, and looks again at a quiet moment."""
        if not self.state.blind:
            self.state.blind = True
        elif self.state.quiescent:
            self.state.blind = False

    def finish(self) -> None:
        """What must hold at the end. As with the tap, the state and its notice then let go of each other."""
        assert len(self.events) <= self.allowed
        assert 0 <= self.state.suspended <= frames.MAX_SUSPENDED
        self.state.close()

    def seen(self) -> Any:
        """What the twins must agree on, but for the times."""
        state = self.state
        return (
            [(kind, body) for kind, _, _, body in batch.unpack(bytes(self.out))],
            self.events,
            self.noticed,
            (state.begun, state.ended, state.suspended, state.status, state.blind, state.authenticated),
            state.quiescent,
            self.over,
        )


def _library(path: str | None) -> ModuleType:
    if path is None:
        return importlib.import_module("pgtattle.proxy.wire._frames")
    loader = importlib.machinery.ExtensionFileLoader("_frames", path)
    spec = importlib.util.spec_from_loader("_frames", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _both(program: bytes) -> None:
    twins = [Twin(module, program[0] if program else 0) for module in (frames, _compiled)]
    for backend, chunk in _steps(program[1:]):
        for twin in twins:
            if chunk == TOGGLE:
                twin.toggle()
            else:
                twin.feed(backend, chunk)
        assert twins[0].seen() == twins[1].seen()
    for twin in twins:
        twin.finish()


def _alone(program: bytes) -> None:
    out, noticed = bytearray(), []  # type: ignore[var-annotated]
    state = _compiled.State(7, out, noticed.append)
    size, chunks = len(LOGIN), 1
    if program[:1] > b"\x7f":
        state.backend(LOGIN)
    for backend, chunk in _steps(program[1:]):
        if chunk:
            (state.backend if backend else state.frontend)(chunk)
            size += len(chunk)
            chunks += 1
        else:
            state.blind = not (state.blind and state.quiescent)
    assert len(out) <= HEADER.size * chunks + 4 * size
    assert len(state.events) <= size
    assert len(noticed) <= chunks


def main() -> None:
    global _compiled
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", choices=("both", "compiled"), default="both")
    parser.add_argument("--library")
    given, rest = parser.parse_known_args()
    _compiled = _library(given.library)
    atheris.Setup([sys.argv[0], *rest], _both if given.mode == "both" else _alone)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
