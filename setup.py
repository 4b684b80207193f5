"""Maps the folders proxy/, analyzers/ and tui/ to pgtattle.* and finds every package below them."""

from __future__ import annotations

from setuptools import find_packages, setup

FOLDERS = ("proxy", "analyzers", "tui")

packages: list[str] = []
for folder in FOLDERS:
    packages.append(f"pgtattle.{folder}")
    packages.extend(f"pgtattle.{folder}.{name}" for name in find_packages(folder))

setup(
    packages=packages,
    package_dir={f"pgtattle.{folder}": folder for folder in FOLDERS},
    package_data={"": ["py.typed", "*.json", "*.sql", "*.tcss", "*.toml", "*.md"]},
)
