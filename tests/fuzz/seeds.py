"""Writes a corpus for `fuzz_frames.py` into a folder: the exchanges that the scanner's tests know.

PYTHONPATH=.typing python tests/fuzz/seeds.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.proxy.wire.test_frames import PAIRINGS, parsed

LOGGED_IN = b"\x82"
ONE_BY_ONE = b"\0"


def program(turns: list[bytes]) -> bytes:
    """The exchange as a program, a step for each frame; the server answers every other turn."""
    steps = b""
    for number, turn in enumerate(turns):
        side = 0x80 if number % 2 else 0
        for kind, body in parsed(turn):
            steps += bytes((side | 0x40 | len(body), kind)) + body
    return LOGGED_IN + ONE_BY_ONE + steps


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, turns) in PAIRINGS.items():
        (folder / f"{name.replace(' ', '-')}").write_bytes(program(turns))


if __name__ == "__main__":
    main()
