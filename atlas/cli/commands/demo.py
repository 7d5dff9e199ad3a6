"""``atlas demo``: the main job from end to end, over a simulated fortnight that ends now.

Agents ask the same queues through the same calls as in production; only the platform is simulated. A
video is sampled at the moment it was due: the watchlist itself is what drives the simulated clock.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from atlas.cli.output import answer, number, out, progress, run, size, table
from atlas.errors import ConfigurationError
from atlas.types import Progress

if TYPE_CHECKING:
    from atlas.adapters.maia import MaiaDAO
    from atlas.adapters.rows import TrackingRow
    from atlas.cli.simulator import Simulator
    from atlas.db import Database
    from atlas.vault import Vault

_DATABASE = "atlas_demo"
_SAMPLES_AT_ONCE = 500
_KEEP_HOT = timedelta(days=7)


@dataclass(slots=True)
class Summary:
    """What came of the demo."""

    videos: int = 0
    samples: int = 0
    rows_hot: int = 0
    rows_cold: int = 0
    bytes_hot: int = 0
    bytes_cold: int = 0
    slices: int = 0
    videos_cleaned: int = 0
    seconds: float = 0.0
    example: str = ""


def demo(
    videos: int = typer.Option(
        2_000, "--videos", min=1, max=200_000, help="Uploads in the fortnight."
    ),
    days: int = typer.Option(14, "--days", min=2, max=60, help="Days to simulate."),
    seed: int = typer.Option(7, "--seed", help="The same seed makes the same platform."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Simulate a fortnight of videos: discover, sample, archive, clean up, read back."""
    from atlas.config import get_settings

    if not get_settings().throwaway:
        raise ConfigurationError(
            "the demo makes and drops a database of its own, which ENV=prod does not allow",
            hint="run `make demo`, or `ENV=dev atlas demo`",
        )
    with progress("demo", quiet=json) as report_progress:
        summary, history = run(run_demo(videos, days, seed, report_progress))

    def show() -> None:
        from atlas.cli.commands.reading import show_history

        rows = [
            (
                "hot, in PostgreSQL",
                number(summary.rows_hot),
                size(summary.bytes_hot),
                _each(summary.bytes_hot, summary.rows_hot),
            ),
            (
                "cold, in Parquet",
                number(summary.rows_cold),
                size(summary.bytes_cold),
                _each(summary.bytes_cold, summary.rows_cold),
            ),
        ]
        title = (
            f"{number(summary.samples)} samples of {number(summary.videos)} videos in {days} days"
        )
        out.print(table(title, ("samples", ">rows", ">size", ">bytes a row"), rows))
        out.print(
            f"{summary.slices} slices archived, {number(summary.videos_cleaned)} finished videos moved to "
            f"the vault, {summary.seconds:.1f} s\n"
        )
        show_history(summary.example, history, 15)
        # as the reader started it: make does not put the program on the PATH
        program = "atlas" if shutil.which("atlas") else sys.argv[0]
        out.print(
            "\nTry next, on a database that is not made anew each time:\n"
            "  export ENV=dev\n"
            f"  {program} db upgrade\n"
            f"  {program} import YOUR.csv --date-format %Y-%m-%d\n"
            f"  {program} archive\n"
            f"  {program} status"
        )

    answer(asdict(summary) | {"history": history}, json, show)


async def run_demo(
    videos: int, days: int, seed: int, report_progress: Progress
) -> tuple[Summary, list[dict[str, Any]]]:
    """Run the demo on a database and in a vault folder of its own, both made anew."""
    from atlas.adapters.maia import MaiaDAO
    from atlas.cli.simulator import Simulator
    from atlas.config import get_settings
    from atlas.vault import LocalVault

    begun = time.monotonic()
    folder = get_settings().atlas_home / "demo-vault"
    shutil.rmtree(folder, ignore_errors=True)
    report_progress(0, days, "starting PostgreSQL")
    database = await _fresh_database()
    try:
        vault = LocalVault(folder)
        end = datetime.now(UTC)
        simulator = Simulator(seed, videos, end - timedelta(days=days), end)
        fortnight = _Fortnight(MaiaDAO(database, vault), simulator, Summary(videos=videos))
        await fortnight.live(days, report_progress)
        await fortnight.summarise(database, vault)
        fortnight.summary.seconds = time.monotonic() - begun
        return fortnight.summary, await fortnight.example(database, vault)
    finally:
        await database.close()


async def _fresh_database() -> Database:
    """An empty, migrated database beside the configured one."""
    from sqlalchemy import text
    from sqlalchemy.engine import make_url

    from atlas.db import Database, db
    from atlas.db.administration import migrations

    engine = await db.engine()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)"))
        await connection.execute(text(f"CREATE DATABASE {_DATABASE}"))
    await db.close()
    url = make_url(await db.libpq_url()).set(database=_DATABASE)
    database = Database(url.render_as_string(hide_password=False))
    await migrations.upgrade(database)
    return database


@dataclass(slots=True)
class _Fortnight:
    """The agents of the platform, one after the other, day by day."""

    dao: MaiaDAO
    simulator: Simulator
    summary: Summary
    open_videos: dict[str, datetime] = field(default_factory=dict)

    async def live(self, days: int, report_progress: Progress) -> None:
        """Every day: hunt, sample what is due, and at night archive and clean up."""
        from atlas.cli.simulator import TOPICS

        await self.dao.add_to_search_queue(TOPICS)
        for day in range(days):
            dawn = self.simulator.start + timedelta(days=day)
            dusk = min(dawn + timedelta(days=1), self.simulator.end)
            report_progress(day, days, f"{dawn:%d %b}: hunting")
            await self._hunt(dawn, dusk)
            await self._sample_until(dusk, lambda what, day=day: report_progress(day, days, what))
            report_progress(day, days, f"{dawn:%d %b}: archiving")
            await self._finish_older_than(dusk - _KEEP_HOT)
            await self._archive(dusk - _KEEP_HOT)
        report_progress(days, days, "reading back")

    async def _hunt(self, since: datetime, until: datetime) -> None:
        from atlas.cli.simulator import TOPICS
        from atlas.repositories.watchlist import NewEntry, Watchlist

        for term in await self.dao.fetch_hunter_batch(len(TOPICS)):
            token: str | None = None
            while True:
                items, token = self.simulator.search(term["query_term"], since, until, token)
                await self.dao.ingest_videos(items)
                entries = [
                    NewEntry(item["id"]["videoId"], published_at=published, next_track_at=published)
                    for item in items
                    for published in [datetime.fromisoformat(item["snippet"]["publishedAt"])]
                ]
                async with self.dao.database.transaction() as session:
                    await Watchlist(session).add(entries)
                if token is None:
                    await self.dao.update_search_state(term["id"], None, len(items))
                    break

    async def _sample_until(self, dusk: datetime, report_progress: Any) -> None:
        """Trackers: claim what is due, earliest first, and sample each video as of when it was due."""
        while batch := await self.dao.fetch_tracking_batch(_SAMPLES_AT_ONCE):
            report_progress(
                f"{batch[0]['next_track_at']:%d %b %H:%M}: {self.summary.samples:,} samples"
            )
            await self._sample(batch)
            if batch[0]["next_track_at"] >= dusk:
                return

    async def _sample(self, batch: Sequence[TrackingRow]) -> None:
        stats, updates = [], []
        for entry in batch:
            due, video_id = entry["next_track_at"], entry["video_id"]
            for item in self.simulator.videos([video_id], due):
                shown = item["statistics"]
                stats.append(
                    {
                        "video_id": video_id,
                        "timestamp": due,
                        "views": shown.get("viewCount"),
                        "likes": shown.get("likeCount"),
                        "comment_count": shown.get("commentCount"),
                    }
                )
            updates.append(self._reschedule(video_id, due))
        await self.dao.log_video_stats_batch(stats)
        await self.dao.update_watchlist_schedule(updates)
        self.summary.samples += len(stats)

    def _reschedule(self, video_id: str, due: datetime) -> dict[str, Any]:
        from atlas.scheduling import AgePolicy

        schedule = AgePolicy().next(self.simulator.published_at(video_id), due)
        return {
            "video_id": video_id,
            "tracking_tier": schedule.tier,
            "last_tracked_at": due,
            "next_track_at": schedule.next_track_at,
        }

    async def _finish_older_than(self, moment: datetime) -> None:
        """Scribes and painters: finish what was discovered long enough ago on the simulated clock."""
        batch = await self.dao.fetch_scribe_batch(10_000)
        self.open_videos.update(
            (video["id"], born) for video in batch if (born := video["published_at"])
        )
        for video_id in [one for one, born in self.open_videos.items() if born < moment]:
            await self.dao.mark_video_transcript_safe(video_id)
            await self.dao.mark_video_visuals_safe(video_id)
            await self.dao.mark_video_done(video_id)
            del self.open_videos[video_id]

    async def _archive(self, moment: datetime) -> None:
        from atlas.archive import Archiver
        from atlas.janitor import Janitor

        report = await Archiver(self.dao.database, self.dao.vault).run(moment)
        self.summary.slices += report.slices
        # rows are as old as the demo by the database's clock: what is finished is old enough
        result = await Janitor(self.dao.database, self.dao.vault).run(retention_days=0)
        self.summary.videos_cleaned += result["deleted"]

    async def summarise(self, database: Database, vault: Vault) -> None:
        """Count both tiers."""
        from atlas.status import gather

        tiers = (await gather(database)).tiers
        self.summary.rows_hot, self.summary.bytes_hot = tiers.hot.rows, tiers.hot.bytes
        self.summary.rows_cold, self.summary.bytes_cold = tiers.cold.rows, tiers.cold.bytes

    async def example(self, database: Database, vault: Vault) -> list[dict[str, Any]]:
        """The history of the first video that was not deleted, read from both tiers."""
        from atlas.reader import StatsReader

        self.summary.example = next(
            one for one in self.simulator.ids if self.simulator.counters(one, self.simulator.end)
        )
        history = await StatsReader(database, vault).history(self.summary.example)
        rows: list[dict[str, Any]] = history.to_pylist()
        return rows


def _each(total: int, rows: int) -> str:
    return f"{total / rows:,.1f}" if rows else ""
