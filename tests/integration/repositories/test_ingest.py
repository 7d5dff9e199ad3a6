"""Samples on their way in: what is taken, what is refused, and what happens at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import DatabaseError, InvalidInput
from atlas.ingest import record_samples, record_table
from atlas.repositories.base import CHUNK
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.hot.stats import EARLIEST
from atlas.tables.sample import KEY, SAMPLE, SAMPLE_COLUMNS, SAMPLE_SQL
from atlas.types import Sample
from tests.support.sql import execute, fetch, scalar

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
COUNT = "SELECT count(*) FROM video_stats_log"


async def stored(database: Database) -> list[tuple[Any, ...]]:
    rows = await fetch(
        database, f"SELECT {SAMPLE_SQL} FROM video_stats_log ORDER BY {', '.join(KEY)}"
    )
    return [tuple(row.values()) for row in rows]


async def partitions(database: Database) -> list[tuple[datetime, datetime]]:
    async with database.session() as session:
        return [(part.lower, part.upper) for part in await Partitions(session).attached()]


def many(videos: int, hours: int = 1, views: int = 0) -> list[Sample]:
    return [
        Sample(f"v{video:05d}", NOON + timedelta(hours=hour), views)
        for hour in range(hours)
        for video in range(videos)
    ]


async def test_a_repeated_sample_is_one_row_and_the_last_write_replaces_it_whole(
    database: Database,
) -> None:
    first = Sample("v", NOON, 1, 2, 3)
    assert await record_samples(database, [first, replace(first, views=9), first]) == 1
    assert await stored(database) == [("v", NOON, 1, 2, 3)]
    same_moment = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert await record_samples(database, [Sample("v", same_moment, 7)]) == 1
    assert await stored(database) == [("v", NOON, 7, None, None)]


async def test_a_table_is_written_to_the_byte_whatever_its_ids_and_gaps(database: Database) -> None:
    extremes = (None, 0, 1, 2**63 - 1)
    rows = [
        (
            "-" * length + "v",
            NOON + timedelta(microseconds=length),
            *(extremes[(length + n) % 4] for n in range(3)),
        )
        for length in (0, 10, 63, 31)
    ] + [("all-null", EARLIEST, None, None, None)]
    columns = dict(zip(SAMPLE_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    schema = pa.schema([(column.name, column.arrow) for column in SAMPLE])
    assert await record_table(database, pa.table(columns, schema)) == len(rows)
    assert await stored(database) == sorted(rows)
    # what is there is replaced, whole
    again = [(*row[:2], 5, None, None) for row in rows]
    columns = dict(zip(SAMPLE_COLUMNS, map(list, zip(*again, strict=True)), strict=True))
    assert await record_table(database, pa.table(columns, schema)) == len(rows)
    assert await stored(database) == sorted(again)


async def test_an_empty_batch_does_nothing(database: Database) -> None:
    assert await record_samples(database, []) == 0
    assert await partitions(database) == []


async def test_a_video_that_nobody_knows_and_a_time_long_past_are_taken(database: Database) -> None:
    old = Sample("unknown", datetime(2009, 5, 1, 3, 59, 59, 999999, UTC), 2**63 - 1)
    assert await record_samples(database, [old]) == 1
    assert await stored(database) == [("unknown", old.timestamp, 2**63 - 1, None, None)]
    assert await scalar(database, "SELECT count(*) FROM videos") == 0


async def test_partitions_are_made_in_the_width_of_the_settings(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATS_PARTITION_HOURS", "12")
    reset_settings()
    await record_samples(database, [Sample("v", NOON - timedelta(microseconds=1))])
    assert await partitions(database) == [(NOON - timedelta(hours=12), NOON)]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Sample("v", NOON, views=-1), "views"),
        (Sample("v", NOON, likes=2**63), "likes"),
        (Sample("v", NOON, comment_count=True), "comment_count"),
        (Sample("v", NOON, views=float("nan")), "views"),  # wrong on purpose
        (Sample("v", NOON, views="7"), "views"),  # wrong on purpose
        (Sample("not an id", NOON), "video_id"),
        (Sample("", NOON), "video_id"),
        (Sample("v" * 65, NOON), "video_id"),
        (Sample("v", NOON.replace(tzinfo=None)), "timestamp"),
        (Sample("v", datetime(1969, 12, 31, tzinfo=UTC)), "timestamp"),
        (Sample("v", datetime.max.replace(tzinfo=UTC)), "timestamp"),
    ],
)
async def test_one_bad_sample_is_named_and_none_is_written(
    database: Database, bad: Sample, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await record_samples(database, [*many(2), bad, *many(1)])
    assert (caught.value.row, caught.value.field) == (2, field)
    assert await scalar(database, COUNT) == 0
    assert await partitions(database) == []


async def test_a_day_ahead_of_the_databases_clock_is_the_limit(database: Database) -> None:
    now = await scalar(database, "SELECT clock_timestamp()")
    await record_samples(database, [Sample("v", now + timedelta(hours=23))])
    with pytest.raises(InvalidInput, match="out of range"):
        await record_samples(database, [Sample("v", now + timedelta(hours=25))])


async def test_samples_may_be_made_of_the_databases_clock_and_more_be_done_with_them(
    database: Database,
) -> None:
    seen = []

    async def then(session: AsyncSession, now: datetime) -> None:
        rows = await session.execute(text("SELECT timestamp FROM video_stats_log"))
        seen.append((now, *rows.scalars()))

    before = await scalar(database, "SELECT clock_timestamp()")
    await record_samples(database, lambda now: [Sample("v", now)], then=then)
    assert len(seen) == 1  # the try that found no partition was undone
    assert before < seen[0][0] == seen[0][1]


async def test_what_fails_afterwards_takes_the_samples_with_it(database: Database) -> None:
    async def fail(_: AsyncSession, __: datetime) -> None:
        raise RuntimeError("afterwards")

    with pytest.raises(RuntimeError, match="afterwards"):
        await record_samples(database, many(1), then=fail)
    assert await scalar(database, COUNT) == 0


@pytest.mark.needs_owner
async def test_a_batch_of_many_statements_is_still_all_or_nothing(database: Database) -> None:
    batch = many(CHUNK + 1)
    await record_samples(database, batch[:1])
    await execute(
        database, "ALTER TABLE video_stats_log ADD CONSTRAINT last CHECK (video_id <> :id)".replace(
            ":id", f"'{batch[-1].video_id}'"
        )
    )  # fmt: skip
    tries = 0

    def make(_: datetime) -> list[Sample]:
        nonlocal tries
        tries += 1
        return batch

    with pytest.raises(DatabaseError) as caught:
        await record_samples(database, make)
    # the SQLSTATE of a missing partition too: must not be taken for one and tried again
    assert (caught.value.sqlstate, caught.value.constraint) == ("23514", "last")
    assert tries == 1
    assert await scalar(database, COUNT) == 1
    await execute(database, "ALTER TABLE video_stats_log DROP CONSTRAINT last")
    assert await record_samples(database, batch) == CHUNK + 1
    assert await scalar(database, COUNT) == CHUNK + 1


async def test_late_rows_of_many_writers_all_find_their_missing_partitions(
    database: Database,
) -> None:
    batches = [
        [Sample(f"w{writer}", NOON + timedelta(hours=3 * hour + writer % 3)) for hour in range(16)]
        for writer in range(6)
    ]
    assert await asyncio.gather(*(record_samples(database, batch) for batch in batches)) == [16] * 6
    assert await scalar(database, COUNT) == 96
    bounds = await partitions(database)
    assert bounds == [
        (NOON + timedelta(hours=6 * slot), NOON + timedelta(hours=6 * slot + 6))
        for slot in range(8)
    ]


@pytest.mark.needs_owner
async def test_a_partition_that_an_archiver_took_is_made_again(database: Database) -> None:
    await record_samples(database, many(1))
    (row,) = await fetch(
        database, "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'video_stats_log'::regclass"
    )  # fmt: skip
    await execute(database, f"ALTER TABLE video_stats_log DETACH PARTITION {row['name']}")
    await execute(database, f"ALTER TABLE {row['name']} RENAME TO sealed")
    await record_samples(database, many(1, views=5))
    assert await stored(database) == [("v00000", NOON, 5, None, None)]
    assert await scalar(database, "SELECT views FROM sealed") == 0


async def test_writers_of_the_same_samples_in_opposite_order_do_not_deadlock(
    database: Database,
) -> None:
    await record_samples(database, many(1, hours=2))
    tries = 0

    def batch(samples: list[Sample]) -> Callable[[datetime], list[Sample]]:
        def make(_: datetime) -> list[Sample]:
            nonlocal tries
            tries += 1
            return samples

        return make

    for views in range(5):
        samples = many(400, hours=2, views=views)
        await asyncio.gather(
            record_samples(database, batch(samples)),
            record_samples(database, batch(samples[::-1])),
            record_samples(database, batch(samples[300:] + samples[:300])),
        )
    assert await scalar(database, COUNT) == 800
    assert tries == 15  # the victim of a deadlock would have tried again


@pytest.mark.parametrize("rows", [499, 500, 6_000])
async def test_a_large_batch_that_meets_older_samples_replaces_them_whole(
    rows: int, database: Database
) -> None:
    first = [Sample(f"v{n:05d}", NOON, views=1, likes=1, comment_count=1) for n in range(rows)]
    second = [Sample(f"v{n:05d}", NOON, views=n) for n in range(rows - 1, 2 * rows)]
    assert await record_samples(database, first) == rows
    assert await record_samples(database, second) == rows + 1
    async with database.transaction() as session:
        found = (
            await session.execute(
                text("SELECT video_id, views, likes FROM video_stats_log ORDER BY video_id")
            )
        ).all()
    assert [tuple(row) for row in found[: rows - 1]] == [(one.video_id, 1, 1) for one in first[:-1]]
    assert [tuple(row) for row in found[rows - 1 :]] == [
        (one.video_id, one.views, None) for one in second
    ]
