"""structlog for programs that leave logging to Atlas: the command line calls this, libraries never."""

from __future__ import annotations

import logging
import sys

import structlog

from atlas.config import Settings


def configure(settings: Settings, *, quietest: str = "WARNING") -> None:
    """Log to standard error, as LOG_FORMAT says, from LOG_LEVEL on.

    Where LOG_LEVEL is not set, from ``quietest`` on: a person at a terminal wants the answer.
    """
    level = settings.log_level if "log_level" in settings.model_fields_set else quietest
    json = settings.log_format == "json"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if json else structlog.stdlib.add_log_level,
            (
                structlog.processors.JSONRenderer()
                if json
                else structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(),
                    # the default shows local variables too, and those of the clients hold tokens
                    exception_formatter=structlog.dev.plain_traceback,
                )
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
