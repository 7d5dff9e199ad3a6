"""Typed work under tasks that get in each other's way, and behind work that is poisoned."""

from __future__ import annotations

import asyncio

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.errors import DatabaseUnavailable, InvalidInput
from atlas.repositories.leases import MAX_ATTEMPTS, Leases
from atlas.repositories.watchlist import Watchlist
from atlas.scheduling import Work
from tests.support.halt import Halt, until
from tests.support.sql import execute, fetch, scalar


@pytest.fixture(autouse=True)
async def filled(database: Database) -> None:
    """Three due videos, the first the longest due."""
    await execute(
        database,
        "INSERT INTO watchlist (video_id, next_track_at) SELECT 'v' || n, "
        "now() - interval '1 hour' + n * interval '1 second' FROM generate_series(1, 3) n",
    )


async def test_a_worker_that_is_cancelled_twice_in_a_claim_keeps_nothing_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(monkeypatch, Leases, "claim")
    before = asyncio.all_tasks()
    worker = asyncio.create_task(Work(database).claim("track").open())
    async with asyncio.timeout(20):
        await halt.reached.wait()
        worker.cancel()
        await asyncio.sleep(0)  # it waits for the claim's answer, and is cancelled there as well
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker
        halt.may_go_on.set()
        await until(lambda: asyncio.all_tasks() == before)
    assert await scalar(database, "SELECT count(lease) + max(attempts) FROM watchlist") == 0


async def test_a_word_said_while_another_is_sent_is_refused_and_not_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(monkeypatch, Watchlist, "record")
    async with Work(database).claim("track", limit=1) as batch:
        (item,) = batch
        item.done(views=1)
        reporting = asyncio.create_task(batch.flush())
        await halt.reached.wait()
        with pytest.raises(InvalidInput, match="reported before"):
            item.fail("second thoughts")
        halt.may_go_on.set()
        await reporting


async def test_a_word_that_could_not_be_sent_is_sent_at_the_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, calls = Watchlist.record, 0

    async def at_the_second_time(repository: Watchlist, *arguments: object) -> set[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DatabaseUnavailable("away")
        return await record(repository, *arguments)

    monkeypatch.setattr(Watchlist, "record", at_the_second_time)
    async with Work(database).claim("track", limit=1) as batch:
        (item,) = batch
        item.done(views=1)
        with pytest.raises(DatabaseUnavailable):
            await batch.flush()
    assert await scalar(database, "SELECT max(last_views) FROM watchlist") == 1


async def test_a_batch_that_is_opened_once_more_does_not_fail_for_its_past(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(database)
    batch = work.claim("track", limit=1)
    async with batch:
        batch.failing = DatabaseUnavailable("away")
    async with batch, work.claim("track", limit=1) as other:
        assert len(other) == 1


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "dicts"])
async def test_a_head_of_poison_does_not_look_like_an_empty_queue(
    typed: bool, database: Database
) -> None:
    await execute(
        database,
        f"UPDATE watchlist SET attempts = {MAX_ATTEMPTS} WHERE video_id IN ('v1', 'v2')",
    )
    if typed:
        async with Work(database).claim("track", limit=1) as batch:
            assert [item.key for item in batch] == ["v3"]
    else:
        batch_of_dicts = await MaiaDAO(database).fetch_tracking_batch(1)
        assert [row["video_id"] for row in batch_of_dicts] == ["v3"]
    assert await fetch(
        database, "SELECT video_id FROM watchlist WHERE leased_until = 'infinity' ORDER BY video_id"
    ) == [{"video_id": "v1"}, {"video_id": "v2"}]
