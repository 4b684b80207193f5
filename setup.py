"""Maps the folders proxy/, analyzers/ and tui/ to pgtattle.* and finds every package below them; the pages of the rules
go with the analyzers.

What every execution passes is compiled where there is a compiler; nothing is missing without one. The relay's two hot
places, and the walk over pasted SQL, are C beside Python twins. The profiler's hot modules are compiled by mypyc as
they stand, in a wheel only: an editable installation runs the sources that are edited. `PGTATTLE_PURE=1` leaves mypyc
out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = ("proxy", "analyzers", "tui")
# Their classes derive from the standard library's and from each other only: one with a base of another distribution
# crashes, or drops its arguments (msgspec.Struct). tests/test_compiled.py holds it.
COMPILED = (
    "proxy/asked.py",
    "proxy/events.py",
    "proxy/execution.py",
    "proxy/exchange.py",
    "proxy/latencies.py",
    "proxy/ledger.py",
    "proxy/habits.py",
    "proxy/metrics.py",
    "proxy/named.py",
    "proxy/pipeline.py",
    "proxy/reading.py",
    "proxy/session.py",
    "proxy/store.py",
    "proxy/tags.py",
    "proxy/tracks.py",
    "proxy/units.py",
    "proxy/wire/batch.py",
    "proxy/wire/encodings.py",
    "proxy/wire/messages.py",
    "proxy/wire/rows.py",
    "proxy/wire/values.py",
    "analyzers/analyzer.py",
    "analyzers/cache_churn.py",
    "analyzers/cacheable.py",
    "analyzers/fan_out.py",
    "analyzers/feeds.py",
    "analyzers/freshness.py",
    "analyzers/injection.py",
    "analyzers/keys.py",
    "analyzers/list_growth.py",
    "analyzers/missing_index.py",
    "analyzers/origin.py",
    "analyzers/parameters.py",
    "analyzers/parents.py",
    "analyzers/pools.py",
    "analyzers/repetition.py",
    "analyzers/samples.py",
    "analyzers/schedule.py",
    "analyzers/schema_changes.py",
    "analyzers/slow_query.py",
    "analyzers/sql/comments.py",
    "analyzers/sql/facts_cache.py",
    "analyzers/sql/fingerprint.py",
    "analyzers/sql/shapes.py",
    "analyzers/sql/standard_strings.py",
    "analyzers/sql/texts.py",
    "analyzers/sql/tokens.py",
    "analyzers/tally.py",
    "analyzers/values.py",
    "analyzers/walks.py",
)


def compiled() -> list[Extension]:
    """The extensions that mypyc makes of `COMPILED`; none where it is not there or not wanted."""
    if os.environ.get("PGTATTLE_PURE") == "1" or not {"bdist_wheel", "build_ext"} & set(sys.argv):
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        return []
    # mypyc names a module by its place, and the places of ours are made by `package_dir`.
    place = Path("build", "compiled", "pgtattle")
    place.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        (place / folder).unlink(missing_ok=True)
        (place / folder).symlink_to(Path(folder).resolve())
    os.environ["MYPYPATH"] = str(place.parent)
    # mypy sees no other distribution, installed or not: the same C everywhere. Errors for want of them are none.
    config = place.parent / "mypy.ini"
    config.write_text(
        "[mypy]\nno_site_packages = true\nignore_errors = true\nignore_missing_imports = true\n"
        "namespace_packages = true\nexplicit_package_bases = true\n"
    )
    extensions = mypycify(
        [f"--config-file={config}", *(str(place / path) for path in COMPILED)],
        opt_level="2",
        debug_level="0",
        group_name="pgtattle",
    )
    for extension in extensions:
        extension.optional = True
    return list(extensions)


packages: list[str] = ["pgtattle.analyzers.pages"]
for folder in FOLDERS:
    packages.append(f"pgtattle.{folder}")
    packages.extend(f"pgtattle.{folder}.{name}" for name in find_packages(folder))

setup(
    packages=packages,
    package_dir={f"pgtattle.{folder}": folder for folder in FOLDERS} | {"pgtattle.analyzers.pages": "docs/rules"},
    ext_modules=[
        Extension("pgtattle.proxy.wire._frames", ["proxy/wire/_frames.c"], optional=True),
        Extension("pgtattle.proxy._pipe", ["proxy/_pipe.c"], optional=True),
        Extension("pgtattle.analyzers.sql._literals", ["analyzers/sql/_literals.c"], optional=True),
        *compiled(),
    ],
    package_data={"": ["py.typed", "*.json", "*.sql", "*.tcss", "*.toml", "*.md"]},
)
