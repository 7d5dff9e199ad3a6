"""Typed work: what a token protects, what each word does, and that nothing is half recorded."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.errors import DatabaseUnavailable, InvalidInput, LeaseLost
from atlas.repositories.leases import MAX_ATTEMPTS, Head, Leases
from atlas.scheduling import Work
from atlas.scheduling.batch import keys_of
from atlas.types import SearchStatus
from tests.support.halt import until
from tests.support.leases import FREE, PLACES, Kind, every_kind, expire, finish, leases
from tests.support.sql import execute, fetch, scalar


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

        await until(renewed)
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
        await until(lambda: first.lost)
        assert [item.lost for item in batch] == [True, False, False]
        finish(first)
        with pytest.raises(LeaseLost):
            await batch.flush()


@pytest.mark.needs_owner
async def test_a_worker_whose_heartbeat_fails_claims_no_more(
    database: Database, filled: None
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim("track", limit=1) as batch:
        # a renewal cannot be run for a while
        await execute(database, "ALTER TABLE watchlist RENAME COLUMN lease TO elsewhere")
        await until(lambda: batch.failing is not None)
        with pytest.raises(DatabaseUnavailable, match="nothing more is claimed"):
            await work.claim("track", limit=1).open()
        await execute(database, "ALTER TABLE watchlist RENAME COLUMN elsewhere TO lease")
        await until(lambda: batch.failing is None)
        async with work.claim("track", limit=1) as other:
            assert len(other) == 1


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
        work.claim("dance")  # that is what is tried


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
