"""The frame scanner that this installation has: the compiled one, or its twin in Python where none was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgtattle.proxy.wire.frames import State
else:
    try:
        from pgtattle.proxy.wire._frames import State
    except ImportError:
        from pgtattle.proxy.wire.frames import State

__all__ = ["State"]
