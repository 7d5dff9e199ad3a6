"""The promises of a lease, for every queue: what one worker has no other gets, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import TextClause

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.repositories import search_queue, videos, watchlist
from atlas.repositories.leases import claim_statement
from tests.support.sql import execute, fetch, scalar

Batch = list[dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A queue as an agent sees it, and where its leases are."""

    table: str
    key: str
    prefix: str
    fill: str
    claim: Callable[[MaiaDAO, int], Awaitable[Batch]]
    report: Callable[[MaiaDAO, Any], Awaitable[object]]
    statement: TextClause

    def ids(self, batch: Batch) -> list[Any]:
        return [row[self.key] for row in batch]

    def values(self, limit: int) -> dict[str, Any]:
        """The values of the statement; only queues in the order of time can begin in the middle."""
        values = {"limit": limit, "token": uuid4(), "since": None, "before": None}
        return {name: value for name, value in values.items() if f":{name}" in self.statement.text}

    async def expire(self, database: Database) -> None:
        """Move every lease's end into the past, longest lease last."""
        await execute(
            database,
            f"UPDATE {self.table} SET {self.prefix}leased_until = "
            f"clock_timestamp() - interval '2 days' + ({self.prefix}leased_until - clock_timestamp())",
        )

    async def leases(self, database: Database) -> list[dict[str, Any]]:
        return await fetch(
            database,
            f"SELECT {self.prefix}attempts AS attempts, {self.prefix}lease AS lease, "
            f"{self.prefix}leased_until - clock_timestamp() AS remaining "
            f"FROM {self.table} ORDER BY {self.key}",
        )


async def _report_tracking(dao: MaiaDAO, video_id: str) -> None:
    tier, next_time = dao.calculate_next_track_time(None, "DAILY")
    await dao.update_watchlist_schedule(
        [
            {
                "video_id": video_id,
                "tracking_tier": tier,
                "last_tracked_at": next_time - timedelta(days=1),
                "next_track_at": next_time,
            }
        ]
    )


_VIDEOS = """
    INSERT INTO videos (id, title, discovered_at)
    SELECT 'v' || lpad(g::text, 6, '0'), 'title', now() - interval '9 hours' + g * interval '1 ms'
    FROM generate_series(1, :n) g
"""

KINDS = {
    "hunter": Kind(
        "search_queue",
        "id",
        "",
        "INSERT INTO search_queue (query_term) SELECT 'term ' || g FROM generate_series(1, :n) g",
        lambda dao, n: dao.fetch_hunter_batch(n),
        lambda dao, key: dao.update_search_state(key, None, 1, "exhausted"),
        claim_statement(search_queue.HUNT),
    ),
    "tracker": Kind(
        "videos",
        "id",
        "stats_",
        _VIDEOS,
        lambda dao, n: dao.fetch_tracker_targets(n),
        lambda dao, key: dao.update_video_stats_batch([{"id": key}]),
        claim_statement(videos.RETRACK),
    ),
    "scribe": Kind(
        "videos",
        "id",
        "transcript_",
        _VIDEOS,
        lambda dao, n: dao.fetch_scribe_batch(n),
        lambda dao, key: dao.mark_video_transcript_safe(key),
        claim_statement(videos.COLLECTION["transcript"]),
    ),
    "painter": Kind(
        "videos",
        "id",
        "visuals_",
        _VIDEOS,
        lambda dao, n: dao.fetch_painter_batch(n),
        lambda dao, key: dao.mark_video_visuals_safe(key),
        claim_statement(videos.COLLECTION["visuals"]),
    ),
    "watchlist": Kind(
        "watchlist",
        "video_id",
        "",
        "INSERT INTO watchlist (video_id, next_track_at) "
        "SELECT 'v' || lpad(g::text, 6, '0'), now() - interval '9 hours' + g * interval '1 ms' "
        "FROM generate_series(1, :n) g",
        lambda dao, n: dao.fetch_tracking_batch(n),
        _report_tracking,
        claim_statement(watchlist.TRACK),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def dao(database: Database) -> MaiaDAO:
    return MaiaDAO(database)


async def test_workers_at_once_get_all_the_work_and_none_of_it_twice(
    kind: Kind, database: Database, dao: MaiaDAO
) -> None:
    await execute(database, kind.fill, n=120)
    batches = await asyncio.gather(*(kind.claim(dao, 10) for _ in range(9)))
    rest = await kind.claim(dao, 500)
    claimed = [key for batch in [*batches, rest] for key in kind.ids(batch)]
    assert len(claimed) == len(set(claimed)) == 120
    assert await kind.claim(dao, 10) == []


async def test_a_batch_is_no_larger_than_asked_and_comes_oldest_first(
    kind: Kind, database: Database, dao: MaiaDAO
) -> None:
    await execute(database, kind.fill, n=30)
    first, second = kind.ids(await kind.claim(dao, 4)), kind.ids(await kind.claim(dao, 20))
    assert (len(first), len(second)) == (4, 20)
    assert first + second == sorted(first + second)
    assert await kind.claim(dao, 0) == []


async def test_a_worker_that_dies_gives_its_work_back_later_each_time(
    kind: Kind, database: Database, dao: MaiaDAO
) -> None:
    await execute(database, kind.fill, n=1)
    tokens = set()
    for attempt in range(1, 10):
        assert len(await kind.claim(dao, 5)) == 1
        assert await kind.claim(dao, 5) == []
        (lease,) = await kind.leases(database)
        length = min(timedelta(minutes=10) * 2 ** (attempt - 1), timedelta(days=1))
        assert length - timedelta(minutes=1) < lease["remaining"] <= length
        assert lease["attempts"] == attempt
        tokens.add(lease["lease"])
        await kind.expire(database)
    assert len(tokens) == 9


async def test_a_report_ends_the_lease_and_forgives_the_attempts(
    kind: Kind, database: Database, dao: MaiaDAO
) -> None:
    await execute(database, kind.fill, n=1)
    await kind.claim(dao, 1)
    await kind.expire(database)
    (row,) = await kind.claim(dao, 1)
    await kind.report(dao, row[kind.key])
    (lease,) = await kind.leases(database)
    assert lease == {"attempts": 0, "lease": None, "remaining": None}
    assert await kind.claim(dao, 1) == []


@pytest.mark.parametrize("name", ["scribe", "painter", "watchlist"])
async def test_work_that_is_never_reported_waits_behind_the_rest(
    name: str, database: Database, dao: MaiaDAO
) -> None:
    kind = KINDS[name]
    await execute(database, kind.fill, n=3)
    (stuck,) = kind.ids(await kind.claim(dao, 1))
    await execute(
        database,
        f"UPDATE {kind.table} SET {kind.prefix}leased_until = now() - interval '1 second' "
        f"WHERE {kind.key} = :id",
        id=stuck,
    )
    assert kind.ids(await kind.claim(dao, 3))[-1] == stuck


async def test_a_claim_that_is_not_committed_gives_the_work_back_at_once(
    kind: Kind, database: Database, dao: MaiaDAO
) -> None:
    await execute(database, kind.fill, n=3)
    async with database.session() as session:
        assert len((await session.execute(kind.statement, kind.values(3))).all()) == 3
        assert await kind.claim(dao, 3) == []  # locked, and passed over without waiting
    assert len(await kind.claim(dao, 3)) == 3


@pytest.mark.parametrize("size", [-1, 1.5, "10", True, None, 2**40])
async def test_a_batch_size_that_is_no_number_of_rows_is_refused(
    size: Any, database: Database, dao: MaiaDAO
) -> None:
    with pytest.raises(InvalidInput, match="batch size"):
        await dao.fetch_tracking_batch(size)


async def test_each_kind_of_work_is_leased_on_its_own(database: Database, dao: MaiaDAO) -> None:
    await execute(database, _VIDEOS, n=3)
    for name in ("tracker", "scribe", "painter"):
        assert len(await KINDS[name].claim(dao, 5)) == 3


async def test_leases_go_by_the_databases_clock(database: Database, dao: MaiaDAO) -> None:
    await dao.add_to_watchlist("v")
    await dao.fetch_tracking_batch()
    lasts = await scalar(
        database, "SELECT leased_until - clock_timestamp() < interval '10 minutes' FROM watchlist"
    )
    assert lasts is True
