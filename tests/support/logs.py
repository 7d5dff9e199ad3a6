"""What Atlas logs, for tests that watch it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

from atlas.config import Settings
from atlas.logging import PROCESSORS, configure

Watcher = Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]


def capturable() -> None:
    """Let `structlog.testing.capture_logs` capture what Atlas logs: its list is made structlog's too."""
    structlog.configure(processors=PROCESSORS)


@contextmanager
def logging_restored() -> Iterator[None]:
    """Whatever is configured within ends with it."""
    loggers = [logging.getLogger(), logging.getLogger("atlas")]
    before = [(one, one.level, list(one.handlers)) for one in loggers]
    yield
    for one, level, handlers in before:
        one.setLevel(level)
        one.handlers[:] = handlers


def log_to_stderr(*watchers: Watcher) -> None:
    """In a child: write every event to standard error as JSON, and show each to the watchers first."""
    configure(Settings(log_format="json", log_level="DEBUG"))
    PROCESSORS[:0] = watchers
