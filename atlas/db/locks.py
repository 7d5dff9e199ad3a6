"""Advisory locks, and trying again what gave way to somebody else's lock."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import tenacity
from sqlalchemy import text

from atlas.errors import DatabaseError

if TYPE_CHECKING:
    from atlas.db.database import Database

P = ParamSpec("P")
T = TypeVar("T")

_KEEPALIVE = (
    "SELECT set_config('tcp_keepalives_idle', '20', false), "
    "set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '4', false)"
)
#: lock_not_available, deadlock_detected, serialization_failure.
_GAVE_WAY = frozenset({"55P03", "40P01", "40001"})


def gave_way(error: BaseException) -> bool:
    """Whether a transaction failed only because another one was in its way."""
    return isinstance(error, DatabaseError) and error.sqlstate in _GAVE_WAY


def retry_when_locked(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Repeat a whole unit of work (an async function that opens its own transaction) while it gives
    way to others' locks, for up to a minute with growing, jittered pauses; then raise its last error.
    """

    @functools.wraps(work)
    async def again(*args: P.args, **kwargs: P.kwargs) -> T:
        # a controller of its own for each call: it keeps state that calls in other threads would share
        controller = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(gave_way),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2.0),
            stop=tenacity.stop_after_delay(60),
            reraise=True,
        )
        return await controller(work, *args, **kwargs)

    return again


@contextlib.asynccontextmanager
async def advisory_lock(database: Database, name: str, *, wait: bool) -> AsyncIterator[bool]:
    """Hold a lock of this database, on a connection of its own; yields whether it is held.

    It is free the moment the process dies, and within a minute when its machine does.
    """
    engine = await database.engine()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # not after TCP's two hours
        await connection.execute(text(_KEEPALIVE))
        how = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        answer = await connection.scalar(text(f"SELECT {how}(hashtext(:name))"), {"name": name})
        if answer is False:
            yield False
            return
        try:
            yield True
        finally:
            # a broken connection has let go already; it must not go back to the pool as if it held
            with contextlib.suppress(Exception):
                await connection.execute(
                    text("SELECT pg_advisory_unlock(hashtext(:name))"), {"name": name}
                )
