"""Ten million executions of 300,000 different texts, and streams that nobody sends by mistake: memory and time.

    python -m benchmarks.flood [--executions 10000000] [--texts 300000]

Batches as the relay's tap would make them go through the whole pipeline with all rules, in this process. Prints the
resident memory as it goes, then what each hostile text costs. Exit code 1 where memory still grows in the second half.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.pipeline import make_pipeline
from benchmarks.targets import resident_kib
from pgtattle.proxy.pipeline import Pipeline
from pgtattle.proxy.profiler import GC_THRESHOLD
from pgtattle.proxy.wire import batch

CONNECTIONS: Final = 16
A_BATCH: Final = 1_000
FORMS: Final = 3_000
TURN_NS: Final = 200_000
"""From one execution to the next."""
MAY_GROW_MIB: Final = 8.0


def frame(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


ANSWER: Final = (
    frame(b"T", struct.pack("!H", 1) + b"id\0" + struct.pack("!IhIhih", 1, 1, 23, 4, -1, 0))
    + frame(b"D", struct.pack("!Hi", 1, 1) + b"7") * 2
    + frame(b"C", b"SELECT 2\0")
    + frame(b"Z", b"I")
)
LOGIN: Final = frame(b"R", bytes(4)) + frame(b"Z", b"I")


def hello(pipeline: Pipeline) -> None:
    """Log the connections in."""
    startup = struct.pack("!I", 196_608) + b"user\0app\0application_name\0shop\0database\0shop\0\0"
    startup = struct.pack("!I", len(startup) + 4) + startup
    for number in range(1, CONNECTIONS + 1):
        opened = b'{"client":"127.0.0.1:%d","opened_ns":1}' % (40_000 + number)
        pipeline.records(
            batch.pack(batch.OPENED, number, 1, opened)
            + batch.pack(batch.STARTUP, number, 1, startup)
            + batch.pack(batch.BACKEND, number, 2, LOGIN)
        )


def exchange(number: int, sql: bytes, at_ns: int) -> bytes:
    """One simple query and its two rows, on one of the connections."""
    connection = 1 + number % CONNECTIONS
    return batch.pack(batch.FRONTEND, connection, at_ns, frame(b"Q", sql + b"\0")) + batch.pack(
        batch.BACKEND, connection, at_ns + TURN_NS // 2, ANSWER
    )


def texts(different: int) -> Iterator[bytes]:
    """So many different texts in turn, of `FORMS` normal forms; or, with 0, each of a normal form of its own."""
    for number in itertools.count():
        one = number * 7_919 % different if different else number
        form = one % FORMS if different else number
        yield b"SELECT c%d, 'x' FROM t%d WHERE a = %d AND b = 'v%d'" % (form, form % 500, one, one)


def flood(executions: int, different: int) -> bool:
    """True where memory is flat in the second half."""
    pipeline = make_pipeline()
    hello(pipeline)
    statements, now, seen = texts(different), 1_000_000_000, []
    print("| executions | seconds | resident MiB |\n|---|---|---|", flush=True)
    spent = 0.0
    for number in range(0, executions, A_BATCH):
        records = bytearray()
        for one in range(number, number + A_BATCH):
            now += TURN_NS
            records += exchange(one, next(statements), now)
        began = time.process_time()
        pipeline.records(bytes(records))
        pipeline.tick(now)
        spent += time.process_time() - began
        if (number + A_BATCH) % max(A_BATCH, executions // 10) == 0:
            seen.append(resident_kib(os.getpid()) / 1024)
            print(f"| {number + A_BATCH:,} | {spent:,.0f} | {seen[-1]:.1f} |", flush=True)
    grown = seen[-1] - seen[len(seen) // 2]
    print(f"\n{executions / spent:,.0f} executions a second; {grown:+.1f} MiB in the second half\n", flush=True)
    return grown <= MAY_GROW_MIB


HOSTILE: Final = {
    "1 MB of one statement": b"SELECT " + b"a+" * 500_000 + b"1 FROM t WHERE b = 'c'",
    "1 MB of one string": b"SELECT * FROM t WHERE b = '" + b"x" * 1_000_000 + b"'",
    "10,000 nested parentheses": b"SELECT " + b"(" * 10_000 + b"1" + b")" * 10_000 + b" FROM t",
    "10,000 nested comments": b"SELECT 1 " + b"/*" * 10_000 + b"*/" * 10_000 + b" FROM t",
    "10,000 members of a list": b"SELECT * FROM t WHERE a IN (" + b",".join(b"%d" % n for n in range(10_000)) + b")",
    "10,000 statements in one text": b"SELECT 1;" * 10_000,
    "quotes that never close": b"SELECT '" + b"\\'" * 30_000,
    "dollars": b"SELECT " + b"$a$ $b$ " * 8_000,
    "10,000 CASE": b"SELECT " + b"CASE WHEN a THEN " * 10_000 + b"1" + b" END" * 10_000 + b" FROM t",
    "no UTF-8": b"SELECT \xff\xfe\x00\x80 FROM t",
    "60,000 quotes": b"SELECT " + b"'' " * 20_000,
    "signs": b"SELECT " + b"- " * 30_000 + b"1",
}


def hostile() -> None:
    """What each costs: the first time, and each of 50 times that differ a little."""
    print("| text | first, ms | then each, ms |\n|---|---|---|", flush=True)
    for name, sql in HOSTILE.items():
        pipeline, now = make_pipeline(), 1_000_000_000
        hello(pipeline)
        taken = []
        for number in range(51):
            now += TURN_NS
            # A frame is never longer than what the scanner keeps.
            records = exchange(0, (sql + b" -- %d" % number)[:65_000] if number else sql[:65_000], now)
            began = time.process_time()
            pipeline.records(records)
            taken.append((time.process_time() - began) * 1_000)
        print(f"| {name} | {taken[0]:.1f} | {sum(taken[1:]) / 50:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=10_000_000)
    parser.add_argument("--texts", type=int, default=300_000, help="0: each is new, normal form and all")
    options = parser.parse_args()
    # As in the profiler's process.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    flat = flood(options.executions, options.texts)
    hostile()
    sys.exit(not flat)


if __name__ == "__main__":
    main()
