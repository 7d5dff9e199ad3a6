"""Logging: events with facts as fields, on stdlib loggers under ``atlas``, silent until a program asks.

A record's message is the event's name and its fields as text; handlers that keep fields apart find them
in ``record.event`` and ``record.fields``. Every name is declared in `atlas.logging.events`. A program that
uses Atlas as a library configures the logger ``atlas`` as it does any other; `configure` is what the
command line does for LOG_LEVEL and LOG_FORMAT.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import structlog

if TYPE_CHECKING:
    from atlas.config import Settings

__all__ = ["configure", "get_logger"]

#: Frames from a record to the call in Atlas: structlog has a method and two proxies between them.
_STACK = 4


def _to_record(
    logger: object, method: str, facts: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """The arguments of the stdlib logger's method."""
    event = str(facts.pop("event"))
    options = {name: facts.pop(name) for name in ("exc_info", "stack_info") if name in facts}
    text = " ".join([event, *(f"{name}={_text(value)}" for name, value in facts.items())])
    extra = {"event": event, "fields": dict(facts)}
    return (text,), {"extra": extra, "stacklevel": _STACK, **options}


def _text(value: object) -> str:
    plain = str(value)
    return plain if plain.isprintable() and plain and " " not in plain else repr(plain)


#: What an event passes through. Always this one list, which its loggers hold: tests put theirs in front.
PROCESSORS: list[Any] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    _to_record,
]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module of Atlas, whatever the program does with structlog's own configuration."""
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def configure(settings: Settings, *, quietest: str = "WARNING") -> None:
    """Log to standard error, as LOG_FORMAT says, from LOG_LEVEL on.

    Where LOG_LEVEL is not set, from ``quietest`` on: a person at a terminal wants the answer. Other
    libraries' loggers write there too, from WARNING on.
    """
    handler = _StandardError()
    handler.setFormatter(_Formatter(json=settings.log_format == "json"))
    root = logging.getLogger()
    for before in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(before)
    root.addHandler(handler)
    level = settings.log_level if "log_level" in settings.model_fields_set else quietest
    logging.getLogger("atlas").setLevel(level)


class _StandardError(logging.Handler):
    """Writes to what is standard error at that moment: while a progress display is up, to above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. What goes wrong is reported as the standard library does, and raises nothing."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """A line for people, or a JSON document a line; tracebacks without local variables, which may be keys."""

    def __init__(self, *, json: bool) -> None:
        super().__init__()
        self._render: Any = (
            structlog.processors.JSONRenderer()
            if json
            else structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
            )
        )

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record, of Atlas or of another library."""
        facts = {
            "event": getattr(record, "event", None) or record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return str(self._render(None, record.levelname.lower(), facts))
