"""Cold samples come back, stay while they are pinned, and go again without a trace."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import InvalidInput, VerificationFailed
from atlas.ingest import record_samples
from atlas.repositories.erasure import Erasure
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, in_folder, samples, visible

WEEK = timedelta(days=7)
SPAN = (OLD + timedelta(hours=3), OLD + timedelta(hours=20))


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def archiver(database: Database, vault: LocalVault) -> Archiver:
    return Archiver(database, vault)


async def hot(database: Database) -> int:
    async with database.transaction(read_only=True) as session:
        return int(await session.scalar(text("SELECT count(*) FROM video_stats_log")) or 0)


async def archived(database: Database, archiver: Archiver) -> list[Sample]:
    rows = samples(times=30)
    await record_samples(database, rows)
    await archiver.run(WEEK)
    assert await hot(database) == 0
    return rows


def inside(rows: list[Sample]) -> list[Sample]:
    return [row for row in rows if SPAN[0] <= row.timestamp < SPAN[1]]


async def test_restored_samples_are_hot_again_and_still_shown_once(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    report = await archiver.restore(*SPAN)
    assert (report.rows, report.restored) == (len(inside(rows)), len(inside(rows)))
    assert (report.pinned_from, report.pinned_until) == SPAN
    assert await hot(database) == len(inside(rows))
    assert await visible(database, vault) == as_written(rows)
    again = await archiver.restore(*SPAN)
    assert (again.rows, again.restored) == (report.rows, 0)
    assert await hot(database) == len(inside(rows))


async def test_a_pinned_span_stays_hot_through_runs_until_it_is_released(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    rows = await archived(database, archiver)
    await archiver.restore(*SPAN)
    assert (await archiver.run(WEEK, dry_run=True)).rows == 0
    assert (await archiver.run(WEEK)).rows == 0
    assert await hot(database) == len(inside(rows))
    report = await archiver.release()
    assert (report.pins, report.rows, report.kept) == (1, len(inside(rows)), 0)
    assert await hot(database) == 0
    # nothing was written again: the folder holds each sample in one file
    assert (await archiver.run(WEEK)).rows == 0
    assert len(list(vault.store.list("video_stats"))) == 5
    assert await visible(database, vault) == as_written(rows)


async def test_a_correction_of_a_restored_sample_outlives_the_release(
    database: Database, vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    rows = await archived(database, archiver)
    await archiver.restore(*SPAN)
    target = inside(rows)[3]
    corrected = Sample(target.video_id, target.timestamp, views=99)
    late = Sample("late", SPAN[0] + timedelta(hours=1), views=1)
    await record_samples(database, [corrected, late])
    wanted = as_written([*rows, corrected, late])
    assert await visible(database, vault) == wanted
    report = await archiver.release()
    assert (report.rows, report.kept) == (len(inside(rows)) - 1, 2)
    assert await visible(database, vault) == wanted
    assert (await archiver.run(WEEK)).rows == 2
    assert await visible(database, vault) == wanted
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == set(wanted)


async def test_a_newer_hot_sample_is_not_overwritten_by_a_restored_one(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    corrected = Sample(inside(rows)[0].video_id, inside(rows)[0].timestamp, views=5)
    await record_samples(database, [corrected])
    report = await archiver.restore(*SPAN)
    assert (report.rows, report.restored) == (len(inside(rows)), len(inside(rows)) - 1)
    assert await visible(database, vault) == as_written([*rows, corrected])


async def test_what_a_dead_run_left_sealed_is_not_superseded_by_its_older_cold_copy(
    database: Database, vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await archived(database, archiver)
    corrected = Sample(inside(rows)[0].video_id, inside(rows)[0].timestamp, views=5)
    await record_samples(database, [corrected])
    from atlas.archive.session import Steps

    with monkeypatch.context() as broken:

        async def fail(*_: object) -> None:
            raise RuntimeError("the process died here")

        broken.setattr(Steps, "put", fail)
        with pytest.raises(RuntimeError, match="died"):
            await archiver.run(WEEK)
    wanted = as_written([*rows, corrected])
    assert await visible(database, vault) == wanted
    await archiver.restore(*SPAN)
    assert await visible(database, vault) == wanted


async def test_what_an_erasure_that_died_has_barred_does_not_come_back(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    async with database.transaction() as session:
        await Erasure(session).bar(["video-0003"])
    kept = [row for row in inside(rows) if row.video_id != "video-0003"]
    assert (await archiver.restore(*SPAN)).restored == len(kept)
    assert (await archiver.release()).rows == len(kept)
    assert await hot(database) == 0


async def test_appended_metrics_come_back_as_they_count(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    target = inside(rows)[2]
    newer = Sample(target.video_id, target.timestamp, views=31)
    vault.append_metrics([{"video_id": newer.video_id, "timestamp": newer.timestamp, "views": 31}])
    await archiver.restore(*SPAN)
    assert await visible(database, vault) == as_written([*rows, newer])


async def test_a_span_that_has_no_room_in_the_budget_is_refused_before_anything_happens(
    database: Database, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples(videos=500, times=24))
    await archiver.run(WEEK)
    monkeypatch.setenv("HOT_MAX_BYTES", "1MB")
    reset_settings()
    with pytest.raises(InvalidInput, match="HOT_MAX_BYTES"):
        await archiver.restore(*SPAN)
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM archive_pins")) == 0
    with pytest.raises(InvalidInput, match="nothing lies between"):
        await archiver.restore(SPAN[1], SPAN[0])


async def test_a_damaged_file_is_not_restored(
    database: Database, archiver: Archiver, tmp_path: Path
) -> None:
    await archived(database, archiver)
    path = sorted((tmp_path / "vault" / "video_stats").rglob("*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:90] + bytes([whole[90] ^ 4]) + whole[91:])
    with pytest.raises(VerificationFailed, match="SHA-256"):
        await archiver.restore(*SPAN)


async def test_spans_that_touch_are_one_pin_and_are_released_together(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    middle = OLD + timedelta(hours=10)
    await archiver.restore(SPAN[0], middle)
    report = await archiver.restore(middle - timedelta(hours=2), SPAN[1])
    assert (report.pinned_from, report.pinned_until) == SPAN
    assert (await archiver.release(since=middle)).pins == 0
    assert (await archiver.release(*SPAN)).pins == 1
    assert await hot(database) == 0
    assert await visible(database, vault) == as_written(rows)


async def test_compaction_while_a_span_is_pinned_changes_nothing_for_it(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    rows = await archived(database, archiver)
    await archiver.restore(*SPAN)
    assert (await archiver.compact()).failed == ()
    await archiver.collect_garbage(timedelta(0))
    assert await visible(database, vault) == as_written(rows)
    await archiver.release()
    assert await hot(database) == 0
    assert await visible(database, vault) == as_written(rows)
