"""What happens beside the calendar: erasures, another janitor, a midnight, an old backup."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.config import reset_settings
from atlas.db import Database
from atlas.repositories.erasure import Erasure, ErasureReader
from atlas.repositories.ledger.digests import ErasedDigests
from atlas.repositories.ring.pages import Ring, RingReader
from atlas.repositories.ring.parking import Parking
from atlas.repositories.ring.tracking_budget import TrackingBudget
from atlas.repositories.watchlist import NewEntry, TrackingReport, Watchlist
from atlas.scheduling.calendar import Calendar
from atlas.types import TrackingTier
from atlas.vault.owners import digest
from tests.support.halt import Halt, until
from tests.support.parked import check_whole, in_ring, parked, played, slow_rows, video_ids
from tests.support.servers.postgres import Server, name_of
from tests.support.sql import execute, fetch, scalar, waiting_for_locks

NOW = datetime.now(UTC)


async def forget(database: Database, ids: list[str]) -> int:
    """As `atlas.archive.maintenance.erasure` does: bar, and then delete."""
    async with database.transaction() as session:
        await Erasure(session).bar(ids)
    async with database.transaction() as session:
        return (await Erasure(session).delete_rows(ids)).watchlist


async def test_an_erasure_that_meets_a_parking_waits_for_it_and_finds_the_entry(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = video_ids(20)
    await slow_rows(database, ids)
    halt = Halt(monkeypatch, Ring, "rewrite", before=True)
    parking = asyncio.create_task(Calendar(database).park())
    await halt.reached.wait()  # rows are deleted, entries are not there yet
    erasing = asyncio.create_task(forget(database, ids[:5]))
    await until(lambda: _waits(database))
    halt.may_go_on.set()
    assert (await parking).videos == 20
    assert await erasing == 5
    await check_whole(database, ids[5:])


async def _waits(database: Database) -> bool:
    return await waiting_for_locks(database) > 0


async def test_a_parking_that_meets_an_erasure_leaves_its_rows_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = video_ids(20)
    await slow_rows(database, ids)
    halt = Halt(monkeypatch, Ring, "remove", before=True)
    erasing = asyncio.create_task(forget(database, ids[:5]))
    await halt.reached.wait()  # rows are deleted, and not committed
    assert (await Calendar(database).park()).videos == 15
    halt.may_go_on.set()
    assert await erasing == 5
    await check_whole(database, ids[5:])


async def test_an_erasure_waits_for_who_turns_the_calendar(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = video_ids(20)
    start = NOW - timedelta(days=30)
    calendar = await parked(database, ids, now=start)
    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    halt = Halt(monkeypatch, Parking, "_insert", before=True)
    turning = asyncio.create_task(calendar.turn())
    await halt.reached.wait()  # entries were read, and are not rows yet
    async with database.transaction() as session:
        await Erasure(session).bar(ids[:5])
    async with database.transaction() as session:
        erasing = asyncio.create_task(Erasure(session).delete_rows(ids[:5]))
        await until(lambda: _waits(database))
        halt.may_go_on.set()
        assert await turning == 20
        assert (await erasing).watchlist == 5
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 15
    await check_whole(database, ids[5:])


async def test_a_report_beside_an_erasure_wakes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    [video_id] = video_ids(1)
    await parked(database, [video_id])
    halt = Halt(monkeypatch, Parking, "wake_ids", before=True)
    report = TrackingReport(video_id, TrackingTier.HOURLY, NOW, NOW + timedelta(hours=1))

    async def reported() -> set[str]:
        async with database.transaction() as session:
            return await Watchlist(session).report([report])

    reporting = asyncio.create_task(reported())
    await halt.reached.wait()  # it was looked up in the ring
    assert await forget(database, [video_id]) == 1
    halt.may_go_on.set()
    assert await reporting == set()
    await check_whole(database, [])


async def test_what_is_barred_is_not_woken(database: Database) -> None:
    ids = video_ids(10)
    calendar = await parked(database, ids, now=NOW - timedelta(days=30))
    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    async with database.transaction() as session:
        await Erasure(session).bar(ids[:4])
    await calendar.turn()
    woken = [row["video_id"] for row in await fetch(database, "SELECT video_id FROM watchlist")]
    assert sorted(woken) == sorted(ids[4:])


async def test_a_parked_video_that_was_forgotten_elsewhere_is_barred_by_its_hash(
    database: Database,
) -> None:
    """A backup has it in the ring, the vault knows that it was forgotten since."""
    ids = video_ids(300)
    await parked(database, ids)
    async with database.transaction() as session:
        owner = await session.scalar(
            text("UPDATE archive_control SET owner = gen_random_uuid() RETURNING owner")
        )
        new = await ErasedDigests(session).add([digest(owner, ids[7])], [])
        assert new == [ids[7]]
        assert await Erasure(session).unfinished() == [ids[7]]
        counts, _ = await ErasureReader(session).counts(ids[6:8])
        assert {one: found["watchlist"] for one, found in counts.items()} == {ids[6]: 1, ids[7]: 1}
        assert (await Erasure(session).delete_rows([ids[7]])).watchlist == 1
    assert sorted(await in_ring(database, ids)) == sorted({*ids} - {ids[7]})


async def test_two_janitors_park_every_video_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, collected = video_ids(6_000), video_ids(500, start=10_000)
    await slow_rows(database, ids)
    await execute(
        database,
        "INSERT INTO video_tombstones (video_id) SELECT unnest(CAST(:ids AS text[]))",
        ids=collected,
    )
    # both have rows in hand before either touches a page; then they go for the same pages
    halt = Halt(monkeypatch, Ring, "rewrite", before=True)
    first, second = (asyncio.create_task(Calendar(database).park()) for _ in range(2))
    await until(lambda: halt.calls >= 2)
    halt.may_go_on.set()
    done = [await first, await second]
    assert sum(one.videos for one in done) == 6_000
    assert sum(one.collected for one in done) == 500
    assert all(one.videos for one in done)
    await check_whole(database, ids, collected)


async def test_two_janitors_wake_every_video_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = video_ids(50)
    first = await parked(database, ids, now=NOW - timedelta(days=30))
    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    halt = Halt(monkeypatch, Parking, "_insert", before=True)
    turning = asyncio.create_task(first.turn())
    await halt.reached.wait()
    assert await Calendar(database).turn() == 0
    halt.may_go_on.set()
    assert await turning == 50
    assert await Calendar(database).turn() == 0


@pytest.mark.needs_direct_connection
async def test_a_backup_behind_the_pointer_loses_nothing(
    database: Database, database_url: str, postgres_server: Server
) -> None:
    ids, later = video_ids(400), video_ids(50, start=1_000)
    start = NOW - timedelta(days=60)
    calendar = await parked(database, ids, now=start)
    await played(calendar, database, start, 14 * 24, step=12)
    moment = start + timedelta(days=14)
    await slow_rows(database, later, now=moment)
    await database.close()
    copy = await asyncio.to_thread(postgres_server.create, name_of(database_url))
    restored = Database(copy)
    try:
        # the original goes on: parks what the backup has as rows, and its pointers go half a round further
        original = Database(database_url)
        assert (await Calendar(original).park(moment)).videos == 50
        await played(Calendar(original), original, moment, 84, step=12)
        await original.close()
        await check_whole(restored, ids + later)
        moment += timedelta(hours=84)
        assert (await Calendar(restored).park(moment)).videos == 50
        # a new cohort begins at the database's time, which is not played
        await execute(
            restored, "UPDATE watchlist_cohorts SET turned_at = least(turned_at, :at)", at=moment
        )
        woken = await played(Calendar(restored), restored, moment, 7 * 24, step=12)
        # it goes on by a day at once, after it had stood still for longer
        assert set(ids) <= set(woken) and max(woken.values()) <= 2
        again = await played(
            Calendar(restored), restored, moment + timedelta(days=7), 7 * 24, step=12
        )
        assert dict(again) == dict.fromkeys(ids + later, 1)
    finally:
        await restored.close()
        await asyncio.to_thread(postgres_server.drop, copy)


class Midnight:
    """A day of the budget that ends when the test says so, at the database's real time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: datetime) -> None:
        self.ends, self.grants = ends, list[int]()
        grant = TrackingBudget.grant

        async def granted(budget: TrackingBudget, wanted: int, most: int) -> Any:
            found = await grant(budget, wanted, most)
            self.grants.append(found.samples)
            return type(found)(found.samples, self.ends, found.seconds_left)

        monkeypatch.setattr(TrackingBudget, "grant", granted)


async def test_a_claim_after_midnight_is_not_paid_by_the_day_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKING_SAMPLES_PER_DAY", "1000")
    reset_settings()
    ids = [f"video-{number}" for number in range(30)]
    async with database.transaction() as session:
        await Watchlist(session).add([NewEntry(one) for one in ids])
    midnight = Midnight(monkeypatch, NOW + timedelta(days=2))
    dao = MaiaDAO(database)
    assert len(await dao.fetch_tracking_batch(4)) == 4
    assert midnight.grants == [10], "a block of a hundredth"
    # the day ends while six of the block are left; this process's clock does not notice
    dao._calendar._day_ends = NOW - timedelta(seconds=1)
    assert len(await dao.fetch_tracking_batch(4)) == 4
    assert midnight.grants == [10, 10], "the rest of the old day is void"
    assert dao._calendar._block == 6
    # the same where a block is taken because the rest does not suffice
    dao._calendar._day_ends = NOW - timedelta(seconds=1)
    assert len(await dao.fetch_tracking_batch(8)) == 8
    assert midnight.grants == [10, 10, 10] and dao._calendar._block == 2
    async with database.autocommit() as session:
        assert await Watchlist(session).claim(5, before=NOW - timedelta(seconds=1)) == []


async def test_an_empty_queue_costs_none_of_the_budget(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKING_SAMPLES_PER_DAY", "1000")
    reset_settings()
    midnight = Midnight(monkeypatch, NOW + timedelta(days=2))
    dao = MaiaDAO(database)
    for _ in range(5):
        assert await dao.fetch_tracking_batch(7) == []
    assert midnight.grants == [10]
    assert Counter(row["granted"] for row in await fetch(database, "TABLE tracking_budget")) == {
        10: 1
    }


async def test_every_id_of_the_ring_is_listed_once(database: Database) -> None:
    ids = video_ids(3_000)
    await parked(database, ids)
    async with database.transaction(read_only=True) as session:
        found = [one async for part in RingReader(session).ids() for one in part]
    assert Counter(found) == dict.fromkeys(ids, 1)


async def test_a_report_that_is_older_than_the_last_sample_leaves_the_video_parked(
    database: Database,
) -> None:
    ids = video_ids(3)
    await parked(database, ids)
    old = TrackingReport(ids[0], TrackingTier.HOURLY, NOW - timedelta(days=9), NOW)
    async with database.transaction() as session:
        assert await Watchlist(session).report([old]) == set()
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    await check_whole(database, ids)


async def test_a_receipt_counts_each_video_once_in_whatever_form_it_was(database: Database) -> None:
    quiet, awake, known, never = video_ids(4)
    await parked(database, [quiet, awake])
    await execute(database, "INSERT INTO video_tombstones (video_id) SELECT :id", id=known)
    await Calendar(database).park()
    report = TrackingReport(awake, TrackingTier.HOURLY, NOW, NOW + timedelta(hours=1))
    async with database.transaction() as session:
        await Watchlist(session).report([report])
        await Watchlist(session).add([NewEntry("not-of-youtube")])
    assert await forget(database, [quiet, awake, known, never, "not-of-youtube"]) == 3
    await check_whole(database, [])
