"""Samples of claimed videos: rows, counters, schedule and the lease's end in one, and omissions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.scheduling import Work
from atlas.types import Sample
from tests.support.leases import FREE, leases
from tests.support.sql import execute, fetch, scalar


async def test_a_sample_its_schedule_and_the_end_of_its_lease_are_one(
    database: Database, work: Work, filled: None
) -> None:
    async with work.claim("track") as batch:
        now = batch.now()
        taken = [
            Sample("v1", now, views=10, likes=2, comment_count=1),
            Sample("v2", now - timedelta(days=40), views=20),  # needs a partition of its own
        ]
        assert await batch.record_samples(taken) == 2
    assert await fetch(
        database, "SELECT video_id, views, likes FROM video_stats_log ORDER BY video_id"
    ) == [
        {"video_id": "v1", "views": 10, "likes": 2},
        {"video_id": "v2", "views": 20, "likes": None},
    ]
    rows = await fetch(
        database,
        "SELECT tracking_tier, last_views, omissions, last_tracked_at, "
        "extract(epoch FROM next_track_at - :now)::float AS due FROM watchlist ORDER BY video_id",
        now=now,
    )
    assert [(row["last_views"], row["omissions"]) for row in rows] == [(10, 0), (20, 0), (None, 1)]
    assert rows[0]["last_tracked_at"] == now and rows[2]["last_tracked_at"] is None
    assert 3000 < rows[0]["due"] < 4300  # hourly: two hours old


async def test_three_omissions_make_a_video_dormant_and_one_return_revives_it(
    database: Database, work: Work, filled: None
) -> None:
    async def once(samples: list[Sample]) -> dict[str, Any]:
        await execute(database, "UPDATE watchlist SET next_track_at = now() - interval '1 second'")
        async with work.claim("track") as batch:
            await batch.record_samples(samples)
        (row,) = await fetch(
            database,
            "SELECT tracking_tier, omissions, "
            "round(extract(epoch FROM next_track_at - now()) / 86400 / 30)::int AS months "
            "FROM watchlist WHERE video_id = 'v1'",
        )
        return row

    assert await once([]) == {"tracking_tier": "HOURLY", "omissions": 1, "months": 0}
    assert await once([]) == {"tracking_tier": "HOURLY", "omissions": 2, "months": 0}
    assert await once([]) == {"tracking_tier": "DORMANT", "omissions": 3, "months": 1}
    assert await once([]) == {"tracking_tier": "DORMANT", "omissions": 3, "months": 1}
    revived = await once([Sample("v1", datetime.now(UTC), views=1)])
    assert revived == {"tracking_tier": "HOURLY", "omissions": 0, "months": 0}
    # one that a person made dormant stays so
    await execute(database, "UPDATE watchlist SET tracking_tier = 'DORMANT'")
    kept = await once([Sample("v1", datetime.now(UTC), views=2)])
    assert kept["tracking_tier"] == "DORMANT"


async def test_omissions_are_counted_only_of_what_was_asked_for(
    database: Database, work: Work, filled: None
) -> None:
    async with work.claim("track") as batch:
        await batch.record_samples([Sample("v1", batch.now(), views=1)], asked=["v1", "v2"])
    assert await fetch(database, "SELECT omissions, attempts FROM watchlist ORDER BY video_id") == [
        {"omissions": 0, "attempts": 0},
        {"omissions": 1, "attempts": 0},
        {"omissions": 0, "attempts": 0},
    ]


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        (Sample("elsewhere", datetime(2026, 1, 1, tzinfo=UTC)), "video_id"),
        (Sample("v1", datetime(2026, 1, 1, tzinfo=UTC)), "video_id"),  # a second one
        (Sample("v2", datetime(2999, 1, 1, tzinfo=UTC)), "timestamp"),
        (Sample("v2", datetime(2026, 1, 1, tzinfo=UTC), views=-1), "views"),
    ],
)
async def test_a_sample_that_cannot_be_taken_writes_none(
    sample: Sample, field: str, database: Database, work: Work, filled: None
) -> None:
    async with work.claim("track") as batch:
        with pytest.raises(InvalidInput) as caught:
            await batch.record_samples([Sample("v1", batch.now()), sample])
        assert (caught.value.row, caught.value.field) == (1, field)
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 0
    assert await leases(database, "track") == [FREE] * 3


async def test_a_forgotten_videos_sample_is_not_written(
    database: Database, work: Work, filled: None
) -> None:
    await execute(database, "INSERT INTO video_tombstones VALUES ('v1', 'forgotten')")
    async with work.claim("track") as batch:
        await batch.record_samples([Sample(item.key, batch.now(), views=1) for item in batch])
    assert await fetch(database, "SELECT video_id FROM video_stats_log ORDER BY video_id") == [
        {"video_id": "v2"},
        {"video_id": "v3"},
    ]
