"""The schedule for ever: years of videos in the ring, the size of the database, and what its size costs.

What is real and what is not:

- Every entry of the ring is there: ``--videos`` ids a day for ``--years``, put in by `Ring.rewrite` in
  cohorts of their months, in slices of the positions. They do not come day by day: the first year month by
  month, then the years that are measured.
- Hot samples (110 MB), a week of `videos`, and a week of fast rows of the watchlist are loaded once. Their
  own growth is `retention`'s business.
- ``--days`` days are played at the end of the first year: new rows, rows that turn slow, tombstones, the
  janitor's parking and planning, and the calendar turned by the hour, all by Atlas's own code; what is woken
  is reported by a DELETE. VACUUM is called where autovacuum's rule asks for it.
- With ``--parts`` fewer than 56, only so many of 56 slices of the positions are filled, and the sizes of the
  ring are multiplied; days are not played, nor is measured what depends on the size (claims, adding, waking).
- Claims are measured beside a ring of 100,000 entries, in turns.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from atlas.db import Database
from atlas.repositories.ring.cohorts import ROUND, Cohorts, cohort_of
from atlas.repositories.ring.page import Entries
from atlas.repositories.ring.pages import Ring
from atlas.repositories.ring.positions import ids_of
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling.calendar import Calendar, intervals
from atlas.types import TrackingTier
from benchmarks.support import Result, scratch_database, stopwatch
from benchmarks.workers import claiming

_LIMIT = 500_000_000
_DAY = timedelta(days=1)
#: Slices of the positions that are loaded in a transaction each.
_SLICES = 56
#: Years at whose end the database is measured, after the months of the first one.
_YEARS = (1, 2, 3, 5, 7, 10)
_HOT_BYTES = 110_000_000
_SAMPLE_BYTES = 129
#: Days in which a video is a row, and those that its row of `videos` lives.
_FAST_DAYS, _VIDEO_DAYS = 8, 8
#: Ids that are added, of which a fifth is known.
_ADDED = 5_000

_FAST_ROWS = """
    INSERT INTO watchlist (video_id, tracking_tier, published_at, last_tracked_at, next_track_at)
    SELECT id, 'DAILY', at, at + interval '12 hours', at + interval '36 hours'
    FROM unnest($1::text[]) id, CAST($2 AS timestamptz) at
"""
#: A week after publication a row is slow, and the janitor has removed the video.
_TURN_SLOW = """
    WITH slow AS (
        UPDATE watchlist
        SET tracking_tier = 'WEEKLY', last_tracked_at = at, next_track_at = at + interval '7 days'
        FROM CAST($1 AS timestamptz) at
        WHERE tracking_tier = 'DAILY' AND published_at <= at - interval '7 days'
        RETURNING video_id
    )
    INSERT INTO video_tombstones (video_id) SELECT video_id FROM slow ON CONFLICT DO NOTHING
"""
_VIDEOS = """
    INSERT INTO videos (id, title, published_at, duration, tags, category_id, default_language,
                        wiki_topics, has_transcript, has_visuals, status)
    SELECT 'bench-' || n, 'A title of ordinary length, ' || md5(n::text), now(), 600,
           ARRAY[left(md5(n::text), 6), 'music', 'live', right(md5(n::text), 9), 'official video'], '10',
           'en', ARRAY['https://en.wikipedia.org/wiki/Music'], true, true, 'DONE'
    FROM generate_series(1, $1) n
"""
_TO_VACUUM = """
    SELECT c.relname FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE s.n_dead_tup > 50 + 0.2 * greatest(c.reltuples, 0)
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is loaded and played. ``plots`` is a folder for the plot."""

    years: int = 10
    videos_a_day: int = 20_000
    days: int = 20
    parts: int = _SLICES
    budget: int = 700_000
    plots: Path | None = None


@dataclass(slots=True)
class Curve:
    """Bytes by days since the first video."""

    days: list[float] = field(default_factory=list)
    database: list[int] = field(default_factory=list)
    ring: list[int] = field(default_factory=list)


class World:
    """A database that fills over the years."""

    def __init__(self, database: Database, connection: asyncpg.Connection, load: Load) -> None:
        self.database, self.connection, self.load = database, connection, load
        self.now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self.months = 0
        self.added = 0
        self.curve = Curve()

    async def load_constants(self) -> None:
        """What is there from the first week on, and does not grow."""
        videos = self.load.videos_a_day
        await self.connection.execute(_VIDEOS, videos * _VIDEO_DAYS)
        await self._hot_samples()
        for day in range(_FAST_DAYS):
            ids = ids_of(self._positions(f"fast {day}", videos, 0, ROUND - 1))
            await self.connection.execute(_FAST_ROWS, ids, self.now - day * _DAY)

    async def _hot_samples(self) -> None:
        day = self.now.replace(hour=0)
        await self.connection.execute("CREATE TABLE bench_hot (LIKE video_stats_log INCLUDING ALL)")
        await self.connection.execute(
            "ALTER TABLE video_stats_log ATTACH PARTITION bench_hot FOR VALUES "
            f"FROM ('{day - 30 * _DAY}') TO ('{day - 29 * _DAY}')"
        )
        await self.connection.execute(
            "INSERT INTO bench_hot (video_id, timestamp, views, likes, comment_count) "
            "SELECT lpad(n::text, 11, '0'), CAST($1 AS timestamptz) + n * interval '1 microsecond', "
            "n, n, n FROM generate_series(1, CAST($2 AS bigint)) n",
            day - 30 * _DAY,
            _HOT_BYTES // _SAMPLE_BYTES,
        )

    def _positions(self, name: str, count: int, first: int, last: int) -> Any:
        seed = [ord(letter) for letter in name] + [first % 2**32, first >> 32]
        random = np.random.default_rng(seed)
        return random.integers(first, last, count, np.uint64, endpoint=True)

    async def load_months(self, months: int) -> None:
        """Put the videos of the next months into the ring, as they would be at the end of them."""
        first, self.months = self.months, self.months + months
        a_month = self.load.videos_a_day * 365 // 12
        began = self.now - 365 * self.load.years * _DAY
        numbers = cohort_of(TrackingTier.WEEKLY, began, began) + np.arange(first, self.months)
        for part in range(self.load.parts):
            low, high = (ROUND * edge // _SLICES for edge in (part, part + 1))
            count = a_month * months // _SLICES
            positions = self._positions(f"months {first}", count, low, high - 1)
            new = Entries.of(positions, np.repeat(numbers, -(-count // months))[:count])
            # a transaction of parking packs a 28th of the ring anew, and a VACUUM follows
            pieces = max(1, 28 // self.load.parts)
            edges = [low + (high - low) * piece // pieces for piece in range(pieces + 1)]
            for start, stop in pairwise(edges):
                await self._merge(start, stop - 1, new.between(start, stop - 1))
                await self.connection.execute("VACUUM watchlist_ring")
        await self.connection.execute("VACUUM watchlist_ring")
        await self.look(first_day=self.months * 365 / 12)

    async def _merge(self, low: int, high: int, new: Entries) -> None:
        async with self.database.transaction() as session:
            await Ring(session).rewrite(
                low, high, lambda lower, upper, old: old.merged(new.between(lower, upper))
            )
            cohorts, counts = np.unique(new.cohorts, return_counts=True)
            await Cohorts(session).count(dict(zip(cohorts.tolist(), counts.tolist(), strict=True)))

    async def play(self, days: int) -> None:
        """Days by Atlas's own code, the calendar by the hour."""
        calendar = Calendar(self.database)
        begun = self.curve.days[-1]
        await self.connection.execute("UPDATE watchlist_cohorts SET turned_at = $1", self.now)
        await calendar.plan(self.now)
        for day in range(1, days + 1):
            now = self.now + day * _DAY
            new = ids_of(self._positions(f"day {day}", self.load.videos_a_day, 0, ROUND - 1))
            await self.connection.execute(_FAST_ROWS, new, now)
            await self.connection.execute(_TURN_SLOW, now)
            woken = 0
            for hour in range(24):
                woken += await calendar.turn(now + timedelta(hours=hour))
                await self.connection.execute("DELETE FROM watchlist WHERE woken_at > '-infinity'")
            parked = await calendar.park(now + timedelta(hours=23))
            await calendar.plan(now + timedelta(hours=23))
            await self._vacuum()
            await self.look(first_day=begun + day)
            _tell(f"day {day}: {woken:,} woken, {parked.videos:,} + {parked.collected:,} parked")

    async def _vacuum(self) -> None:
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        for row in await self.connection.fetch(_TO_VACUUM):
            await self.connection.execute(f"VACUUM {row['relname']}")

    async def look(self, first_day: float) -> None:
        """Note the sizes."""
        fetch = self.connection.fetchval
        ring = await fetch("SELECT pg_total_relation_size('watchlist_ring')")
        whole = await fetch("SELECT pg_database_size(current_database())")
        entries = await self.entries()
        # what the slices that are not filled would take
        missing = ring * (_SLICES - self.load.parts) // self.load.parts
        self.curve.days.append(first_day)
        self.curve.database.append(whole + missing)
        self.curve.ring.append(ring + missing)
        _tell(
            f"day {first_day:,.0f}: {entries:,} entries, ring {self.curve.ring[-1] / 1e6:.1f} MB "
            f"({self.curve.ring[-1] / entries:.2f} B each), database {self.curve.database[-1] / 1e6:.1f} MB"
        )

    async def entries(self) -> int:
        """Of the ring, in all slices."""
        found = await self.connection.fetchval("SELECT sum(entries)::bigint FROM watchlist_ring")
        return int(found) * _SLICES // self.load.parts

    async def add_rate(self) -> float:
        """Ids a second of `Watchlist.add`, a fifth of them known, least busy of three."""
        best = 0.0
        for _ in range(3):
            self.added += 1
            new = ids_of(self._positions(f"added {self.added}", _ADDED * 4 // 5, 0, ROUND - 1))
            async with self.database.transaction(read_only=True) as session:
                low = ROUND // 7 * self.added
                known = ids_of((await Ring(session).between(low, low + ROUND // 200)).positions)
            known = known[: _ADDED // 5]
            entries = [NewEntry(one) for one in [*new, *known]]
            with stopwatch() as watch:
                async with self.database.transaction() as session:
                    added = await Watchlist(session).add(entries)
            assert added == len(new), (added, len(new), len(known))
            best = max(best, len(entries) / watch.seconds)
        await self.connection.execute("DELETE FROM watchlist WHERE tracking_tier = 'HOURLY'")
        return best

    async def wake_seconds(self) -> tuple[float, int]:
        """Seconds in which a day's share of the budget is woken, hour by hour; and how many."""
        calendar = Calendar(self.database)
        start = self.now + 400 * _DAY
        await self.connection.execute("UPDATE watchlist_cohorts SET turned_at = $1", start)
        await self._plan_for(self.load.budget // 7)
        woken, seconds = 0, 0.0
        for hour in range(1, 25):
            begun = time.perf_counter()
            woken += await calendar.turn(start + timedelta(hours=hour))
            seconds += time.perf_counter() - begun
            await self.connection.execute("DELETE FROM watchlist WHERE woken_at > '-infinity'")
        return seconds, woken

    async def _plan_for(self, samples: int) -> None:
        async with self.database.transaction() as session:
            cohorts = Cohorts(session)
            every = [one for one in await cohorts.all() if one.number > 1]
            ages = {one.number: max(one.age(self.now) / _DAY, 7.0) for one in every}
            await cohorts.stretch(intervals(every, ages, samples).items())


async def measure(database: Database, folder: Path, rows: int, load: Load) -> list[Result]:
    """Load and play the first year, load the others, and measure at the end of each."""
    connection = await asyncpg.connect(await database.libpq_url())
    results = []
    try:
        world = World(database, connection, load)
        await world.load_constants()
        for _ in range(12):
            await world.load_months(1)
        results += _sizes(world, "the first year")
        before = len(world.curve.days)
        is_whole = load.parts == _SLICES
        if load.days and is_whole:
            await world.play(load.days)
            grown = world.curve.ring[-1] - world.curve.ring[before]
            _tell(
                f"the ring grew by {grown / max(load.days - 1, 1) / 1e3:.0f} kB a day while days were played"
            )
        results += await _costs(world) if is_whole else []
        for before_year, year in pairwise(_YEARS):
            if year <= load.years:
                await world.load_months(12 * (year - before_year))
        if load.years > 1:
            results += _sizes(world, f"{load.years} years")
            results += await _costs(world) if is_whole else []
    finally:
        await connection.close()
    if load.plots is not None:
        draw(world.curve, load)
    return results


def _sizes(world: World, what: str) -> list[Result]:
    curve = world.curve
    largest = Result(
        f"database within {what}",
        max(curve.database) / 1e6,
        "0.5 GB",
        _LIMIT / 1e6,
        "MB",
        1,
        most=True,
    )
    after = next(at for at, day in enumerate(curve.days) if day >= 60)
    grown = (curve.database[-1] - curve.database[after]) / (curve.days[-1] - curve.days[after])
    growth = Result(
        f"growth after day 60 within {what}", grown / 1e3, "goal", 130, "kB a day", 1, most=True
    )
    full = curve.days[-1] + (_LIMIT - curve.database[-1]) / grown
    _tell(f"at this rate 0.5 GB is full after {full / 365:.1f} years")
    return [largest, growth]


async def _costs(world: World) -> list[Result]:
    entries = await world.entries()
    adds = await world.add_rate()
    seconds, woken = await world.wake_seconds()
    few, many = claiming.Pace(), claiming.Pace()
    async with scratch_database() as other:
        small = World(other, await asyncpg.connect(await other.libpq_url()), Load())
        try:
            await small._merge(
                0, ROUND - 1, Entries.of(small._positions("few", 100_000, 0, ROUND - 1), 250)
            )
            await world.connection.execute("UPDATE watchlist_cohorts SET turned_at = now()")
            await claiming.compare([(many, world.database), (few, other)])
        finally:
            await small.connection.close()
    what = f"{entries:,} entries"
    return [
        Result(f"add of {_ADDED:,}, {what}", adds, "goal", 5_000, "ids/s", 1),
        Result(f"a day's share of {woken:,} woken, {what}", seconds, "goal", 5, "s", 1, most=True),
        Result(f"claims, {what}", many.rate, "100,000 entries", few.rate, goal=0.9),
    ]


def draw(curve: Curve, load: Load) -> None:
    """The database and the ring against years."""
    # here, because it takes half a second to import and the other measurements do without
    from matplotlib.figure import Figure

    assert load.plots is not None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes: Any = figure.subplots()
    years = np.array(curve.days) / 365
    for values, label in (curve.database, "whole database"), (curve.ring, "watchlist_ring"):
        axes.plot(years, np.array(values) / 1e6, label=label, marker=".", linewidth=1)
    axes.axhline(_LIMIT / 1e6, label="0.5 GB", color="tab:gray", linestyle="--", linewidth=1)
    axes.set(
        xlabel="years",
        ylabel="MB",
        title=f"{load.videos_a_day:,} new videos a day, {_HOT_BYTES / 1e6:.0f} MB of hot samples",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend(loc="upper left", fontsize="small")
    load.plots.mkdir(parents=True, exist_ok=True)
    figure.savefig(load.plots / "forever.svg")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
