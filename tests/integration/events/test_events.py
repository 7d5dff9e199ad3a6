"""The event bus: rows, handlers, and the caller's transaction."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import DatabaseError, InvalidInput
from atlas.events import Event, EventBus
from atlas.repositories.events.log import EventLog, RecordedEvent


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventBus]:
    made = EventBus(database, Settings(_env_file=None, env="test"))
    yield made
    await made.drain()


async def rows(database: Database) -> list[RecordedEvent]:
    async with database.transaction(read_only=True) as session:
        return (await EventLog(session).recent(100))[::-1]


async def test_an_event_becomes_a_row_and_reaches_matching_handlers_only(
    bus: EventBus, database: Database
) -> None:
    seen: list[tuple[str, Event]] = []
    bus.on("video.*")(lambda event: seen.append(("plain", event)))

    @bus.on("*.discovered")
    async def remember(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(("async", event))

    bus.on("Video.*")(lambda event: seen.append(("case", event)))
    bus.on("channel.*")(lambda event: seen.append(("other", event)))

    await bus.emit("video.discovered", "V1", {"views": 3}, wait=True)

    (row,) = await rows(database)
    assert (row.event_type, row.entity_id, row.payload) == ("video.discovered", "V1", {"views": 3})
    assert sorted(name for name, _ in seen) == ["async", "plain"]
    expected = Event("video.discovered", "V1", {"views": 3}, row.id, row.seq, row.created_at)
    assert seen[0][1] == seen[1][1] == expected


async def test_the_short_form_takes_the_payload_as_second_argument(
    bus: EventBus, database: Database
) -> None:
    await bus.emit("video.discovered", {"video_id": "V1"})
    (row,) = await rows(database)
    assert (row.entity_id, row.payload) == (None, {"video_id": "V1"})


async def test_a_handlers_argument_reads_like_the_payload(
    bus: EventBus, database: Database
) -> None:
    seen: list[tuple[object, ...]] = []

    @bus.on("video.*")
    def handler(event: Event) -> None:
        with pytest.raises(KeyError, match="views"):
            event["views"]
        copy = {name: event[name] for name in event}
        seen.append((event["video_id"], event.get("views", 0), "video_id" in event, copy))
        assert dict(event) == {**event} == copy

    await bus.emit("video.discovered", {"video_id": "V1"}, wait=True)
    assert seen == [("V1", 0, True, {"video_id": "V1"})]


async def test_a_handler_taken_off_hears_no_more(bus: EventBus) -> None:
    seen: list[Event] = []
    bus.on("a")(seen.append)
    bus.on("b")(seen.append)
    assert bus.off(seen.append, "a")
    await bus.emit("a", wait=True)
    await bus.emit("b", wait=True)
    assert [event.event_type for event in seen] == ["b"]
    assert bus.off(seen.append)
    assert not bus.off(seen.append)


def test_a_decorator_without_its_pattern_is_refused() -> None:
    with pytest.raises(InvalidInput):
        EventBus().on(lambda event: None)  # the mistake under test


async def test_a_failing_handler_stops_neither_the_others_nor_the_caller(bus: EventBus) -> None:
    seen: list[Event] = []

    @bus.on("*")
    def fail(event: Event) -> None:
        raise RuntimeError("broken handler")

    @bus.on("*")
    async def fail_later(event: Event) -> None:
        raise RuntimeError("broken handler")

    bus.on("*")(seen.append)
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a", wait=True)
    assert len(seen) == 1
    assert [entry["event"] for entry in logs] == ["event_handler_failed"] * 2


async def test_cancelling_the_caller_does_not_wait_for_a_handler(bus: EventBus) -> None:
    reached, released = asyncio.Event(), asyncio.Event()

    @bus.on("*")
    async def wait(event: Event) -> None:
        reached.set()
        await released.wait()

    task = asyncio.create_task(bus.emit("a", wait=True))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    released.set()


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


async def test_dates_ids_enums_sets_and_dataclasses_are_stored_as_json(
    bus: EventBus, database: Database
) -> None:
    identifier = uuid.uuid4()
    payload: dict[Any, Any] = {
        "when": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "id": identifier,
        "colour": Colour.RED,
        "tags": {"a"},
        "point": Point(1),
        "title": "nul\x00 😀 é",
        7: None,
    }
    await bus.emit("a", payload)
    (row,) = await rows(database)
    assert row.payload == {
        "when": "2026-01-15T12:00:00Z",
        "id": str(identifier),
        "colour": "red",
        "tags": ["a"],
        "point": {"x": 1},
        "title": "nul\ufffd 😀 é",
        "7": None,
    }


cycle: dict[str, object] = {}
cycle["self"] = cycle


@pytest.mark.parametrize(
    "payload",
    [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": b"\xff"}, cycle, "text", [1]],
    ids=["object", "nan", "surrogate", "bytes", "cycle", "text", "list"],
)
async def test_a_payload_without_a_json_form_is_logged_and_not_raised(
    bus: EventBus, database: Database, payload: object
) -> None:
    seen: list[Event] = []
    bus.on("*")(seen.append)
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a", "V1", payload)  # the mistake under test
    assert [entry["event"] for entry in logs] == ["event_emit_failed"]
    assert await rows(database) == []
    assert seen == []


async def test_a_bus_switched_off_writes_nothing_and_calls_nobody(database: Database) -> None:
    bus = EventBus(database, Settings(_env_file=None, env="test", event_bus_enabled=False))
    seen: list[Event] = []
    bus.on("*")(seen.append)
    await bus.emit("a")
    async with database.transaction() as session:
        await bus.emit("a", session=session)
    await bus.drain()
    assert await rows(database) == []
    assert seen == []


async def test_a_database_that_is_away_neither_raises_nor_silences_handlers() -> None:
    bus = EventBus(
        Database("postgresql://nobody@127.0.0.1:1/none"), Settings(_env_file=None, env="test")
    )
    seen: list[Event] = []
    bus.on("*")(seen.append)
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a", "V1", wait=True)
    assert [(event.seq, event.entity_id) for event in seen] == [(None, "V1")]
    assert [entry["event"] for entry in logs] == ["event_not_recorded"]


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


async def test_a_handler_may_emit(bus: EventBus, database: Database) -> None:
    @bus.on("first")
    async def go_on(event: Event) -> None:
        await bus.emit("second")

    async with database.transaction() as session:
        await bus.emit("first", session=session)
    await bus.drain()
    assert [row.event_type for row in await rows(database)] == ["first", "second"]


def test_both_spellings_reach_the_same_bus() -> None:
    import atlas.events as module
    from atlas.events import events

    assert module.emit == events.emit
    assert module.on == events.on
    with pytest.raises(AttributeError):
        module.nonsense  # noqa: B018 - looking it up is the test


def test_one_bus_serves_two_event_loops_and_leaves_nothing_behind(
    database: Database,
) -> None:
    bus = EventBus(database, Settings(_env_file=None, env="test"))
    seen: list[str] = []

    @bus.on("*")
    async def remember(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.event_type)

    async def work(name: str) -> None:
        async with database.transaction() as session:
            await bus.emit(name, session=session)
        await bus.drain()

    for name in ("first", "second"):
        asyncio.run(work(name))
    assert seen == ["first", "second"]


def test_a_loop_that_ends_in_the_middle_of_a_handler_ends_quietly(database: Database) -> None:
    bus = EventBus(database, Settings(_env_file=None, env="test"))
    begun = asyncio.Event()
    ended: list[str] = []

    @bus.on("*")
    async def hang(event: Event) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.event_type)

    async def work() -> None:
        async with database.transaction() as session:
            await bus.emit("a", session=session)
        await begun.wait()

    asyncio.run(work())
    assert ended == ["a"]
    assert bus._tasks == set()
