"""A program that uses what `atlas` exports; both type checkers must find nothing in it."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from atlas import (
    AlertChannel,
    AlertLevel,
    Archiver,
    AtlasError,
    Database,
    MaiaDAO,
    StatsReader,
    Work,
    __version__,
    db,
    events,
    notifier,
    settings,
    vault,
)
from atlas.adapters.maia_adaptive_scheduling import AdaptiveSchedulingMixin
from atlas.adapters.maia_ghost import GhostTrackingMixin
from atlas.adapters.rows import SampleInput, ScheduleUpdate
from atlas.db import db as the_same_db
from atlas.events import Event
from atlas.events import events as the_same_bus
from atlas.vault import vault as the_same_vault


@events.on("video.*")
async def handler(event: Event) -> None:
    video_id: str = event["video_id"]
    print(video_id, event.get("views", 0), event.entity_id)


async def main() -> None:
    await db.initialize()
    assert await db.health_check() and the_same_db is not None
    async with db.transaction(read_only=True) as session:
        await session.close()

    dao: AdaptiveSchedulingMixin | GhostTrackingMixin | MaiaDAO
    dao = MaiaDAO(Database(), vault)
    for term in await dao.fetch_hunter_batch():
        await dao.update_search_state(term["id"], term["next_page_token"], 5)
    samples: list[SampleInput] = [{"video_id": "VIDEO_123", "views": 10}]
    await dao.log_video_stats_batch(samples)
    updates: list[ScheduleUpdate] = []
    for due in await dao.fetch_tracking_batch(50):
        tier, moment = dao.calculate_next_track_time(datetime(2026, 1, 1, tzinfo=UTC))
        now = datetime.now(UTC)
        updates.append(
            {
                "video_id": due["video_id"],
                "tracking_tier": tier,
                "last_tracked_at": now,
                "next_track_at": moment,
            }
        )
    await dao.update_watchlist_schedule(updates)
    print((await dao.run_janitor(dry_run=True)).get("would_delete", 0))

    uri: str = vault.store_json("notes/a.json", {"a": 1})
    keys: list[str] = the_same_vault.list_files("notes/")
    vault.append_metrics([{"video_id": "VIDEO_123", "views": 1}], hour="10")
    table: pa.Table = await StatsReader().history("VIDEO_123")
    print(uri, keys, table.num_rows, (await Archiver().run()).rows, __version__)
    async with Work().claim("transcript", limit=10) as batch:
        for item in batch:
            item.done()

    await events.emit("video.discovered", {"video_id": "VIDEO_123"})
    await the_same_bus.drain()
    try:
        await notifier.send("title", "text", channel=AlertChannel.OPS, level=AlertLevel.SUCCESS)
    except AtlasError as error:
        print(error.hint)

    one: list[str] = settings.api_keys
    rings: dict[str, list[str]] = settings.KEY_RINGS
    days: int = settings.JANITOR_RETENTION_DAYS
    print(one, rings, days, settings.janitor_retention_days, settings.DATABASE_URL)
