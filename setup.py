"""Maps the folders proxy/, analyzers/ and tui/ to pgtattle.* and finds every package below them.

The relay's two hot places are compiled where there is a compiler; without one their Python twins do the work.
"""

from __future__ import annotations

from setuptools import Extension, find_packages, setup

FOLDERS = ("proxy", "analyzers", "tui")

packages: list[str] = []
for folder in FOLDERS:
    packages.append(f"pgtattle.{folder}")
    packages.extend(f"pgtattle.{folder}.{name}" for name in find_packages(folder))

setup(
    packages=packages,
    package_dir={f"pgtattle.{folder}": folder for folder in FOLDERS},
    ext_modules=[
        Extension("pgtattle.proxy.wire._frames", ["proxy/wire/_frames.c"], optional=True),
        Extension("pgtattle.proxy._pipe", ["proxy/_pipe.c"], optional=True),
    ],
    package_data={"": ["py.typed", "*.json", "*.sql", "*.tcss", "*.toml", "*.md"]},
)
