"""Everything works through PgBouncer in transaction mode, where each transaction has another connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.administration.migrations import upgrade
from atlas.errors import LeaseLost
from atlas.events import EventBus
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.scheduling import Work
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.halt import until
from tests.support.leases import PLACES, Kind, every_kind, expire, finish
from tests.support.samples import as_written, samples, visible
from tests.support.servers import pgbouncer
from tests.support.servers.http import loopback_server
from tests.support.sql import execute, scalar

WEEK = timedelta(days=7)
#: More than the pooler has connections.
WORKERS = 3 * pgbouncer.POOL_SIZE


@pytest.fixture
def pooler(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a migrated database behind a pooler."""
    with pgbouncer.running(database_url) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        reset_settings()
        yield url


@pytest.fixture
async def database(pooler: str) -> AsyncIterator[Database]:
    """The same database, for every fixture and test of this module."""
    database = Database(pooler)
    yield database
    await database.close()


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


async def test_workers_who_meet_on_the_same_connections_have_each_item_once(
    database: Database, pooler: str
) -> None:
    await execute(
        database,
        "INSERT INTO watchlist (video_id, next_track_at, published_at) "
        "SELECT 'v' || n, now() - interval '1 hour', now() FROM generate_series(1, 900) n",
    )

    async def worker() -> list[str]:
        had = []
        own = Database(pooler)
        try:
            while True:
                async with Work(own).claim("track", limit=10) as batch:
                    for item in batch:
                        item.done(views=1)
                    had += [item.key for item in batch]
                if not len(batch):
                    return had
        finally:
            await own.close()

    had = [key for one in await asyncio.gather(*(worker() for _ in range(WORKERS))) for key in one]
    assert sorted(had) == sorted(f"v{number}" for number in range(1, 901))
    assert await scalar(database, "SELECT count(*) FROM video_stats_log") == 900
    assert await scalar(database, "SELECT count(*) FROM watchlist WHERE lease IS NOT NULL") == 0


@pytest.mark.usefixtures("filled")
@every_kind
async def test_each_kind_is_claimed_renewed_and_reported(kind: Kind, database: Database) -> None:
    work = Work(database, renew_every=0.02)
    async with work.claim(kind, limit=2) as batch:
        table, _, prefix = PLACES[kind]
        end = f"SELECT min({prefix}leased_until) FROM {table}"
        begun = await scalar(database, end)

        async def renewed() -> bool:
            return bool(await scalar(database, end) > begun)

        await until(renewed)
        for item in batch:
            finish(item)
    assert len(batch) == 2
    stream = work.stream(kind, limit=2)
    async with await anext(stream) as rest:
        assert len(rest) >= 1  # a term has its next page searched for at once
    await stream.aclose()


@pytest.mark.usefixtures("filled")
async def test_a_stale_report_is_refused(database: Database) -> None:
    work = Work(database)
    batch = work.claim("track", limit=1)
    await batch.__aenter__()
    await expire(database, "track")
    async with work.claim("track", limit=3) as other:
        assert len(other) == 3
        for item in batch:
            finish(item)
        with pytest.raises(LeaseLost):
            await batch.close()


async def test_samples_go_through_both_tiers_and_come_back(
    database: Database, vault: LocalVault
) -> None:
    rows = samples(times=30)
    fresh = samples(times=1, start=datetime.now(UTC) - timedelta(hours=1))
    archiver = Archiver(database, vault)
    await record_samples(database, [*rows, *fresh])
    assert (await archiver.run(WEEK)).rows == len(rows)
    late = [Sample(row.video_id, row.timestamp, views=7) for row in rows[::9]]
    await record_samples(database, late)
    assert (await archiver.run(WEEK)).late_rows == len(late)
    await archiver.compact()
    wanted = as_written([*rows, *fresh, *late])
    assert await visible(database, vault) == wanted
    reader = StatsReader(database, vault)
    assert await reader.count() == len(wanted)
    found = await asyncio.gather(*(reader.history("video-0003") for _ in range(WORKERS)))
    assert {one.num_rows for one in found} == {31}
    first = min(row.timestamp for row in rows)
    await archiver.restore(first, first + timedelta(hours=6))
    assert await visible(database, vault) == wanted
    await archiver.release()
    await archiver.forget(["video-0003"])
    assert await visible(database, vault) == {
        key: value for key, value in wanted.items() if key[0] != "video-0003"
    }
    assert await archiver.fsck(deep=True) == []


async def test_readers_and_an_archiver_share_the_connections(
    database: Database, vault: LocalVault
) -> None:
    rows = samples(times=30)
    await record_samples(database, rows)
    wanted = as_written(rows)

    async def read() -> None:
        for _ in range(4):
            assert await visible(database, vault) == wanted

    await asyncio.gather(Archiver(database, vault).run(WEEK), *(read() for _ in range(WORKERS)))


async def test_the_dict_api_and_the_janitor_work(database: Database, vault: LocalVault) -> None:
    dao = MaiaDAO(database, vault)
    await dao.add_to_search_queue(["a term"])
    batch = await dao.fetch_hunter_batch(1)
    assert [one["query_term"] for one in batch] == ["a term"]
    await Janitor(database, vault).run()


async def test_events_are_delivered(database: Database) -> None:
    bus = EventBus(database)
    with loopback_server() as server:
        await bus.endpoints.add("hook", f"{server.url}/hook", patterns=["a"])
        await bus.emit_many([("a",)] * 60)
        assert await bus.deliver_pending() == 60
        assert len({request.headers["webhook-id"] for request in server.requests}) == 60


async def test_a_database_is_migrated(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pgbouncer.running(empty_database_url) as url:
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        reset_settings()
        database = Database(url)
        await upgrade(database)
        assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
        await database.close()
