"""Compare our fingerprints with libpg_query's on files of SQL. Exit code 1 where a disagreement has no reason."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from pgtattle.analyzers.sql.texts import Texts
from tests.fingerprints.agreement import Comparison, Pair, compare
from tests.fingerprints.corpus import statements

_DIRECTIONS = {"split": "libpg_query one, pgtattle several", "merged": "pgtattle one, libpg_query several"}


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fingerprints", description=__doc__)
    parser.add_argument("corpus", nargs="+", type=Path, help="a file of SQL, or a folder of .sql files")
    parser.add_argument("--variants", type=int, default=3, help="variants made of each statement (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the variants (default: 1)")
    options = parser.parse_args(arguments)
    found = compare(statements(options.corpus), options.variants, options.seed)
    print("\n".join(table(found, options.variants, options.seed)))
    for pair in found.unexplained:
        print(f"\nUNEXPLAINED, {_DIRECTIONS[pair.direction]}:\n{pair.one}\n--\n{pair.other}")
    for sql, text in found.broken:
        print(f"\nUNEXPLAINED, a variant in another group:\n{sql}\n--\n{text}")
    return bool(found.unexplained or found.broken)


def table(found: Comparison, variants: int, seed: int) -> list[str]:
    """The lines of two tables in Markdown."""
    counts = found.counts
    ours, theirs = (len({key[side] for key in found.cells}) for side in (0, 1))
    lines = [
        "| measure | |",
        "|---|---|",
        f"| statements read | {counts['statements']:,} |",
        f"| left out: libpg_query cannot parse them | {counts['unparsable']:,} |",
        f"| left out: too long | {counts['too long']:,} |",
        f"| variants made, {variants} of each statement, seed {seed}, that parse | {counts['variants']:,} |",
        f"| distinct texts compared | {counts['texts']:,} |",
        f"| groups by pgtattle | {ours:,} |",
        f"| groups by libpg_query | {theirs:,} |",
        f"| statements whose two groups are the same set | {found.same_sets:.1%} |",
        f"| adjusted Rand index | {found.rand:.4f} |",
        f"| variants that pgtattle puts into another group | {len(found.broken):,} |",
        f"| disagreements | {len(found.pairs):,} |",
        f"| disagreements without a reason | {len(found.unexplained):,} |",
    ]
    rows: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        for reason in pair.reasons:
            rows[pair.direction, reason].append(pair)
    lines += ["", "| groups | reason | pairs | alone | example |", "|---|---|---|---|---|"]
    for (direction, reason), pairs in sorted(rows.items(), key=lambda row: (row[0][0] == "merged", -len(row[1]))):
        alone = sum(len(pair.reasons) == 1 for pair in pairs)
        pair = min(pairs, key=lambda pair: (len(pair.reasons), len(pair.one + pair.other)))
        cells = (_DIRECTIONS[direction], reason, f"{len(pairs):,}", f"{alone:,}", _example(pair))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _example(pair: Pair) -> str:
    texts = (pair.one, pair.other)
    if pair.direction == "split":
        texts = tuple(Texts().read(sql)[0].statement.sql for sql in texts)  # type: ignore[assignment]
    short = (" ".join(sql.split()).replace("|", "\\|").replace("`", "'") for sql in texts)
    return ", ".join(f"`{sql if len(sql) <= 90 else sql[:89] + '…'}`" for sql in short)


if __name__ == "__main__":
    sys.exit(main())
