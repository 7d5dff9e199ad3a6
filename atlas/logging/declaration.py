"""How a logged event is declared."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LogEvent"]


class LogEvent(NamedTuple):
    """One kind of event: ``fields`` are those that it may carry, separated by spaces."""

    level: str
    fields: str
    meaning: str
