"""An export from the file to the hot tier, beside COPY of the same rows and pandas' way into a table."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from atlas.db import Database
from atlas.importing.importer import import_files
from atlas.ingest import record_samples
from atlas.types import Sample
from atlas.vault import LocalVault
from benchmarks.support import Result, stopwatch

_VIDEOS = 20_000
_HEADER = ("video_id", "title", "timestamp", "views", "likes", "comment_count")


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    rows = min(rows, 300_000)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    mine, theirs = (_samples(rows, midnight - timedelta(days=days)) for days in (2, 3))
    # partitions exist for both, so that neither pays for making them
    await record_samples(database, [Sample("other", one[0].timestamp) for one in (mine, theirs)])
    path = folder / "export.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for one in mine:
            title = f"The title of video {one.video_id}"
            moment = one.timestamp.isoformat()
            writer.writerow((one.video_id, title, moment, one.views, one.likes, one.comment_count))
    url = await database.libpq_url()
    connection = await asyncpg.connect(url)
    records = [(s.video_id, s.timestamp, s.views, s.likes, s.comment_count) for s in theirs]
    try:
        with stopwatch() as copy:
            await connection.copy_records_to_table(
                "video_stats_log",
                records=records,
                columns=["video_id", "timestamp", "views", "likes", "comment_count"],
            )
    finally:
        await connection.close()
    with stopwatch() as pandas:
        await asyncio.to_thread(_by_pandas, path, url)
    vault = LocalVault(folder / "vault")
    with stopwatch() as atlas:
        await import_files(database, [path], vault=vault)
    with stopwatch() as again:
        await import_files(database, [path], vault=vault)
    return [
        Result("import of an export", rows / atlas.seconds, "COPY", rows / copy.seconds, goal=0.5),
        Result(
            "import of an export", rows / atlas.seconds, "pandas + to_sql", rows / pandas.seconds
        ),
        Result("the same once more", rows / again.seconds, "the first time", rows / atlas.seconds),
    ]


def _samples(rows: int, start: datetime) -> list[Sample]:
    return [
        Sample(
            f"vid{n % _VIDEOS:08d}",
            start + timedelta(minutes=10 * (n // _VIDEOS)),
            n,
            n % 977,
            n % 31,
        )
        for n in range(rows)
    ]


def _by_pandas(path: Path, url: str) -> None:
    """What people write: read, parse the dates, append to a table (by ADBC, its quickest way)."""
    import pandas as pd
    from adbc_driver_postgresql import dbapi

    frame = pd.read_csv(path, parse_dates=["timestamp"])
    with dbapi.connect(url) as connection:
        frame.to_sql("by_pandas", connection, index=False)
        connection.commit()
