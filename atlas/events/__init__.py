"""Events: what happened, told to handlers in this process and to a webhook. See docs/events.md.

``events`` is the default bus. The module forwards to it, so that ``from atlas import events`` and
``from atlas.events import events`` serve alike.
"""

from __future__ import annotations

from typing import Any

from atlas.events.bus import EventBus, Handler
from atlas.events.event import Event

__all__ = ["Event", "EventBus", "Handler", "events"]

#: The default bus; reads its settings on first use.
events = EventBus()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(events, name)
