"""Slow videos in the ring: nobody outside notices, none is lost, none is sampled beyond the budget."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive.maintenance.erasure import Erasure
from atlas.config import get_settings, reset_settings
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.db.administration.roles import Roles, apply
from atlas.repositories.finished import FinishedVideos
from atlas.repositories.ring.cohorts import Cohort, CohortReader, cohort_of
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.watchlist import NewEntry, Watchlist, WatchlistReader
from atlas.scheduling import Work
from atlas.scheduling.calendar import Calendar, intervals, slow_share
from atlas.status import gather
from atlas.types import Sample
from tests.support.parked import in_ring, parked, played, slow_rows, video_ids
from tests.support.servers.postgres import Server
from tests.support.sql import execute, fetch, scalar
from tests.support.ways import login

MAINTAIN_IS_UNKNOWN = "SELECT current_setting('server_version_num')::int < 170000"


async def test_parked_videos_are_on_the_watchlist_and_cost_no_row(database: Database) -> None:
    ids = video_ids(3_000)
    await parked(database, ids)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    assert in_order(await in_ring(database, ids)) == sorted(ids)
    async with database.transaction() as session:
        assert await Watchlist(session).add([NewEntry(one) for one in [*ids, "fresh"]]) == 1
        summary = await WatchlistReader(session).summary()
    assert {one.tier: one.entries for one in summary} == {"HOURLY": 1, "WEEKLY": 3_000}
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 1


@pytest.mark.needs_owner
@pytest.mark.needs_direct_connection
@pytest.mark.parametrize("role", ["owner", "worker"])
async def test_parking_gives_the_room_of_old_pages_to_new_ones(
    database: Database, database_url: str, postgres_server: Server, role: str
) -> None:
    if role == "worker" and await scalar(database, MAINTAIN_IS_UNKNOWN):
        pytest.skip("before PostgreSQL 17 only the owner of a table may vacuum it")
    await apply(database, Roles())
    await parked(database, video_ids(12_000))
    janitor = Database(login(postgres_server, database_url, role))
    for round_ in range(10):
        await slow_rows(database, video_ids(20, start=20_000 + 20 * round_))
        assert (await Calendar(janitor).park()).videos == 20
    await janitor.close()
    pages = await scalar(database, "SELECT count(*) FROM watchlist_ring")
    assert await scalar(database, "SELECT pg_relation_size('watchlist_ring') / 8192") <= 3 * pages


def in_order(cohorts: dict[str, int]) -> list[str]:
    return sorted(cohorts)


async def test_rows_that_are_not_quiet_stay_rows(database: Database) -> None:
    ids = video_ids(7)
    await slow_rows(database, ids)
    for video_id, change in zip(
        ids,
        (
            "tracking_tier = 'DAILY'",
            "leased_until = now() + interval '1 minute'",
            "error = 'no answer'",
            "omissions = 1",
            "published_at = now() - interval '6 days'",
            "next_track_at = last_tracked_at + interval '80 hours'",
            "last_tracked_at = NULL",
        ),
        strict=True,
    ):
        await execute(database, f"UPDATE watchlist SET {change} WHERE video_id = '{video_id}'")
    await slow_rows(database, ["not-of-youtube"])
    assert (await Calendar(database).park()).videos == 0


async def test_a_round_wakes_every_video_once(database: Database) -> None:
    ids = video_ids(500)
    calendar = await parked(database, ids)
    now = datetime.now(UTC)
    # in its first week one that was sampled half a week ago or less is left to the next round
    first = await played(calendar, database, now, 7 * 24)
    second = await played(calendar, database, now + timedelta(days=7), 7 * 24)
    third = await played(calendar, database, now + timedelta(days=14), 7 * 24)
    assert set(first.values()) == {1} and len(first) < 500
    assert dict(second) == dict(third) == dict.fromkeys(ids, 1)


async def test_a_pointer_that_stood_still_goes_on_by_a_day_at_most(database: Database) -> None:
    ids = video_ids(2_000)
    calendar = await parked(database, ids)
    now = datetime.now(UTC)
    await played(calendar, database, now, 14 * 24)
    later = now + timedelta(days=60)
    assert 200 < await calendar.turn(later) < 400
    assert await calendar.turn(later + timedelta(seconds=30)) == 0


async def woken_now(database: Database, ids: list[str]) -> Calendar:
    """Parked long ago, sampled by the calendar ever since, and woken now."""
    start = datetime.now(UTC) - timedelta(days=20)
    calendar = await parked(database, ids, now=start)
    await played(calendar, database, start, 19 * 24, step=24)
    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    await calendar.turn()
    return calendar


async def test_the_report_of_a_woken_video_ends_its_row(database: Database, work: Work) -> None:
    ids = video_ids(20)
    await woken_now(database, ids)
    async with work.claim("track", limit=50) as batch:
        assert sorted(item.key for item in batch) == sorted(ids)
        assert all(item.row.last_tracked_at is not None for item in batch)
        await batch.record_samples([Sample(one, batch.now(), views=5) for one in ids])
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 20
    assert sorted(await in_ring(database, ids)) == sorted(ids)


async def test_what_is_reported_otherwise_is_a_row_again_and_parked_in_time(
    database: Database, work: Work
) -> None:
    ids = video_ids(3)
    calendar = await woken_now(database, ids)
    late, fast, left_out = ids
    async with work.claim("track") as batch:
        yesterday = batch.now() - timedelta(days=1)
        for item in batch:
            if item.key == late:
                item.sampled(Sample(late, yesterday, views=1))
            elif item.key == left_out:
                item.omitted()
    dao = MaiaDAO(database)
    soon = datetime.now(UTC) + timedelta(hours=1)
    await dao.update_watchlist_schedule(
        [
            {
                "video_id": fast,
                "tracking_tier": "HOURLY",
                "last_tracked_at": datetime.now(UTC),
                "next_track_at": soon,
            }
        ]
    )
    rows = {row["video_id"]: row for row in await fetch(database, "SELECT * FROM watchlist")}
    assert rows[fast]["next_track_at"] == soon and rows[left_out]["omissions"] == 1
    assert (await calendar.park()).videos == 1
    async with database.transaction(read_only=True) as session:
        reader = CohortReader(session)
        passes = await reader.passes(await reader.all())
        entry = (await RingReader(session).between(0, 2**64 - 1)).taken(slice(0, 3))
    sampled = {int(day) for day in entry.days if day}
    assert sampled == {(yesterday.date() - datetime(1970, 1, 1).date()).days} and passes


async def test_a_report_without_lease_of_a_parked_video_counts(database: Database) -> None:
    [video_id] = video_ids(1)
    await parked(database, [video_id])
    at, due = datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1)
    report = {
        "video_id": video_id,
        "tracking_tier": "HOURLY",
        "last_tracked_at": at,
        "next_track_at": due,
    }
    await MaiaDAO(database).update_watchlist_schedule([report])
    [row] = await fetch(database, "SELECT * FROM watchlist")
    assert (row["tracking_tier"], row["last_tracked_at"], row["next_track_at"]) == (
        "HOURLY",
        at,
        due,
    )


async def test_dormant_videos_have_their_own_interval(database: Database) -> None:
    ids = video_ids(300)
    calendar = await parked(database, ids, "DORMANT")
    now = datetime.now(UTC)
    await played(calendar, database, now, 30 * 24, step=24)
    assert dict(await played(calendar, database, now + timedelta(days=30), 30 * 24, step=24)) == (
        dict.fromkeys(ids, 1)
    )


async def test_an_add_beside_a_parking_never_makes_a_second_entry(database: Database) -> None:
    ids = video_ids(40)
    await slow_rows(database, ids)
    async with database.transaction() as adding:
        ring = RingReader(adding)
        seen = await ring.find(ids)
        assert not seen.cohorts
        await Calendar(database).park()
        assert await ring.has_changed(seen)
    # the same with the real call: parking commits between the look and the insert
    others = video_ids(40, start=100)
    await slow_rows(database, others)
    async with database.transaction() as session:
        watchlist = Watchlist(session)
        find = RingReader.find
        calls = 0

        async def find_and_park(self: RingReader, *wanted: object) -> object:
            nonlocal calls
            found = await find(self, *wanted)  # type: ignore[arg-type]
            calls += 1
            if calls == 1:
                await Calendar(database).park()
            return found

        RingReader.find = find_and_park  # type: ignore[method-assign,assignment]
        try:
            assert await watchlist.add([NewEntry(one) for one in others]) == 0
        finally:
            RingReader.find = find  # type: ignore[method-assign]
        assert calls == 2
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0


async def test_what_was_collected_or_is_parked_is_not_collected_again(database: Database) -> None:
    collected, quiet, new = video_ids(3)
    await execute(database, f"INSERT INTO video_tombstones (video_id) VALUES ('{collected}')")
    calendar = await parked(database, [quiet])
    assert await scalar(database, "SELECT count(*) FROM video_tombstones") == 0
    dao = MaiaDAO(database)
    items = [{"id": one, "snippet": {"title": "t"}} for one in (collected, quiet, new)]
    assert await dao.ingest_videos(items) == 1
    assert [row["id"] for row in await fetch(database, "SELECT id FROM videos")] == [new]
    # a collected one was never on the watchlist
    await dao.add_to_watchlist(collected)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 1
    await execute(
        database,
        "UPDATE watchlist SET tracking_tier = 'WEEKLY', last_tracked_at = now(), "
        "next_track_at = now() + interval '7 days'",
    )
    await calendar.park()
    assert set((await in_ring(database, [collected])).values()) == {
        cohort_of("WEEKLY", None, datetime.now(UTC))
    }


async def test_a_video_in_collection_is_updated_though_it_is_parked(database: Database) -> None:
    [video_id] = video_ids(1)
    dao = MaiaDAO(database)
    await dao.ingest_videos([{"id": video_id, "snippet": {"title": "old"}}])
    await parked(database, [video_id])
    assert await dao.ingest_videos([{"id": video_id, "snippet": {"title": "new"}}]) == 1
    assert await scalar(database, "SELECT title FROM videos") == "new"


async def test_a_forgotten_video_leaves_the_ring(database: Database) -> None:
    ids = video_ids(100)
    await parked(database, ids)
    async with database.transaction() as session:
        erased = await Erasure(session).delete_rows(ids[:30])
    assert erased.watchlist == 30
    assert sorted(await in_ring(database, ids)) == sorted(ids[30:])
    async with database.transaction(read_only=True) as session:
        [cohort] = await CohortReader(session).all()
    assert cohort.entries == 70


async def test_claims_never_pass_the_budget_of_the_day(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKING_SAMPLES_PER_DAY", "130")
    reset_settings()
    async with database.transaction() as session:
        await Watchlist(session).add([NewEntry(f"video-{number}") for number in range(300)])
    claimed = 0
    left = "SELECT extract(epoch FROM date_trunc('day', now, 'UTC') + interval '1 day' - now) "
    if (seconds := await scalar(database, left + "FROM (SELECT now()) AS clock (now)")) < 60:
        await asyncio.sleep(float(seconds))  # the test is about one day

    async def claim(dao: MaiaDAO) -> int:
        return sum([len(await dao.fetch_tracking_batch(7)) for _ in range(10)])

    claimed = sum(await asyncio.gather(*(claim(MaiaDAO(database)) for _ in range(4))))
    assert claimed <= 130
    status = (await gather(database)).calendar
    assert (status.budget, status.granted_today, status.needed) == (130, 130, 300 * 24)
    async with Work(database).claim("track", limit=300) as batch:
        claimed += len(batch)
        assert claimed <= 130
    assert await scalar(database, "SELECT granted FROM tracking_budget") == 130


def test_intervals_grow_with_age_until_the_sum_fits() -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    calendar = [
        Cohort(
            cohort_of("WEEKLY", now - timedelta(days=30 * months), now),
            600_000,
            0,
            0,
            timedelta(7),
            now,
        )
        for months in range(1, 24)
    ]
    ages = {one.number: one.age(now) / timedelta(days=1) for one in calendar}
    assert set(intervals(calendar, ages, None).values()) == {timedelta(days=7)}
    assert set(intervals(calendar, ages, 1e9).values()) == {timedelta(days=7)}
    found = intervals(calendar, ages, 200_000)
    assert sum(600_000 / (found[one.number] / timedelta(days=1)) for one in calendar) == (
        pytest.approx(200_000, rel=1e-3)
    )
    by_age = [found[one.number] for one in sorted(calendar, key=lambda one: ages[one.number])]
    assert by_age == sorted(by_age) and by_age[0] < by_age[-1]
    assert slow_share(100, 500) == 10 and slow_share(100, 40) == 60


@pytest.mark.needs_owner
async def test_a_downgrade_makes_rows_of_everything(database_url: str, database: Database) -> None:
    ids, dormant = video_ids(1_500), video_ids(20, start=2_000)
    await parked(database, ids)
    await parked(database, dormant, "DORMANT")
    await execute(database, "INSERT INTO video_tombstones (video_id) VALUES ('dQw4w9WgXcQ')")
    await Calendar(database).park()
    await migrations.downgrade(database, "2026_11_27_forever-1")
    rows = await fetch(database, "SELECT video_id, tracking_tier FROM watchlist")
    assert Counter(row["tracking_tier"] for row in rows) == {"WEEKLY": 1_500, "DORMANT": 20}
    assert {row["video_id"] for row in rows} == {*ids, *dormant}
    assert await scalar(database, "SELECT video_id FROM video_tombstones") == "dQw4w9WgXcQ"


async def test_both_artefacts_make_a_video_done(database: Database) -> None:
    dao = MaiaDAO(database)
    await dao.ingest_videos([{"id": "v1", "snippet": {"title": "t"}}])
    await dao.mark_video_transcript_safe("v1")
    assert await scalar(database, "SELECT status FROM videos") == "PENDING"
    await dao.mark_video_visuals_safe("v1")
    assert await scalar(database, "SELECT status FROM videos") == "DONE"


async def test_ingest_enrols_new_videos_where_it_is_asked_to(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHLIST_ON_INGEST", "true")
    reset_settings()
    dao = MaiaDAO(database)
    for _ in range(2):
        await dao.ingest_videos([{"id": "v1", "snippet": {"title": "t"}}])
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 1


async def test_the_janitor_gives_up_what_never_finishes_where_it_is_asked_to(
    database: Database,
) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, status, discovered_at) VALUES "
        "('old', 't', 'FAILED', now() - interval '40 days'), ('new', 't', 'PENDING', now())",
    )
    async with database.transaction() as session:
        cutoff = datetime.now(UTC) - timedelta(days=7)
        videos, settings = FinishedVideos(session), get_settings()
        assert await videos.count(videos.finished(cutoff, settings)) == 0
        settings = settings.model_copy(update={"janitor_unfinished_days": 30})
        rows = await videos.read(videos.finished(cutoff, settings))
        assert [row.values["id"] for row in rows] == ["old"]
