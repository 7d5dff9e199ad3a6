"""Compaction: many small files become few, and nobody who reads can tell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import LeaseLost
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, in_folder, samples, visible

WEEK = timedelta(days=7)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def archiver(database: Database, vault: LocalVault) -> Archiver:
    return Archiver(database, vault)


def metrics(rows: list[Sample]) -> list[dict[str, object]]:
    return [
        {
            "video_id": row.video_id,
            "timestamp": row.timestamp,
            "views": row.views,
            "likes": row.likes,
            "comment_count": row.comment_count,
            "published_at": OLD,
        }
        for row in rows
    ]


async def states(database: Database) -> dict[str, int]:
    async with database.transaction(read_only=True) as session:
        rows = await session.execute(text("SELECT state, count(*) FROM archive_files GROUP BY 1"))
        return {row[0]: row[1] for row in rows}


async def test_the_small_files_of_a_day_become_one_and_every_sample_stays_visible_once(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = samples(times=30)  # four slices of one day, one of the next
    await record_samples(database, rows)
    await archiver.run(WEEK)
    late = [Sample(row.video_id, row.timestamp, views=7) for row in rows[::9]]
    await record_samples(database, late)
    await archiver.run(WEEK)
    wanted = as_written([*rows, *late])
    report = await archiver.compact()
    assert (report.days, report.files_before, report.files_after) == (2, 10, 2)
    assert (report.rows, report.duplicates) == (len(rows), len(late))
    assert await visible(database, vault) == wanted
    assert await StatsReader(database, vault).count() == len(rows)
    assert await states(database) == {"live": 2, "retired": 10}
    again = await archiver.compact()
    assert (again.days, again.files_before) == (0, 0)


async def test_rows_keep_the_number_of_the_file_that_first_carried_them(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    rows = samples(times=12)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    corrected = Sample(rows[0].video_id, rows[0].timestamp, views=1)
    await record_samples(database, [corrected])
    await archiver.run(WEEK)
    async with database.transaction() as session:
        found = await session.execute(
            text("SELECT slice_start, seq FROM archive_files ORDER BY seq")
        )
        by_slice = [(start, seq) for start, seq in found]
    await archiver.compact()
    await archiver.collect_garbage(timedelta(0))
    (path,) = (tmp_path / "vault" / "video_stats").rglob("*.parquet")
    table = pq.read_table(path, partitioning=None)
    for row in table.to_pylist():
        key = (row["video_id"], row["timestamp"])
        expected = by_slice[2][1] if key == (corrected.video_id, corrected.timestamp) else None
        starts = [
            seq for start, seq in by_slice[:2] if start <= key[1] < start + timedelta(hours=6)
        ]
        assert row["seq"] == (expected or starts[0])
    keys = list(zip(table["video_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
    assert keys == sorted(keys)


async def test_a_correction_after_compaction_wins_and_an_older_delta_does_not(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = samples(times=12)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    await archiver.compact()
    corrected = Sample(rows[5].video_id, rows[5].timestamp, views=5)
    await record_samples(database, [corrected])
    wanted = as_written([*rows, corrected])
    assert await visible(database, vault) == wanted
    await archiver.run(WEEK)
    # the merged file has a higher number of its own than its rows; the delta's is higher still
    assert await visible(database, vault) == wanted
    await archiver.compact()
    assert await visible(database, vault) == wanted


async def test_appended_metrics_of_closed_hours_are_adopted_and_counted_once(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = samples(times=6)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    more = samples(videos=5, times=3, start=OLD + timedelta(hours=8))
    replaced = Sample(rows[0].video_id, rows[0].timestamp, views=123)
    for number in range(3):
        vault.append_metrics(
            metrics([more[number * 5], *more[number * 5 : number * 5 + 5], replaced])
        )
    fresh = Sample("fresh", datetime.now(UTC), views=1)
    vault.append_metrics(metrics([fresh]))
    wanted = as_written([*rows, *more, replaced, fresh])
    assert await visible(database, vault) == wanted
    report = await archiver.compact()
    assert report.failed == ()
    assert await visible(database, vault) == wanted
    # what was adopted is not read twice, and leaves with its ledger rows after a day
    left = [info.key for info in vault.store.list("metrics")]
    await archiver.collect_garbage()
    assert [info.key for info in vault.store.list("metrics")] == left
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE archive_files SET retired_at = now() - interval '25 hours'")
        )
    assert (await archiver.collect_garbage()).replaced == len(left) - 1
    kept = [info.key for info in vault.store.list("metrics")]
    assert len(kept) == 1 < len(left)
    assert await visible(database, vault) == wanted
    async with database.transaction() as session:
        known = await session.scalar(
            text("SELECT count(*) FROM archive_files WHERE dataset = 'metrics' AND state <> 'gone'")
        )
        assert known == 0
        # the ledger forgets them after a day: it must not grow with every call
        await session.execute(
            text("UPDATE archive_files SET retired_at = now() - interval '2 days'")
        )
    await archiver.collect_garbage(timedelta(0))
    async with database.transaction() as session:
        known = await session.scalar(
            text("SELECT count(*) FROM archive_files WHERE dataset = 'metrics'")
        )
    assert known == 0


async def test_files_grow_to_the_target_and_no_further(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    noise = random.Random(1)  # counters that do not compress
    rows = [
        replace(row, views=noise.getrandbits(60))
        for row in samples(videos=9_000, times=20, step=timedelta(minutes=70))
    ]
    await record_samples(database, rows)
    await archiver.run(WEEK)
    sizes = [info.size for info in vault.store.list("video_stats")]
    report = await archiver.compact(target_bytes=max(sizes) + 1)
    assert report.files_before == len(sizes)
    assert 1 < report.files_after <= len(sizes)
    async with database.transaction() as session:
        found = await session.execute(
            text(
                "SELECT min_video_id, max_video_id FROM archive_files WHERE state = 'live' ORDER BY 1"
            )
        )
        bounds = [tuple(row) for row in found]
    # in order over all files of the day: a reader of one video needs one, or two at a seam
    assert all(last <= first for (_, last), (first, _) in pairwise(bounds))
    assert await StatsReader(database, vault).count() == len(rows)
    history = await StatsReader(database, vault).history(rows[0].video_id)
    assert history.num_rows == 20


async def test_what_was_replaced_stays_for_the_grace_period_so_that_no_scan_breaks(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    rows = samples(times=24)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    scan = StatsReader(database, vault).scan()
    first = await anext(scan)
    await archiver.compact()
    assert (await archiver.collect_garbage()).keys == ()
    rest = [batch async for batch in scan]
    assert first.num_rows + sum(batch.num_rows for batch in rest) == len(rows)
    # a folder reader sees each archived sample, for a while in two files
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == set(as_written(rows))
    report = await archiver.collect_garbage(timedelta(0))
    assert report.replaced == 4
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == set(as_written(rows))
    assert await states(database) == {"live": 1, "gone": 4}


async def test_a_damaged_file_is_left_alone_and_told_and_other_days_go_on(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=36))
    await archiver.run(WEEK)
    path = sorted((tmp_path / "vault" / "video_stats").rglob("*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    report = await archiver.compact()
    assert len(report.failed) == 1
    assert OLD.date().isoformat() in report.failed[0]
    assert report.days == 1
    assert path.exists()
    path.write_bytes(whole)
    assert (await archiver.compact()).failed == ()


async def test_a_row_that_gets_lost_in_the_merge_stops_it(
    database: Database, vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = samples(times=12)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    import atlas.archive.maintenance.inputs as module

    merge = module.merge_sorted

    def careless(*args: object, **kwargs: object) -> Iterator[object]:
        for table in merge(*args, **kwargs):
            yield table.slice(1)

    monkeypatch.setattr(module, "merge_sorted", careless)
    report = await archiver.compact()
    assert report.days == 0
    assert "240 rows went in and 2" in report.failed[0]
    assert await states(database) == {"live": 2, "gone": 1}
    assert len(list(vault.store.list("video_stats"))) == 2


async def test_an_overtaken_compaction_replaces_nothing(
    database: Database, vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = samples(times=12)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    before = await states(database)
    import atlas.archive.maintenance.rewrite as module

    real_hold = module.Replacement.hold

    async def hold(self: module.Replacement) -> None:
        monkeypatch.setattr(module.Replacement, "hold", real_hold)
        async with database.transaction() as session:
            await session.execute(text("UPDATE archive_control SET fence = fence + 1"))
        await real_hold(self)

    monkeypatch.setattr(module.Replacement, "hold", hold)
    with pytest.raises(LeaseLost):
        await archiver.compact()
    left = await states(database)
    assert left["live"] == before["live"]
    assert "retired" not in left
    assert await visible(database, vault) == as_written(rows)
    # the next job finds the outputs whole, and finishes what was begun
    await archiver.run(WEEK)
    assert await states(database) == {"live": 1, "retired": 2}
    assert await visible(database, vault) == as_written(rows)
    await archiver.collect_garbage(timedelta(0))
    assert len(list(vault.store.list("video_stats"))) == 1
    assert await visible(database, vault) == as_written(rows)


async def test_readers_see_every_sample_once_while_files_are_swapped(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = samples(times=48)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    wanted = as_written(rows)
    work = asyncio.create_task(archiver.compact())
    while not work.done():
        assert await visible(database, vault) == wanted
    assert (await work).days == 2
    assert await visible(database, vault) == wanted
