"""The examples of the platform's own page about Atlas, word for word, their dots filled in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atlas.config import reset_settings
from atlas.db import Database
from atlas.reader import StatsReader
from tests.support.sql import fetch

OLD = datetime.now(UTC) - timedelta(days=10)

video_data = {
    "id": "VIDEO_123",
    "snippet": {"title": "A video", "channelId": "UC123", "publishedAt": "2026-01-15T08:00:00Z"},
}
stats_list = [
    {"video_id": "VIDEO_123", "views": "1000", "timestamp": OLD},
    {"video_id": "VIDEO_123", "views": 1500, "likes": 20},
]


async def test_the_database_example_runs_and_archives(database: Database) -> None:
    from atlas.adapters.maia import MaiaDAO

    dao = MaiaDAO()

    # Video operations
    await dao.ingest_video_metadata(video_data)
    scribe_batch = await dao.fetch_scribe_batch(10)
    await dao.mark_video_done("VIDEO_123")

    # Adaptive Scheduling
    await dao.add_to_watchlist("VIDEO_123", tier="HOURLY")
    batch = await dao.fetch_tracking_batch(50)

    # Hot/Cold Storage
    await dao.log_video_stats_batch(stats_list)
    archived = await dao.archive_cold_stats(retention_days=7)

    assert [video["id"] for video in scribe_batch] == ["VIDEO_123"]
    assert [video["video_id"] for video in batch] == ["VIDEO_123"]
    assert archived == 1
    assert await dao.archive_cold_stats() == 0
    assert await fetch(database, "SELECT status FROM videos") == [{"status": "DONE"}]
    assert len(await fetch(database, "SELECT video_id FROM video_stats_log")) == 1
    history = await StatsReader().history("VIDEO_123")
    assert history["views"].to_pylist() == [1000, 1500]
    assert await dao.run_janitor() == {"deleted": 0, "reason": "none_eligible"}
    await dao.database.close()


def test_the_vault_example_runs_and_reads_back() -> None:
    from atlas.vault import vault

    transcript_data = {"segments": [{"start": 0.0, "text": "hello"}]}

    # Store transcript
    vault.store_transcript("VIDEO_123", transcript_data)

    # Append metrics (hot/cold storage)
    metrics = [{"video_id": "V123", "views": 1000, "likes": 10, "comments": 1}]
    vault.append_metrics(metrics, date="2026-01-15")

    assert vault.fetch_transcript("VIDEO_123") == transcript_data
    (path,) = vault.list_files("metrics")
    assert path.startswith("metrics/date=2026-01-15/hour=")


async def test_the_key_example_runs_with_the_settings_of_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", '["key1","key2","key3"]')
    reset_settings()

    async def fetch_data(api_key: str) -> dict[str, str]:
        return {"fetched with": api_key}

    from atlas.utils import HydraExecutor, KeyRing

    # Initialize key ring
    keys = KeyRing("hunting")
    executor = HydraExecutor(keys, agent_name="hunter")

    # Execute with automatic rotation
    async def make_request(api_key: str) -> dict[str, str]:
        # Your API call here
        return await fetch_data(api_key)

    result = await executor.execute_async(make_request)

    assert result == {"fetched with": "key1"}
