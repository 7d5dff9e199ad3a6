"""Events in the transaction of who emits them: undone with it, and never in its way."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from atlas.db import Database
from atlas.errors import DatabaseError, DatabaseUnavailable
from atlas.events import Event, EventBus
from tests.support.events import rows
from tests.support.sql import execute, scalar


class Undo(Exception):
    """Makes a transaction roll back."""


async def test_handlers_hear_of_a_callers_event_after_the_commit_and_in_order(
    bus: EventBus, database: Database
) -> None:
    seen: list[tuple[str, int]] = []

    @bus.on("*")
    async def look(event: Event) -> None:
        if event.event_type == "a":
            await rows(database)  # so that the second would overtake, were it not made to wait
            await rows(database)
        seen.append((event.event_type, len(await rows(database))))

    async with database.transaction() as session:
        await bus.emit("a", session=session)
        await bus.emit("b", session=session)
        await asyncio.sleep(0)
        assert seen == []
    await bus.drain()
    assert seen == [("a", 2), ("b", 2)]


async def test_a_handler_that_is_registered_before_the_commit_hears_what_is_emitted_from_then_on(
    bus: EventBus, database: Database
) -> None:
    seen: list[str] = []
    async with database.transaction() as session:
        await bus.emit("before", session=session)
        bus.on("*")(lambda event: seen.append(event.event_type))
        await bus.emit("after", session=session)
    await bus.drain()
    assert seen == ["after"]
    assert [row.event_type for row in await rows(database)] == ["before", "after"]


async def test_a_session_on_another_driver_loses_the_row_with_a_word_and_nothing_else(
    bus: EventBus, database: Database
) -> None:
    seen: list[tuple[str, int | None]] = []
    bus.on("*")(lambda event: seen.append((event.event_type, event.seq)))
    insert = text("INSERT INTO search_queue (query_term) VALUES (:term)")
    engine = create_async_engine(
        make_url(await database.libpq_url()).set(drivername="postgresql+psycopg")
    )
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(insert, {"term": "x"})
        with structlog.testing.capture_logs() as logs:
            await bus.emit("a", session=session)
        await session.execute(insert, {"term": "y"})
    await engine.dispose()
    await bus.drain()
    assert [entry["event"] for entry in logs] == ["event_not_recorded"]
    assert await scalar(database, "SELECT count(*) FROM search_queue") == 2
    assert await rows(database) == []
    assert seen == [("a", None)]  # as where PostgreSQL is away


async def test_an_event_is_undone_with_the_callers_transaction(
    bus: EventBus, database: Database
) -> None:
    seen: list[Event] = []
    bus.on("*")(seen.append)

    async def work() -> None:
        async with database.transaction() as session:
            await bus.emit("a", session=session)
            raise Undo

    with pytest.raises(Undo):
        await work()
    async with database.session() as session:  # closed without a commit
        await bus.emit("b", session=session)
    assert session.sync_session.info["atlas.after_commit"] == []  # nothing piles up
    await bus.drain()
    assert await rows(database) == []
    assert seen == []


async def test_one_session_may_roll_back_and_then_commit_other_events(
    bus: EventBus, database: Database
) -> None:
    seen: list[str] = []
    bus.on("*")(lambda event: seen.append(event.event_type))
    async with database.session() as session:
        await bus.emit("undone", session=session)
        await session.rollback()
        await bus.emit("kept", session=session)
        await session.commit()
        await bus.emit("kept.too", session=session)
        await session.commit()
    await bus.drain()
    assert seen == ["kept", "kept.too"]
    assert [row.event_type for row in await rows(database)] == seen


async def test_events_of_an_undone_savepoint_are_undone_alone(
    bus: EventBus, database: Database
) -> None:
    seen: list[str] = []
    bus.on("*")(lambda event: seen.append(event.event_type))

    async def undone_work(session: AsyncSession) -> None:
        async with session.begin_nested():
            await bus.emit("undone", session=session)
            async with session.begin_nested():
                await bus.emit("released.then.undone", session=session)
            raise Undo

    async with database.transaction() as session:
        await bus.emit("before", session=session)
        with pytest.raises(Undo):
            await undone_work(session)
        async with session.begin_nested():
            await bus.emit("released", session=session)
        assert seen == []
        await bus.emit("after", session=session)
    await bus.drain()
    assert sorted(seen) == ["after", "before", "released"]
    assert sorted(row.event_type for row in await rows(database)) == sorted(seen)


async def test_an_event_that_cannot_be_written_leaves_the_callers_work_alone(
    bus: EventBus, database: Database
) -> None:
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE work (id int)"))
    async with database.transaction() as session:
        await session.execute(text("ALTER TABLE system_events RENAME TO away"))
        await session.execute(text("INSERT INTO work VALUES (1)"))
        with structlog.testing.capture_logs() as logs:
            await bus.emit("a", session=session)
        await session.execute(text("INSERT INTO work VALUES (2)"))
        await session.execute(text("ALTER TABLE away RENAME TO system_events"))
    assert [entry["event"] for entry in logs] == ["event_not_recorded"]
    async with database.transaction() as session:
        assert (await session.execute(text("SELECT count(*) FROM work"))).scalar_one() == 2


async def test_emitting_in_a_failed_transaction_keeps_the_first_error(
    bus: EventBus, database: Database
) -> None:
    async def work() -> None:
        async with database.transaction() as session:
            try:
                await session.execute(text("SELECT 1/0"))
            finally:
                await bus.emit("a", session=session)

    with pytest.raises(DatabaseError) as caught:
        await work()
    assert caught.value.sqlstate == "22012"
    assert await rows(database) == []


async def test_emitting_does_not_flush_the_callers_objects(
    bus: EventBus, database: Database
) -> None:
    from atlas.models.events import SystemEvent

    async with database.session() as session:
        pending = SystemEvent()  # has no event_type: flushing it fails
        session.add(pending)
        await bus.emit("a", session=session)
        assert pending in session.new
        session.expunge(pending)
        await session.commit()
    assert [row.event_type for row in await rows(database)] == ["a"]


@pytest.mark.parametrize("then", ["commit", "a statement"])
async def test_a_connection_that_breaks_under_an_emit_fails_the_transaction_as_unavailable(
    bus: EventBus, database: Database, then: str
) -> None:
    seen: list[Event] = []
    bus.on("*")(seen.append)

    async def work() -> None:
        async with database.transaction() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await execute(database, "SELECT pg_terminate_backend(:pid)", pid=pid)
            await bus.emit("a", session=session)
            if then == "a statement":
                await session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        await work()
    await bus.drain()
    assert seen == []
    assert await rows(database) == []
