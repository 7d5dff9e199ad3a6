"""Handlers in the process: which of them hear an event, and whom their mistakes reach."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.events import Event, EventBus
from tests.support.events import rows


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
