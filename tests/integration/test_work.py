"""Typed work: what a token protects, what each word does, and that nothing is half recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.errors import DatabaseUnavailable, InvalidInput, LeaseLost
from atlas.repositories.leases import MAX_ATTEMPTS, Head, Leases
from atlas.scheduling import Work
from atlas.scheduling.batch import keys_of
from atlas.types import Sample, SearchStatus
from tests.support.sql import execute, fetch, scalar

Kind = Literal["hunt", "track", "retrack", "transcript", "visuals"]

#: Where the leases of each kind are: table, key, prefix of the columns.
PLACES: dict[Kind, tuple[str, str, str]] = {
    "hunt": ("search_queue", "id", ""),
    "track": ("watchlist", "video_id", ""),
    "retrack": ("videos", "id", "stats_"),
    "transcript": ("videos", "id", "transcript_"),
    "visuals": ("videos", "id", "visuals_"),
}
every_kind = pytest.mark.parametrize("kind", PLACES)


@pytest.fixture
def work(database: Database) -> Work:
    return Work(database)


@pytest.fixture
async def filled(database: Database) -> None:
    """Three rows of each kind, the first the longest due."""
    await execute(
        database,
        "INSERT INTO search_queue (query_term, priority) SELECT 'term ' || n, -n "
        "FROM generate_series(1, 3) n",
    )
    await execute(
        database,
        "INSERT INTO watchlist (video_id, next_track_at, published_at) SELECT 'v' || n, "
        "now() - interval '1 hour' + n * interval '1 second', now() - interval '2 hours' "
        "FROM generate_series(1, 3) n",
    )
    await execute(
        database,
        "INSERT INTO videos (id, title, discovered_at) SELECT 'v' || n, 't', "
        "now() - interval '1 hour' + n * interval '1 second' FROM generate_series(1, 3) n",
    )


async def leases(database: Database, kind: Kind) -> list[dict[str, Any]]:
    table, key, prefix = PLACES[kind]
    return await fetch(
        database,
        f"SELECT {prefix}lease AS lease, {prefix}attempts AS attempts, {prefix}error AS error, "
        f"{prefix}leased_until = 'infinity' AS quarantined, "
        f"extract(epoch FROM {prefix}leased_until - clock_timestamp())::float AS seconds "
        f"FROM {table} ORDER BY {key}",
    )


async def expire(database: Database, kind: Kind, attempts: int | None = None) -> None:
    table, _, prefix = PLACES[kind]
    await execute(
        database,
        f"UPDATE {table} SET {prefix}leased_until = now() - interval '1 second'"
        + ("" if attempts is None else f", {prefix}attempts = {attempts}")
        + f" WHERE {prefix}leased_until IS NOT NULL",
    )


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for what a task beside brings about."""
    async with asyncio.timeout(20):
        while True:
            found = holds()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


def finish(item: Any) -> None:
    """Say that the work of any kind is done."""
    match PLACES_OF[type(item).__name__]:
        case "hunt":
            item.done("next", 5)
        case "sampled":
            item.done(views=7)
        case _:
            item.done()


PLACES_OF = {
    "SearchItem": "hunt",
    "TrackItem": "sampled",
    "RetrackItem": "sampled",
    "CollectItem": "collected",
}

FREE = {"lease": None, "attempts": 0, "error": None, "quarantined": None, "seconds": None}


@every_kind
async def test_work_is_had_by_one_worker_in_order_and_ends_with_its_report(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    async with work.claim(kind, limit=2) as batch, work.claim(kind, limit=2) as other:
        assert len(batch) == 2 and len(other) == 1
        assert not {item.key for item in batch} & {item.key for item in other}
        for item in [*batch, *other]:
            finish(item)
        held = await leases(database, kind)
        assert all(row["lease"] is not None and row["attempts"] == 1 for row in held)
        assert all(590 < row["seconds"] < 601 for row in held)
    assert await leases(database, kind) == [FREE] * 3


@every_kind
async def test_the_report_of_a_stale_worker_changes_nothing_and_raises(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    slow = work.claim(kind)
    await slow.open()
    await expire(database, kind)
    table, key, _ = PLACES[kind]
    async with work.claim(kind) as quick:
        before = await fetch(database, f"SELECT * FROM {table} ORDER BY {key}")
        for item in slow:
            finish(item)
        with pytest.raises(LeaseLost) as caught:
            await slow.flush()
        assert set(caught.value.keys) == {item.key for item in slow} == {i.key for i in quick}
        assert await fetch(database, f"SELECT * FROM {table} ORDER BY {key}") == before
        assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 0
        for item in quick:
            finish(item)
    assert await leases(database, kind) == [FREE] * 3
    await slow.close()


@every_kind
async def test_a_late_report_counts_while_nobody_else_has_the_work(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    async with work.claim(kind) as batch:
        await expire(database, kind)
        for item in batch:
            finish(item)
    assert await leases(database, kind) == [FREE] * 3


@every_kind
async def test_what_nothing_was_said_of_is_released_and_costs_no_attempt(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    async with work.claim(kind) as batch:
        first = next(iter(batch)).key
    assert await leases(database, kind) == [FREE] * 3
    async with work.claim(kind, limit=1) as batch:
        assert [item.key for item in batch] == [first]  # at its former place


@every_kind
async def test_an_error_and_a_cancellation_release_the_rest_and_keep_what_was_said(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    with pytest.raises(RuntimeError, match="the worker's own"):
        async with work.claim(kind) as batch:
            next(iter(batch)).fail("broken")
            raise RuntimeError("the worker's own")
    rows = await leases(database, kind)
    assert sorted(row["attempts"] for row in rows) == [0, 0, 1]

    started = asyncio.Event()

    async def worker() -> None:
        async with work.claim(kind) as batch:
            next(iter(batch)).fail("broken as well")
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(worker())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rows = await leases(database, kind)
    assert all(row["lease"] is None for row in rows)
    assert sorted(row["error"] or "" for row in rows) == ["", "broken", "broken as well"]


@every_kind
async def test_a_failure_counts_is_told_and_comes_back_later_each_time(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    waits = []
    for _ in range(3):
        async with work.claim(kind, limit=1) as batch:
            (item,) = batch
            item.fail("x" * 600 + "\x00")
        (row,) = [row for row in await leases(database, kind) if row["attempts"]]
        assert row["lease"] is None and row["error"] == "x" * 500
        waits.append(round(row["seconds"] / 600))
        # the others wait longer, and so the same one comes again
        await expire(database, kind)
        table, _, prefix = PLACES[kind]
        await execute(
            database,
            f"UPDATE {table} SET {prefix}leased_until = now() + interval '1 hour' "
            f"WHERE {prefix}attempts = 0",
        )
    assert waits == [2, 4, 8]


@every_kind
async def test_retry_comes_back_when_it_was_asked_for_and_costs_no_attempt(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    async with work.claim(kind) as batch:
        for item in batch:
            item.retry(timedelta(minutes=3))
    for row in await leases(database, kind):
        assert row["lease"] is None and row["attempts"] == 0 and 170 < row["seconds"] < 181
    async with work.claim(kind) as batch:
        assert len(batch) == 0


@every_kind
@pytest.mark.parametrize("how", ["failed", "never reported"])
async def test_poison_is_put_aside_with_its_last_error_until_it_is_requeued(
    kind: Kind, how: str, database: Database, work: Work, filled: None
) -> None:
    batch = work.claim(kind)
    await batch.open()
    await expire(database, kind, attempts=MAX_ATTEMPTS)
    if how == "failed":
        for item in batch:
            item.fail("no such thing")
        await batch.flush()
    async with work.claim(kind) as nothing:
        assert len(nothing) == 0
    told = await work.quarantined(kind)
    assert [one.attempts for one in told] == [MAX_ATTEMPTS] * 3
    wanted = "no such thing" if how == "failed" else f"claimed {MAX_ATTEMPTS} times, never reported"
    assert {one.error for one in told} == {wanted}
    counts = {one.kind: one for one in await work.counts()}[kind]
    assert (counts.leased, counts.waiting, counts.quarantined) == (0, 0, 3)

    key = int(told[0].key) if kind == "hunt" else told[0].key
    assert await work.requeue(kind, [key]) == 1
    assert await work.requeue(kind) == 2
    assert await leases(database, kind) == [FREE] * 3
    await batch.close()


async def test_requeue_brings_failed_videos_back(
    database: Database, work: Work, filled: None
) -> None:
    dao = MaiaDAO(database)
    await dao.mark_video_failed("v1")
    assert await work.requeue("transcript", ["v1", "v2"]) == 1
    assert await scalar(database, "SELECT status FROM videos WHERE id = 'v1'") == "PENDING"


@every_kind
async def test_leases_are_renewed_while_the_work_goes_on(
    kind: Kind, database: Database, filled: None
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim(kind) as batch:
        await expire(database, kind)

        async def renewed() -> bool:
            return all(row["seconds"] > 500 for row in await leases(database, kind))

        await eventually(renewed)
        assert not any(item.lost for item in batch)


@every_kind
async def test_a_renewal_does_not_cut_a_longer_lease_short(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    """That of a repeated attempt is."""
    async with work.claim(kind) as batch:
        table, _, prefix = PLACES[kind]
        await execute(
            database, f"UPDATE {table} SET {prefix}leased_until = now() + interval '2 hours'"
        )
        async with database.transaction() as session:
            queue = batch._kind.queue
            keys = keys_of(queue, [item.key for item in batch])
            assert len(await Leases(session, queue).renew(batch._token, keys)) == 3
        assert all(row["seconds"] > 7000 for row in await leases(database, kind))


@every_kind
async def test_a_claim_does_not_wait_for_rows_that_another_has_locked(
    kind: Kind, database: Database, work: Work, filled: None
) -> None:
    table, key, _ = PLACES[kind]
    async with database.transaction() as other:
        query = f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 FOR UPDATE"
        locked = str(await other.scalar(text(query)))
        async with asyncio.timeout(20), work.claim(kind) as batch:
            assert len(batch) == 2
            assert locked not in {item.key for item in batch}


@every_kind
async def test_a_renewal_tells_which_leases_are_lost(
    kind: Kind, database: Database, filled: None
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim(kind) as batch:
        table, key, prefix = PLACES[kind]
        first = next(iter(batch))
        await execute(
            database,
            f"UPDATE {table} SET {prefix}lease = gen_random_uuid() WHERE {key}::text = :key",
            key=first.key,
        )
        await eventually(lambda: first.lost)
        assert [item.lost for item in batch] == [True, False, False]
        finish(first)
        with pytest.raises(LeaseLost):
            await batch.flush()


async def test_a_worker_whose_heartbeat_fails_claims_no_more(
    database: Database, filled: None
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim("track", limit=1) as batch:
        # a renewal cannot be run for a while
        await execute(database, "ALTER TABLE watchlist RENAME COLUMN lease TO elsewhere")
        await eventually(lambda: batch.failing is not None)
        with pytest.raises(DatabaseUnavailable, match="nothing more is claimed"):
            await work.claim("track", limit=1).open()
        await execute(database, "ALTER TABLE watchlist RENAME COLUMN elsewhere TO lease")
        await eventually(lambda: batch.failing is None)
        async with work.claim("track", limit=1) as other:
            assert len(other) == 1


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


async def test_the_words_of_hunters_and_collectors_are_recorded(
    database: Database, work: Work, filled: None
) -> None:
    async with work.claim("hunt") as terms:
        first, second, _ = terms
        first.done("page 2", 50)
        second.done(None, 3, SearchStatus.EXHAUSTED)
    assert await fetch(
        database,
        "SELECT next_page_token, result_count_total AS n, status FROM search_queue ORDER BY id",
    ) == [
        {"next_page_token": "page 2", "n": 50, "status": "active"},
        {"next_page_token": None, "n": 3, "status": "exhausted"},
        {"next_page_token": None, "n": 0, "status": "active"},
    ]
    async with work.claim("transcript", limit=1) as videos:
        next(iter(videos)).done()
    async with work.claim("visuals", limit=1) as videos:
        next(iter(videos)).done()
    assert await fetch(
        database, "SELECT has_transcript, has_visuals FROM videos ORDER BY id LIMIT 1"
    ) == [{"has_transcript": True, "has_visuals": True}]


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


async def test_a_word_said_twice_is_the_last_and_none_after_it_was_sent(
    database: Database, work: Work, filled: None
) -> None:
    async with work.claim("track", limit=1) as batch:
        (item,) = batch
        item.fail("first thought")
        item.done(views=3)
        await batch.flush()
        with pytest.raises(InvalidInput, match="reported before"):
            item.retry()
    assert await scalar(database, "SELECT last_views FROM watchlist WHERE video_id = 'v1'") == 3


async def test_a_stream_feeds_a_worker_and_waits_while_there_is_nothing(
    database: Database, work: Work, filled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 7:
            await execute(database, "UPDATE watchlist SET next_track_at = now()")

    seen: list[int] = []
    stream = work.stream("track", limit=2)
    async for batch in stream:
        async with batch:
            seen.append(len(batch))
            for item in batch:
                item.done(views=1)
        if sum(seen) == 3:
            monkeypatch.setattr("atlas.scheduling.work._pause", sleep)
        if sum(seen) > 3:
            break
    await stream.aclose()
    assert seen == [2, 1, 2]
    for wait, planned in zip(slept, [1, 2, 4, 8, 16, 30, 30], strict=True):
        assert planned * 0.5 <= wait <= planned * 1.5
    assert len(set(slept)) == len(slept)


async def test_an_unknown_kind_is_refused(work: Work) -> None:
    with pytest.raises(InvalidInput, match="kinds are hunt, track"):
        work.claim("dance")  # type: ignore[call-overload]  # that is what is tried


async def test_claims_of_a_busy_process_begin_at_the_head_and_miss_nothing(
    database: Database, work: Work, filled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Head, "_BUSY_ROWS", 0)
    monkeypatch.setattr(
        Head, "_PAUSE", 1e9
    )  # looks at the beginning once, and where it finds nothing
    async with work.claim("track", limit=2) as first:
        assert [item.key for item in first] == ["v1", "v2"]
        first_items = list(first)
        first_items[0].retry()  # due since now, behind the head; the other goes back before it
        await first.flush()
        async with work.claim("track", limit=1) as second:
            assert [item.key for item in second] == ["v3"]
            second_item = next(iter(second))
            second_item.done(views=1)
    async with work.claim("track", limit=1) as third:
        assert [item.key for item in third] == ["v1"]  # from the head on: v2 lies before it
        next(iter(third)).done(views=1)
    async with work.claim("track") as fourth:
        assert [item.key for item in fourth] == ["v2"]  # before it says that there is nothing
        next(iter(fourth)).done(views=1)
    async with work.claim("track") as nothing:
        assert len(nothing) == 0
