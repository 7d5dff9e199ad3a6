"""What parking writes and leaves behind: few pages at a time, none for nothing, no room that nobody uses."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from atlas.db import Database
from atlas.repositories.ring.page import DORMANT
from atlas.repositories.ring.pages import Ring
from atlas.repositories.ring.parking import Parking
from atlas.repositories.ring.positions import positions_of
from atlas.scheduling import calendar
from atlas.scheduling.calendar import Calendar
from tests.support.parked import check_whole, in_ring, parked, slow_rows, video_ids
from tests.support.sql import execute, fetch, scalar

DEAD = "SELECT pg_stat_get_dead_tuples(CAST('watchlist_ring' AS regclass))"
COLLECTED = "INSERT INTO video_tombstones (video_id) SELECT unnest(CAST(:ids AS text[]))"


async def test_a_transaction_packs_a_part_of_the_ring_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parked(database, video_ids(12_000))
    monkeypatch.setattr(calendar, "_FEW_PAGES", 5)
    later, places = video_ids(600, start=20_000), list[list[int]]()
    original = Parking.park

    async def seen(self: Parking, now: datetime, quiet: list[str], known: list[str]) -> object:
        places.append(positions_of([*quiet, *known]).tolist())
        return await original(self, now, quiet, known)

    monkeypatch.setattr(Parking, "park", seen)
    await slow_rows(database, later)
    await execute(database, COLLECTED, ids=later)
    parked_now = await Calendar(database).park()
    assert (parked_now.videos, parked_now.collected) == (600, 600)
    assert len(places) == 2 * 28
    for place in places:
        assert place == sorted(place)
        assert {place[0] * 28 >> 64} == {one * 28 >> 64 for one in place}
    await check_whole(database, [*video_ids(12_000), *later])


async def test_a_seventh_of_the_ring_a_day_parks_every_row_within_a_week(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parked(database, video_ids(12_000))
    monkeypatch.setattr(calendar, "_FEW_PAGES", 5)
    monkeypatch.setattr(calendar, "_MANY_PER_PAGE", 1_000)
    later = video_ids(700, start=20_000)
    await slow_rows(database, later)
    days = []
    for day in range(7):
        monkeypatch.setattr(calendar, "day_number", lambda _, day=day: 700 + day)
        days.append((await Calendar(database).park()).videos)
    assert sum(days) == 700 and min(days) > 50 and max(days) < 150
    await check_whole(database, [*video_ids(12_000), *later])


async def test_a_video_stays_in_the_month_in_which_it_was_first_parked(database: Database) -> None:
    ids, now = video_ids(50), datetime.now(UTC)
    await parked(database, ids, now=now - timedelta(days=90))
    first = await in_ring(database, ids)
    await slow_rows(database, ids)
    assert (await Calendar(database).park(now)).videos == 50
    assert await in_ring(database, ids) == first
    await slow_rows(database, ids, "DORMANT")
    assert (await Calendar(database).park(now)).videos == 50
    assert await in_ring(database, ids) == dict.fromkeys(ids, DORMANT)


@pytest.mark.needs_direct_connection
async def test_a_run_waits_a_while_for_old_snapshots(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = list[float]()

    async def vacuum(_: Ring, until: float = 0.0) -> None:
        patience.append(until - time.monotonic())

    monkeypatch.setattr(Ring, "vacuum", vacuum)
    await parked(database, video_ids(10))
    assert patience and 0 < patience[0] <= 30


async def test_ids_that_stay_rows_do_not_count_as_waiting(database: Database) -> None:
    await execute(database, COLLECTED, ids=["gone-1", "gone-2", *video_ids(3)])
    async with database.transaction(read_only=True) as session:
        parking = Parking(session)
        assert await parking.waiting(await parking.now()) == 3


async def test_a_tombstone_of_what_is_parked_writes_no_page(database: Database) -> None:
    ids, others = video_ids(300), video_ids(1, start=1_000)
    await parked(database, ids)
    versions = "SELECT lower, version FROM watchlist_ring ORDER BY lower"
    before = await fetch(database, versions)
    await execute(database, COLLECTED, ids=ids)
    assert (await Calendar(database).park()).collected == 300
    assert await fetch(database, versions) == before
    assert await scalar(database, "SELECT count(*) FROM video_tombstones") == 0
    await check_whole(database, ids)
    await execute(database, COLLECTED, ids=others)
    assert (await Calendar(database).park()).collected == 1
    assert await fetch(database, versions) != before
    await check_whole(database, ids, others)


@pytest.mark.needs_direct_connection
async def test_vacuum_waits_for_a_snapshot_that_keeps_old_pages(database: Database) -> None:
    await parked(database, video_ids(3_000))

    async def packed_anew(until: float) -> None:
        await execute(database, "UPDATE watchlist_ring SET version = version + 1")
        async with database.autocommit() as session:
            await Ring(session).vacuum(until)

    async with database.transaction(isolation="REPEATABLE READ") as session:
        await session.execute(text("SELECT count(*) FROM videos"))
        await packed_anew(0.0)
        assert await scalar(database, DEAD) > 0
        waiting = asyncio.create_task(packed_anew(time.monotonic() + 60))
        await asyncio.sleep(0.5)
        assert not waiting.done()
    await waiting
    assert await scalar(database, DEAD) == 0
