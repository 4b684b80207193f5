"""Logging of both processes: one line an event to stderr or a file, as text or JSON. Never SQL, values or passwords."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO, cast

import structlog

LINES_A_SECOND: Final = 5


class Limiter:
    """Lets a few lines of one kind pass each second."""

    def __init__(self) -> None:
        self._passed: dict[str, tuple[int, int]] = {}
        self._skipped: dict[str, int] = {}

    def lets(self, kind: str, now: float) -> bool:
        """True when there is room for another line at `now` (seconds, monotonic)."""
        second, lines = self._passed.get(kind, (0, 0))
        lines = lines + 1 if second == int(now) else 1
        self._passed[kind] = (int(now), lines)
        if lines <= LINES_A_SECOND:
            return True
        self._skipped[kind] = self._skipped.get(kind, 0) + 1
        return False

    def skipped(self, kind: str) -> dict[str, int]:
        """What to say of the lines that did not pass since the last one that did."""
        count = self._skipped.pop(kind, 0)
        return {"skipped": count} if count else {}


class _Steady:
    """A stream whose failures (a full disk, a closed pipe) end no process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _harmless(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What strangers sent (names, errors) must not speak to a terminal."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(one if one.isprintable() else repr(one)[1:-1] for one in value)
    return event


def configure(log_format: Literal["text", "json"], log_file: str = "", level: str = "info") -> None:
    """Set up structlog for this process; `log_file` is appended to, else stderr."""
    stream: TextIO = open(log_file, "a", encoding="utf-8") if log_file else sys.stderr  # noqa: SIM115 - for the process's life
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=not log_file and stream.isatty(), pad_event_to=0)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _harmless,
            structlog.processors.EventRenamer("message"),
            renderer,
        ]
        if log_format == "json"
        else [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S"),
            _harmless,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Steady(stream))),
        cache_logger_on_first_use=True,
    )
