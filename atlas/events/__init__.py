"""Events: what happened, passed to handlers in this process and sent to webhooks. See docs/events.md.

``events`` is the default bus. The module forwards to it, so that ``from atlas import events`` and
``from atlas.events import events`` serve alike.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from atlas.events.bus import EventBus, Handler, dispatch_noted
from atlas.events.event import Event
from atlas.events.listening import Batch
from atlas.repositories.events import log
from atlas.repositories.events.log import RecordedEvent

if TYPE_CHECKING:
    from atlas.db import Database
    from atlas.db.clock import Session

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


async def _noted(session: Session, row: RecordedEvent) -> None:
    database = session.info.get("atlas.database")
    if database is not None:
        await dispatch_noted(bus_of(database), session, Event.of(row))


log.on_note = _noted


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(events, name)
