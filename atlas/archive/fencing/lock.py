"""One archiver at a time: the lock that is asked first, and the fence that decides in the end.

With ordinary connections a session advisory lock is held on a connection of its own: PostgreSQL lets go
of it the moment the process dies. Behind a pooler in transaction mode session locks mean nothing, so a
lease in the control row is renewed by a heartbeat instead. Either can be lost without notice (a broken
connection, a paused process); therefore every archiver also draws a fence, a number that each of its
steps must find unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator

from atlas.config import get_settings
from atlas.db import Database
from atlas.db.locks import advisory_lock
from atlas.errors import ArchiverBusy, AtlasError, DatabaseError
from atlas.logging import get_logger
from atlas.repositories.ledger.control import ControlWriter

log = get_logger(__name__)

#: Seconds without a heartbeat after which another archiver may begin.
LEASE_SECONDS = 20.0

_LOCK = "atlas.archiver"
_LOCK_NOT_AVAILABLE = "55P03"


@contextlib.asynccontextmanager
async def archiver_lock(database: Database, *, wait: bool = False) -> AsyncIterator[int]:
    """Hold the archive lock of this database; yields the fence.

    Raises `ArchiverBusy` when another archiver holds it, unless ``wait``.
    """
    pooled = get_settings().database_pool_mode == "transaction"
    held = _leased(database, wait) if pooled else _advisory(database, wait)
    async with held:
        yield await _take_fence(database, wait)


async def _take_fence(database: Database, wait: bool) -> int:
    while True:
        try:
            async with database.transaction() as session:
                return await ControlWriter(session).take_fence()
        except DatabaseError as error:
            # a step of an archiver that lost its lock, but still has its transaction
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
            if not wait:
                raise ArchiverBusy("another archiver is in the middle of a step") from error


@contextlib.asynccontextmanager
async def _advisory(database: Database, wait: bool) -> AsyncIterator[None]:
    async with advisory_lock(database, _LOCK, wait=wait) as held:
        if not held:
            raise ArchiverBusy("another archiver is at work on this database")
        yield


@contextlib.asynccontextmanager
async def _leased(database: Database, wait: bool) -> AsyncIterator[None]:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    async def take() -> bool:
        try:
            async with database.transaction() as session:
                return await ControlWriter(session).try_lease(holder, LEASE_SECONDS)
        except DatabaseError as error:
            # a step of another archiver, whose lease may be over, has the row
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
            return False

    async def beat() -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 4)
            try:
                await take()
            except AtlasError as error:
                # the fence settles it if the lease runs out meanwhile
                log.warning("archive_heartbeat_failed", error=str(error))

    while not await take():
        if not wait:
            raise ArchiverBusy("another archiver is at work on this database")
        await asyncio.sleep(1)
    heart = asyncio.create_task(beat())
    try:
        yield
    finally:
        heart.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await heart
        with contextlib.suppress(AtlasError):
            async with database.transaction() as session:
                await ControlWriter(session).end_lease(holder)
