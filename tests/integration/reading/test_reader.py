"""Reading both tiers as one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.db.arrow import ArrowConnection
from atlas.errors import CorruptObject, DatabaseUnavailable, InvalidInput, VaultError
from atlas.ingest import record_samples
from atlas.reader import COLUMNS, StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
async def reader(database: Database, vault: LocalVault) -> StatsReader:
    """Cold days, a late delta that is hot, and fresh rows."""
    await record_samples(database, samples(times=30))
    await Archiver(database, vault).run(timedelta(days=7))
    await record_samples(database, [Sample("video-0003", OLD + timedelta(minutes=1), views=5)])
    await record_samples(database, samples(times=2, start=NOW - timedelta(hours=2)))
    return StatsReader(database, vault)


async def test_history_joins_both_tiers_in_time_order_with_the_promised_types(
    reader: StatsReader,
) -> None:
    table = await reader.history("video-0003")
    assert tuple(table.column_names) == COLUMNS
    assert table.schema.types == [
        pa.string(),
        pa.timestamp("us", "UTC"),
        pa.int64(),
        pa.int64(),
        pa.int64(),
    ]
    times = table["timestamp"].to_pylist()
    assert times == sorted(times)
    assert len(times) == len(set(times)) == 33
    assert set(table["video_id"].to_pylist()) == {"video-0003"}


async def test_history_is_bounded_by_since_inclusive_and_until_exclusive(
    reader: StatsReader,
) -> None:
    whole = (await reader.history("video-0004"))["timestamp"].to_pylist()
    part = await reader.history("video-0004", since=whole[3], until=whole[9])
    assert part["timestamp"].to_pylist() == whole[3:9]


async def test_a_video_without_samples_has_an_empty_typed_history(reader: StatsReader) -> None:
    table = await reader.history("nobody")
    assert (table.num_rows, tuple(table.column_names)) == (0, COLUMNS)


async def test_scan_selects_videos_times_and_columns_and_count_agrees(reader: StatsReader) -> None:
    ids = ["video-0001", "video-0007"]
    until = OLD + timedelta(hours=9, minutes=30)
    batches = [batch async for batch in reader.scan(ids, until=until, columns=["views"])]
    assert all(batch.schema.names == ["views"] for batch in batches)
    rows = sum(batch.num_rows for batch in batches)
    assert rows == 20 == await reader.count(ids, until=until)
    assert await reader.count() == 20 * 32 + 1
    assert await reader.count([]) == 0


@pytest.mark.parametrize(
    "arguments",
    [{"video_ids": ["../etc"]}, {"since": datetime(2026, 1, 1)}, {"columns": ["dislikes"]}],
)
async def test_wrong_arguments_are_refused(
    reader: StatsReader, arguments: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput):
        async for _ in reader.scan(**arguments):  # wrong on purpose
            pass


async def test_appended_metrics_count_as_cold_and_each_sample_once(
    reader: StatsReader, vault: LocalVault, database: Database
) -> None:
    before = await visible(database, vault)
    twice = next(iter(before))
    appended = {
        "video_id": "appended",
        "timestamp": OLD + timedelta(days=40, hours=-960),
        "views": 3,
    }
    vault.append_metrics([appended])
    vault.append_metrics([appended | {"video_id": twice[0], "timestamp": twice[1], "views": 123}])
    after = await visible(database, vault)
    assert set(after) == set(before) | {("appended", appended["timestamp"])}
    # the append came after the archive, so that its seq is higher
    assert after[twice][0] == 123
    await record_samples(database, [Sample(twice[0], twice[1], views=9)])
    assert (await visible(database, vault))[twice][0] == 9


async def test_metrics_filed_under_another_day_are_found_by_their_own_time(
    reader: StatsReader, vault: LocalVault
) -> None:
    row = {"video_id": "misfiled", "timestamp": OLD + timedelta(minutes=3), "views": 3}
    vault.append_metrics([row], date="2020-02-02", hour=5)
    found = await reader.history("misfiled", OLD, OLD + timedelta(hours=1))
    assert found["views"].to_pylist() == [3]


async def test_a_file_the_ledger_names_but_nobody_has_is_an_error_not_a_gap(
    reader: StatsReader, vault: LocalVault
) -> None:
    vault.store.delete([next(vault.store.list("video_stats")).key])
    with pytest.raises(VaultError, match="not in the vault"):
        await reader.history("video-0003")


async def test_a_damaged_file_is_an_error_not_a_gap(
    reader: StatsReader, vault: LocalVault, tmp_path: Path
) -> None:
    for path in (tmp_path / "vault" / "video_stats").rglob("*.parquet"):
        content = bytearray(path.read_bytes())
        content[-20:] = b"\0" * 20
        path.write_bytes(bytes(content))
    with pytest.raises(CorruptObject):
        await reader.history("video-0003")


async def test_a_consumer_that_stops_early_leaves_nothing_open(
    reader: StatsReader, database: Database, vault: LocalVault
) -> None:
    async for _ in reader.scan():
        break
    # sealing and dropping need exclusive locks, which a forgotten transaction would refuse
    await record_samples(database, [Sample("late", OLD, views=1)])
    assert (await Archiver(database, vault).run(timedelta(days=7))).rows == 2
    assert len(await visible(database, vault)) == len(as_written(samples())) * 32 // 6 + 2


@pytest.mark.parametrize("table", ["video_stats_log", "archive_files"])
async def test_nothing_can_be_sealed_or_dropped_between_the_ledger_and_the_rows(
    table: str, reader: StatsReader, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await database.libpq_url()
    rows = ArrowConnection.rows
    refused = []

    def watched(connection: ArrowConnection, query: str) -> Any:
        found = rows(connection, query)
        if not refused:
            with ArrowConnection(url) as other:
                other.execute("BEGIN")
                with pytest.raises(DatabaseUnavailable) as error:
                    other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT")
            refused.append(error.value.sqlstate)
        return found

    monkeypatch.setattr(ArrowConnection, "rows", watched)
    await reader.history("video-0003")
    assert refused == ["55P03"]


async def test_a_file_that_is_adopted_and_deleted_while_a_reader_looks_is_not_missed(
    database: Database, vault: LocalVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.append_metrics(
        [{"video_id": f"video-{number}", "timestamp": OLD, "views": number} for number in range(3)]
    )
    import atlas.reader

    listing = atlas.reader.appended_files
    erased = []

    def late(*arguments: Any) -> Any:
        if not erased:
            # between the reader's snapshot and its listing
            erased.append("video-0")
            forget(str(database._url), tmp_path / "vault")
        return listing(*arguments)

    monkeypatch.setattr(atlas.reader, "appended_files", late)
    shown = await visible(database, vault)
    assert erased
    assert {video_id for video_id, _ in shown} == {"video-1", "video-2"}


def forget(url: str, folder: Path) -> None:
    """Erase a video, from a thread without a loop."""

    async def go() -> None:
        other = Database(url)
        await Archiver(other, LocalVault(folder)).forget(["video-0"])
        await other.close()

    asyncio.run(go())
