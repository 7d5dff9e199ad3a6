"""The outbox of the event bus: ``system_events``.

A row is due while ``deliver_at`` has passed, leased while a claim has moved it ahead, and finished
once it is null. ``attempts`` counts claims and serves as the lease's token: a report that names an
older count changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.models.events import SystemEvent

__all__ = ["DueEvent", "EventLog", "Outbox", "RecordedEvent"]

_TABLE = SystemEvent.metadata.tables[SystemEvent.__tablename__]

_CLAIM = text("""
    WITH due AS MATERIALIZED (
        SELECT id FROM system_events
        WHERE deliver_at IS NOT NULL AND deliver_at <= clock_timestamp()
        ORDER BY deliver_at, id
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE system_events AS event
    SET deliver_at = clock_timestamp() + CAST(:lease AS interval), attempts = event.attempts + 1
    FROM due WHERE event.id = due.id
    RETURNING event.id, event.event_type, event.entity_id, event.payload, event.created_at,
              event.attempts
    """).columns(
    _TABLE.c.id,
    _TABLE.c.event_type,
    _TABLE.c.entity_id,
    _TABLE.c.payload,
    _TABLE.c.created_at,
    _TABLE.c.attempts,
)

_PURGE = text("""
    DELETE FROM system_events WHERE id IN (
        SELECT id FROM system_events
        WHERE created_at < clock_timestamp() - CAST(:older_than AS interval)
          AND (deliver_at IS NULL
               OR created_at < clock_timestamp() - CAST(:undelivered AS interval))
        ORDER BY created_at
        LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    RETURNING deliver_at IS NOT NULL AS lost
    """)


@dataclass(frozen=True, slots=True)
class DueEvent:
    """A claimed row. ``attempts`` includes the one to be made now."""

    id: int
    event_type: str
    entity_id: str | None
    payload: dict[str, Any]
    created_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A row as it is, delivery included."""

    id: int
    event_type: str
    entity_id: str | None
    payload: dict[str, Any]
    created_at: datetime
    deliver_at: datetime | None
    delivered_at: datetime | None
    attempts: int
    last_error: str | None


class EventLog:
    """Reads what happened."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def recent(self, limit: int = 20) -> list[RecordedEvent]:
        """The newest events, newest first."""
        rows = await self.session.execute(
            select(_TABLE).order_by(_TABLE.c.created_at.desc(), _TABLE.c.id.desc()).limit(limit)
        )
        return [RecordedEvent(**row) for row in rows.mappings()]


class Outbox:
    """Writes events and moves them through delivery."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(
        self, event_type: str, entity_id: str | None, payload: dict[str, Any], *, deliver: bool
    ) -> tuple[int, datetime]:
        """Write an event, due at once where ``deliver``; returns its id and time."""
        row = await self.session.execute(
            insert(_TABLE)
            .values(
                event_type=event_type,
                entity_id=entity_id,
                payload=payload,
                deliver_at=func.now() if deliver else None,
            )
            .returning(_TABLE.c.id, _TABLE.c.created_at)
        )
        identifier, created_at = row.one()
        return identifier, created_at

    async def claim(self, limit: int, lease: timedelta) -> list[DueEvent]:
        """Take up to ``limit`` events, longest due first; no other claim gets them in ``lease``."""
        rows = await self.session.execute(_CLAIM, {"limit": limit, "lease": lease})
        return sorted((DueEvent(**row) for row in rows.mappings()), key=lambda event: event.id)

    async def delivered(self, event: DueEvent) -> bool:
        """Finish a delivered event. False: the lease was another's by then; nothing changed."""
        return await self._report(
            event, deliver_at=None, delivered_at=func.clock_timestamp(), last_error=None
        )

    async def retry(self, event: DueEvent, after: timedelta, error: str) -> bool:
        """Make the event due again ``after`` now. False as in `delivered`."""
        return await self._report(
            event, deliver_at=func.clock_timestamp() + after, last_error=error
        )

    async def give_up(self, event: DueEvent, error: str) -> bool:
        """Finish an event that is not tried again. False as in `delivered`."""
        return await self._report(event, deliver_at=None, last_error=error)

    async def purge(self, older_than: timedelta, undelivered: timedelta, limit: int) -> list[bool]:
        """Delete up to ``limit`` events: finished and past ``older_than``, or past both times.

        Returns one entry a deleted row: whether it was still to be delivered.
        """
        rows = await self.session.execute(
            _PURGE, {"older_than": older_than, "undelivered": undelivered, "limit": limit}
        )
        return list(rows.scalars())

    async def _report(self, event: DueEvent, **values: Any) -> bool:
        row = await self.session.execute(
            update(_TABLE)
            .where(_TABLE.c.id == event.id, _TABLE.c.attempts == event.attempts)
            .values(**values)
            .returning(_TABLE.c.id)
        )
        return row.one_or_none() is not None
