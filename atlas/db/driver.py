"""asyncpg's own connection below SQLAlchemy's, for what only the driver has: COPY, and its state."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from atlas.db.errors import translate


async def driver_of(connection: AsyncConnection) -> Any:
    """The driver's connection, in the transaction that is under way."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # the pool's word for a connection that was given back
    return driver


@contextlib.asynccontextmanager
async def driver_in(session: AsyncSession) -> AsyncIterator[Any]:
    """The driver's connection of a session. SQLAlchemy does not see what it raises: it is translated here."""
    driver = await driver_of(await session.connection())
    try:
        yield driver
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise translate(error) or error from error
