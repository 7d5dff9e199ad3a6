"""Durable cursors over the log of events. The protocol, and why it loses nothing: docs/event-delivery.md."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.repositories.events.log import RecordedEvent

__all__ = ["Cursor", "EventCursors", "Page"]

#: How far back a cursor reads that a restore or a promotion has made fall back to time.
OVERLAP = timedelta(hours=1)

#: What a stored snapshot is valid for: this cluster, this timeline, this database.
_SERVER = """(SELECT system_identifier FROM pg_control_system()) || '/'
    || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/'
    || (SELECT oid FROM pg_database WHERE datname = current_database())"""

#: The last ``seq`` that was given out.
_FLOOR = "SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM system_events_seq"

_STATE = f"""
    SELECT name, pattern, enabled, server, since, snapshot::text, floor_seq,
           window_snapshot::text, window_floor, window_at, last_seq, read_at, version,
           coalesce(leased_until > clock_timestamp(), false) AS leased,
           pg_current_snapshot()::text AS now_snapshot, clock_timestamp() AS now,
           {_SERVER} AS now_server
    FROM event_cursors WHERE name = :name
    """

#: Whether the log has rows that the cursor has not read; a probe of two indexes.
_WAITING = text(f"""
    SELECT reader.snapshot IS NULL OR reader.window_snapshot IS NOT NULL OR reader.server <> {_SERVER}
        OR EXISTS (SELECT FROM system_events WHERE txid >= pg_snapshot_xmax(reader.snapshot))
        OR EXISTS (SELECT FROM pg_snapshot_xip(reader.snapshot) AS late (txid)
                   JOIN system_events USING (txid))
    FROM event_cursors AS reader WHERE name = :name AND enabled
      AND NOT coalesce(leased_until > clock_timestamp(), false)
    """)

#: The rows of a window after ``last``, in order of ``seq``: those of transactions that were in progress at
#: its beginning, by ``txid``, and the fresh ones, by ``seq``.
BETWEEN_SNAPSHOTS = """
    page AS MATERIALIZED (
        SELECT * FROM (
            (SELECT id, seq, event_type, entity_id, payload, created_at FROM system_events
             WHERE txid = ANY (CAST(CAST(:late AS text[]) AS xid8[])) AND seq > :last
               AND pg_visible_in_snapshot(txid, CAST(CAST(:upto AS text) AS pg_snapshot))
             ORDER BY seq LIMIT :limit)
            UNION ALL
            (SELECT id, seq, event_type, entity_id, payload, created_at FROM system_events
             WHERE txid >= CAST(CAST(:from AS text) AS xid8) AND seq > :floor
               AND pg_visible_in_snapshot(txid, CAST(CAST(:upto AS text) AS pg_snapshot))
             ORDER BY seq LIMIT :limit)
        ) AS either ORDER BY seq LIMIT :limit
    )"""

#: The same where there is no snapshot to begin at: by time.
SINCE = """
    page AS MATERIALIZED (
        SELECT id, seq, event_type, entity_id, payload, created_at FROM system_events
        WHERE seq > :last AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
          AND pg_visible_in_snapshot(txid, CAST(CAST(:upto AS text) AS pg_snapshot))
        ORDER BY seq LIMIT :limit
    )"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a reader is, and the moment at which that was asked."""

    name: str
    pattern: str
    enabled: bool
    server: str | None
    since: datetime | None
    snapshot: str | None
    floor_seq: int
    window_snapshot: str | None
    window_floor: int
    window_at: datetime | None
    last_seq: int
    read_at: datetime | None
    version: int
    leased: bool
    now_snapshot: str
    now: datetime
    now_server: str
    #: The last ``seq`` that was given out before ``now_snapshot``, and before this transaction had an xid.
    now_floor: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether the snapshots were taken on another server, timeline or database."""
        return self.server is not None and self.server != self.now_server

    @property
    def upto(self) -> str:
        """The snapshot at which the window ends: the stored one, or now."""
        if self.window_snapshot is None or self.is_elsewhere:
            return self.now_snapshot
        return self.window_snapshot

    def page(self, limit: int) -> tuple[str, dict[str, Any]]:
        """The common table expression ``page`` with the next rows, and its parameters."""
        if self.snapshot is None or self.is_elsewhere:
            since, last = self.since, self.last_seq
            if self.is_elsewhere:
                moment = self.read_at or self.since
                since, last = (moment - OVERLAP if moment else None), 0
            return SINCE, {"since": since, "last": last, "upto": self.upto, "limit": limit}
        _, xmax, late = self.snapshot.split(":")
        return BETWEEN_SNAPSHOTS, {
            "late": late.split(",") if late else [],
            "from": xmax,
            "last": self.last_seq,
            "floor": max(self.floor_seq, self.last_seq),
            "upto": self.upto,
            "limit": limit,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Rows that matched, of ``scanned`` ones up to ``last_seq``."""

    events: list[RecordedEvent]
    scanned: int
    last_seq: int


class EventCursors:
    """Reads and moves cursors. `read` must be the first call of its transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def ensure(self, name: str, pattern: str = "*", since: datetime | None = None) -> None:
        """Make the cursor if there is none; a new one begins with what is kept, or at ``since``."""
        await self.session.execute(
            text(
                "INSERT INTO event_cursors (name, pattern, since, window_floor) "
                f"SELECT :name, :pattern, CAST(:since AS timestamptz), ({_FLOOR}) "
                "ON CONFLICT (name) DO UPDATE SET pattern = excluded.pattern, enabled = true "
                "WHERE event_cursors.pattern <> excluded.pattern OR NOT event_cursors.enabled"
            ),
            {"name": name, "pattern": pattern, "since": since},
        )

    async def remove(self, name: str) -> bool:
        """Forget the cursor; False if there was none."""
        found = await self.session.scalars(
            text("DELETE FROM event_cursors WHERE name = :name RETURNING name"), {"name": name}
        )
        return found.one_or_none() is not None

    async def has_waiting(self, name: str) -> bool:
        """Whether there is something to read, and nobody else is reading. Writes nothing."""
        return bool(await self.session.scalar(_WAITING, {"name": name}))

    async def read(self, name: str) -> Cursor | None:
        """The cursor as it is; None if there is none."""
        # before this transaction has an xid: younger ones draw theirs above the floor
        floor = await self.session.scalar(text(_FLOOR))
        rows = await self.session.execute(text(_STATE), {"name": name})
        row = rows.mappings().one_or_none()
        return None if row is None else Cursor(**row, now_floor=int(floor or 0))

    async def hold(self, cursor: Cursor, lease: uuid.UUID, seconds: float) -> bool:
        """Take the lease of a cursor that is still as it was read, and open its window. False: it is not.

        The window's snapshot is stored before any row of it is used, by a transaction younger than it.
        """
        found = await self.session.scalars(
            text(
                "UPDATE event_cursors SET lease = :lease, version = version + 1, "
                "leased_until = clock_timestamp() + make_interval(secs => :seconds) "
                "WHERE name = :name AND version = :version "
                "AND NOT coalesce(leased_until > clock_timestamp() AND lease <> :lease, false) "
                "RETURNING name"
            ),
            {"lease": lease, "seconds": seconds, "name": cursor.name, "version": cursor.version},
        )
        return found.one_or_none() is not None

    async def page(self, cursor: Cursor, limit: int, regex: str) -> Page:
        """The next rows of the window whose type matches."""
        page, parameters = cursor.page(limit)
        rows = await self.session.execute(
            text(
                f"WITH {page} SELECT page.*, total.scanned, total.last_seq FROM "
                "(SELECT count(*) AS scanned, coalesce(max(seq), 0) AS last_seq FROM page) AS total "
                "LEFT JOIN page ON event_type ~ :regex ORDER BY seq"
            ),
            {**parameters, "regex": regex},
        )
        found = rows.all()
        events = [
            RecordedEvent(
                row.id, row.seq, row.event_type, row.entity_id, row.payload, row.created_at
            )
            for row in found
            if row.id is not None
        ]
        return Page(events, found[0].scanned, found[0].last_seq)

    async def advance(
        self, cursor: Cursor, page: Page, limit: int, lease: uuid.UUID | None = None
    ) -> bool:
        """Record that the page was read. False if the lease was lost; then nothing was changed.

        A page that is not full ends the window: its snapshot is where the next one begins.
        """
        over = page.scanned < limit
        fallen = cursor.is_elsewhere
        opened = cursor.window_snapshot is None or fallen
        # written by a transaction that had ended before the window's snapshot was taken: who is not in the
        # snapshot is younger. The floor of this transaction serves the window after this one.
        window_floor = 0 if fallen else cursor.window_floor
        window_at = cursor.now if opened else cursor.window_at
        if over:
            values = {
                "snapshot": cursor.upto,
                "floor_seq": window_floor,
                "read_at": window_at,
                "window_snapshot": None,
                "window_floor": cursor.now_floor,
                "window_at": None,
                "last_seq": 0,
            }
        else:
            values = {
                # a cursor that has fallen back to time stays there until the window is over
                "snapshot": None if fallen else cursor.snapshot,
                "floor_seq": cursor.floor_seq,
                "read_at": cursor.read_at,
                "window_snapshot": cursor.upto,
                "last_seq": page.last_seq,
                "window_floor": window_floor,
                "window_at": window_at,
            }
        if fallen:
            moment = cursor.read_at or cursor.since
            values["since"] = moment - OVERLAP if moment else None
        else:
            values["since"] = cursor.since
        sets = ", ".join(
            (
                f"{name} = CAST(CAST(:{name} AS text) AS pg_snapshot)"
                if name.endswith("snapshot")
                else f"{name} = :{name}"
            )
            for name in values
        )
        found = await self.session.scalars(
            text(
                f"UPDATE event_cursors SET {sets}, server = :server, version = version + 1 "
                "WHERE name = :name AND (CAST(:lease AS uuid) IS NULL OR lease = :lease) "
                "RETURNING name"
            ),
            {**values, "server": cursor.now_server, "name": cursor.name, "lease": lease},
        )
        return found.one_or_none() is not None

    async def lock(self, cursor: Cursor) -> bool:
        """Lock the row until the transaction's end. False: another has it, or has moved it."""
        found = await self.session.scalars(
            text(
                "SELECT name FROM event_cursors WHERE name = :name AND version = :version "
                "FOR UPDATE SKIP LOCKED"
            ),
            {"name": cursor.name, "version": cursor.version},
        )
        return found.one_or_none() is not None

    async def renew(self, name: str, lease: uuid.UUID, seconds: float) -> bool:
        """Prolong the lease. False: it is another's by now."""
        found = await self.session.scalars(
            text(
                "UPDATE event_cursors SET leased_until = clock_timestamp() + make_interval(secs => :s) "
                "WHERE name = :name AND lease = :lease RETURNING name"
            ),
            {"name": name, "lease": lease, "s": seconds},
        )
        return found.one_or_none() is not None

    async def release(self, name: str, lease: uuid.UUID) -> None:
        """Give the lease back."""
        await self.session.execute(
            text(
                "UPDATE event_cursors SET lease = NULL, leased_until = NULL, version = version + 1 "
                "WHERE name = :name AND lease = :lease"
            ),
            {"name": name, "lease": lease},
        )

    async def all(self) -> list[dict[str, Any]]:
        """Every cursor by name: pattern, when it last read, whether something waits."""
        rows = await self.session.execute(
            text(
                "SELECT name, pattern, enabled, read_at, leased_until FROM event_cursors ORDER BY name"
            )
        )
        return [dict(row) for row in rows.mappings()]
