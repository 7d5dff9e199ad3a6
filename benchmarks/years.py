"""A database that fills over the years, for `benchmarks.forever`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import numpy as np

from atlas.archive.export import schedule
from atlas.archive.export.schedule import move_schedule
from atlas.archive.jobs import begin_job
from atlas.config import get_settings, reset_settings
from atlas.db import Database
from atlas.reading.schedule import ScheduleReader
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.cohorts import ROUND, CohortReader, Cohorts, cohort_of
from atlas.repositories.ring.membership import Answers
from atlas.repositories.ring.page import DORMANT, KNOWN, Entries
from atlas.repositories.ring.pages import Ring
from atlas.repositories.ring.positions import ids_of, positions_of
from atlas.repositories.watchlist import NewEntry, Watchlist, WatchlistReader
from atlas.scheduling.calendar import Calendar
from atlas.scheduling.undecided import Undecided, until_decided
from atlas.types import TrackingTier
from atlas.vault import Vault
from benchmarks.support import stopwatch

_DAY = timedelta(days=1)
#: Slices of the positions that are loaded in a transaction each.
SLICES = 56
#: Of so many slow videos one is DORMANT.
_DORMANT_EACH = 10
HOT_BYTES = 100_000_000
_SAMPLE_BYTES = 129
#: Days in which a video is a row (until it is parked, on average), and those that its row of `videos` lives.
_FAST_DAYS, _VIDEO_DAYS = 11, 8
#: Days that ids of collected videos wait until they are parked, on average.
_TOMBSTONE_DAYS = 4
#: Ids that are added, of which a fifth is known.
ADDED = 5_000

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
_TOMBSTONES = """
    INSERT INTO video_tombstones (video_id)
    SELECT 'gone-' || lpad(n::text, 6, '0') FROM generate_series(1, $1) n
"""
_TO_VACUUM = """
    SELECT c.relname FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE s.n_dead_tup > 50 + 0.2 * greatest(c.reltuples, 0)
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is loaded and played. ``plots`` is a folder for the plot; ``slow`` are the samples a day that a
    budget leaves to slow videos while waking is measured."""

    years: int = 10
    videos_a_day: int = 20_000
    days: int = 20
    parts: int = SLICES
    slow: int = 100_000
    plots: Path | None = None


@dataclass(slots=True)
class Curve:
    """Bytes by days since the first video."""

    days: list[float] = field(default_factory=list)
    database: list[int] = field(default_factory=list)
    ring: list[int] = field(default_factory=list)
    filter: list[int] = field(default_factory=list)


class World:
    """A database that fills over the years."""

    def __init__(
        self, database: Database, connection: asyncpg.Connection, load: Load, vault: Vault
    ) -> None:
        self.database, self.connection, self.load = database, connection, load
        self.vault = vault
        self.now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self.months = 0
        self.added = 0
        self.curve = Curve()

    async def load_constants(self) -> None:
        """What is there from the first week on, and does not grow."""
        videos = self.load.videos_a_day
        await self.connection.execute(_VIDEOS, videos * _VIDEO_DAYS)
        # agents have marked them: such rows leave free space behind
        await self.connection.execute("UPDATE videos SET priority = 1")
        await self.connection.execute("VACUUM videos")
        await self._hot_samples()
        await self.connection.execute(_TOMBSTONES, videos * _TOMBSTONE_DAYS)
        for day in range(_FAST_DAYS):
            ids = ids_of(self.positions(f"fast {day}", videos, 0, ROUND - 1))
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
            HOT_BYTES // _SAMPLE_BYTES,
        )

    def positions(self, name: str, count: int, first: int, last: int) -> Any:
        """Positions in no order, the same for the same name."""
        seed = [ord(letter) for letter in name] + [first % 2**32, first >> 32]
        random = np.random.default_rng(seed)
        return random.integers(first, last, count, np.uint64, endpoint=True)

    async def load_months(self, months: int) -> None:
        """Put the videos of the next months into the ring, as they would be at the end of them."""
        first, self.months = self.months, self.months + months
        a_month = self.load.videos_a_day * 365 // 12
        numbers = self._first_cohort + np.arange(first, self.months)
        for part in range(self.load.parts):
            low, high = (ROUND * edge // SLICES for edge in (part, part + 1))
            count = a_month * months // SLICES
            positions = self.positions(f"months {first}", count, low, high - 1)
            cohorts = np.repeat(numbers, -(-count // months))[:count]
            cohorts[::_DORMANT_EACH] = DORMANT
            new = Entries.of(positions, cohorts)
            # a transaction of parking packs a 28th of the ring anew, and a VACUUM follows
            pieces = max(1, 28 // self.load.parts)
            edges = [low + (high - low) * piece // pieces for piece in range(pieces + 1)]
            for start, stop in pairwise(edges):
                await self.merge(start, stop - 1, new.between(start, stop - 1))
                await self.connection.execute("VACUUM watchlist_ring")
        await self.connection.execute("VACUUM watchlist_ring")
        await self.look(first_day=self.months * 365 / 12)

    @property
    def _first_cohort(self) -> int:
        began = self.now - 365 * self.load.years * _DAY
        return cohort_of(TrackingTier.WEEKLY, began, began)

    @property
    def _least(self) -> int:
        """Entries that are worth a file, in the slices that are filled."""
        return schedule.LEAST * self.load.parts // SLICES

    async def move_months(self) -> None:
        """Have the vault keep what was published long ago."""
        old = [
            DORMANT,
            *range(self._first_cohort, self._first_cohort + self.months - _months_in_ring()),
        ]
        async with self.database.transaction(read_only=True) as session:
            there = {
                one.number
                for one in await CohortReader(session).all()
                if one.in_ring > max(schedule.PART * one.in_files, self._least)
            }
        if old := [one for one in old if one in there]:
            begun = time.perf_counter()
            async with begin_job(self.database, self.vault.store) as steps:
                moved = await move_schedule(steps, old, least=1)
            tell(f"{moved:,} videos moved to the vault in {time.perf_counter() - begun:.1f} s")
            await self.look(first_day=self.months * 365 / 12)

    async def merge(self, low: int, high: int, new: Entries) -> None:
        """Put entries into a span of the ring."""
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
            new = ids_of(self.positions(f"day {day}", self.load.videos_a_day, 0, ROUND - 1))
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
            tell(f"day {day}: {woken:,} woken, {parked.videos:,} + {parked.collected:,} parked")

    async def check(self, days: int) -> None:
        """Every video of the days that were played is in the ring or a row, once."""
        names = [f"fast {day}" for day in range(_FAST_DAYS)]
        names += [f"day {day}" for day in range(1, days + 1)]
        added = [self.positions(name, self.load.videos_a_day, 0, ROUND - 1) for name in names]
        async with self.database.transaction(read_only=True) as session:
            runs = [run async for run in Ring(session).runs()]
        rows = await self.connection.fetch("SELECT video_id FROM watchlist")
        there = [run.positions[run.cohorts != KNOWN] for run in runs]
        there.append(positions_of([row["video_id"] for row in rows]))
        assert np.array_equal(np.sort(np.concatenate(there)), np.sort(np.concatenate(added)))
        tell(f"{sum(map(len, there)):,} videos, each there once")

    async def _vacuum(self) -> None:
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        for row in await self.connection.fetch(_TO_VACUUM):
            await self.connection.execute(f"VACUUM {row['relname']}")

    async def look(self, first_day: float) -> None:
        """Note the sizes."""
        fetch = self.connection.fetchval
        ring = await fetch("SELECT pg_total_relation_size('watchlist_ring')")
        filter_ = await fetch("SELECT pg_total_relation_size('watchlist_filter')")
        whole = await fetch("SELECT pg_database_size(current_database())")
        entries, pairs = await self.entries("watchlist_ring"), await self.entries(
            "watchlist_filter"
        )
        # what the slices that are not filled would take
        times = SLICES / self.load.parts
        self.curve.days.append(first_day)
        self.curve.database.append(int(whole + (ring + filter_) * (times - 1)))
        self.curve.ring.append(int(ring * times))
        self.curve.filter.append(int(filter_ * times))
        tell(
            f"day {first_day:,.0f}: {entries:,} entries in {ring * times / 1e6:.1f} MB "
            f"({ring * times / max(entries, 1):.2f} B each), {pairs:,} in the vault with "
            f"{filter_ * times / 1e6:.1f} MB of filter ({filter_ * times / max(pairs, 1):.2f} B each), "
            f"database {self.curve.database[-1] / 1e6:.1f} MB"
        )

    async def entries(self, table: str) -> int:
        """Of ring or filter, in all slices."""
        found = await self.connection.fetchval(f"SELECT sum(entries)::bigint FROM {table}")
        return int(found) * SLICES // self.load.parts

    async def add_rate(self) -> float:
        """Ids a second of adding them, a fifth of them known, half of these by files; least busy of three."""
        best = 0.0
        for _ in range(3):
            self.added += 1
            new = ids_of(self.positions(f"added {self.added}", ADDED * 4 // 5, 0, ROUND - 1))
            async with self.database.transaction(read_only=True) as session:
                low = ROUND // 7 * self.added
                known = ids_of((await Ring(session).between(low, low + ROUND // 200)).positions)
            known = known[: ADDED // 10] + await self._in_files()
            entries = [NewEntry(one) for one in [*new, *known[: ADDED // 5]]]
            with stopwatch() as watch:
                added = await self._add(entries)
            assert added == len(new), (added, len(new), len(known))
            best = max(best, len(entries) / watch.seconds)
        await self.connection.execute("DELETE FROM watchlist WHERE tracking_tier = 'HOURLY'")
        return best

    async def _add(self, entries: Sequence[NewEntry]) -> int:
        """As an agent does; returns how many came in."""
        added = 0

        async def add(only: Collection[str] | None, answers: Answers | None) -> Undecided:
            nonlocal added
            async with self.database.transaction() as session:
                watchlist = Watchlist(session, answers)
                added += await watchlist.add(
                    one for one in entries if only is None or one.video_id in only
                )
                return watchlist.undecided

        await until_decided(self.database, lambda: self.vault.store, add)
        return added

    async def _in_files(self) -> list[str]:
        """Ids of old videos, from all over the positions."""
        async with self.database.transaction(read_only=True) as session:
            files = await ScheduleFiles(session).live()
        reader, ids = ScheduleReader(self.vault.store), list[str]()
        for number, file in enumerate(files):
            start = ROUND // len(files) * number
            ids += ids_of(
                reader.between(file, start, min(start + ROUND // 50, ROUND - 1)).positions[:100]
            )
        return ids[self.added :: 3][: ADDED // 10]

    async def wake_seconds(self) -> tuple[float, int]:
        """Seconds in which a day's share of a budget is woken, hour by hour; and how many."""
        calendar = Calendar(self.database, lambda: self.vault.store)
        start = self.now + 400 * _DAY
        await self.connection.execute("UPDATE watchlist_cohorts SET turned_at = $1", start)
        async with self.database.transaction(read_only=True) as session:
            budget = round(await WatchlistReader(session).samples_a_day()) + self.load.slow
        with patch.dict(os.environ, TRACKING_SAMPLES_PER_DAY=str(budget)):
            reset_settings()
            await calendar.plan(start)
        reset_settings()
        woken, seconds = 0, 0.0
        for hour in range(1, 25):
            begun = time.perf_counter()
            woken += await calendar.turn(start + timedelta(hours=hour))
            seconds += time.perf_counter() - begun
            await self.connection.execute("DELETE FROM watchlist WHERE woken_at > '-infinity'")
        return seconds, woken


def _months_in_ring() -> int:
    return get_settings().watchlist_vault_months


def tell(text: str) -> None:
    """To the person who waits."""
    print(text, file=sys.stderr, flush=True)
