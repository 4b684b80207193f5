"""The PostgreSQL of the Debian release at hand (15 in Debian 12, 17 in Debian 13): it has TLS, contrib and HypoPG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from pgtattle.proxy.demo.cluster import Cluster

VERSION: Final = max((int(one.parts[-3]) for one in Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")), default=0)
"""The newest that is installed; 0 for none."""

BINARIES: Final = Path(f"/usr/lib/postgresql/{VERSION}/bin")


def cluster(**how: Any) -> Cluster:
    """A server of it, made as `Cluster` says. Skips the test where none is installed."""
    if not VERSION:
        pytest.skip("Debian's PostgreSQL is not installed")
    return Cluster(VERSION, binaries=BINARIES, **how)
