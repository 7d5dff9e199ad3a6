"""Ingest of samples in large and small batches, beside plain COPY into the same table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from atlas.db import Database
from atlas.ingest import record_samples
from atlas.types import Sample
from benchmarks.support import Result, stopwatch


def samples(rows: int, start: datetime) -> list[Sample]:
    """Samples of up to 50,000 videos, a second apart."""
    return [
        Sample(f"vid{n % 50_000:08d}", start + timedelta(seconds=n // 50_000), n, n % 977, n % 31)
        for n in range(rows)
    ]


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    rows = min(rows, 400_000)
    base = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    results = []
    for days, batch in ((2, 50_000), (4, 1_000)):
        mine = samples(rows, base - timedelta(days=days))
        theirs = samples(rows, base - timedelta(days=days + 1))
        # partitions exist for both, so that neither pays for making them
        await record_samples(database, [mine[0], theirs[0]])
        records = [(s.video_id, s.timestamp, s.views, s.likes, s.comment_count) for s in theirs[1:]]
        connection = await asyncpg.connect(await database.libpq_url())
        try:
            with stopwatch() as copy:
                for start in range(0, len(records), batch):
                    await connection.copy_records_to_table(
                        "video_stats_log",
                        records=records[start : start + batch],
                        columns=["video_id", "timestamp", "views", "likes", "comment_count"],
                    )
        finally:
            await connection.close()
        with stopwatch() as ingest:
            for start in range(0, len(mine), batch):
                await record_samples(database, mine[start : start + batch])
        results.append(
            Result(
                f"ingest, batches of {batch:,}",
                rows / ingest.seconds,
                "COPY",
                rows / copy.seconds,
                goal=0.35,
            )
        )
    return results
