"""The database behind notifications: used where there is one, and never waited for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from atlas.config import Settings, get_settings
from atlas.db import Database, db
from atlas.db.clock import Session
from atlas.errors import AtlasError
from atlas.logging import get_logger
from atlas.repositories.notifications import Lanes, Slot

__all__ = ["Shared"]

log = get_logger(__name__)

T = TypeVar("T")

#: Seconds that the database may take, and for which it is left alone after a failure.
_ANSWER, _REST = 2.0, 30.0


class Shared:
    """State of notifications that processes share. Every call ends in time and raises nothing foreseen."""

    def __init__(self, settings: Settings | None, database: Database | None) -> None:
        self._settings, self._database = settings, database
        self._rests_until = 0.0

    @property
    def database(self) -> Database | None:
        """The database, if the settings name one; an embedded one is not started for a notification."""
        if self._database is not None:
            return self._database
        settings = self._settings or get_settings()
        return db if self._settings is None and settings.database_url is not None else None

    async def run(self, work: Callable[[Session], Awaitable[T]]) -> T | None:
        """What ``work`` returns, in a transaction; None where there is no database that answers."""
        if time.monotonic() < self._rests_until or (database := self.database) is None:
            return None
        try:
            async with asyncio.timeout(_ANSWER), database.transaction() as session:
                return await work(session)
        except (AtlasError, TimeoutError, OSError) as error:
            self._rests_until = time.monotonic() + _REST
            log.warning("notifications_not_shared", error=type(error).__name__)
            return None

    async def reserve(self, webhook: str, spacing: float, bucket: str | None = None) -> Slot | None:
        """A slot of all processes; None: there is none to be had."""
        return await self.run(lambda session: Lanes(session).reserve(webhook, spacing, bucket))

    async def note(
        self, webhook: str, *, pause: float, dead: bool, invalid: bool, bucket: str | None = None
    ) -> None:
        """Share with the other processes what an answer said."""
        await self.run(
            lambda session: Lanes(session).note(
                webhook, pause=pause, dead=dead, invalid=invalid, bucket=bucket
            )
        )
