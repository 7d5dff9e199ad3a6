"""Events: what happened, passed to handlers in this process and sent to webhooks. See docs/events.md.

``events`` is the default bus. The module forwards to it, so that ``from atlas import events`` and
``from atlas.events import events`` serve alike.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from atlas.events.bus import EventBus, Handler
from atlas.events.event import Event
from atlas.events.listening import Batch

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["Batch", "Event", "EventBus", "Handler", "bus_of", "events"]

#: The default bus; reads its settings on first use.
events = EventBus()

_buses: weakref.WeakKeyDictionary[Database, EventBus] = weakref.WeakKeyDictionary()


def bus_of(database: Database) -> EventBus:
    """The bus of a database: the default one, with the handlers of this process, for the default database.

    How Atlas's own rooms emit: ``await bus_of(self.database).emit("archive.finished", payload={...})``.
    """
    from atlas.db import db

    if database is db:
        return events
    bus = _buses.get(database)
    if bus is None:
        bus = _buses[database] = EventBus(database)
    return bus


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(events, name)
