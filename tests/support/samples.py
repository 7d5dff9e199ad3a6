"""Samples for tests: made by formula, and what the two tiers show of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.dataset as ds

from atlas.db import Database
from atlas.reader import SampleReader, StatsReader
from atlas.types import Sample
from atlas.vault import Vault

Key = tuple[str, datetime]
Counters = tuple[int | None, int | None, int | None]

#: A slot start long past every retention in the tests.
OLD = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=20)


def samples(
    videos: int = 20, times: int = 6, start: datetime = OLD, step: timedelta = timedelta(hours=1)
) -> list[Sample]:
    """``videos * times`` distinct samples, some counters unknown."""
    return [
        Sample(
            f"video-{video:04d}",
            start + step * time + timedelta(microseconds=video),
            views=1_000 * video + time,
            likes=None if video % 5 == 0 else video + time,
            comment_count=time,
        )
        for time in range(times)
        for video in range(videos)
    ]


def as_written(rows: Iterable[Sample]) -> dict[Key, Counters]:
    """What must be visible after these were written in this order."""
    return {
        (row.video_id, row.timestamp): (row.views, row.likes, row.comment_count) for row in rows
    }


async def visible(database: Database, vault: Vault) -> dict[Key, Counters]:
    """What the reader shows of both tiers; fails if it shows a sample twice."""
    return await shown_by(StatsReader(database, vault))


async def shown_by(reader: SampleReader, **chosen: Any) -> dict[Key, Counters]:
    """What a reader shows of the samples that are ``chosen``; fails if it shows one twice."""
    shown: dict[Key, Counters] = {}
    rows = 0
    async for batch in reader.scan(**chosen):
        rows += batch.num_rows
        for row in batch.to_pylist():
            key = (row["video_id"], row["timestamp"])
            shown[key] = (row["views"], row["likes"], row["comment_count"])
    assert rows == len(shown), f"{rows - len(shown)} samples are shown twice"
    return shown


def in_folder(root: str) -> set[Key]:
    """The keys a program that only reads the folder finds."""
    table = ds.dataset(root, format="parquet", partitioning="hive").to_table(
        columns=["video_id", "timestamp"]
    )
    return set(zip(table["video_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
