"""Days of collecting in minutes: how the hot tier and the whole database grow under HOT_MAX_BYTES.

Every simulated hour the videos of that hour come in, those due by `AgePolicy` are sampled through
`record_samples`, and the archiver runs; once a simulated day the janitor does. Two things are not as in
service, because a simulated day lasts seconds: the schedule and the facts of finished videos are written
by set-based SQL of the benchmark's own, and VACUUM is called where autovacuum's own rule asks for it (its
naptime is a minute, here hours of simulated time).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pyarrow as pa

from atlas.archive import Archiver
from atlas.archive.budget import hot_tier
from atlas.cli.simulator import Simulator
from atlas.config import get_settings, reset_settings
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import COLUMNS, StatsReader
from atlas.scheduling import AgePolicy
from atlas.tables.fingerprint import Fingerprint
from atlas.types import Sample
from atlas.vault import LocalVault
from benchmarks.support import Result, stopwatch

#: What the smallest plans of managed PostgreSQL give.
DATABASE_LIMIT = 500_000_000

_HOUR = timedelta(hours=1)
#: Days after which samples are archived and finished videos removed; the settings' default.
_RETENTION = timedelta(days=7)
#: A video's transcript and visuals are ready so many hours after it was found.
_WORK_HOURS = 6
#: Tables whose rows are changed or deleted, so that space in them has to be found again.
_VACUUMED = ("watchlist", "videos", "video_tombstones", "archive_files", "archive_control")
_MEASURED = ("watchlist", "videos", "video_tombstones", "channels", "archive_files")

_NEW = """
    WITH new AS (SELECT * FROM unnest($1::text[], $2::timestamptz[]) AS n(id, at)),
    channel AS (
        INSERT INTO channels (id, title)
        SELECT DISTINCT 'UC' || right(md5(left(id, 2)), 22), 'The channel of ' || left(id, 2) FROM new
        ON CONFLICT (id) DO NOTHING
    ),
    listed AS (
        INSERT INTO watchlist (video_id, tracking_tier, published_at, next_track_at)
        SELECT id, 'HOURLY', at, at FROM new
    )
    INSERT INTO videos (id, channel_id, title, published_at, duration, tags, category_id,
                        default_language, wiki_topics, discovered_at)
    SELECT id, 'UC' || right(md5(left(id, 2)), 22), 'A title of ordinary length, ' || md5(id), at,
           600, ARRAY[left(md5(id), 6), 'music', 'live', right(md5(id), 9), 'official video'], '10',
           'en', ARRAY['https://en.wikipedia.org/wiki/Music'], at
    FROM new
"""
#: What is due in an hour, by the schedule itself; $1 to $3 are the policy.
_SAMPLED = """
    UPDATE watchlist w
    SET tracking_tier = p.tier, last_tracked_at = next_track_at, last_views = $6,
        next_track_at = next_track_at + p.next_in
    FROM unnest($1::interval[], $2::text[], $3::interval[]) AS p(age, tier, next_in)
    WHERE coalesce(leased_until, next_track_at) >= $4
      AND coalesce(leased_until, next_track_at) < $5
      AND next_track_at - published_at = p.age
"""
_DONE = (
    "UPDATE videos SET has_transcript = true WHERE id = ANY ($1::text[])",
    "UPDATE videos SET has_visuals = true WHERE id = ANY ($1::text[])",
    "UPDATE videos SET status = 'DONE' WHERE id = ANY ($1::text[])",
)
#: Autovacuum's rule with its default settings.
_TO_VACUUM = """
    SELECT c.relname FROM pg_class c JOIN pg_stat_user_tables s ON s.relid = c.oid
    WHERE s.n_dead_tup > 50 + 0.2 * greatest(c.reltuples, 0) AND c.relname = ANY ($1)
"""
_SIZES = """
    SELECT c.relname, pg_total_relation_size(c.oid) AS bytes FROM pg_class c
    WHERE c.relname = ANY ($1) AND c.relkind = 'r'
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is replayed. ``plot`` is the PNG to be; None draws nothing."""

    days: int = 30
    videos_a_day: int = 20_000
    hot_max_bytes: int = 200_000_000
    plot: Path | None = None


@dataclass(slots=True)
class Curve:
    """Bytes against simulated time: before and after every run of the archiver."""

    days: list[float] = field(default_factory=list)
    hot: list[int] = field(default_factory=list)
    database: list[int] = field(default_factory=list)
    cold: list[int] = field(default_factory=list)
    tables: list[dict[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stage:
    """An age at which a video is sampled, its tier then, and the time to its next sample."""

    age: timedelta
    tier: str
    next_in: timedelta


class Platform:
    """Videos by the hour, and which are due when."""

    def __init__(self, load: Load, start: datetime) -> None:
        videos = load.days * load.videos_a_day
        simulator = Simulator(7, videos, start, start + timedelta(days=load.days))
        self.start, self.ids, self.published = start, simulator.ids, simulator.published
        seconds = [(moment - start).total_seconds() for moment in self.published]
        self._edges = np.searchsorted(np.array(seconds), np.arange(load.days * 24 + 1) * 3600.0)
        self.stages = list(_stages(start, load.days))
        random = np.random.default_rng(11)
        self._total = random.lognormal(9.0, 2.0, videos)
        self._likes, self._comments = random.beta(2, 50, videos), random.beta(1.5, 300, videos)
        self._hidden = random.random(videos) < 0.05

    def new(self, hour: int) -> slice:
        """The videos that are published in an hour."""
        if hour < 0:
            return slice(0, 0)
        return slice(int(self._edges[hour]), int(self._edges[hour + 1]))

    def sampled(self, hour: int) -> tuple[pa.RecordBatch, list[Sample]]:
        """The samples of an hour, twice: for the fingerprint and for Atlas.

        Views grow towards a total; a twentieth of the videos hide their likes.
        """
        born = [(stage.age, self.new(hour - stage.age // _HOUR)) for stage in self.stages]
        places = np.concatenate([np.arange(part.start, part.stop) for _, part in born])
        days = np.repeat(
            [age / timedelta(days=1) for age, _ in born], [_length(p) for _, p in born]
        )
        views = (self._total[places] * (1 - np.exp(-((days / 2) ** 0.8)))).astype(np.int64)
        likes = (views * self._likes[places]).astype(np.int64)
        comments = (views * self._comments[places]).astype(np.int64)
        ids = [video_id for _, part in born for video_id in self.ids[part]]
        times = [at + age for age, part in born for at in self.published[part]]
        counters = [
            pa.array(views),
            pa.array(likes, mask=self._hidden[places]),
            pa.array(comments),
        ]
        batch = pa.record_batch(
            [pa.array(ids, pa.string()), pa.array(times, pa.timestamp("us", "UTC")), *counters],
            names=list(COLUMNS),
        )
        return batch, list(map(Sample, ids, times, *(column.to_pylist() for column in counters)))


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _stages(start: datetime, days: int) -> Iterator[Stage]:
    """What the default policy makes of a video in its first days."""
    policy, now = AgePolicy(), start
    while now < start + timedelta(days=days):
        schedule = policy.next(start, now)
        yield Stage(now - start, schedule.tier, schedule.next_track_at - now)
        now = schedule.next_track_at


class Replay:
    """One replay on an empty database."""

    def __init__(
        self, database: Database, vault: LocalVault, connection: asyncpg.Connection, load: Load
    ) -> None:
        self.database, self.vault, self.connection, self.load = database, vault, connection, load
        now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        self.start = now - timedelta(days=load.days)
        self.platform = Platform(load, self.start)
        self.written = Fingerprint(COLUMNS)
        self.deleted = 0
        self.curve = Curve()

    async def run(self) -> None:
        """All the hours."""
        archiver = Archiver(self.database, self.vault)
        for hour in range(self.load.days * 24):
            await self._collect(hour)
            await self._look(hour)
            now = self.start + (hour + 1) * _HOUR
            await archiver.run(now - _RETENTION)
            if (hour + 1) % 24 == 0:
                await self._janitor(now)
            await self._vacuum()
            await self._look(hour)
            self._tell(hour)

    async def _collect(self, hour: int) -> None:
        platform, new = self.platform, self.platform.new(hour)
        await self.connection.execute(_NEW, platform.ids[new], platform.published[new])
        batch, samples = platform.sampled(hour)
        self.written.update(batch)
        begun = self.start + hour * _HOUR
        stages = platform.stages
        _, report = await asyncio.gather(
            record_samples(self.database, samples),
            self.connection.execute(
                _SAMPLED,
                [stage.age for stage in stages],
                [stage.tier for stage in stages],
                [stage.next_in for stage in stages],
                begun,
                begun + _HOUR,
                hour,
            ),
        )
        # the schedule in the database asks for the same samples
        assert report == f"UPDATE {len(samples)}", (report, len(samples))
        finished = platform.ids[platform.new(hour - _WORK_HOURS)]
        for statement in _DONE:
            await self.connection.execute(statement, finished)

    async def _janitor(self, now: datetime) -> None:
        # its days count from the clock on the wall
        behind = round((datetime.now(UTC) - now) / timedelta(days=1))
        result = await Janitor(self.database, self.vault).run(
            retention_days=behind + _RETENTION.days
        )
        self.deleted += result["deleted"]

    async def _vacuum(self) -> None:
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        for row in await self.connection.fetch(_TO_VACUUM, _VACUUMED):
            await self.connection.execute(f"VACUUM {row['relname']}")

    async def _look(self, hour: int) -> None:
        async with self.database.transaction(read_only=True) as session:
            self.curve.hot.append((await hot_tier(session)).bytes)
        fetch = self.connection.fetchval
        self.curve.days.append((hour + 1) / 24)
        self.curve.database.append(await fetch("SELECT pg_database_size(current_database())"))
        self.curve.cold.append(
            await fetch(
                "SELECT coalesce(sum(byte_size), 0)::bigint FROM archive_files "
                "WHERE dataset = 'video_stats' AND state = 'live'"
            )
        )
        rows = await self.connection.fetch(_SIZES, _MEASURED)
        self.curve.tables.append({row["relname"]: row["bytes"] for row in rows})

    def _tell(self, hour: int) -> None:
        curve = self.curve
        text = (
            f"\rday {curve.days[-1]:5.1f}: {self.written.rows:,} samples, hot "
            f"{curve.hot[-1] / 1e6:.0f} MB, database {curve.database[-1] / 1e6:.0f} MB, "
            f"cold {curve.cold[-1] / 1e6:.0f} MB "
        )
        if sys.stderr.isatty() or (hour + 1) % 24 == 0:
            print(text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


async def measure(database: Database, folder: Path, rows: int, load: Load) -> list[Result]:
    """Replay, draw, and compare: the budget, the database's limit, and every sample's whereabouts."""
    connection = await asyncpg.connect(await database.libpq_url())
    try:
        with _budget(load.hot_max_bytes), stopwatch() as watch:
            replay = Replay(database, LocalVault(folder / "vault"), connection, load)
            await replay.run()
        seen = Fingerprint(COLUMNS)
        async for batch in StatsReader(database, replay.vault).scan():
            seen.update(batch)
        await _details(replay, watch.seconds)
    finally:
        await connection.close()
    if load.plot is not None:
        draw(replay.curve, load)
    written = replay.written
    same = (seen.rows, seen.value) == (written.rows, written.value)
    peak, widest = max(replay.curve.hot), max(replay.curve.database)
    name = f"retention, {load.days} days"
    budget, limit = load.hot_max_bytes / 1e6, DATABASE_LIMIT / 1e6
    return [
        Result(f"{name}, most hot", peak / 1e6, "HOT_MAX_BYTES", budget, "MB", 1, most=True),
        Result(f"{name}, largest database", widest / 1e6, "0.5 GB", limit, "MB", 1, most=True),
        Result(
            f"{name}, read back, each once", same * seen.rows, "written", written.rows, "rows", 1
        ),
    ]


async def _details(replay: Replay, seconds: float) -> None:
    """What docs/sizing.md is made of."""
    curve, fetch = replay.curve, replay.connection.fetchval

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    tell(
        f"\n{replay.written.rows:,} samples in {seconds:,.0f} s; {replay.deleted:,} videos removed"
    )
    for table in _MEASURED:
        sizes = [tables[table] for tables in curve.tables]
        count = await fetch(f"SELECT count(*) FROM {table}")
        tell(
            f"{table}: {count:,} rows, {sizes[-1] / 1e6:.1f} MB at the end "
            f"({sizes[-1] / max(1, count):.0f} B a row), {max(sizes) / 1e6:.1f} MB at most"
        )
    cold = await fetch(
        "SELECT coalesce(sum(row_count), 0)::bigint FROM archive_files "
        "WHERE dataset = 'video_stats' AND state = 'live'"
    )
    hot = await fetch("SELECT count(*) FROM video_stats_log")
    files = await fetch("SELECT count(*) FROM archive_files WHERE dataset = 'video_stats'")
    tell(f"hot: {hot:,} rows, {curve.hot[-1] / max(1, hot):.0f} B a row")
    tell(f"cold: {cold:,} rows in {files:,} files, {curve.cold[-1] / max(1, cold):.2f} B a row")
    named = [sum(tables.values()) for tables in curve.tables]
    other = [
        whole - hot - rest
        for whole, hot, rest in zip(curve.database, curve.hot, named, strict=True)
    ]
    tell(f"database but for stats and these tables: {max(other) / 1e6:.1f} MB at most")


def draw(curve: Curve, load: Load) -> None:
    """Hot bytes and database bytes against time, with their limits, as a PNG."""
    # here, because it takes half a second to import and the other measurements do without
    from matplotlib.figure import Figure

    assert load.plot is not None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes: Any = figure.subplots()
    for values, label, colour in (
        (curve.database, "whole database", "tab:blue"),
        (curve.hot, "hot samples", "tab:orange"),
        (curve.cold, "cold samples (in the vault)", "tab:gray"),
    ):
        axes.plot(curve.days, np.array(values) / 1e6, label=label, color=colour, linewidth=1)
    for limit, label, colour in (
        (DATABASE_LIMIT, "0.5 GB", "tab:blue"),
        (load.hot_max_bytes, f"HOT_MAX_BYTES = {load.hot_max_bytes / 1e6:.0f} MB", "tab:orange"),
    ):
        axes.axhline(limit / 1e6, label=label, color=colour, linestyle="--", linewidth=1)
    axes.set(
        xlabel="simulated days",
        ylabel="MB",
        title=f"{load.videos_a_day:,} new videos a day",
        xlim=(0, load.days),
        ylim=(0, None),
    )
    axes.legend(loc="upper left", fontsize="small")
    load.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(load.plot, dpi=110)


@contextmanager
def _budget(size: int) -> Iterator[None]:
    before = os.environ.get("HOT_MAX_BYTES")
    os.environ["HOT_MAX_BYTES"] = str(size)
    reset_settings()
    try:
        assert get_settings().hot_max_bytes == size
        yield
    finally:
        os.environ.pop("HOT_MAX_BYTES")
        if before is not None:
            os.environ["HOT_MAX_BYTES"] = before
        reset_settings()
