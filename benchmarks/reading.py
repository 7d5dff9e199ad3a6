"""One video's history over a year of daily files, what it asks of the store, and scans beside pyarrow's."""

from __future__ import annotations

import asyncio
import string
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import COLUMNS, StatsReader
from atlas.reading.footers import footers
from atlas.tables.parquet import ROW_GROUP_ROWS, STATS_SCHEMA, open_writer
from atlas.types import ObjectStore, Sample
from atlas.vault import LocalVault
from benchmarks.support import Result, stopwatch
from tests.support.stores import CountedStore

#: Rows of a day's file: every video once an hour.
DAY_ROWS = 1_000_000
_VIDEOS = DAY_ROWS // 24
#: Days that are scanned whole.
_SCAN_DAYS = 20
_DAY = timedelta(days=1)


async def measure(database: Database, folder: Path, rows: int, days: int = 60) -> list[Result]:
    """``rows`` is not used: a file has a million."""
    vault = LocalVault(folder / "vault", home=folder / "home")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - _DAY * (days + 10)
    ids = sorted_ids(_VIDEOS)
    with stopwatch() as making:
        for day in range(days):
            await _add_day(database, vault, ids, start + _DAY * day, day)
    recent = datetime.now(UTC) - timedelta(hours=1)
    await record_samples(database, [Sample(str(one), recent, views=1) for one in ids[:1000]])
    size = sum(info.size for info in vault.store.list("video_stats"))
    store = CountedStore(vault.store)
    vault.store = cast(ObjectStore, store)
    reader = StatsReader(database, vault)
    some = [str(ids[at]) for at in (7, 20_000, 41_000)]
    table = Table(title=f"{days} files of {DAY_ROWS:,} rows, {size / days / 1e6:.1f} MB each")
    for column in ("call", "rows", "files read", "skipped", "requests", "MB", "ms"):
        table.add_column(column, justify="left" if column == "call" else "right")

    async def call(name: str, video_id: str, since: datetime | None = None) -> float:
        store.counts.reads.clear()
        store.counts.lists = store.counts.looks = 0
        begun = time.perf_counter()
        found = await reader.history(video_id, since)
        seconds = time.perf_counter() - begun
        counts = store.counts
        requests = len(counts.reads) + counts.lists + counts.looks
        touched = len(counts.keys)
        cells = (found.num_rows, touched, days - touched, requests, f"{counts.bytes / 1e6:.1f}")
        table.add_row(
            name,
            *(f"{one:,}" if isinstance(one, int) else one for one in cells),
            f"{seconds * 1e3:,.0f}",
        )
        return len(counts.reads) / max(1, touched)

    footers.clear()
    cold = await call("history, footers not known", some[0])
    warm = await call("history, footers known", some[1])
    await call("history, footers known, last 7 files", some[2], start + _DAY * (days - 7))
    await call("history, id outside of every file", "-")
    await call("history, hot only", some[0], recent)
    ours, theirs = await _scans(reader, vault, start, min(days, _SCAN_DAYS))
    Console(width=120).print(table)
    Console(width=120).print(f"files made at {days * DAY_ROWS / making.seconds:,.0f} rows/s")
    return [
        Result("history, footers known", warm, "reads a file", 2, "reads", 1, most=True),
        Result("history, footers not known", cold, "reads a file", 2, "reads", most=True),
        Result("scan", ours, "pyarrow dataset", theirs),
    ]


async def _scans(
    reader: StatsReader, vault: LocalVault, start: datetime, days: int
) -> tuple[float, float]:
    """Rows a second of a scan of some days, and of pyarrow's own of the same files."""
    keys = [info.key for info in vault.store.list("video_stats")][:days]
    paths = [str(vault.store.root / key) for key in keys]

    def plain() -> int:
        dataset = ds.dataset(paths, format="parquet")
        return sum(one.num_rows for one in dataset.to_batches(columns=list(COLUMNS)))

    async def scan() -> int:
        batches: AsyncIterator[pa.RecordBatch] = reader.scan(until=start + _DAY * days)
        return sum([batch.num_rows async for batch in batches])

    assert await scan() == await asyncio.to_thread(plain) == days * _VIDEOS * 24
    with stopwatch() as theirs:
        await asyncio.to_thread(plain)
    with stopwatch() as ours:
        await scan()
    return days * DAY_ROWS / ours.seconds, days * DAY_ROWS / theirs.seconds


def sorted_ids(count: int) -> np.ndarray:
    """So many ids as YouTube makes them, in order."""
    letters = np.array(list(string.ascii_letters + string.digits + "-_"))
    drawn = np.random.default_rng(7).choice(letters, (count, 11))
    return np.sort(np.unique(["".join(one) for one in drawn]))


async def _add_day(
    database: Database, vault: LocalVault, ids: np.ndarray, start: datetime, day: int
) -> None:
    """A day's file as the archiver writes it, and its ledger row."""
    key = f"video_stats/date={start:%Y-%m-%d}/00-{day + 1}-bench.parquet"
    path = vault.store.root / key
    path.parent.mkdir(parents=True)
    table = await asyncio.to_thread(_day_table, ids, start, day)

    def write() -> None:
        with open_writer(path, STATS_SCHEMA, {"atlas.format": "1"}) as writer:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    await asyncio.to_thread(write)
    times = table["timestamp"].combine_chunks()
    async with database.transaction() as session:
        await session.execute(
            text("""
                INSERT INTO archive_files (
                    dataset, state, object_key, vault, seq, batch_id, slice_start, slice_end,
                    min_timestamp, max_timestamp, min_video_id, max_video_id,
                    row_count, byte_size, sha256, fingerprint, live_at
                ) VALUES (
                    'video_stats', 'live', :key, :vault, :seq, gen_random_uuid(), :start, :end,
                    :first, :last, :first_id, :last_id, :rows, :size, repeat('0', 64), repeat('0', 16), now()
                )
                """),
            {
                "key": key,
                "vault": vault.identity,
                "seq": day + 1,
                "start": start,
                "end": start + _DAY,
                "first": pa.compute.min(times).as_py(),
                "last": pa.compute.max(times).as_py(),
                "first_id": str(ids[0]),
                "last_id": str(ids[-1]),
                "rows": table.num_rows,
                "size": path.stat().st_size,
            },
        )


def _day_table(ids: np.ndarray, start: datetime, day: int) -> pa.Table:
    """Every video once an hour, some seconds apart; counters grow by popularity."""
    numbers = np.random.default_rng(day)
    video = np.repeat(np.arange(len(ids)), 24)
    hour = np.tile(np.arange(24), len(ids))
    rate = np.random.default_rng(7).pareto(1.0, len(ids))[video] * 20
    views = (rate * (day * 24 + hour) * 10).astype(np.int64) + numbers.integers(0, 3, len(video))
    microseconds = int(start.timestamp() * 1e6) + hour * 3_600_000_000 + (video // 50) * 1_000_003
    likes = pa.array(views // 30, mask=video % 20 == 0)
    return pa.table(
        [
            pa.DictionaryArray.from_arrays(pa.array(video, pa.int32()), pa.array(ids)).cast(
                pa.string()
            ),
            pa.array(microseconds).cast(pa.timestamp("us", "UTC")),
            pa.array(views),
            likes,
            pa.array(views // 400),
            pa.repeat(pa.scalar(day + 1, pa.int64()), len(video)),
        ],
        schema=STATS_SCHEMA,
    )
