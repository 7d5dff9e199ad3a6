"""Archive end to end, beside raw COPY to nowhere and beside fetching dicts into pandas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pandas as pd
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.repositories.hot.partitions import Partitions
from atlas.vault import LocalVault
from benchmarks.support import Result, fill_samples, stopwatch

#: The pandas way is slow; its rate is taken from this many rows.
_PANDAS_ROWS = 300_000


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=10)
    async with database.transaction() as session:
        await Partitions(session).ensure([day + timedelta(hours=6 * n) for n in range(4)], 6)
    await fill_samples(database, rows)
    connection = await asyncpg.connect(await database.libpq_url())
    try:
        await connection.execute("VACUUM ANALYZE video_stats_log")
        count = await connection.fetchval("SELECT count(*) FROM video_stats_log")
        with stopwatch() as raw:
            await connection.copy_from_query(
                "SELECT * FROM video_stats_log", output=_nowhere, format="binary"
            )
        with stopwatch() as pandas_way:
            records = await connection.fetch(f"SELECT * FROM video_stats_log LIMIT {_PANDAS_ROWS}")
            pd.DataFrame([dict(record) for record in records]).to_parquet(folder / "pandas.parquet")
    finally:
        await connection.close()
    vault = LocalVault(folder / "vault")
    async with longest_block() as block:
        with stopwatch() as archive:
            report = await Archiver(database, vault).run(timedelta(days=7))
    assert report.rows == count, (report, count)
    async with database.transaction(read_only=True) as session:
        assert await session.scalar(text("SELECT count(*) FROM video_stats_log")) == 0
    rate = count / archive.seconds
    return [
        Result("archive", rate, "COPY binary to nowhere", count / raw.seconds, goal=0.4),
        Result(
            "archive", rate, "dicts, pandas, Parquet", len(records) / pandas_way.seconds, goal=5
        ),
        Result("archive, cold size", report.bytes / count, "hot row", 129, "B/row", 0.2, most=True),
        Result("archive, event loop blocked", block[0] * 1000, "50 ms", 50, "ms", 1, most=True),
    ]


async def _nowhere(_: bytes) -> None:
    """Where the raw COPY goes: it comes over the connection, as Atlas's rows do, and is dropped."""


@contextlib.asynccontextmanager
async def longest_block() -> AsyncIterator[list[float]]:
    """The longest time, in seconds, that the event loop did not come round."""
    longest = [0.0]

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.005)
            longest[0] = max(longest[0], time.perf_counter() - begun - 0.005)

    task = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        task.cancel()
