"""Listening: nothing is passed over, whatever commits late; and what is kept for slow readers."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.events import EventBus
from atlas.events.delivery.router import ROUTER, explain, route_page
from atlas.repositories.events.cursors import EventCursors
from atlas.repositories.events.log import EventLog
from tests.support.sql import execute, fetch, scalar


async def read(bus: EventBus, name: str = "a", pattern: str = "*", **options: Any) -> list[str]:
    """What waits for a listener, and acknowledge it."""
    found = []
    async with aclosing(bus.listen(name, pattern, once=True, **options)) as batches:
        async for batch in batches:
            found += [event.event_type for event in batch]
    return found


async def test_a_transaction_that_commits_late_is_not_passed_over(
    bus: EventBus, database: Database
) -> None:
    async with database.session() as late, database.session() as later:
        await bus.emit("late", session=late)
        await bus.emit("quick")
        assert await read(bus) == ["quick"]
        await bus.emit("later", session=later)
        await bus.emit("quick.again")
        assert await read(bus) == ["quick.again"]
        await late.commit()
        assert await read(bus) == ["late"]
        await later.commit()
        assert await read(bus) == ["later"]
    assert await read(bus) == []


@pytest.mark.parametrize("limit", [2, 500])
async def test_the_youngest_transaction_that_commits_late_is_not_passed_over(
    bus: EventBus, database: Database, limit: int
) -> None:
    async with (
        asyncio.timeout(60),  # what is passed over never comes
        database.session() as late,
        aclosing(bus.listen("a", limit=limit, poll=0.01)) as batches,
    ):

        async def following(count: int) -> list[str]:
            found: list[str] = []
            while len(found) < count:
                batch = await anext(batches)
                found += [event.event_type for event in batch]
                await batch.acknowledge()  # now: nothing is to end between the emit and the next snapshot
            return found

        await bus.emit("before")
        assert await following(1) == ["before"]
        await bus.emit_many([("a",), ("b",), ("c",)])
        # its seq is drawn, and no younger transaction has ended: no snapshot's xmax is above it
        await bus.emit("late", session=late)
        assert await following(3) == ["a", "b", "c"]
        await late.commit()
        assert await following(1) == ["late"]


async def test_the_first_event_of_all_comes_to_who_listened_before(bus: EventBus) -> None:
    assert await read(bus) == []
    assert await read(bus) == []
    await bus.emit("first")
    assert await read(bus) == ["first"]


async def test_a_foreign_transaction_holds_nothing_up(bus: EventBus, database: Database) -> None:
    async with database.session() as foreign:
        await foreign.execute(text("CREATE TEMPORARY TABLE work (id int)"))
        await bus.emit("quick")
        assert await read(bus) == ["quick"]


async def test_a_window_is_read_in_pages_while_others_commit(
    bus: EventBus, database: Database
) -> None:
    async with database.session() as late:
        await bus.emit_many([(f"late.{n}",) for n in range(3)], session=late)
        await bus.emit_many([(f"first.{n}",) for n in range(7)])
        found = []
        async with aclosing(bus.listen("a", once=True, limit=2)) as batches:
            async for batch in batches:
                found += [event.event_type for event in batch]
                if len(found) == 2:
                    await bus.emit_many([(f"second.{n}",) for n in range(3)])
                    await late.commit()
    first = [f"first.{n}" for n in range(7)]
    assert found[:7] == first
    assert sorted(found[7:]) == ["late.0", "late.1", "late.2", "second.0", "second.1", "second.2"]


async def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(
    bus: EventBus, database: Database
) -> None:
    await bus.emit_many([("a",), ("b",), ("c",)])
    async with aclosing(bus.listen("me", limit=2)) as batches:
        async for batch in batches:
            assert [event.event_type for event in batch] == ["a", "b"]
            break
    async with aclosing(bus.listen("me", limit=2)) as batches:
        async for batch in batches:
            assert [event.event_type for event in batch] == ["a", "b"]
            assert await batch.acknowledge()
            break
    assert await read(bus, "me") == ["c"]
    assert await read(bus, "another") == ["a", "b", "c"]


async def test_one_process_at_a_time_reads_under_a_name(bus: EventBus) -> None:
    await bus.emit("a")
    async with aclosing(bus.listen("me")) as batches:
        async for _ in batches:
            assert await read(bus, "me") == []
            break
    assert await read(bus, "me") == ["a"]


async def test_a_cursor_that_another_holds_or_has_moved_is_not_taken(database: Database) -> None:
    mine, other = uuid.uuid4(), uuid.uuid4()
    async with database.session() as session:
        cursors = EventCursors(session)
        await cursors.ensure("me")
        before = await cursors.read("me")
        assert before is not None and await cursors.hold(before, mine, 60)
        assert not await cursors.hold(before, other, 60)  # it was read before the other took it
        now = await cursors.read("me")
        assert now is not None and not await cursors.hold(now, other, 60)
        assert await cursors.hold(now, mine, 60)


async def test_a_router_leaves_the_log_to_the_one_that_is_at_it(
    bus: EventBus, database: Database
) -> None:
    assert await route_page(database) == 0
    await bus.emit("a")
    async with database.session() as session, asyncio.timeout(60):
        cursor = await EventCursors(session).read(ROUTER)
        assert cursor is not None and await EventCursors(session).lock(cursor)
        assert await route_page(database) is None
        await session.rollback()
        assert await route_page(database) == 1
        assert not await EventCursors(session).lock(cursor)  # it has gone on


async def test_only_matching_types_come_and_the_others_are_not_read_twice(
    bus: EventBus, database: Database
) -> None:
    await bus.emit_many([("video.a",), ("other.b",), ("video.c",)])
    assert await read(bus, "v", "video.*") == ["video.a", "video.c"]
    assert await read(bus, "none", "nothing.*") == []
    async with database.session() as session:
        assert not await EventCursors(session).has_waiting("none")


async def test_an_idle_listener_writes_nothing(bus: EventBus, database: Database) -> None:
    await bus.emit("a")
    assert await read(bus) == ["a"]
    before = await fetch(database, "SELECT *, xmin::text AS written FROM event_cursors")
    for _ in range(3):
        assert await read(bus) == []
    after = await fetch(database, "SELECT *, xmin::text AS written FROM event_cursors")
    assert str(before) == str(after)


async def test_after_a_restore_a_cursor_falls_back_to_time_and_repeats(
    bus: EventBus, database: Database
) -> None:
    await bus.emit_many([("a",), ("b",)])
    assert await read(bus) == ["a", "b"]
    # the same row in another history: its snapshots are from a future that never was
    await execute(
        database,
        "UPDATE event_cursors SET server = 'another', snapshot = '900000:900000:', floor_seq = 99999",
    )
    await bus.emit("c")
    assert await read(bus) == ["a", "b", "c"]
    assert await read(bus) == []


async def test_events_of_one_entity_come_in_order(bus: EventBus, database: Database) -> None:
    await execute(database, "INSERT INTO search_queue (query_term) VALUES ('x')")
    lock = text("UPDATE search_queue SET priority = priority + 1 WHERE query_term = 'x'")

    async def change(number: int, begun: asyncio.Event) -> None:
        async with database.transaction() as session:
            # has its xid before the other's commit, and the lock after it
            await session.execute(text("SELECT pg_current_xact_id()"))
            begun.set()
            await session.execute(lock)
            await bus.emit(f"change.{number}", "x", session=session)

    begun = asyncio.Event()
    async with database.transaction() as first:
        await first.execute(lock)
        second = asyncio.create_task(change(2, begun))
        await begun.wait()
        await bus.emit("change.1", "x", session=first)
    await second
    assert await read(bus) == ["change.1", "change.2"]


async def test_since_says_where_a_new_name_begins(bus: EventBus) -> None:
    await bus.emit("old")
    assert await read(bus, since=datetime.now(UTC) + timedelta(hours=1)) == []
    with pytest.raises(InvalidInput):
        await read(bus, since=datetime.now())
    with pytest.raises(InvalidInput):
        await read(bus, "")
    with pytest.raises(InvalidInput):
        await read(bus, "b", "no pattern")


async def test_a_day_without_its_partition_gets_one_within_the_callers_transaction_too(
    bus: EventBus, database: Database
) -> None:
    for name in await fetch(
        database,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'system_events'::regclass",
    ):
        await execute(database, f"DROP TABLE {name['name']}")
        await execute(
            database, f"DROP TABLE {name['name'].replace('system_events', 'event_deliveries')}"
        )
    async with database.transaction() as session:
        await bus.emit("a", session=session)
    await bus.emit("b")
    assert await scalar(database, "SELECT count(*) FROM system_events") == 2


async def old_day(database: Database, days: int) -> str:
    name = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y%m%d")
    await execute(
        database,
        f"SELECT atlas_event_partition((now() AT TIME ZONE 'UTC')::date - {days})",
    )
    await execute(
        database,
        "INSERT INTO system_events (event_type, created_at) "
        f"VALUES ('old', now() - interval '{days} days')",
    )
    return name


async def days(database: Database) -> list[str]:
    async with database.session() as session:
        return [day.log.removeprefix("system_events_p") for day in await EventLog(session).days()]


async def test_old_days_are_dropped_with_their_deliveries_and_new_ones_made(
    bus: EventBus, database: Database
) -> None:
    old, kept = await old_day(database, 9), await old_day(database, 3)
    done = await bus.retain()
    assert (done.dropped, done.forced, done.waiting) == (1, 0, 0)
    assert old not in await days(database)
    assert kept in await days(database)
    assert await scalar(database, f"SELECT to_regclass('event_deliveries_p{old}')") is None


@pytest.mark.parametrize("reader", ["cursor", "delivery"])
async def test_retention_waits_for_the_slowest_reader_up_to_the_last_day(
    bus: EventBus, database: Database, reader: str
) -> None:
    if reader == "cursor":
        async with database.transaction() as session:
            await EventCursors(session).ensure("slow")
    else:
        await bus.endpoints.add("slow", "https://slow.example/")
        await execute(database, "UPDATE event_endpoints SET created_at = now() - interval '1 year'")
    waiting, overdue = await old_day(database, 9), await old_day(database, 40)
    await route_page(database)
    done = await bus.retain()
    assert (done.dropped, done.forced, done.waiting) == (1, 1, 1)
    assert overdue not in await days(database)
    assert waiting in await days(database)
    (told,) = await fetch(
        database, "SELECT payload FROM system_events WHERE event_type = 'events.retention_forced'"
    )
    assert "slow" in str(told["payload"]["readers"])


async def test_a_rule_takes_what_matches_and_explain_says_why(
    bus: EventBus, database: Database
) -> None:
    await bus.emit("video.seen", "earlier", {"views": 3, "tier": "HOURLY"})  # before each of them
    await bus.endpoints.add("all", "https://a.example/", patterns=["video.*"])
    await bus.endpoints.add(
        "big", "https://b.example/", patterns=["*"], condition={"tier": "HOURLY"}
    )
    await bus.endpoints.add("ruled", "https://c.example/", patterns=[])
    await bus.endpoints.add_route("video.seen", "ruled", {"views": 3})
    await bus.endpoints.add_route("video.*", "discord:ops")
    await bus.emit("video.seen", "V", {"views": 3, "tier": "DAILY"})
    await route_page(database)
    routed = await fetch(
        database,
        "SELECT name FROM event_deliveries JOIN event_endpoints AS e ON e.id = endpoint_id "
        "JOIN system_events AS s ON s.id = event_id WHERE event_type = 'video.seen' ORDER BY name",
    )
    assert [one["name"] for one in routed] == ["all", "discord:ops", "ruled"]
    async with database.session() as session:
        (event,) = await EventLog(session).recent(1, event_type="^video")
    said = explain(event, await bus.endpoints.list(), list(await bus.endpoints.routes()))
    assert {one.target: one.matches for one in said} == {
        "all": True,
        "big": False,
        "ruled": True,
        "discord:ops": True,
    }
    assert "condition" in next(one.why for one in said if one.target == "big")
    assert await scalar(database, "SELECT pattern FROM event_cursors WHERE name = :n", n=ROUTER)


async def test_targets_of_rules_that_are_people_or_functions_are_told_too(
    bus: EventBus, database: Database
) -> None:
    told: list[tuple[Any, ...]] = []
    handled: list[str] = []

    async def notify(*message: Any) -> bool:
        told.append(message)
        return True

    @bus.target("index")
    def index(event: Any) -> None:
        handled.append(event["video_id"])

    await bus.endpoints.add_route("video.*", "discord:ops")
    await bus.endpoints.add_route("video.*", "handler:index")
    await bus.endpoints.add_route("video.*", "handler:elsewhere")
    await bus.emit("video.seen", {"video_id": "V"})
    assert await bus.deliver_pending(notify=notify) == 2
    assert [one[0] for one in told] == ["video.seen"]
    assert handled == ["V"]
