"""What the measurements share: a scratch database, samples by the million, and a result."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from sqlalchemy import text

from atlas.db import Database
from atlas.db.administration.migrations import upgrade
from tests.support.servers import postgres


@dataclass(frozen=True, slots=True)
class Result:
    """A rate of Atlas beside another of the same run; ``goal`` is the least (or most) ratio wanted."""

    what: str
    atlas: float
    beside: str
    other: float
    unit: str = "rows/s"
    goal: float | None = None
    most: bool = False

    @property
    def ratio(self) -> float:
        return self.atlas / self.other

    def cells(self) -> tuple[str, ...]:
        met = self.goal is None or (
            self.ratio <= self.goal if self.most else self.ratio >= self.goal
        )
        sign = "<=" if self.most else ">="
        return (
            self.what,
            (
                f"{self.atlas:,.2f} {self.unit}"
                if self.atlas < 10
                else f"{self.atlas:,.0f} {self.unit}"
            ),
            f"{self.beside}: "
            + (f"{self.other:,.2f}" if self.other < 10 else f"{self.other:,.0f}"),
            f"{self.ratio:.2f}",
            "" if self.goal is None else f"{sign} {self.goal}",
            "" if self.goal is None else "met" if met else "NOT MET",
        )


def at_most(what: str, found: float, most: float, unit: str = "s") -> Result:
    """A figure that has a bound of its own, beside nothing."""
    return Result(what, found, "at most", most, unit, 1.0, most=True)


def part(values: list[float], share: float) -> float:
    """The value that so large a share of ``values`` does not pass."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Stopwatch:
    seconds = 0.0


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    begun = time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - begun


@contextlib.asynccontextmanager
async def scratch_database() -> AsyncIterator[Database]:
    """A migrated database of its own on the server that the tests use."""
    os.environ.setdefault("ENV", "test")
    with postgres.running() as server:
        url = server.create()
        database = Database(url)
        try:
            await upgrade(database)
            yield database
        finally:
            await database.close()
            server.drop(url)


async def fill_samples(
    database: Database, rows: int, videos: int = 50_000, days_ago: int = 10
) -> None:
    """``rows`` samples of one past UTC day, made by the server: growing counters, some unknown."""
    async with database.transaction() as session:
        await session.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        await session.execute(
            text("""
                INSERT INTO video_stats_log (video_id, timestamp, views, likes, comment_count)
                SELECT 'v' || lpad(to_hex(hashint4(video) & 2147483647), 10, '0') || (video % 10),
                       date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                           - make_interval(days => :days)
                           + round * interval '86400 s' / :rounds + (video % 997) * interval '137 ms',
                       (video * 31 + round * (video % 503))::bigint,
                       CASE WHEN video % 20 = 0 THEN NULL ELSE video + round * (video % 41) END,
                       round * (video % 7)
                FROM generate_series(0, :rounds - 1) round, generate_series(1, :videos) video
                ON CONFLICT DO NOTHING
                """),
            {"days": days_ago, "rounds": max(1, rows // videos), "videos": videos},
        )
