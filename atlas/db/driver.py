"""asyncpg's own connection below SQLAlchemy's, for what only the driver has: COPY, and its state."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from atlas.db.errors import translate


async def driver_of(connection: AsyncConnection) -> Any:
    """The driver's connection, in the transaction that is under way."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None  # the pool's word for a connection that was given back
    return driver


@contextlib.asynccontextmanager
async def driver_in(session: AsyncSession) -> AsyncIterator[Any]:
    """The driver's connection of a session, in its transaction, or outside of one in a session of
    `Database.autocommit`. SQLAlchemy does not see what it raises: it is translated here.
    """
    driver = session.info.get("atlas.driver")
    if driver is None:
        driver = await session.run_sync(_driver_within)
    try:
        yield driver
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise translate(error) or error from error


def _driver_within(session: Session) -> Any:
    """The driver's connection, once its transaction has begun: all in one switch to SQLAlchemy."""
    connection = session.connection()
    driver: Any = connection.connection.driver_connection
    if session.info.get("atlas.autocommit"):
        session.info["atlas.driver"] = driver  # the same until the session is closed
    elif not driver.is_in_transaction():
        # SQLAlchemy begins with the first statement; not the session's own way, which would flush
        connection.execute(text("SELECT 1"))
    return driver
