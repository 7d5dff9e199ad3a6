"""Slow videos of long ago in the vault: erased, lost, restored, moved back, and moved by the janitor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.archive.export import schedule
from atlas.archive.jobs import begin_job
from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.errors import ConfigurationError, VaultUnavailable
from atlas.janitor import Janitor
from atlas.reading.footers import footers
from atlas.reading.schedule import bounds, row_groups
from atlas.scheduling.calendar import Calendar
from atlas.status import gather
from atlas.vault import LocalVault
from tests.support.old_videos import DAY, NOW, in_files, items
from tests.support.parked import (
    check_whole,
    in_ring,
    moved_to,
    neighbour,
    parked_long_ago,
    played,
    video_ids,
)
from tests.support.servers.postgres import Server, name_of
from tests.support.sql import execute, fetch, scalar


@pytest.mark.parametrize("kind", ["missing", "checksum"])
async def test_a_file_that_is_lost_or_damaged_takes_only_its_own_videos_along(
    database: Database, vault: LocalVault, dao: MaiaDAO, tmp_path: Path, kind: str
) -> None:
    lost, late, other = video_ids(40), video_ids(5, start=100), video_ids(40, start=200)
    start = NOW - 30 * DAY
    await parked_long_ago(database, lost, start, years=4)
    await moved_to(vault, database)
    [gone] = (tmp_path / "vault" / "schedule").rglob("*.parquet")
    await parked_long_ago(database, late, start, years=4)
    await parked_long_ago(database, other, start)
    await moved_to(vault, database)
    if kind == "missing":
        gone.unlink()
    else:
        content = bytearray(gone.read_bytes())
        positions = pq.read_metadata(gone).row_group(0).column(1)
        content[positions.data_page_offset + positions.total_compressed_size - 5] ^= 1
        gone.chmod(0o600)
        gone.write_bytes(content)
    row_groups.clear()
    bounds.clear()
    footers.clear()
    calendar = Calendar(database, lambda: vault.store)
    await played(calendar, database, start, 7 * 24)
    woken = await played(calendar, database, start + 7 * DAY, 7 * 24)
    assert dict(woken) == dict.fromkeys([*late, *other], 1)
    # neither new nor known
    with pytest.raises(VaultUnavailable):
        await dao.add_to_watchlist(lost[0])
    await dao.add_to_watchlist(other[0])
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    # who comes with such an id is decided by the files that are there
    assert await dao.ingest_videos(items(neighbour(lost[0]), neighbour(other[0]))) == 1
    assert [one.kind for one in await Archiver(database, vault).fsck(deep=True)] == [kind]


async def test_an_erased_video_leaves_the_files_and_its_neighbour_does_not(
    database: Database, vault: LocalVault, dao: MaiaDAO, tmp_path: Path
) -> None:
    old = video_ids(20)
    await parked_long_ago(database, [*old, neighbour(old[0])], NOW)
    await moved_to(vault, database)
    receipt = await Archiver(database, vault).forget(old[:2])
    assert [one.rows for one in receipt.files] == [2]
    assert in_files(tmp_path) == sorted([*old[2:], neighbour(old[0])])
    assert await Archiver(database, vault).fsck(deep=True) == []
    [status] = (await gather(database)).calendar.cohorts
    assert (status.videos, status.in_vault) == (19, 19)
    # nothing is settled again, the others are known still, and what was forgotten stays out
    async with begin_job(database, vault.store):
        pass
    unsettled = "SELECT count(*) FROM archive_files WHERE state = 'live' AND settled_at IS NULL"
    assert await scalar(database, unsettled) == 0
    await dao.add_to_watchlist(old[0])
    await dao.add_to_watchlist(old[5])
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0


async def test_a_database_that_was_lost_gets_the_old_part_back(
    database: Database, empty: Database, vault: LocalVault, tmp_path: Path
) -> None:
    old = video_ids(120)
    await parked_long_ago(database, old, NOW - 20 * DAY)
    await moved_to(vault, database)
    # one of each video in `videos/`, as a rebuild finds them
    insert = "INSERT INTO video_tombstones (video_id) SELECT unnest(CAST(:ids AS text[]))"
    await execute(empty, insert, ids=old)
    await Archiver(empty, vault).rebuild()
    assert await scalar(empty, "SELECT count(*) FROM video_tombstones") == 0
    [status] = (await gather(empty)).calendar.cohorts
    assert (status.videos, status.in_vault) == (120, 120)
    dao = MaiaDAO(empty, vault)
    for one in old[:10]:
        await dao.add_to_watchlist(one)
    assert await scalar(empty, "SELECT count(*) FROM watchlist") == 0
    calendar = Calendar(empty, lambda: vault.store)
    await execute(empty, "UPDATE watchlist_cohorts SET turned_at = :now", now=NOW)
    woken = await played(calendar, empty, NOW, 7 * 24)
    assert dict(woken) == dict.fromkeys(old, 1)


async def test_a_backup_from_before_the_move_knows_the_files_once_it_adopted(
    database: Database, database_url: str, vault: LocalVault, postgres_server: Server
) -> None:
    old, later = video_ids(50), video_ids(30, start=100)
    await parked_long_ago(database, old, NOW)
    await Archiver(database, vault).run()  # the vault is this database's
    await database.close()
    copy = await asyncio.to_thread(postgres_server.create, name_of(database_url))
    original, restored = Database(database_url), Database(copy)
    try:
        await parked_long_ago(original, later, NOW)
        await moved_to(vault, original)
        gone = later[0]
        await Archiver(original, vault).forget([gone])
        await original.close()
        await Archiver(restored, vault).adopt()
        await check_whole(restored, {*old, *later} - {gone}, vault=vault)
        assert not await in_ring(restored, old + later)
        dao = MaiaDAO(restored, vault)
        for one in [gone, old[0], later[1]]:
            await dao.add_to_watchlist(one)
        assert await scalar(restored, "SELECT count(*) FROM watchlist") == 0
    finally:
        await restored.close()
        await asyncio.to_thread(postgres_server.drop, copy)


async def test_the_schedule_comes_back_before_a_downgrade(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = video_ids(60)
    await parked_long_ago(database, old, NOW)
    await moved_to(vault, database)
    with pytest.raises(ConfigurationError, match="atlas vault restore-schedule"):
        await migrations.downgrade(database, "2026_11_28_schedule-1")
    assert await Archiver(database, vault).restore_schedule() == 60
    await check_whole(database, old)
    assert sorted(await in_ring(database, old)) == sorted(old)
    versions = "SELECT sum(version) FROM watchlist_ring"
    before = await scalar(database, versions)
    assert await Archiver(database, vault).restore_schedule() == 0
    assert await scalar(database, versions) == before
    monkeypatch.setenv("WATCHLIST_VAULT_MONTHS", "0")
    reset_settings()
    assert await moved_to(vault, database) == 0
    assert [one.kind for one in await Archiver(database, vault).fsck()] == []
    await migrations.downgrade(database, "2026_11_28_schedule-1")
    await migrations.upgrade(database)
    # the file of then is no secret: it is taken in again, and the ring has its rows
    await Archiver(database, vault).compact()
    assert await moved_to(vault, database) == 0
    await check_whole(database, old, vault=vault)


async def test_the_janitor_moves_a_month_that_has_enough(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = video_ids(30)
    await parked_long_ago(database, old, NOW)
    janitor = Janitor(database, vault)
    await janitor.run()
    assert len(await in_ring(database, old)) == 30
    monkeypatch.setattr(schedule, "LEAST", 30)
    monkeypatch.setattr(schedule.cohorts_to_move, "__defaults__", (30,))
    monkeypatch.setattr(schedule.move_schedule, "__defaults__", (30, None))
    await janitor.run()
    assert not await in_ring(database, old)
    moved = "SELECT payload FROM system_events WHERE event_type = 'watchlist.archived'"
    assert [row["payload"] for row in await fetch(database, moved)] == [{"videos": 30, "months": 1}]
    await check_whole(database, old, vault=vault)
