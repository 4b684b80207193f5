"""Logging of both processes: one line an event to stderr or a file, as text or JSON. Never SQL, values or passwords."""

from __future__ import annotations

import sys
from typing import Literal, TextIO

import structlog


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
            structlog.processors.EventRenamer("message"),
            renderer,
        ]
        if log_format == "json"
        else [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="%H:%M:%S"), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
