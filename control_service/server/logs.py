"""Structured logs on standard error."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog

STANDARD_ERROR: Final = 2


def configure_logs(log_format: str, log_level: str) -> None:
    """One line an event: JSON for machines, or plain text for people."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, log_level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _StandardError())),
        cache_logger_on_first_use=False,
    )


class _StandardError:
    """Standard error without a buffer. A log that takes no more, as on a full disk, costs the line: raised
    into a call, it would end the stream of an engine."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            os.write(STANDARD_ERROR, text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing is held back."""
