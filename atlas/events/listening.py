"""Listening to the log under a name, with a cursor that outlives the process. See docs/event-delivery.md."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TYPE_CHECKING

from atlas.errors import AtlasError, ConfigurationError, InvalidInput
from atlas.events.event import Event
from atlas.events.patterns import check_pattern, to_regex
from atlas.logging import get_logger
from atlas.repositories.events.cursors import Cursor, EventCursors, Page

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["Batch", "listen"]

log = get_logger(__name__)

#: Seconds between looks at the log where nothing waits.
POLL = 0.2
#: Seconds for which a listener holds its cursor; renewed while its program works.
LEASE = 20.0
#: Longest pause after a failure of the database, in seconds.
LONGEST_PAUSE = 5.0


class Batch(list[Event]):
    """Events in order of the log. Asking for the next batch acknowledges this one."""

    def __init__(self, events: list[Event], reader: _Reader, cursor: Cursor, page: Page) -> None:
        super().__init__(events)
        self._reader, self._cursor, self._page = reader, cursor, page
        self._acknowledged = False

    async def acknowledge(self) -> bool:
        """These events need not come again. False: the lease was lost, and they may."""
        if not self._acknowledged:
            self._acknowledged = await self._reader.advance(self._cursor, self._page)
        return self._acknowledged


async def listen(
    database: Database,
    name: str,
    pattern: str = "*",
    *,
    since: datetime | None = None,
    limit: int = 500,
    poll: float = POLL,
    once: bool = False,
) -> AsyncGenerator[Batch]:
    """Batches of events whose type matches, each event at least once, for ever; see `EventBus.listen`."""
    check_pattern(pattern)
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidInput("a listener's name takes 1 to 200 printable characters", field="name")
    if since is not None and since.tzinfo is None:
        raise InvalidInput("since needs a time zone", field="since", value=since)
    reader = _Reader(database, name, pattern, since, limit)
    try:
        while True:
            batch = await reader.next_batch(poll)
            if batch is None:
                if once:
                    return
                await asyncio.sleep(poll)
                continue
            yield batch
            await reader.acknowledge(batch)
    finally:
        await reader.close()


class _Reader:
    def __init__(
        self, database: Database, name: str, pattern: str, since: datetime | None, limit: int
    ) -> None:
        self.database = database
        self.name, self.pattern, self.since, self.limit = name, pattern, since, limit
        self.regex = to_regex([pattern])
        self.lease = uuid.uuid4()
        self.renewal: asyncio.Task[None] | None = None
        self.made = False

    async def next_batch(self, poll: float) -> Batch | None:
        """The next batch; None: nothing waits, or another process listens under this name."""
        pause = poll
        while True:
            try:
                return await self._read()
            except ConfigurationError:
                raise
            except (AtlasError, OSError, TimeoutError) as error:
                log.warning("event_listener_waits", listener=self.name, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _read(self) -> Batch | None:
        if not self.made:
            async with self.database.transaction() as session:
                await EventCursors(session).ensure(self.name, self.pattern, self.since)
            self.made = True
        async with self.database.autocommit() as session:
            if not await EventCursors(session).has_waiting(self.name):
                return None
        while True:
            async with self.database.transaction(isolation="READ COMMITTED") as session:
                cursors = EventCursors(session)
                cursor = await cursors.read(self.name)
                if cursor is None:
                    self.made = False  # removed meanwhile
                    return None
                if not await cursors.hold(cursor, self.lease, LEASE):
                    return None
                page = await cursors.page(cursor, self.limit, self.regex)
                if not page.events:
                    await cursors.advance(cursor, page, self.limit, self.lease)
                    await cursors.release(self.name, self.lease)
            if page.events:
                if self.renewal is None:
                    self.renewal = asyncio.create_task(self._renew())
                return Batch([Event.of(row) for row in page.events], self, cursor, page)
            if page.scanned < self.limit:
                return None

    async def acknowledge(self, batch: Batch) -> None:
        """Move the cursor on, however long the database takes to come back."""
        pause = POLL
        while True:
            try:
                await batch.acknowledge()
                break
            except (AtlasError, OSError, TimeoutError) as error:
                log.warning("event_listener_waits", listener=self.name, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        await self._stop_renewing()

    async def advance(self, cursor: Cursor, page: Page) -> bool:
        async with self.database.transaction() as session:
            cursors = EventCursors(session)
            moved = await cursors.advance(cursor, page, self.limit, self.lease)
            await cursors.release(self.name, self.lease)
        if not moved:
            log.warning("event_listener_lost_its_lease", listener=self.name)
        return moved

    async def close(self) -> None:
        """Let another process listen at once. What was not acknowledged comes again."""
        renewing = self.renewal is not None
        await self._stop_renewing()
        if renewing:
            with contextlib.suppress(AtlasError, OSError, TimeoutError):
                async with self.database.transaction() as session:
                    await EventCursors(session).release(self.name, self.lease)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE / 4)
            with contextlib.suppress(AtlasError, OSError, TimeoutError):
                async with self.database.transaction() as session:
                    await EventCursors(session).renew(self.name, self.lease, LEASE)

    async def _stop_renewing(self) -> None:
        if self.renewal is not None:
            self.renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.renewal
            self.renewal = None
