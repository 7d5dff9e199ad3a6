"""Slow videos of long ago in the vault: known, sampled and forgotten as all others, at two bytes each."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.reading.schedule import ScheduleReader
from atlas.repositories.ring.cohorts import ROUND
from atlas.repositories.ring.membership import Answers
from atlas.repositories.ring.page import DORMANT, KNOWN
from atlas.repositories.ring.positions import positions_of
from atlas.repositories.videos import Videos
from atlas.scheduling.calendar import Calendar
from atlas.status import gather
from atlas.vault import LocalVault
from tests.support.old_videos import DAY, NOW, Away, in_files, items
from tests.support.parked import (
    check_whole,
    in_ring,
    moved_to,
    neighbour,
    parked,
    parked_long_ago,
    played,
    slow_rows,
    video_ids,
)
from tests.support.sql import execute, fetch, scalar


async def test_what_was_published_long_ago_moves_to_a_file_and_stays_on_the_watchlist(
    database: Database, vault: LocalVault, dao: MaiaDAO, tmp_path: Path
) -> None:
    old, young = video_ids(9_000), video_ids(50, start=20_000)
    await parked(database, young)
    await parked_long_ago(database, old, NOW)
    before = await gather(database)
    assert await moved_to(vault, database) == 9_000
    assert in_files(tmp_path) == sorted(old)
    assert sorted(await in_ring(database, old + young)) == sorted(young)
    after = await gather(database)
    assert [one.entries for one in after.watchlist] == [one.entries for one in before.watchlist]
    assert [one.in_vault for one in after.calendar.cohorts] == [9_000, 0]
    # which are no samples
    assert after.tiers.cold == before.tiers.cold
    # known to everybody
    await dao.add_to_watchlist(old[0])
    assert await dao.ingest_videos(items(*old[:3], young[0], "newcomer-01")) == 1
    assert [row["id"] for row in await fetch(database, "SELECT id FROM videos")] == ["newcomer-01"]
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    assert await Archiver(database, vault).fsck(deep=True) == []
    assert await moved_to(vault, database) == 0


async def test_an_id_that_the_filter_cannot_tell_from_an_old_one_comes_in(
    database: Database, vault: LocalVault, dao: MaiaDAO, away: Away
) -> None:
    old = video_ids(10)
    await parked_long_ago(database, old, NOW)
    await moved_to(vault, database)
    alike = [neighbour(one) for one in old]
    await dao.add_to_watchlist(alike[0])
    assert await dao.ingest_videos(items(*alike[:4], *old[:4])) == 4
    assert {row["video_id"] for row in await fetch(database, "SELECT video_id FROM watchlist")} == {
        alike[0]
    }
    with away():
        with pytest.raises(VaultUnavailable, match="only files in the vault"):
            await dao.add_to_watchlist(alike[5])
        with pytest.raises(VaultUnavailable):
            await dao.add_to_watchlist(old[5])
        assert await dao.ingest_videos(items(alike[6], "newcomer-01")) == 1
        # what is in `videos` needs no file to say so
        assert await dao.ingest_videos(items(alike[0])) == 1
    undecided = await fetch(
        database, "SELECT payload FROM system_events WHERE event_type = 'watchlist.undecided'"
    )
    assert [row["payload"]["videos"] for row in undecided] == [1, 1, 1]
    await dao.add_to_watchlist(alike[5])
    assert await dao.ingest_videos(items(alike[6], old[6])) == 1
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 2


async def test_a_round_wakes_every_video_of_a_file_once(
    database: Database, vault: LocalVault
) -> None:
    old, late = video_ids(300), video_ids(40, start=1_000)
    start = NOW - 30 * DAY
    await parked_long_ago(database, old, start)
    await parked_long_ago(database, late, start)
    assert await moved_to(vault, database) == 340
    # others of the same month are in the ring
    more = video_ids(25, start=2_000)
    await parked_long_ago(database, more, start)
    calendar = Calendar(database, lambda: vault.store)
    first = await played(calendar, database, start, 7 * 24)
    assert set(first.values()) == {1} and len(first) < 365
    for week in (1, 2):
        woken = await played(calendar, database, start + week * 7 * DAY, 7 * 24)
        assert dict(woken) == dict.fromkeys([*old, *late, *more], 1)


async def test_what_is_in_file_and_ring_is_woken_by_the_ring_alone(
    database: Database, vault: LocalVault
) -> None:
    old, start = video_ids(300), NOW - 30 * DAY
    await parked_long_ago(database, old, start)
    await moved_to(vault, database)
    await parked(database, old[:50], "DORMANT", start)
    await execute(database, "UPDATE watchlist_cohorts SET interval = '90 days' WHERE cohort = 1")
    calendar = Calendar(database, lambda: vault.store)
    await played(calendar, database, start, 7 * 24)
    woken = await played(calendar, database, start + 7 * DAY, 7 * 24)
    assert {*old[50:]} <= woken.keys() and len(woken.keys() & {*old[:50]}) < 10
    # nothing is woken by both pointers in one round
    assert set(woken.values()) == {1}


async def test_a_pointer_waits_for_a_vault_that_is_away_and_the_others_go_on(
    database: Database, vault: LocalVault, away: Away
) -> None:
    old, young = video_ids(200), video_ids(200, start=1_000)
    start = NOW - 60 * DAY
    await parked_long_ago(database, old, start)
    await moved_to(vault, database)
    await parked(database, young, now=start)
    calendar = Calendar(database, lambda: vault.store)
    await played(calendar, database, start, 14 * 24)
    start += 14 * DAY
    calendar._ahead._rest_until = 0.0
    with away():
        woken = await played(calendar, database, start, 3 * 24)
    assert woken.keys() <= {*young} and len(woken) > 50
    still = [one.turned_at for one in (await gather(database)).calendar.cohorts if one.in_vault]
    assert still == [start]
    calendar._ahead._rest_until = 0.0
    woken = await played(calendar, database, start + 3 * DAY, 8 * 24)
    assert woken.keys() >= {*old}


async def test_a_woken_video_of_a_file_returns_to_it(database: Database, vault: LocalVault) -> None:
    old = video_ids(30)
    await parked_long_ago(database, old, NOW - 30 * DAY)
    await moved_to(vault, database)
    await execute(
        database,
        "UPDATE watchlist_cohorts SET interval = interval '1 day', turned_at = :at",
        at=NOW - DAY,
    )
    calendar = Calendar(database, lambda: vault.store)
    assert await calendar.turn(NOW) == 30
    # reported on another day, in a further tier, left out by the API: ordinary rows, that turn slow again
    await execute(
        database,
        "UPDATE watchlist SET woken_at = '-infinity', last_tracked_at = now() - interval '1 day', "
        "next_track_at = now() + interval '6 days'",
    )
    await execute(
        database,
        "UPDATE watchlist SET tracking_tier = 'DORMANT', omissions = 3 WHERE video_id = :id",
        id=old[0],
    )
    assert (await calendar.park()).videos == 30
    assert await in_ring(database, old) == {old[0]: DORMANT}
    await check_whole(database, old, vault=vault)


async def test_what_moves_between_a_video_and_its_entry_leaves_neither_alone(
    database: Database, vault: LocalVault, dao: MaiaDAO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHLIST_ON_INGEST", "true")
    reset_settings()
    [old] = video_ids(1)
    await parked_long_ago(database, [old], NOW)
    discover = Videos.discover

    async def discover_and_move(self: Videos, *arguments: Any) -> Any:
        taken = await discover(self, *arguments)
        await moved_to(vault, database)
        return taken

    monkeypatch.setattr(Videos, "discover", discover_and_move)
    assert await dao.ingest_videos(items(neighbour(old))) == 1
    for rows in "SELECT id FROM videos", "SELECT video_id FROM watchlist":
        assert [one for row in await fetch(database, rows) for one in row.values()] == [
            neighbour(old)
        ]
    discovered = "SELECT count(*) FROM system_events WHERE event_type = 'video.discovered'"
    assert await scalar(database, discovered) == 1


async def test_a_turn_goes_only_where_its_rows_were_read(
    database: Database, vault: LocalVault
) -> None:
    old, late = video_ids(40), video_ids(20, start=100)
    await parked_long_ago(database, old, NOW - 30 * DAY)
    await moved_to(vault, database)
    await execute(
        database, "UPDATE watchlist_cohorts SET turned_at = :at, interval = '1 day'", at=NOW - DAY
    )
    calendar = Calendar(database, lambda: vault.store)
    # a file of the same month comes between reading and turning
    ahead = await calendar._ahead.read(NOW)
    await parked_long_ago(database, late, NOW - 30 * DAY)
    await moved_to(vault, database)
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = :at", at=NOW - DAY)
    assert await calendar._turn(NOW, ahead) == 0
    # somebody else turns in between
    ahead = await calendar._ahead.read(NOW)
    assert await Calendar(database, lambda: vault.store).turn(NOW) == 60
    pointer = "SELECT distance FROM watchlist_cohorts"
    before = await scalar(database, pointer)
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = :at", at=NOW - DAY)
    await execute(database, "DELETE FROM watchlist")
    assert await calendar._turn(NOW, ahead) == 0
    assert await scalar(database, pointer) == before


async def test_dormant_videos_have_files_of_their_own(
    database: Database, vault: LocalVault, dao: MaiaDAO
) -> None:
    start = NOW - 60 * DAY
    dormant, weekly = video_ids(60), video_ids(10, start=100)
    await parked(database, dormant, "DORMANT", now=start)
    await parked(database, weekly, now=start)
    assert await moved_to(vault, database) == 60
    await check_whole(database, [*dormant, *weekly], vault=vault)
    status = await gather(database)
    assert {one.tier: one.entries for one in status.watchlist} == {"DORMANT": 60, "WEEKLY": 10}
    assert [(one.month, one.in_vault) for one in status.calendar.cohorts if one.in_vault] == [
        (None, 60)
    ]
    # known, however young
    await dao.add_to_watchlist(dormant[0], published_at=NOW)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    calendar = Calendar(database, lambda: vault.store)
    await played(calendar, database, start, 30 * 24, step=12)
    await execute(database, "DELETE FROM watchlist")
    woken = await played(calendar, database, start + 30 * DAY, 30 * 24, step=12)
    assert {one: woken[one] for one in dormant} == dict.fromkeys(dormant, 1)
    # asked for in vain once more, on another day
    await execute(
        database, "UPDATE watchlist_cohorts SET turned_at = :at, interval = '1 day'", at=NOW - DAY
    )
    await calendar.turn(NOW)
    await execute(
        database,
        "UPDATE watchlist SET woken_at = '-infinity', last_tracked_at = now() - interval '1 day', "
        "next_track_at = now() + interval '29 days', omissions = 4",
    )
    await calendar.park()
    assert not await in_ring(database, dormant)
    await check_whole(database, [*dormant, *weekly], vault=vault)


async def test_a_video_that_is_published_again_is_known_still(
    database: Database, vault: LocalVault, dao: MaiaDAO
) -> None:
    old, alike = video_ids(10), neighbour(video_ids(1)[0])
    await parked_long_ago(database, old, NOW)
    await moved_to(vault, database)
    lately = NOW - 90 * DAY
    facts = {"title": "t", "publishedAt": lately.isoformat()}
    assert await dao.ingest_videos([{"id": one, "snippet": facts} for one in [*old, alike]]) == 1
    await dao.add_to_watchlist(old[0], published_at=lately)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0


async def test_a_video_that_is_younger_than_the_files_needs_no_vault(
    database: Database, vault: LocalVault, dao: MaiaDAO, away: Away
) -> None:
    old = video_ids(10)
    await parked_long_ago(database, old, NOW)
    await moved_to(vault, database)
    alike = [neighbour(one) for one in old]
    with away():
        await dao.add_to_watchlist(alike[0], published_at=NOW - DAY)
        with pytest.raises(VaultUnavailable):
            await dao.add_to_watchlist(alike[1], published_at=NOW - 3 * 365 * DAY)
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 1


async def test_an_id_that_is_collected_again_by_a_tombstone_goes_on_being_sampled(
    database: Database, vault: LocalVault
) -> None:
    old = video_ids(40)
    await parked_long_ago(database, old, NOW - 20 * DAY)
    await moved_to(vault, database)
    # its video was finished with only now
    insert = "INSERT INTO video_tombstones (video_id) SELECT unnest(CAST(:ids AS text[]))"
    await execute(database, insert, ids=old[:20])
    calendar = Calendar(database, lambda: vault.store)
    assert (await calendar.park()).collected == 20
    assert set((await in_ring(database, old)).values()) == {KNOWN}
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = :now", now=NOW)
    woken = await played(calendar, database, NOW, 7 * 24)
    assert dict(woken) == dict.fromkeys(old, 1)
    await MaiaDAO(database, vault).add_to_watchlist(old[0])
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0


async def test_what_comes_late_to_a_month_gets_a_file_of_its_own(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    old, few, many = video_ids(40), video_ids(5, start=100), video_ids(20, start=200)
    await parked_long_ago(database, old, NOW)
    assert await moved_to(vault, database) == 40
    await parked_long_ago(database, few, NOW)
    assert await moved_to(vault, database) == 0  # less than a quarter
    await parked_long_ago(database, many, NOW)
    assert await moved_to(vault, database) == 25
    await check_whole(database, [*old, *few, *many], vault=vault)
    assert len([*(tmp_path / "vault" / "schedule").rglob("*.parquet")]) == 2
    # woken long ago, parked again in this month, and by then in another file as well
    again = old[:3]
    await slow_rows(database, again)
    await Calendar(database).park()
    assert await scalar(database, "SELECT sum(entries) FROM watchlist_cohorts") == 3
    assert sorted(await in_ring(database, old)) == sorted(again)
    await check_whole(database, [*old, *few, *many], vault=vault)


async def test_an_answer_counts_only_for_the_files_that_were_read(
    database: Database, vault: LocalVault, dao: MaiaDAO, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, late = video_ids(20), video_ids(20, start=100)
    await parked_long_ago(database, old, NOW)
    await moved_to(vault, database)
    await parked_long_ago(database, late, NOW)
    # between reading and adding another file of the month comes, with the id that was not there
    candidate = late[0]
    await execute(database, "DELETE FROM watchlist WHERE video_id = :id", id=candidate)
    answers = ScheduleReader.answers
    reads = 0

    def answer_and_move(self: ScheduleReader, *arguments: Any) -> Answers:
        nonlocal reads
        found = answers(self, *arguments)
        reads += 1
        if reads == 1:
            moving.set()
            assert moved.wait(20)
        return found

    moving, moved = threading.Event(), threading.Event()
    monkeypatch.setattr(ScheduleReader, "answers", answer_and_move)
    alike = neighbour(old[0])
    adding = asyncio.create_task(dao.add_to_watchlist(alike))
    await asyncio.to_thread(moving.wait, 20)
    await parked_long_ago(database, [alike], NOW)
    await moved_to(vault, database)
    moved.set()
    await adding
    assert reads == 2
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    await check_whole(database, [*old, *late, alike], vault=vault)


async def test_one_turn_passes_another_place_of_each_month(
    database: Database, vault: LocalVault
) -> None:
    start, size = NOW - 60 * DAY, 6_000
    ids = [video_ids(size, start=quarter * 10_000) for quarter in range(4)]
    for quarter, years in enumerate((5, 3, 0.4, 0.2)):
        await parked_long_ago(database, ids[quarter], start, years)
    assert await moved_to(vault, database) == 2 * size
    months = await fetch(database, "SELECT cohort FROM watchlist_cohorts ORDER BY cohort")
    for quarter, row in enumerate(months):
        await execute(
            database,
            "UPDATE watchlist_cohorts SET interval = interval '4 days', turned_at = :at, "
            "distance = CAST(:distance AS numeric) WHERE cohort = :cohort",
            at=NOW - DAY,
            distance=str(ROUND // 4 * quarter),
            cohort=row["cohort"],
        )
    passed = {
        video_id
        for quarter, of_month in enumerate(ids)
        for video_id, place in zip(of_month, positions_of(of_month).tolist(), strict=True)
        if place // (ROUND // 4) == quarter
    }
    assert len(passed) > size // 2
    assert await Calendar(database, lambda: vault.store).turn(NOW) == len(passed)
    rows = await fetch(database, "SELECT video_id FROM watchlist")
    assert {row["video_id"] for row in rows} == passed
