"""Discovery, facts and batches of videos."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.models.videos import STATS_DUE, STATS_URGENCY
from atlas.repositories.base import CHUNK
from atlas.repositories.channels import Channels
from atlas.repositories.status import StatusSummary
from atlas.repositories.videos import RETRACK, Videos, Work
from atlas.types import Channel, Video, VideoStatus
from tests.support.sql import execute, fetch, scalar

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)

FULL = Video(
    id="v",
    title="A title",
    channel_id="c",
    published_at=NOON,
    duration=60,
    tags=("a", "b"),
    category_id="10",
    default_language="en",
    wiki_topics=("Music",),
    priority=3,
)


async def row(session: AsyncSession, query: str) -> dict[str, object]:
    return dict((await session.execute(text(query))).mappings().one())


async def facts(session: AsyncSession) -> Video:
    found = await row(session, f"SELECT {', '.join(Video.__slots__)} FROM videos")
    for name in ("tags", "wiki_topics"):
        if (value := found[name]) is not None:
            assert isinstance(value, list)
            found[name] = tuple(value)
    return Video(**found)


async def test_every_fact_of_a_video_and_its_channel_is_stored(session: AsyncSession) -> None:
    channel = Channel("c", "A channel", "GB", "@a", NOON, True)
    assert await Videos(session).upsert([FULL], [channel]) == 1
    assert await facts(session) == FULL
    stored = await row(session, "SELECT * FROM channels")
    assert Channel(**{name: stored[name] for name in Channel.__slots__}) == channel
    state = await row(session, "SELECT status, has_transcript, has_visuals FROM videos")
    assert state == {"status": "PENDING", "has_transcript": False, "has_visuals": False}


async def test_what_is_not_known_never_replaces_what_is(session: AsyncSession) -> None:
    videos = Videos(session)
    await videos.upsert([FULL], [Channel("c", "A channel", "GB", "@a", NOON, True)])
    await videos.upsert([Video("v", "")], [Channel("c", "")])
    assert await facts(session) == FULL
    assert (await row(session, "SELECT * FROM channels"))["title"] == "A channel"


async def test_what_is_known_replaces_what_was(session: AsyncSession) -> None:
    videos = Videos(session)
    await videos.upsert([Video("v", "")])
    await videos.mark_status("v", VideoStatus.DONE)
    await videos.upsert([FULL])
    assert await facts(session) == FULL
    assert (await row(session, "SELECT status FROM videos"))["status"] == "DONE"


async def test_a_video_seen_again_is_not_less_urgent(session: AsyncSession) -> None:
    videos = Videos(session)
    for priority in (0, 9, 4):
        await videos.upsert([Video("v", "t", priority=priority)])
    assert (await facts(session)).priority == 9


async def test_a_video_twice_in_a_batch_adds_up(session: AsyncSession) -> None:
    once = [Video("v", "t", duration=60, priority=5), Video("v", "", category_id="1")]
    assert await Videos(session).upsert(once) == 1
    assert await facts(session) == Video("v", "t", duration=60, category_id="1", priority=5)


async def test_a_row_that_stays_the_same_is_not_written_again(session: AsyncSession) -> None:
    versions = []
    for _ in range(2):
        await Videos(session).upsert([FULL], [Channel("c", "A channel")])
        query = "SELECT v.ctid::text AS v, c.ctid::text AS c FROM videos v, channels c"
        versions.append(await row(session, query))
    assert versions[0] == versions[1]


async def test_a_video_collected_or_forgotten_before_is_not_collected_again(
    session: AsyncSession,
) -> None:
    insert = "INSERT INTO video_tombstones VALUES ('gone', 'collected'), ('erased', 'forgotten')"
    await session.execute(text(insert))
    taken = await Videos(session).upsert([Video(name, "t") for name in ("gone", "erased", "new")])
    assert taken == 1
    assert (await facts(session)).id == "new"


async def test_more_videos_than_one_statement_takes(session: AsyncSession) -> None:
    many = [Video(f"v{number}", "t", channel_id=f"c{number}") for number in range(CHUNK + 1)]
    channels = [Channel(f"c{number}", "t") for number in range(CHUNK + 1)]
    assert await Videos(session).upsert(many, channels) == CHUNK + 1
    counts = "SELECT (SELECT count(*) FROM videos) AS v, (SELECT count(*) FROM channels) AS c"
    assert await row(session, counts) == {"v": CHUNK + 1, "c": CHUNK + 1}


@pytest.mark.parametrize(
    ("video", "field"),
    [
        (Video("no id", "t"), "video_id"),
        (Video("v", "t", channel_id="no id"), "channel_id"),
        (Video("v", "t", published_at=datetime(2026, 1, 1)), "published_at"),
        (Video("v", "t", priority=-1), "priority"),
        (Video("v", "t", priority=40_000), "priority"),
    ],
)
async def test_a_bad_video_is_named_and_none_is_written(
    session: AsyncSession, video: Video, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await Videos(session).upsert([FULL, video])
    assert caught.value.field == field
    assert (await row(session, "SELECT count(*) AS n FROM videos"))["n"] == 0


async def test_a_channel_with_a_naive_time_is_refused(session: AsyncSession) -> None:
    with pytest.raises(InvalidInput, match="created_at has no time zone"):
        await Channels(session).upsert([Channel("c", "t", created_at=datetime(2026, 1, 1))])


async def test_collectors_of_the_same_videos_in_opposite_order_do_not_deadlock(
    database: Database,
) -> None:
    async def collect(order: int, title: str) -> None:
        numbers = range(300)[::order]
        async with database.transaction() as session:
            await Videos(session).upsert(
                [Video(f"v{number}", title) for number in numbers],
                [Channel(f"c{number % 50}", title) for number in numbers],
            )

    for round_number in range(5):
        title = str(round_number)
        await asyncio.gather(collect(1, title), collect(-1, title + "b"), collect(1, title + "c"))
    assert await scalar(database, "SELECT count(*) FROM videos") == 300


async def test_reports_on_the_same_videos_in_opposite_order_do_not_deadlock(
    database: Database,
) -> None:
    ids = [f"v{number}" for number in range(400)]

    async def report(order: int) -> None:
        async with database.transaction() as session:
            videos = Videos(session)
            await videos.sampled(ids[::order], await videos.now())

    async with database.transaction() as session:
        await Videos(session).upsert([Video(video_id, "") for video_id in ids])
    for _ in range(10):
        await asyncio.gather(report(1), report(-1), report(1))


async def test_done_and_failed_videos_leave_the_scribe_and_painter_batches_only(
    database: Database,
) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, status) VALUES "
        "('a', '', 'PENDING'), ('b', '', 'PROCESSING'), ('c', '', 'DONE'), ('d', '', 'FAILED')",
    )
    async with database.transaction() as session:
        repository = Videos(session)
        assert {video.id for video in await repository.claim_work("transcript", 9)} == {"a", "b"}
        assert {video.id for video in await repository.claim_work("visuals", 9)} == {"a", "b"}
        assert {video.id for video in await repository.claim_stats(9)} == {"a", "b", "c", "d"}


async def test_a_priority_goes_ahead_of_age(session: AsyncSession) -> None:
    await session.execute(
        text(
            "INSERT INTO videos (id, title, priority, discovered_at) VALUES "
            "('old', '', 0, now() - interval '2 days'), ('new', '', 0, now() - interval '1 day'), "
            "('urgent', '', 5, now())"
        )
    )
    kinds: tuple[Work, ...] = ("transcript", "visuals")
    for work in kinds:
        claimed = await Videos(session).claim_work(work, 9)
        assert [video.id for video in claimed] == ["urgent", "old", "new"]


@pytest.mark.parametrize(
    ("age", "unsampled", "priority"),
    [
        ("23 hours 59 minutes", "61 minutes", 1),
        ("23 hours 59 minutes", "59 minutes", None),
        ("24 hours 1 minute", "61 minutes", None),
        ("24 hours 1 minute", "361 minutes", 2),
        ("167 hours", "361 minutes", 2),
        ("167 hours", "359 minutes", None),
        ("169 hours", "361 minutes", None),
        ("169 hours", "1441 minutes", 3),
        ("169 hours", "1439 minutes", None),
        ("10 years", None, 3),
        ("2 days", None, 2),
        ("-1 hour", None, 1),
    ],
)
async def test_the_tracker_gets_a_video_when_its_age_says(
    database: Database, age: str, unsampled: str | None, priority: int | None
) -> None:
    await execute(
        database,
        (
            f"INSERT INTO videos (id, title, discovered_at, published_at, last_updated_at) VALUES "
            f"('v', '', now() - interval '30 days', now() - interval '{age}', "
            f"now() - interval '{unsampled}')"
            if unsampled
            else f"INSERT INTO videos (id, title, published_at) VALUES ('v', '', now() - interval '{age}')"
        ),
    )
    async with database.transaction() as session:
        claimed = await Videos(session).claim_stats(9)
    assert [video.priority for video in claimed] == ([] if priority is None else [priority])


async def test_the_tracker_gets_the_most_urgent_first_then_the_longest_unsampled(
    database: Database,
) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, published_at, last_updated_at) "
        "SELECT id, '', now() - age * interval '1 hour', now() - unsampled * interval '1 hour' "
        "FROM (VALUES ('p3', 999, 500), ('p2', 50, 20), ('p2-new', 50, NULL), ('p2-long', 50, 40), "
        "('p1', 10, 2), ('p1-long', 10, 9), ('p1-new', 10, NULL), ('fresh', 10, 0.5)) "
        "AS v(id, age, unsampled)",
    )
    got = []
    while batch := await _claim_stats(database, 3):
        got += batch
    assert got == ["p1-new", "p1-long", "p1", "p2-new", "p2-long", "p2", "p3"]


async def _claim_stats(database: Database, limit: int) -> list[str]:
    async with database.transaction() as session:
        return [video.id for video in await Videos(session).claim_stats(limit)]


async def test_the_index_for_the_tracker_never_hides_a_video_that_is_due(
    database: Database,
) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, discovered_at, published_at, last_updated_at) "
        "SELECT 'v' || row_number() OVER (), '', now() - interval '1 day', "
        "now() - age * interval '1 minute', now() - unsampled * interval '1 minute' "
        "FROM generate_series(-60, 12000, 97) age, generate_series(0, 3000, 59) unsampled",
    )
    due = await fetch(
        database,
        "SELECT id FROM videos, LATERAL (SELECT now() - published_at AS age) a "
        "WHERE now() - last_updated_at > CASE WHEN age < interval '24 hours' THEN interval '1 hour' "
        "WHEN age < interval '7 days' THEN interval '6 hours' ELSE interval '24 hours' END",
    )
    claimed: list[str] = []
    while batch := await _claim_stats(database, 300):  # more are due than one claim looks at
        claimed += batch
    assert len(claimed) == len(set(claimed))
    assert set(claimed) >= {video["id"] for video in due}  # the clock went on between the two
    assert 1000 < len(due) <= len(claimed) <= len(due) + 300


async def test_a_sample_ends_the_lease_and_never_turns_the_clock_back(database: Database) -> None:
    await execute(database, "INSERT INTO videos (id, title) VALUES ('a', ''), ('b', '')")
    await _claim_stats(database, 9)
    async with database.transaction() as session:
        now = await Videos(session).now()
        assert await Videos(session).sampled(["b", "a", "nobody"], now) == {"a", "b"}
        assert await Videos(session).sampled(["a"], now - timedelta(days=1)) == {"a"}
    rows = await fetch(database, "SELECT last_updated_at, stats_lease FROM videos")
    assert rows == [{"last_updated_at": now, "stats_lease": None}] * 2


async def test_facts_are_recorded_whatever_the_status_and_whoever_holds_the_lease(
    session: AsyncSession,
) -> None:
    videos = Videos(session)
    await videos.upsert([FULL])
    await videos.claim_work("transcript", 1)
    await videos.mark_status("v", VideoStatus.FAILED)
    assert await videos.mark_work("v", "transcript")
    assert await videos.mark_status("v", VideoStatus.DONE)
    assert await videos.mark_work("v", "visuals")
    state = await row(session, "SELECT status, has_transcript, has_visuals FROM videos")
    assert state == {"status": "DONE", "has_transcript": True, "has_visuals": True}


async def test_a_fact_about_nobody_says_so(session: AsyncSession) -> None:
    assert not await Videos(session).mark_work("nobody", "visuals")
    assert not await Videos(session).mark_status("nobody", VideoStatus.DONE)


async def test_requeue_brings_failed_videos_back_at_once_and_no_others(database: Database) -> None:
    async with database.transaction() as session:
        videos = Videos(session)
        await videos.upsert([Video("a", ""), Video("b", "")])
        await videos.claim_work("transcript", 9)
        await videos.mark_status("a", VideoStatus.FAILED)
        await videos.mark_status("b", VideoStatus.DONE)
        assert await videos.requeue(["b", "a", "a", "nobody"]) == 1
        assert [video.id for video in await videos.claim_work("transcript", 9)] == ["a"]


async def test_the_summary_counts_what_waits(session: AsyncSession) -> None:
    videos = Videos(session)
    await videos.upsert([Video("a", ""), Video("b", ""), Video("c", "")])
    await videos.mark_work("a", "transcript")
    await videos.mark_status("c", VideoStatus.DONE)
    assert await videos.summary() == [
        StatusSummary("DONE", 1, 0, 0),
        StatusSummary("PENDING", 2, 1, 2),
    ]


async def test_videos_by_status_are_found_by_their_index(database: Database) -> None:
    await execute(
        database,
        "INSERT INTO videos (id, title, status, discovered_at) SELECT 'v' || g, '', "
        "CASE WHEN g % 50 = 0 THEN 'DONE' ELSE 'PENDING' END, now() - g * interval '1 minute' "
        "FROM generate_series(1, 20000) g",
    )
    await execute(database, "ANALYZE videos")
    plan = await scalar(
        database,
        "EXPLAIN (FORMAT JSON) SELECT id FROM videos "
        "WHERE status = 'DONE' AND discovered_at < now() - interval '7 days'",
    )
    assert "idx_video_status" in str(plan)


@pytest.mark.needs_owner
async def test_a_time_range_of_samples_is_found_by_its_index(database: Database) -> None:
    await execute(
        database,
        "CREATE TABLE video_stats_log_all PARTITION OF video_stats_log "
        "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    )
    await execute(
        database,
        "INSERT INTO video_stats_log (video_id, timestamp) SELECT 'v' || g % 5000, "
        "timestamptz '2026-01-01' + g * interval '1 minute' FROM generate_series(0, 40000) g",
    )
    await execute(database, "ANALYZE video_stats_log")
    async with database.transaction() as session:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await session.scalar(
            text(
                "EXPLAIN (FORMAT JSON) SELECT * FROM video_stats_log WHERE timestamp "
                "BETWEEN timestamptz '2026-01-20' AND timestamptz '2026-01-21'"
            )
        )
    index = await scalar(
        database,
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid "
        "WHERE inhparent = 'idx_stats_timestamp'::regclass",
    )
    assert index in str(plan)


def test_the_index_condition_is_the_models() -> None:
    # an expression index serves only a query that spells it the same way
    assert STATS_DUE in RETRACK.ready and STATS_URGENCY in RETRACK.ready
