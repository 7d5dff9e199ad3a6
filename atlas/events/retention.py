"""Keeping the log small: whole days are dropped once nobody needs them any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from atlas.db.locks import gave_way, retry_when_locked
from atlas.errors import AtlasError
from atlas.events.delivery.router import ROUTER
from atlas.logging import get_logger
from atlas.repositories.events.log import Day, EventLog

if TYPE_CHECKING:
    from atlas.events.bus import EventBus

__all__ = ["Retained", "retain"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retained:
    """What retention did. ``dropped``: days; ``waiting``: days that somebody still needs; ``forced``: of the
    dropped ones those that somebody needed; ``locked``: days in use, left for the next time."""

    made: int = 0
    dropped: int = 0
    waiting: int = 0
    forced: int = 0
    locked: int = 0


async def retain(bus: EventBus) -> Retained:
    """Make the partitions of the days ahead, and drop the days that are over. Raises `DatabaseError`."""
    settings, database = bus.settings, bus.database

    @retry_when_locked
    async def make() -> int:
        async with database.transaction() as session:
            return await EventLog(session).ensure_days()

    made = await make()
    longest = timedelta(days=settings.event_bus_retention_max_days)
    async with database.transaction(read_only=True) as session:
        events = EventLog(session)
        expired = await events.expired(timedelta(days=settings.event_bus_retention_days))
        overdue = {day.day for day in await events.expired(longest)}
        needed = {day.day: await _readers(events, day) for day in expired}
    counts = {"dropped": 0, "waiting": 0, "forced": 0, "locked": 0}
    for day in expired:
        readers = needed[day.day]
        if readers and day.day not in overdue:
            counts["waiting"] += 1
            log.warning("event_retention_waits", day=str(day.day), readers=readers)
            continue
        if not await _drop(bus, day):
            counts["locked"] += 1
            continue
        counts["dropped"] += 1
        if readers:
            counts["forced"] += 1
            log.error("event_retention_forced", day=str(day.day), readers=readers)
            facts = {"day": str(day.day), "readers": readers}
            await bus.emit("events.retention_forced", payload=facts)
    return Retained(made, **counts)


async def _readers(events: EventLog, day: Day) -> list[str]:
    readers = await events.readers_of(day)
    # without endpoints the router does not run, and nobody misses what it has not read
    if readers == [f"the cursor {ROUTER}"] and not await events.has_endpoints():
        return []
    return readers


async def _drop(bus: EventBus, day: Day) -> bool:
    for _ in range(20):
        try:
            async with bus.database.transaction() as session:
                await EventLog(session).drop(day)
            return True
        except AtlasError as error:
            if not gave_way(error):
                raise
    return False
