"""Claim and reschedule the watchlist: through `Work`, the same SQL through AsyncSession, and bare asyncpg.

Beside them two job queues with as much no-op work, and the same claims while an old snapshot is held.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from sqlalchemy import TextClause, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.compiler import SQLCompiler

from atlas.db import Database
from atlas.repositories.leases import claim_statement
from atlas.repositories.watchlist import _RECORD, TRACK
from atlas.scheduling import AgePolicy, Observation, Work
from atlas.types import TrackingTier
from benchmarks.support import Result, scratch_database, stopwatch
from benchmarks.workers import queues

_BATCH = 50
#: Cycles of each measurement, shared by its workers.
_CYCLES = 400
#: Cycles before: code is warm, each connection has its plans, and `Work` knows where the queue's head is.
_WARM_UP = 256
#: What is compared takes turns for so many measurements: a checkpoint or a neighbour hits each of them alike.
_ROUNDS = 3
_JOBS = 10_000
#: Cycles while a snapshot is held: as many as a busy collector has in some minutes.
_HELD_CYCLES = 6_000

#: One cycle: claim a batch and report it; gives the seconds that the claim took, and the rows: now and then
#: fewer than asked for, where another worker was quicker.
Cycle = Callable[[], Awaitable[tuple[float, int]]]


@dataclass(slots=True)
class Pace:
    """What measurements of one way found."""

    rows: int = 0
    seconds: float = 0.0
    claims: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds

    @property
    def p99(self) -> float:
        """The 99th percentile of a claim, in milliseconds."""
        return sorted(self.claims)[len(self.claims) * 99 // 100] * 1000


async def measure(
    database: Database, folder: Path, rows: int, entries: Sequence[int] = (100_000, 1_000_000)
) -> list[Result]:
    # a full collection of all that the benchmarks import takes 70 ms, which would be every 99th percentile
    gc.collect()
    gc.freeze()
    results = []
    for count in entries:
        for workers in (1, 8, 32):
            ours, session, bare = await _three_ways(database, count, workers)
            what = f"claims, {count:,} rows, {workers} workers"
            results += [
                Result(what, ours.rate, "AsyncSession", session.rate, goal=0.9),
                Result(what, ours.rate, "bare asyncpg", bare.rate),
            ]
            if workers == 8:
                results.append(
                    Result(f"{what}, p99", ours.p99, "bare asyncpg", bare.p99, "ms", 1.5, most=True)
                )
    if len(entries) > 1:
        results.append(await _two_sizes(database, min(entries), max(entries)))
    results += await _beside_queues()
    return [*results, *await measure_bloat(database)]


async def measure_bloat(database: Database) -> list[Result]:
    """The rate of claims while another transaction holds its snapshot, beside the rate without."""
    free, held = Pace(), Pace()
    await _fill(database, 400_000)
    async with _cycle_of_work(database, 8) as cycle:
        await _measure(free, cycle, 8, _HELD_CYCLES)
    await _fill(database, 400_000)
    async with _cycle_of_work(database, 8) as cycle, _snapshot_held(database):
        await _measure(held, cycle, 8, _HELD_CYCLES)
    what = f"claims, a snapshot held for {_HELD_CYCLES * _BATCH:,} rows"
    return [Result(what, held.rate, "without", free.rate, goal=0.5)]


async def _three_ways(database: Database, entries: int, workers: int) -> tuple[Pace, Pace, Pace]:
    paces = Pace(), Pace(), Pace()
    ways = _cycle_of_work, _cycle_of_session, _cycle_of_asyncpg
    for _ in range(_ROUNDS):
        for pace, way in zip(paces, ways, strict=True):
            await _fill(database, entries)
            async with way(database, workers) as cycle:
                await _measure(pace, cycle, workers, _CYCLES)
    return paces


async def _two_sizes(database: Database, least: int, most: int) -> Result:
    """The 99th percentile of a claim by 8 workers on two watchlists, in turn."""
    small, large = Pace(), Pace()
    async with scratch_database() as other:
        for _ in range(_ROUNDS):
            for pace, of, entries in (large, database, most), (small, other, least):
                await _fill(of, entries)
                async with _cycle_of_work(of, 8) as cycle:
                    await _measure(pace, cycle, 8, _CYCLES)
    what = f"p99 of a claim, {most:,} rows, 8 workers"
    return Result(what, large.p99, f"{least:,} rows", small.p99, "ms", 1.5, most=True)


async def compare(paces: Sequence[tuple[Pace, Database]]) -> None:
    """Claims by 8 workers on watchlists of as many rows in several databases, in turn."""
    for _ in range(_ROUNDS):
        for pace, of in paces:
            await _fill(of, 100_000)
            async with _cycle_of_work(of, 8) as cycle:
                await _measure(pace, cycle, 8, _CYCLES)


async def rate_of_work(database: Database, workers: int) -> float:
    """Rows that workers claim and report in a second, on a watchlist of 100,000."""
    pace = Pace()
    await _fill(database, 100_000)
    async with _cycle_of_work(database, workers) as cycle:
        await _measure(pace, cycle, workers, _CYCLES)
    return pace.rate


async def _measure(pace: Pace, cycle: Cycle, workers: int, cycles: int) -> None:
    async def run(cycles: int, into: Pace) -> None:
        left = cycles

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                seconds, rows = await cycle()
                into.claims.append(seconds)
                into.rows += rows

        await asyncio.gather(*(worker() for _ in range(workers)))

    await run(_WARM_UP, Pace())
    with stopwatch() as watch:
        await run(cycles, pace)
    pace.seconds += watch.seconds


@asynccontextmanager
async def _cycle_of_work(database: Database, workers: int) -> AsyncIterator[Cycle]:
    async def cycle() -> tuple[float, int]:
        begun = time.perf_counter()
        async with work.claim("track", _BATCH) as batch:
            seconds = time.perf_counter() - begun
            assert len(batch)
            for item in batch:
                item.done(views=1)
        return seconds, len(batch)

    async with _pooled(database, workers) as pooled:
        work = Work(pooled)
        yield cycle


@asynccontextmanager
async def _pooled(database: Database, workers: int) -> AsyncIterator[Database]:
    """The same database with a connection for each worker."""
    pooled = Database(await database.libpq_url(), pool_size=workers)
    try:
        yield pooled
    finally:
        await pooled.close()


@asynccontextmanager
async def _cycle_of_session(database: Database, workers: int) -> AsyncIterator[Cycle]:
    statement = claim_statement(TRACK)

    async def cycle() -> tuple[float, int]:
        token = uuid.uuid4()
        begun = time.perf_counter()
        async with pooled.transaction() as session:
            rows = (
                await session.execute(
                    statement, {"limit": _BATCH, "token": token, "since": None, "before": None}
                )
            ).all()
        seconds = time.perf_counter() - begun
        assert rows
        async with pooled.transaction() as session:
            values = {"token": token, "reports": _reports(rows)}
            assert len((await session.execute(_RECORD, values)).all()) == len(rows)
        return seconds, len(rows)

    async with _pooled(database, workers) as pooled:
        yield cycle


@asynccontextmanager
async def _cycle_of_asyncpg(database: Database, workers: int) -> AsyncIterator[Cycle]:
    claim, record = (_positional(statement) for statement in (claim_statement(TRACK), _RECORD))
    async with asyncpg.create_pool(
        await database.libpq_url(), min_size=workers, max_size=workers
    ) as pool:

        async def cycle() -> tuple[float, int]:
            token = uuid.uuid4()
            begun = time.perf_counter()
            rows = await pool.fetch(
                claim,
                *_in_order(
                    claim_statement(TRACK), limit=_BATCH, token=token, since=None, before=None
                ),
            )
            seconds = time.perf_counter() - begun
            assert rows
            values = _in_order(_RECORD, token=token, reports=_reports(rows))
            assert len(await pool.fetch(record, *values)) == len(rows)
            return seconds, len(rows)

        yield cycle


def _positional(statement: TextClause) -> str:
    return str(_compiled(statement))


def _in_order(statement: TextClause, **values: object) -> list[object]:
    return [values[name] for name in _compiled(statement).positiontup or ()]


@functools.cache
def _compiled(statement: TextClause) -> SQLCompiler:
    compiled = statement.compile(dialect=postgresql.asyncpg.dialect())
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _reports(rows: Sequence[asyncpg.Record]) -> str:
    """What a worker says after sampling, by the same policy."""
    policy = AgePolicy()
    reports = []
    for video_id, tier, last, _, published, views, *_, now in (row[:10] for row in rows):
        seen = Observation(video_id, published, TrackingTier(tier), now, 1, last, views)
        schedule = policy.schedule(seen)
        reports.append(
            {
                "video_id": video_id,
                "tracking_tier": schedule.tier,
                "next_track_at": schedule.next_track_at.isoformat(),
                "timestamp": now.isoformat(),
                "views": 1,
                "omissions": 0,
            }
        )
    return json.dumps(reports)


async def _beside_queues() -> list[Result]:
    """No-op work by 8 workers in batches of 50, each queue in a database of its own."""
    workers = 8
    ours = Pace()
    async with scratch_database() as database:
        await _fill(database, 100_000)
        async with _cycle_of_work(database, workers) as cycle:
            await _measure(ours, cycle, workers, _CYCLES)
    results = []
    for name, drain in (
        ("pgqueuer", queues.drain_pgqueuer),
        ("procrastinate", queues.drain_procrastinate),
    ):
        async with scratch_database() as database:
            watch = await drain(database, _JOBS, workers, _BATCH)
        results.append(
            Result("claims, 8 workers", ours.rate, name, _JOBS / watch.seconds, goal=1.0)
        )
    return results


@asynccontextmanager
async def _snapshot_held(database: Database) -> AsyncIterator[None]:
    connection = await asyncpg.connect(await database.libpq_url())
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.fetchval("SELECT count(*) FROM channels")
            yield
    finally:
        await connection.close()


async def _fill(database: Database, entries: int) -> None:
    """A watchlist of which all is due, vacuumed; a large one is filled once and has enough for all."""
    async with database.transaction() as session:
        last = await session.scalar(text("SELECT max(video_id) FROM watchlist"))
        if last == f"vid{entries:08}" and entries > 500_000:
            return
        await session.execute(text("TRUNCATE watchlist, video_stats_log"))
        await session.execute(
            text(
                "INSERT INTO watchlist (video_id, tracking_tier, next_track_at) "
                "SELECT 'vid' || lpad(n::text, 8, '0'), 'DAILY', "
                "now() - interval '1 hour' - n * interval '1 millisecond' "
                "FROM generate_series(1, :entries) n"
            ),
            {"entries": entries},
        )
    connection = await asyncpg.connect(await database.libpq_url())
    try:
        await connection.execute("VACUUM ANALYZE watchlist")
        # else the one of the filling falls into whichever measurement comes next
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
