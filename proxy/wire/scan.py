"""The frame scanner that this installation has: the compiled one, or its twin in Python where none was built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgtattle.proxy.wire import frames

if TYPE_CHECKING:
    from pgtattle.proxy.wire.frames import State, scan_and_pack

    COMPILED: Final = False
else:
    try:
        from pgtattle.proxy.wire._frames import State, scan_and_pack

        COMPILED: Final = True
    except ImportError:
        from pgtattle.proxy.wire.frames import State, scan_and_pack

        COMPILED: Final = False

REASONS: Final = frames.REASONS

__all__ = ["COMPILED", "REASONS", "State", "scan_and_pack"]
