"""Typed work in bad luck: cancelled, reported while it is renewed, told nonsense, cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from atlas.db import Database
from atlas.errors import DatabaseUnavailable, InvalidInput
from atlas.repositories.leases import Leases
from atlas.repositories.watchlist import TrackingReport, Watchlist
from atlas.scheduling import Batch, Work
from atlas.types import Sample, TrackingTier
from tests.support.halt import Halt, until
from tests.support.sql import execute, fetch, scalar, waiting_for_locks

VIDEOS = ("v1", "v2", "v3")


@pytest.fixture(autouse=True)
async def filled(database: Database) -> None:
    """Three due videos of the watchlist, and three in collection."""
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


async def untouched(database: Database) -> bool:
    """Whether no lease is left, and none has cost an attempt."""
    query = (
        "SELECT bool_and(lease IS NULL AND leased_until IS NULL AND attempts = 0) FROM watchlist"
    )
    return bool(await scalar(database, query))


class Sudden(Work):
    """Renews at once, and gives a renewal all the time it takes."""

    def __init__(self, database: Database) -> None:
        self._waits = iter([0.0])
        super().__init__(database)

    @property
    def renew_every(self) -> float:
        return next(self._waits, 60.0)

    @renew_every.setter
    def renew_every(self, _: float) -> None:
        pass


async def test_a_claim_that_is_cancelled_on_its_way_back_is_released(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(monkeypatch, Leases, "claim")
    worker = asyncio.create_task(Work(database).claim("track").open())
    async with asyncio.timeout(20):
        await halt.reached.wait()
        worker.cancel()
        asyncio.get_running_loop().call_soon(halt.may_go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await worker
    assert await untouched(database)


async def test_a_cancellation_while_a_batch_closes_still_releases_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing, ending, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def renew(*_: object) -> set[str]:
        # a connection that takes its time to be cancelled
        try:
            renewing.set()
            await asyncio.Event().wait()
        finally:
            ending.set()
            await may_end.wait()
        return set()

    monkeypatch.setattr(Leases, "renew", renew)
    batch = Sudden(database).claim("track")
    await batch.open()
    async with asyncio.timeout(20):
        await renewing.wait()
        closing = asyncio.create_task(batch.close())
        await ending.wait()
        closing.cancel()
        asyncio.get_running_loop().call_soon(may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert await untouched(database)


async def test_a_heartbeat_that_fails_in_an_unforeseen_way_stops_claims_and_goes_on(
    database: Database,
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim("track", limit=1) as batch:
        with mock.patch.object(Leases, "renew", side_effect=RuntimeError("unforeseen")):
            await until(lambda: batch.failing is not None)
            with pytest.raises(DatabaseUnavailable, match="nothing more is claimed"):
                await work.claim("track").open()
        await until(lambda: batch.failing is None)


async def test_a_heartbeat_that_failed_is_soon_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.scheduling.batch._RENEW_AGAIN", 0.01)
    renewals = mock.AsyncMock(side_effect=[DatabaseUnavailable("away"), set(VIDEOS)])
    monkeypatch.setattr(Leases, "renew", renewals)
    async with Sudden(database).claim("track"):
        await until(lambda: renewals.call_count == 2)


async def test_a_failed_heartbeat_of_what_is_reported_by_now_stops_no_claim(
    database: Database,
) -> None:
    work = Work(database, renew_every=0.05)
    async with work.claim("track", limit=1) as batch:
        with mock.patch.object(Leases, "renew", side_effect=DatabaseUnavailable("away")):
            await until(lambda: batch.failing is not None)
            next(iter(batch)).done(views=1)
            await batch.flush()
            await until(lambda: batch.failing is None)
        async with work.claim("track", limit=1) as other:
            assert len(other) == 1


async def test_what_is_reported_while_it_is_renewed_does_not_count_as_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = Halt(monkeypatch, Leases, "renew", before=True)
    async with Work(database, renew_every=0.05).claim("track", limit=2) as batch:
        item, _ = batch
        async with asyncio.timeout(20):
            await halt.reached.wait()
        item.done(views=1)
        await batch.flush()
        with capture_logs() as logs:
            halt.may_go_on.set()
            await until(lambda: halt.calls > 1)  # the round that halted is over
        assert not item.lost
        assert [entry["event"] for entry in logs] == []


@pytest.mark.needs_direct_connection
async def test_what_is_renewed_while_it_is_reported_does_not_count_as_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Halt(monkeypatch, Watchlist, "record")
    renewal = Halt(monkeypatch, Leases, "renew", before=True)
    renewal.may_go_on.set()
    async with Work(database, renew_every=0.05).claim("track", limit=2) as batch:
        item, _ = batch
        item.done(views=1)
        with capture_logs() as logs:
            reporting = asyncio.create_task(batch.flush())
            await report.reached.wait()  # the lease is over, and the worker not told
            rounds = renewal.calls
            await until(lambda: renewal.calls > rounds + 1)
            assert not item.lost
            report.may_go_on.set()
            await reporting
        assert [entry["event"] for entry in logs] == []


async def test_two_reports_at_once_do_not_take_each_other_for_a_stranger(
    database: Database,
) -> None:
    async with Work(database).claim("track") as batch:
        for item in batch:
            item.done(views=1)
        await asyncio.gather(batch.flush(), batch.flush(), batch.flush())
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 3


async def test_a_report_of_many_words_does_not_deadlock_with_agents_that_need_no_token(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    facts = [TrackingReport(key, TrackingTier.DAILY, now, now) for key in VIDEOS]

    async def agent() -> None:
        async with database.transaction() as session:
            await Watchlist(session).report(facts)

    halt = Halt(monkeypatch, Leases, "settle", before=True)
    async with Work(database).claim("track") as batch:
        first, second, third = batch
        third.done(views=1)
        first.fail("broken")
        second.retry()
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(batch.flush())
            await halt.reached.wait()
            tasks.create_task(agent())

            async def agent_waits() -> bool:
                return await waiting_for_locks(database) >= 1

            await until(agent_waits)
            halt.may_go_on.set()
    assert halt.calls == 1  # nobody had to try again


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda item: item.done("page\x002", 1),
        lambda item: item.done("page \ud800", 1),
        lambda item: item.done(7, 1),
        lambda item: item.done(None, -1),
        lambda item: item.done(None, 2**63),
        lambda item: item.done(None, "many"),
        lambda item: item.done(None, 1, "spent"),
        lambda item: item.retry(timedelta.max),
    ],
)
async def test_a_word_that_cannot_be_sent_is_refused_and_spoils_no_other(
    nonsense: Callable[[Any], None], database: Database
) -> None:
    await execute(database, "INSERT INTO search_queue (query_term) VALUES ('one'), ('two')")
    async with Work(database).claim("hunt") as batch:
        first, second = batch
        first.done("page 2", 5)
        with pytest.raises(InvalidInput):
            nonsense(second)
    assert await scalar(database, "SELECT max(result_count_total) FROM search_queue") == 5


async def test_a_reason_with_what_is_no_unicode_is_kept_as_far_as_it_can_be(
    database: Database,
) -> None:
    async with Work(database).claim("track") as batch:
        for item in batch:
            item.fail("no such file: caf\udce9.json")
    assert await scalar(database, "SELECT min(error) FROM watchlist") == "no such file: caf?.json"


async def test_an_empty_batch_takes_the_empty_answer(database: Database) -> None:
    async with Work(database).claim("track") as everything, Work(database).claim("track") as batch:
        assert len(everything) == 3
        assert await batch.record_samples([]) == 0


async def test_ids_that_were_not_claimed_leave_the_others_unsaid(database: Database) -> None:
    async with Work(database).claim("track") as batch:
        with pytest.raises(InvalidInput):
            await batch.record_samples([Sample("v1", batch.now(), 1)], asked=[*VIDEOS, "v4"])
    assert await untouched(database)
    assert await scalar(database, "SELECT max(omissions) FROM watchlist") == 0


async def test_what_quarantine_lists_can_be_requeued_by_the_key_that_it_lists(
    database: Database,
) -> None:
    await execute(
        database,
        "INSERT INTO search_queue (query_term, leased_until) VALUES ('one', 'infinity')",
    )
    work = Work(database)
    assert await work.requeue("hunt", [one.key for one in await work.quarantined("hunt")]) == 1
    with pytest.raises(InvalidInput):
        await work.requeue("hunt", ["one"])


async def test_requeueing_a_video_takes_it_from_nobody_who_does_other_work_on_it(
    database: Database,
) -> None:
    work = Work(database)
    put_aside = "UPDATE videos SET visuals_leased_until = 'infinity' WHERE id = :id"
    async with work.claim("transcript", limit=1) as batch:
        (item,) = batch
        await execute(database, put_aside, id=item.key)
        assert await work.requeue("visuals", [item.key]) == 1
        async with work.claim("transcript") as other, work.claim("visuals") as visuals:
            assert item.key not in {one.key for one in other}
            assert item.key in {one.key for one in visuals}
        item.done()
    assert await scalar(database, "SELECT has_transcript FROM videos WHERE id = :id", id=item.key)


async def test_a_late_sample_is_written_but_is_not_the_last_one(database: Database) -> None:
    await execute(
        database,
        "UPDATE watchlist SET last_tracked_at = now() - interval '1 minute', last_views = 100",
    )
    before = await fetch(database, "SELECT last_tracked_at, last_views, last_likes FROM watchlist")
    async with Work(database).claim("track") as batch:
        for item in batch:
            item.done(views=50, likes=9, timestamp=batch.now() - timedelta(hours=1))
    query = "SELECT last_tracked_at, last_views, last_likes FROM watchlist"
    assert await fetch(database, query) == before
    assert await scalar(database, "SELECT count(*) FROM video_stats_log WHERE views = 50") == 3
    assert await untouched(database)


@pytest.mark.parametrize("kind", ["track", "retrack"])
async def test_samples_of_a_clock_that_is_behind_leave_no_video_due_for_ever(
    kind: Any, database: Database
) -> None:
    async with Work(database).claim(kind) as batch:
        for item in batch:
            item.done(views=1, timestamp=batch.now() - timedelta(days=2))
        assert len(batch) == 3
    async with Work(database).claim(kind) as batch:
        assert len(batch) == 0


async def test_a_batch_that_is_opened_once_more_is_a_new_one(database: Database) -> None:
    batch = Work(database).claim("track", limit=2)
    seen = []
    for _ in range(2):
        async with batch:
            for item in batch:
                item.done(views=1)
                seen.append(item.key)
    assert seen == ["v1", "v2", "v3"]


async def test_a_stream_outlives_a_database_that_is_away_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, slept = Leases.claim, list[float]()

    async def claim_at_the_third_time(leases: Leases, *arguments: Any) -> Any:
        if len(slept) < 2:
            raise DatabaseUnavailable("the server is being restarted")
        return await claim(leases, *arguments)

    async def pause(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(Leases, "claim", claim_at_the_third_time)
    monkeypatch.setattr("atlas.scheduling.work._pause", pause)
    stream = Work(database).stream("track")
    async with contextlib.aclosing(stream), asyncio.timeout(20):
        batch: Batch[Any] = await anext(stream)
        assert len(batch) == 3
        assert 0.5 <= slept[0] <= 1.5 and 1 <= slept[1] <= 3


async def test_waiting_for_a_connection_sets_no_clock_forward(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = mock.Mock(**{"monotonic.return_value": 1000.0})
    monkeypatch.setattr("atlas.scheduling.batch.time", clock)
    autocommit = database.autocommit

    @contextlib.asynccontextmanager
    async def late() -> AsyncIterator[AsyncSession]:
        clock.monotonic.return_value += 30.0  # all connections were in use
        async with autocommit() as session:
            yield session

    def opened() -> AbstractAsyncContextManager[AsyncSession]:
        return late()

    monkeypatch.setattr(database, "autocommit", opened)
    async with Work(database).claim("track") as batch:
        assert batch.now() == next(iter(batch)).row.claimed_at
