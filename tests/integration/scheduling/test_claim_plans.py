"""What statements about leases read of large tables: their batch, and never the table.

``make chaos`` fills a million rows; otherwise it is 200,000.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db import Database
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.leases import Ending, Leases, Unfinished, claim_statement
from atlas.repositories.search_queue import MAX_TERMS, SearchReport
from atlas.repositories.videos import Videos
from atlas.repositories.watchlist import Recorded, TrackingReport, Watchlist
from atlas.scheduling.kinds import KINDS
from atlas.types import Sample, SearchStatus, TrackingTier
from tests.support.servers.postgres import Server

ROWS = 1_000_000 if "ATLAS_CHAOS" in os.environ else 200_000
BATCH = 50
#: More than the five after which PostgreSQL thinks of a plan that does not know the values.
CYCLES = 8

INDEXES = {
    "hunt": "idx_search_queue_claim",
    "track": "idx_watchlist_next_track",
    "retrack": "idx_video_stats_claim",
    "transcript": "idx_video_transcript_claim",
    "visuals": "idx_video_visuals_claim",
}

# n is the row's number, and `lot` one of a hundred that have nothing to do with the order
_LEASED = """
    CASE WHEN lot < 2 THEN 'infinity' WHEN lot < 30 THEN now() + n % 600 * interval '1 second'
         WHEN lot < 32 THEN now() - n % 600 * interval '1 second' END,
    CASE WHEN lot BETWEEN 2 AND 31 THEN gen_random_uuid() END
"""
_FREE = "CAST(NULL AS timestamptz), CAST(NULL AS uuid)"
_NUMBERS = "(SELECT n, abs(hashint4(n) % 100) AS lot FROM generate_series(1, {rows}) n) AS numbers"
_FILLS = (
    """
    INSERT INTO search_queue (query_term, priority, mention_count, leased_until, lease)
    SELECT 'term ' || n, n % 5, n % 1000, {lease} FROM {terms}
    """,
    """
    INSERT INTO watchlist (video_id, next_track_at, leased_until, lease)
    SELECT 'v' || lpad(n::text, 11, '0'), now() + (n - {due} * {rows}) * interval '1 second', {lease}
    FROM {numbers}
    """,
    """
    INSERT INTO videos (id, title, published_at, discovered_at, last_updated_at, priority,
        stats_leased_until, stats_lease, transcript_leased_until, transcript_lease,
        visuals_leased_until, visuals_lease)
    SELECT 'v' || lpad(n::text, 11, '0'), 'a title', now() - n * interval '3 seconds' - interval '1 day',
        now() - n * interval '3 seconds',
        now() - CASE WHEN random() < {due} THEN interval '25 hours' ELSE interval '1 minute' END,
        n % 100 / 99, {lease}, {lease}, {lease}
    FROM {numbers}
    """,
)


@pytest.fixture(scope="module", params=["backlog", "crowded"])
def filled(
    request: pytest.FixtureRequest, postgres_server: Server, migrated_template: str
) -> Iterator[str]:
    """URL of a database where all is due and free, or where little is, among leases and quarantine."""
    backlog = request.param == "backlog"
    url = postgres_server.create(migrated_template)
    server = Server(url, "")
    for statement in _FILLS:
        server.execute(
            statement.format(
                rows=ROWS,
                numbers=_NUMBERS.format(rows=ROWS),
                terms=_NUMBERS.format(rows=MAX_TERMS),
                lease=_FREE if backlog else _LEASED,
                due=1 if backlog else 0.1,
            )
        )
    server.execute("ANALYZE")
    yield url
    postgres_server.drop(url)


@pytest.fixture
async def session(filled: str) -> AsyncIterator[AsyncSession]:
    """A transaction that is rolled back."""
    database = Database(filled)
    async with database.session() as session:
        yield session
        await session.rollback()
    await database.close()


def tree(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in tree(child))]


@pytest.mark.parametrize("kind", INDEXES)
async def test_a_claim_finds_its_batch_in_the_order_of_its_index(
    kind: str, session: AsyncSession
) -> None:
    statement = claim_statement(KINDS[kind].queue)
    values = {"limit": BATCH, "token": uuid4(), "since": None, "before": None}
    plan = await session.scalar(
        text(f"EXPLAIN (FORMAT JSON) {statement.text}"),
        {name: value for name, value in values.items() if f":{name}" in statement.text},
    )
    nodes = tree(plan[0]["Plan"])
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []
    (scan,) = [node for node in nodes if node.get("Index Name") == INDEXES[kind]]
    # with the time in the index, what is not due yet is never looked at
    assert kind == "hunt" or "Index Cond" in scan
    # the priority of counters depends on the time, and so no index has it
    sorts = [node for node in nodes if node["Node Type"].endswith("Sort")]
    assert kind == "retrack" or [node["Sort Key"] for node in sorts] == [["claimed.place"]]


# what the transaction read so far
_READ = text("SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = :table")

WORDS: dict[str, Callable[[Any, datetime], object]] = {
    "hunt": lambda key, now: SearchReport(key, "page 2", 50, SearchStatus.ACTIVE),
    "track": lambda key, now: Recorded(
        key, TrackingTier.DAILY, now + timedelta(days=1), now, 1, 1, 1, 0
    ),
    "retrack": lambda key, now: Sample(key, now, 1, 1, 1),
    "transcript": lambda key, now: key,
    "visuals": lambda key, now: key,
}


@pytest.mark.parametrize("kind", INDEXES)
async def test_work_reads_what_it_claims_and_not_the_table(
    kind: str, session: AsyncSession
) -> None:
    now = datetime.now(UTC)
    await Partitions(session).ensure({now}, 6)
    queue = KINDS[kind].queue
    leases = Leases(session, queue)
    claimed = 0
    for _ in range(CYCLES):
        token = uuid4()
        keys = [row[0] for row in await leases.claim(BATCH, token)]
        claimed += len(keys)
        assert await leases.renew(token, keys) == set(map(str, keys))
        await leases.lock(token, keys)
        done, failed = keys[::2], [Unfinished(str(key), Ending.FAIL) for key in keys[1::2]]
        reported = await KINDS[kind].record(session, token, [WORDS[kind](key, now) for key in done])
        assert reported == set(map(str, done))
        assert len(await leases.settle(token, failed)) == len(failed)
    assert claimed > 0
    scans, rows = (await session.execute(_READ, {"table": queue.table})).one()
    assert scans == 0
    # a claim, a renewal and two reports: each reads a row some times, and passes over some
    # (of counters that are due a thousand of each urgency are looked at, each by the index and by its id)
    assert rows < 20 * claimed + (6_000 * CYCLES if kind == "retrack" else 0)


async def test_reports_without_tokens_and_requeues_read_what_they_name(
    session: AsyncSession,
) -> None:
    ids = [f"v{n:011}" for n in range(1, BATCH + 1)]
    now = datetime.now(UTC)
    watchlist, videos = Watchlist(session), Videos(session)
    for _ in range(CYCLES):
        await watchlist.report([TrackingReport(key, TrackingTier.DAILY, now, now) for key in ids])
        assert await videos.sampled(ids, now) == set(ids)
        assert await videos.mark_work(ids[0], "transcript")
        await videos.requeue(ids)
        for kind, keys in {"hunt": range(1, BATCH), "track": ids, "retrack": ids}.items():
            await Leases(session, KINDS[kind].queue).requeue(keys)
    for table in ("search_queue", "watchlist", "videos"):
        scans, rows = (await session.execute(_READ, {"table": table})).one()
        assert (table, scans) == (table, 0)
        assert rows < 10 * CYCLES * BATCH
