"""How a scan streams: in order, in bounded memory, and leaving nothing behind however it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.archive import Archiver
from atlas.config import get_settings
from atlas.db import Database
from atlas.errors import CorruptObject, VaultUnavailable
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.reading import merge
from atlas.reading.cold import PART_GROUPS
from atlas.reading.footers import footers
from atlas.tables import external_sort
from atlas.tables.parquet import ROW_GROUP_ROWS
from atlas.types import ObjectStore, Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples
from tests.support.stores import CountedStore

NOW = datetime.now(UTC).replace(microsecond=0)
DAYS = 3
#: One a day, a delta and one that was appended.
FILES = DAYS + 2


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    footers.clear()
    return LocalVault(tmp_path / "vault")


@pytest.fixture
async def reader(database: Database, vault: LocalVault) -> StatsReader:
    """Cold days, with deltas, appended metrics and hot rows among them, and fresh rows."""
    for day in range(DAYS):
        await record_samples(database, samples(start=OLD + timedelta(days=day)))
    await Archiver(database, vault).run(timedelta(days=7))
    await record_samples(database, [Sample("video-0003", OLD + timedelta(minutes=1), views=5)])
    await Archiver(database, vault).run(timedelta(days=7))
    vault.append_metrics([{"video_id": "new", "timestamp": OLD + timedelta(minutes=2)}])
    await record_samples(database, [Sample("video-0003", OLD + timedelta(minutes=3), views=6)])
    await record_samples(database, samples(times=2, start=NOW - timedelta(hours=2)))
    return StatsReader(database, vault)


ALL = DAYS * 120 + 3 + 40


def watched(vault: LocalVault) -> CountedStore:
    store = CountedStore(vault.store)
    vault.store = cast(ObjectStore, store)
    return store


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if one.name.startswith("atlas-read")}


@pytest.fixture(autouse=True)
def _nothing_is_left(vault: LocalVault) -> Iterator[None]:
    yield
    gc.collect()
    assert threads() == set()
    home = get_settings().atlas_home / "tmp"
    assert not home.exists() or list(home.iterdir()) == []


async def keys(reader: StatsReader, **selection: Any) -> list[tuple[datetime, str]]:
    return [
        (row["timestamp"], row["video_id"])
        async for batch in reader.scan(**selection)
        for row in batch.to_pylist()
    ]


# order


@pytest.mark.parametrize("run_rows", [1_000_000, 50])
async def test_rows_come_in_time_order_over_all_tiers_if_asked(
    reader: StatsReader, monkeypatch: pytest.MonkeyPatch, run_rows: int
) -> None:
    monkeypatch.setattr(external_sort, "RUN_ROWS", run_rows)
    found = await keys(reader, ordered_by_time=True)
    assert len(found) == len(set(found)) == ALL
    assert found == sorted(found)
    assert sorted(await keys(reader)) == found
    some = await keys(reader, ordered_by_time=True, video_ids=["video-0003", "new"], columns=None)
    assert some == [one for one in found if one[1] in ("video-0003", "new")]


async def test_older_spans_come_first_by_default(reader: StatsReader) -> None:
    found = await keys(reader)
    days = [moment.date() for moment, _ in found if moment < NOW - timedelta(days=1)]
    assert days == sorted(days)
    assert len(days) == ALL - 40


async def test_only_the_columns_asked_for_come_in_time_order_too(reader: StatsReader) -> None:
    batches = [one async for one in reader.scan(columns=["views"], ordered_by_time=True)]
    assert {tuple(one.schema.names) for one in batches} == {("views",)}
    assert sum(one.num_rows for one in batches) == ALL


async def test_a_sealed_and_a_hot_row_of_one_sample_are_counted_once(
    database: Database, vault: LocalVault
) -> None:
    rows = samples()
    await record_samples(database, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault.store, "put_files", _refuse)
        with pytest.raises(VaultUnavailable):
            await Archiver(database, vault).run(timedelta(days=7))
    corrected = [Sample(one.video_id, one.timestamp, views=999_999) for one in rows[:10]]
    await record_samples(database, [*corrected, Sample("late", OLD, views=1)])
    reader = StatsReader(database, vault)
    assert await reader.count() == len(await keys(reader)) == len(as_written(rows)) + 1
    shown = [row async for batch in reader.scan() for row in batch.to_pylist()]
    assert sum(row["views"] == 999_999 for row in shown) == 10


def _refuse(*_: object) -> None:
    raise VaultUnavailable("no answer")


async def test_many_small_files_that_overlap_are_merged_without_a_stream_each(
    reader: StatsReader, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await keys(reader)
    for number in range(30):
        vault.append_metrics(
            [
                {"video_id": f"v{at}", "timestamp": OLD + timedelta(hours=at), "views": number}
                for at in range(4)
            ],
            date=OLD.date(),
            hour=3,
        )
    streams = []
    merge_sorted = merge.merge_sorted

    def counted(sources: Any, **options: Any) -> Any:
        sources = list(sources)
        streams.append(len(sources))
        return merge_sorted(sources, **options)

    monkeypatch.setattr(merge, "merge_sorted", counted)
    monkeypatch.setattr(external_sort, "RUN_ROWS", 50)
    found = await keys(reader)
    assert sorted(found) == sorted(
        [*before, *((OLD + timedelta(hours=at), f"v{at}") for at in range(4))]
    )
    assert max(streams) < 10
    latest = [row async for batch in reader.scan(["v2"]) for row in batch.to_pylist()]
    assert [row["views"] for row in latest] == [29]


async def test_a_foreign_file_among_the_metrics_is_put_in_order_and_counted_once(
    reader: StatsReader, vault: LocalVault, tmp_path: Path
) -> None:
    before = await keys(reader)
    moments = [OLD + timedelta(hours=hour) for hour in (3, 1, 2, 1)]
    foreign = pa.table({"video_id": ["z", "b", "a", "b"], "timestamp": moments, "views": [1.0] * 4})
    pq.write_table(foreign, tmp_path / "foreign.parquet", row_group_size=1)
    vault.store.put_files(
        [("metrics/date=2026-01-01/by-hand.parquet", tmp_path / "foreign.parquet")]
    )
    expected = sorted([*before, *{*zip(moments, "zbab", strict=True)}])
    assert sorted(await keys(reader)) == expected
    assert await keys(reader, ordered_by_time=True) == expected
    assert await reader.count() == len(expected)


# memory


async def test_a_scan_reads_no_more_than_a_few_row_groups_ahead_of_its_consumer(
    database: Database, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.archive.export.samples.ROW_GROUP_ROWS", 500)
    await record_samples(database, samples(videos=10_000, times=3))
    await Archiver(database, vault).run(timedelta(days=7))
    store = watched(vault)
    monkeypatch.setattr("atlas.reading.footers.TAIL_BYTES", 16_000)
    reader = StatsReader(database, vault)
    seen = 0
    async for batch in reader.scan():
        seen += batch.num_rows
        with store.lock:
            read = sum(key.startswith("video_stats") for key, _ in store.counts.reads)
        # one more is the consumer's own, and the first may have taken two for the footer
        allowed = seen // 500 // PART_GROUPS + 2 * merge.SCANNING_READS + 4
        assert read <= allowed, (seen, read)
    assert seen == 30_000
    assert len(store.counts.reads) >= 30_000 // 500 // PART_GROUPS
    assert ROW_GROUP_ROWS * PART_GROUPS <= 131_072


# endings


async def test_a_scan_that_is_left_early_leaves_no_thread_and_no_open_file(
    reader: StatsReader, vault: LocalVault
) -> None:
    store = watched(vault)
    scan = reader.scan()
    await anext(scan)
    await scan.aclose()
    assert (threads(), store.counts.open) == (set(), 0)


async def test_a_scan_that_is_dropped_leaves_no_thread_and_no_open_file(
    reader: StatsReader, vault: LocalVault
) -> None:
    store = watched(vault)
    async for _ in reader.scan():
        break
    gc.collect()
    # the loop closes a dropped generator by a task of its own, which it makes in its next round
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)
    assert (threads(), store.counts.open) == (set(), 0)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_read_ends_at_once_and_cleans_up_when_the_store_lets_go(
    reader: StatsReader, vault: LocalVault, times: int
) -> None:
    store = watched(vault)
    reading, let_go = threading.Event(), threading.Event()
    reads = 0

    def hang(_: str) -> None:
        nonlocal reads
        reads += 1
        if reads == times:
            reading.set()
        if reads >= times:
            assert let_go.wait(30)

    store.before_read = hang
    task = asyncio.create_task(reader.history("video-0003"))
    await asyncio.to_thread(reading.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not let_go.is_set()
    let_go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("atlas-read"):
            await asyncio.to_thread(thread.join, 30)
    assert (threads(), store.counts.open) == (set(), 0)


async def test_a_file_that_fails_ends_the_scan_with_its_error_and_no_thread(
    reader: StatsReader, vault: LocalVault
) -> None:
    victim = sorted(info.key for info in vault.store.list("video_stats"))[2]
    content = bytearray(vault.store.get_bytes(victim) or b"")
    page = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(0).column(1)
    content[page.data_page_offset + page.total_compressed_size - 1] ^= 1
    vault.store.put_bytes(victim, bytes(content))
    rows = 0
    with pytest.raises(CorruptObject, match=victim):
        async for batch in reader.scan():
            rows += batch.num_rows
    assert rows >= 100  # the days before it were read
    with pytest.raises(CorruptObject, match=victim):
        await reader.count(["video-0003"])
    assert threads() == set()


async def test_several_files_are_read_at_once_for_one_video_and_their_order_is_kept(
    reader: StatsReader, vault: LocalVault
) -> None:
    store = watched(vault)
    together = threading.Barrier(FILES)
    first: set[str] = set()

    def meet(key: str) -> None:
        with store.lock:
            new = key not in first and len(first) < FILES
            first.add(key)
        if new:
            together.wait(30)

    store.before_read = meet
    found = await reader.history("video-0003")
    times = found["timestamp"].to_pylist()
    assert times == sorted(times)
    assert found.num_rows == DAYS * 6 + 2 + 2
    assert isinstance(found, pa.Table)


async def test_two_readers_in_one_loop_and_one_after_another_loop_see_the_same(
    reader: StatsReader,
) -> None:
    one, other = await asyncio.gather(reader.history("video-0003"), reader.history("video-0003"))
    assert one.equals(other)
