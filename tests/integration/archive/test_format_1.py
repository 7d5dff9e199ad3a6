"""Files are for ever: the vault that version 0.1 wrote goes through every operation of this version."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import EpochBehind
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.tables.sample import stated_columns
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support import format_1
from tests.support.samples import visible
from tests.support.servers.postgres import Server
from tests.support.sql import execute, fetch

FIRST = datetime(2026, 1, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def vault(database: Database, tmp_path: Path) -> LocalVault:
    vault = format_1.copied(tmp_path / "vault")
    await format_1.ledger_of_its_time(database, vault)
    return vault


async def test_it_is_read_and_found_whole(database: Database, vault: LocalVault) -> None:
    assert await visible(database, vault) == format_1.expected()
    assert await StatsReader(database, vault).count() == len(format_1.expected())
    history = await StatsReader(database, vault).history("video-1")
    assert history["views"].to_pylist()[0] == 7  # a correction, in a delta
    assert await Archiver(database, vault).fsck(deep=True) == []


async def test_it_is_compacted_together_with_files_of_today(
    database: Database, vault: LocalVault
) -> None:
    archiver, expected = Archiver(database, vault), format_1.expected()
    newest = Sample("video-2", FIRST + timedelta(days=1, hours=7), views=1)
    later = Sample("video-2", FIRST + timedelta(hours=7), views=2)
    await record_samples(database, [newest, later])
    await archiver.run(WEEK)
    for one in (newest, later):
        expected[one.video_id, one.timestamp] = (one.views, None, None)
    report = await archiver.compact()
    assert report.failed == () and report.days == 3
    assert await visible(database, vault) == expected
    assert len((await archiver.collect_garbage(timedelta(0))).keys) > 0
    assert await visible(database, vault) == expected
    assert await archiver.fsck(deep=True) == []


async def test_it_is_restored_and_released(database: Database, vault: LocalVault) -> None:
    archiver = Archiver(database, vault)
    report = await archiver.restore(FIRST, FIRST + timedelta(days=3))
    assert report.restored == len(format_1.expected())
    assert await visible(database, vault) == format_1.expected()
    assert (await archiver.release()).kept == 0
    assert await visible(database, vault) == format_1.expected()


@pytest.mark.parametrize("video_id", ["video-1", "adopted", "appended", "finished-1"])
async def test_its_videos_are_erased(
    database: Database, vault: LocalVault, tmp_path: Path, video_id: str
) -> None:
    archiver = Archiver(database, vault)
    receipt = await archiver.forget([video_id])
    left = {key: one for key, one in format_1.expected().items() if key[0] != video_id}
    assert receipt.cold_rows > 0
    assert await visible(database, vault) == left
    assert (await archiver.compact()).failed == ()
    await archiver.collect_garbage(timedelta(0))
    assert await archiver.fsck(deep=True) == []
    tables = [pq.ParquetFile(path).read() for path in (tmp_path / "vault").rglob("*.parquet")]
    assert not any(video_id in table.column(0).to_pylist() for table in tables)


async def test_its_ledger_is_made_again_from_the_files(vault: LocalVault, empty: Database) -> None:
    archiver = Archiver(empty, vault)
    assert (await archiver.rebuild()).skipped == ()
    assert await visible(empty, vault) == format_1.expected()
    collected = await fetch(empty, "SELECT video_id FROM video_tombstones ORDER BY 1")
    assert [row["video_id"] for row in collected] == ["finished-1", "finished-2"]
    assert (await archiver.compact()).failed == ()
    assert await visible(empty, vault) == format_1.expected()
    assert await archiver.fsck(deep=True) == []


async def test_a_backup_of_its_time_adopts_what_came_later(
    database: Database, vault: LocalVault
) -> None:
    archiver = Archiver(database, vault)
    await execute(database, "DELETE FROM archive_files WHERE dataset <> 'metrics' AND id % 2 = 0")
    await execute(
        database, "UPDATE archive_control SET epoch = epoch - 1, nonce = gen_random_uuid()"
    )
    with pytest.raises(EpochBehind):
        await archiver.run(WEEK)
    foreseen = await archiver.adopt(dry_run=True)
    report = await archiver.adopt()
    assert (foreseen.files, foreseen.rows) == (report.files, report.rows)
    assert report.files > 0 and (report.missing, report.skipped) == ((), ())
    for step in (archiver.compact(), archiver.collect_garbage(timedelta(0)), archiver.run(WEEK)):
        assert await visible(database, vault) == format_1.expected()
        await step
    assert await visible(database, vault) == format_1.expected()
    assert await archiver.fsck(deep=True) == []


async def test_a_column_that_comes_later_leaves_old_files_good_for_everything(
    database_url: str, postgres_server: Server, migrated_template: str, tmp_path: Path
) -> None:
    other = postgres_server.create(migrated_template)
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.support.children.wider_child", other, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    postgres_server.drop(other)
    assert child.stdout.endswith("whole\n"), child.stderr[-4_000:]


async def test_files_name_their_columns_format_and_field_ids(
    database: Database, vault: LocalVault, tmp_path: Path
) -> None:
    late = Sample("video-2", FIRST + timedelta(hours=7), views=2)
    await record_samples(database, [late])
    await Archiver(database, vault).run(WEEK)
    vault.append_metrics([{"video_id": "V", "timestamp": FIRST}])
    for key, ids in (("video_stats", range(1, 7)), ("metrics", range(1, 8))):
        path = max(
            (tmp_path / "vault" / key).rglob("*.parquet"), key=lambda one: one.stat().st_mtime
        )
        with pq.ParquetFile(path) as file:
            footer, schema = file.metadata.metadata, file.schema_arrow
        assert footer[b"atlas.format"] == b"2"
        assert footer[b"atlas.columns"] == b"video_id,timestamp,views,likes,comment_count"
        found = [int(field.metadata[b"PARQUET:field_id"]) for field in schema]
        assert found == list(ids)


@pytest.mark.parametrize("columns", [b"video_id,timestamp,dislikes", b"views", b"\xff"])
def test_columns_of_a_later_version_are_refused_not_lost(columns: bytes) -> None:
    with pytest.raises(ValueError):
        stated_columns({b"atlas.columns": columns, b"atlas.format": b"9"})
