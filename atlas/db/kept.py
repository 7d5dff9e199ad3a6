"""A session that one task keeps between its statements."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import get_settings

if TYPE_CHECKING:
    from atlas.db.database import Database

__all__ = ["KeptSession"]


class KeptSession:
    """A session of `Database.autocommit`, kept from one statement to the next until `release`.

    For one task that runs statement after statement: to open and close a session takes longer than
    the statement. After an error the next use opens another. Behind a pooler in transaction mode
    nothing is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = contextlib.AsyncExitStack()
        self._session: AsyncSession | None = None

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[AsyncSession]:
        """The session, for one statement."""
        if get_settings().database_pool_mode == "transaction":
            async with self._database.autocommit() as session:
                yield session
            return
        if self._session is None:
            self._session = await self._stack.enter_async_context(self._database.autocommit())
        try:
            yield self._session
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Give the connection back to the pool. Repeatable."""
        self._session = None
        await self._stack.aclose()
