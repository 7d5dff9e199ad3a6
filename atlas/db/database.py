"""Engines, sessions and transactions: one connection pool for each event loop that asks."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from atlas.config import get_settings
from atlas.db import sessions
from atlas.db.errors import translate
from atlas.db.url import Target, translate_url
from atlas.errors import AtlasError, ConfigurationError
from atlas.forks import renew_in_child
from atlas.logging import get_logger

log = get_logger(__name__)

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

#: Seconds after which `Database.health_check` calls a silent server unhealthy.
HEALTH_TIMEOUT = 10.0
#: Seconds for which a connection that was used is taken to work, unless it is seen to be closed.
_FRESH_SECONDS = 5.0


#: Kept for ever, because a connection that is collected closes itself.
_parents: list[object] = []


class Database:
    """A PostgreSQL database. Settings are read at the first use, not when the object is made.

    ``url`` overrides DATABASE_URL; ``engine_options`` go to SQLAlchemy's ``create_async_engine``.
    Works from any thread and from any number of event loops: each loop gets a pool of its own,
    closed when the loop shuts down (``asyncio.run`` does that), so no connection outlives its loop.
    Every failure of the driver reaches the caller as an error of `atlas.errors`.
    """

    def __init__(self, url: str | None = None, **engine_options: Any) -> None:
        self._url = url
        self._engine_options = engine_options
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        renew_in_child(self, Database._leave_to_parent)

    def __repr__(self) -> str:
        if self._url is None:
            return "Database()"
        try:
            return f"Database({translate_url(self._url).where!r})"
        except ConfigurationError:
            return "Database(<unreadable>)"

    async def initialize(self) -> None:
        """Connect once, so that a wrong setting shows now. Repeatable.

        Raises `ConfigurationError` or `DatabaseUnavailable`.
        """
        async with self.session() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close the connections of the running loop. Repeatable; the next use opens new ones."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.guard.aclose()

    async def health_check(self) -> bool:
        """Whether a statement can be run now. Never raises."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                await self.initialize()
        except Exception as error:
            log.warning(
                "database_unhealthy",
                kind=type(error).__name__,
                error=str(error) if isinstance(error, AtlasError) else None,
            )
            return False
        return True

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session; what the caller does not commit is rolled back at the end."""
        return _Opened(self._open_session)

    def transaction(
        self, read_only: bool = False, isolation: Isolation | None = None
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """One transaction: committed on success, rolled back on any error, cancellation included.

        With ``read_only`` PostgreSQL refuses writes (SQLSTATE 25006).
        """
        options: dict[str, Any] = {}
        if isolation is not None:
            options["isolation_level"] = isolation
        if read_only:
            options["postgresql_readonly"] = True

        async def begin(stack: AsyncExitStack) -> AsyncSession:
            session = await self._open_session(stack)
            await stack.enter_async_context(session.begin())
            if options:
                await session.connection(execution_options=options)
            return session

        return _Opened(begin)

    def autocommit(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session for one statement, which is a transaction of its own: one round trip instead of three.

        Behind a pooler in transaction mode it takes all three: outside of a transaction the pooler may
        hand the parsed statement and its execution to different servers.
        """
        if get_settings().database_pool_mode == "transaction":
            return self.transaction()

        async def begin(stack: AsyncExitStack) -> AsyncSession:
            session = await self._open_session(stack)
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            session.info["atlas.autocommit"] = True
            return session

        return _Opened(begin)

    async def _open_session(self, stack: AsyncExitStack) -> AsyncSession:
        engine = await self.engine()
        stack.push(_translate_sqlalchemy)
        # for who has the session only: after-commit work looks for the handlers of its database
        made = AsyncSession(engine, expire_on_commit=False, info={"atlas.database": self})
        return await stack.enter_async_context(made)

    async def engine(self) -> AsyncEngine:
        """The engine of the running loop. Do not keep it beyond the loop, nor dispose of it."""
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            target = await self._target()
            if loop not in self._pools:  # another task of this loop may have been quicker
                self._forget_closed_loops()
                pool = self._pools[loop] = self._open(loop, target)
                await anext(pool.guard)
        return self._pools[loop].engine

    async def libpq_url(self) -> str:
        """The same database as a URL for libpq (psql, pg_dump, ADBC). **Holds the password.**"""
        return (await self._target()).libpq_url

    async def _target(self) -> Target:
        if self._url is not None:
            return translate_url(self._url)
        return await sessions.configured_target()

    def _open(self, loop: asyncio.AbstractEventLoop, target: Target) -> _Pool:
        engine = create_async_engine(
            "postgresql+asyncpg://", **_engine_options(target, self._engine_options)
        )
        guard = self._close_with_loop(loop)
        pool = _Pool(engine, guard)
        _translate_errors(engine, target)
        _settle_sessions(engine, target)

        @event.listens_for(engine.sync_engine, "checkin")
        def keep(_: Any, record: Any) -> None:
            record.info["used_at"] = time.monotonic()
            if pool.closed:
                record.close()

        # SQLAlchemy's pre-ping costs three round trips at each checkout, three times what a claim takes
        @event.listens_for(engine.sync_engine, "checkout")
        def look(connection: Any, record: Any, _: Any) -> None:
            idle = time.monotonic() - record.info.get("used_at", math.inf)
            try:
                if idle > _FRESH_SECONDS:
                    connection.ping()  # managed services drop idle connections without a word
                elif idle >= 0 and connection.driver_connection.is_closed():
                    raise ConnectionError("the server closed the connection")
            except Exception as error:
                raise DisconnectionError(str(error)) from error  # the pool opens another

        return pool

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
        """Started in the loop, and so closed by its ``shutdown_asyncgens``, or by `close`."""
        pool = self._pools[loop]
        try:
            yield
        finally:
            # sessions still open give their connections back to a pool that closes them
            pool.closed = True
            await pool.engine.dispose()
            if self._pools.get(loop) is pool:
                del self._pools[loop]

    def _leave_to_parent(self) -> None:
        """In a forked child: the connections are the parent's, and closing them would end its sessions."""
        if self._pools:
            _parents.append(self._pools)
        self._pools = {}

    def _forget_closed_loops(self) -> None:
        # only a loop closed without shutdown_asyncgens leaves its pool behind
        for loop in [loop for loop in self._pools if loop.is_closed()]:
            self._pools.pop(loop).engine.sync_engine.dispose(close=False)


class _Opened(AbstractAsyncContextManager[AsyncSession]):
    """A context manager without a generator inside.

    A loop that shuts down closes all generators at once: one that was abandoned with a session open
    would meet the session's own generator being closed already.
    """

    def __init__(self, open_: Callable[[AsyncExitStack], Awaitable[AsyncSession]]) -> None:
        self._open = open_
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> AsyncSession:
        async with AsyncExitStack() as stack:
            session = await self._open(stack)
            self._stack = stack.pop_all()
        return session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, traceback)


@dataclass(slots=True)
class _Pool:
    engine: AsyncEngine
    guard: AsyncGenerator[None]
    closed: bool = False


def _engine_options(target: Target, overrides: dict[str, Any]) -> dict[str, Any]:
    settings = get_settings()
    arguments = sessions.connect_arguments(target)
    # text as it is in JSON: a server whose encoding is SQL_ASCII refuses \u escapes
    plain_json = functools.partial(json.dumps, ensure_ascii=False)
    options: dict[str, Any] = {
        "hide_parameters": True,
        "json_serializer": plain_json,
        # each BEGIN says it, so that no default of the role decides
        "isolation_level": "READ COMMITTED",
    }
    if settings.database_pool_mode == "transaction":
        # what SQLAlchemy prepares is not for later either, and names must not meet
        arguments |= {
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__atlas_{uuid.uuid4().hex}__",
        }
    if "poolclass" not in overrides:
        options |= {
            "pool_size": settings.database_pool_size,
            "max_overflow": sessions.OVERFLOW,
            "pool_timeout": settings.database_pool_timeout,
        }
    arguments |= overrides.get("connect_args", {})
    return {**options, **overrides, "connect_args": arguments}


def _translate_sqlalchemy(_: object, error: BaseException | None, __: object) -> None:
    """Make what SQLAlchemy raises by itself, without a statement, one of the tree."""
    if isinstance(error, PoolTimeout | PendingRollbackError):
        raise translate(error) or error from error


def _settle_sessions(engine: AsyncEngine, target: Target) -> None:
    """Make every new connection what Atlas needs before anybody has it."""

    # before SQLAlchemy looks which schema is the default one
    @event.listens_for(engine.sync_engine, "connect", insert=True)
    def settle(connection: Any, _: Any) -> None:
        try:
            connection.run_async(functools.partial(sessions.settle, options=target.options))
        except Exception as error:  # asyncpg's own: SQLAlchemy does not see it
            raise translate(error, where=target.where, connecting=True) or error from error


def _translate_errors(engine: AsyncEngine, target: Target) -> None:
    """Make every error of connecting, of a statement and of a commit one of the tree."""

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
        try:
            return dialect.connect(*arguments, **options)
        except Exception as error:
            raise translate(error, where=target.where, connecting=True) or error from error

    @event.listens_for(engine.sync_engine, "handle_error")
    def replace(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:
            # the pool wants to see for itself that a connection is gone, and opens another
            return None
        return translate(
            context.sqlalchemy_exception or context.original_exception, where=target.where
        )


class KeptSession:
    """A session of `Database.autocommit`, kept from one statement to the next until `release`.

    For one task that runs statement after statement: to open and close a session takes longer than
    the statement. After an error the next use opens another. Behind a pooler in transaction mode
    nothing is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = AsyncExitStack()
        self._session: AsyncSession | None = None

    @asynccontextmanager
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


#: The database of the settings, which are read at its first use.
db = Database()
