"""The log of events: ``system_events``, its daily partitions, and their retention."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from atlas.db.driver import driver_in
from atlas.errors import NotFound

__all__ = ["Appended", "Day", "EventLog", "NewEvent", "NotAppended", "RecordedEvent"]

#: SQLSTATE of a row that no partition takes.
NO_PARTITION = "23514"
#: Partitions are made for so many days ahead.
DAYS_AHEAD = 3

_APPEND = (
    "SELECT event_seq, event_at, failure, detail FROM atlas_emit("
    "CAST($1 AS uuid[]), CAST($2 AS text[]), CAST($3 AS text[]), CAST($4 AS text[]))"
)

_COLUMNS = "id, seq, event_type, entity_id, payload, created_at"

_DAYS = text("""
    SELECT log.relname AS log, deliveries.relname AS deliveries,
           to_date(right(log.relname, 8), 'YYYYMMDD') AS day
    FROM pg_inherits
    JOIN pg_class AS log ON log.oid = inhrelid
    LEFT JOIN pg_class AS deliveries
        ON deliveries.relnamespace = log.relnamespace
       AND deliveries.relname = replace(log.relname, 'system_events_p', 'event_deliveries_p')
    WHERE inhparent = 'system_events'::regclass AND NOT inhdetachpending
    ORDER BY day
    """)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be written; ``payload`` is JSON text."""

    id: uuid.UUID
    event_type: str
    entity_id: str | None
    payload: str


@dataclass(frozen=True, slots=True)
class Appended:
    """Where in the log an event stands, and when it was written by the database's clock."""

    seq: int
    created_at: datetime


class NotAppended(Exception):
    """The insert failed and was undone alone; the caller's transaction goes on."""

    def __init__(self, sqlstate: str, detail: str) -> None:
        super().__init__(f"{detail} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A row of the log."""

    id: uuid.UUID
    seq: int
    event_type: str
    entity_id: str | None
    payload: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Day:
    """The partitions of one UTC day."""

    log: str
    deliveries: str | None
    day: date


#: Called with what `EventLog.note` has written; the bus sets it, which knows the handlers.
on_note: Callable[[AsyncSession, RecordedEvent], Awaitable[None]] | None = None


class EventLog:
    """Appends to the log and reads it."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def append(self, events: Sequence[NewEvent]) -> list[Appended]:
        """Write events in this order, in one statement. Raises `NotAppended`, and then wrote none."""
        async with driver_in(self.session) as driver:
            found = await driver.fetch(
                _APPEND,
                [event.id for event in events],
                [event.event_type for event in events],
                [event.entity_id for event in events],
                [event.payload for event in events],
            )
        for _, _, failure, detail in found:
            if failure is not None:
                raise NotAppended(failure, detail)
        return [Appended(seq, created_at) for seq, created_at, _, _ in found]

    async def note(self, event_type: str, entity_id: str, payload: dict[str, Any]) -> None:
        """Write one event from below the bus, of plain values; what fails is undone alone, and left out."""
        new = NewEvent(uuid7(), event_type, entity_id, json.dumps(payload, ensure_ascii=False))
        with contextlib.suppress(NotAppended):
            (row,) = await self.append([new])
            if on_note is not None:
                recorded = RecordedEvent(
                    new.id, row.seq, event_type, entity_id, payload, row.created_at
                )
                await on_note(self.session, recorded)

    async def recent(
        self, limit: int = 20, *, event_type: str | None = None, entity_id: str | None = None
    ) -> list[RecordedEvent]:
        """The newest events, newest first; ``event_type`` is a regular expression."""
        rows = await self.session.execute(
            text(
                f"SELECT {_COLUMNS} FROM system_events "
                "WHERE (CAST(:type AS text) IS NULL OR event_type ~ :type) "
                "AND (CAST(:entity AS text) IS NULL OR entity_id = :entity) "
                "ORDER BY seq DESC LIMIT :limit"
            ),
            {"type": event_type, "entity": entity_id, "limit": limit},
        )
        return [RecordedEvent(**row) for row in rows.mappings()]

    async def get(self, event_id: uuid.UUID) -> RecordedEvent:
        """The event of this id. Raises `NotFound`."""
        rows = await self.session.execute(
            text(f"SELECT {_COLUMNS} FROM system_events WHERE id = :id"), {"id": event_id}
        )
        row = rows.mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no event {event_id}", hint="see `atlas events list`")
        return RecordedEvent(**row)

    async def ensure_days(self, ahead: int = DAYS_AHEAD) -> int:
        """Make the partitions of today and of the days ``ahead``; returns how many days were made.

        The caller's transaction should do nothing else: it takes SHARE UPDATE EXCLUSIVE on the parents, which
        neither readers nor writers notice.
        """
        made = await self.session.scalars(
            text(
                "SELECT atlas_event_partition((clock_timestamp() AT TIME ZONE 'UTC')::date + n) "
                "FROM generate_series(0, :ahead) AS days (n)"
            ),
            {"ahead": ahead},
        )
        return sum(made)

    async def days(self) -> list[Day]:
        """The days that have partitions, oldest first."""
        return [Day(row.log, row.deliveries, row.day) for row in await self.session.execute(_DAYS)]

    async def expired(self, older_than: timedelta) -> list[Day]:
        """The days that ended before ``older_than`` ago, oldest first."""
        limit = await self.session.scalar(
            text("SELECT (clock_timestamp() - CAST(:age AS interval)) AT TIME ZONE 'UTC'"),
            {"age": older_than},
        )
        assert isinstance(limit, datetime)
        return [day for day in await self.days() if day.day < limit.date()]

    async def readers_of(self, day: Day) -> list[str]:
        """Who still needs the day: enabled cursors that have rows of it to read, endpoints with
        open deliveries.
        """
        cursors = await self.session.scalars(
            text(
                "SELECT name FROM event_cursors AS reader WHERE enabled AND EXISTS ("
                f"SELECT FROM {day.log} WHERE reader.snapshot IS NULL "
                "OR txid >= pg_snapshot_xmax(reader.snapshot)) ORDER BY name"
            )
        )
        names = [f"the cursor {name}" for name in cursors]
        if day.deliveries is not None:
            endpoints = await self.session.scalars(
                text(
                    "SELECT name FROM event_endpoints AS endpoint WHERE EXISTS (SELECT FROM "
                    f"{day.deliveries} WHERE endpoint_id = endpoint.id AND due_at IS NOT NULL) "
                    "ORDER BY name"
                )
            )
            names += [f"the endpoint {name}" for name in endpoints]
        return names

    async def has_endpoints(self) -> bool:
        """Whether any endpoint is there to route to."""
        return bool(await self.session.scalar(text("SELECT EXISTS (SELECT FROM event_endpoints)")))

    async def drop(self, day: Day) -> None:
        """Drop the day's partitions. Raises `DatabaseUnavailable` (55P03) where they are in use."""
        await self.session.execute(text("SELECT atlas_drop_event_day(:day)"), {"day": day.day})
