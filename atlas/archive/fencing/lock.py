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

from sqlalchemy import text

from atlas.config import get_settings
from atlas.db import Database
from atlas.errors import ArchiverBusy, AtlasError, DatabaseError
from atlas.logging import get_logger
from atlas.repositories.ledger.control import ControlWriter

log = get_logger(__name__)

#: Seconds without a heartbeat after which another archiver may begin.
LEASE_SECONDS = 20.0

_KEY = "hashtext('atlas.archiver')"
_LOCK_NOT_AVAILABLE = "55P03"
_KEEPALIVE = (
    "SELECT set_config('tcp_keepalives_idle', '20', false), "
    "set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '4', false)"
)


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
    engine = await database.engine()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # the lock of a machine that vanished is free within a minute, not after TCP's two hours
        await connection.execute(text(_KEEPALIVE))
        if wait:
            await connection.execute(text(f"SELECT pg_advisory_lock({_KEY})"))
        elif not await connection.scalar(text(f"SELECT pg_try_advisory_lock({_KEY})")):
            raise ArchiverBusy("another archiver is at work on this database")
        try:
            yield
        finally:
            # a broken connection has let go already; it must not go back to the pool as if it held
            with contextlib.suppress(Exception):
                await connection.execute(text(f"SELECT pg_advisory_unlock({_KEY})"))


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
