"""Writing events into the log, whatever state PostgreSQL and the caller's transaction are in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from atlas.db.clock import Session
from atlas.db.driver import driver_of
from atlas.db.errors import cause_of
from atlas.errors import Unavailable
from atlas.logging import get_logger
from atlas.repositories.events.log import NO_PARTITION, Appended, EventLog, NewEvent, NotAppended

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["EMIT_TIMEOUT", "append_alone", "append_within", "bounded"]

log = get_logger(__name__)

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]

#: Seconds that an emit outside of a session may wait for PostgreSQL, whatever state that is in: with
#: what the emit does itself it takes 5 s at most.
EMIT_TIMEOUT = 4.9


async def append_within(
    database: Database, session: Session, rows: list[NewEvent]
) -> list[Appended] | None:
    """Write in the caller's transaction; what fails is logged and undone alone, and None returned."""
    try:
        return await _append(database, EventLog(session), rows)
    except Exception as error:
        _log_unrecorded(error, rows)
        return None


async def append_alone(
    database: Database, rows: list[NewEvent], spawn: Spawn, seconds: float
) -> list[Appended] | None:
    """Write in a transaction of their own, and let go of it after ``seconds``.

    What fails is logged, and None returned.
    """

    async def write(session: Session) -> list[Appended]:
        return await _append(database, EventLog(session), rows)

    try:
        return await bounded(database, write, spawn, seconds)
    except Exception as error:
        _log_unrecorded(error, rows)
        return None


async def bounded(
    database: Database,
    work: Callable[[Session], Coroutine[Any, Any, T]],
    spawn: Spawn,
    seconds: float,
) -> T:
    """What ``work`` returns, given a session of its own; `Unavailable` after ``seconds``.

    It is let go of then, and its connection cut, without a word from PostgreSQL.
    """
    drivers: list[Any] = []

    async def run() -> T:
        async with database.autocommit() as session:
            drivers.append(await driver_of(await session.connection()))
            return await work(session)

    task = spawn(run())
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise Unavailable(f"PostgreSQL did not answer within {seconds:.0f} s")
        found: T = task.result()
        return found
    except BaseException:
        _let_go(task, drivers)
        raise


async def _append(database: Database, events: EventLog, rows: list[NewEvent]) -> list[Appended]:
    try:
        return await events.append(rows)
    except NotAppended as error:
        if error.sqlstate != NO_PARTITION:
            raise
    # not in the caller's transaction, which would hold its locks until it ends
    async with asyncio.timeout(EMIT_TIMEOUT), database.transaction() as own:
        await EventLog(own).ensure_days()
    return await events.append(rows)


def _let_go(task: asyncio.Task[Any], drivers: list[Any]) -> None:
    """End a task that waits for PostgreSQL, without waiting for PostgreSQL."""
    if task.done():
        return
    for driver in drivers:
        with contextlib.suppress(Exception):
            driver.terminate()
    task.cancel()


def _log_unrecorded(error: Exception, rows: Sequence[NewEvent]) -> None:
    with contextlib.suppress(Exception):  # whatever is wrong with the log is nobody's trouble here
        types = sorted({row.event_type for row in rows})
        log.error("event_not_recorded", event_types=types, error=cause_of(error))
