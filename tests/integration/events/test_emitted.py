"""What Atlas emits when agents and operators work: with the payload that the catalogue tells of."""

from __future__ import annotations

from pathlib import Path

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import Database
from atlas.events import bus_of
from atlas.events.catalogue import CATALOGUE
from atlas.janitor import Janitor
from atlas.scheduling import Work
from atlas.vault import LocalVault
from tests.support.sql import execute, fetch


async def test_each_change_is_told_once_with_the_fields_of_the_catalogue(
    database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    dao = MaiaDAO(database, vault)
    items = [
        {"id": name, "snippet": {"title": "t", "publishedAt": "2026-01-01T00:00:00Z"}}
        for name in ("v1", "v2")
    ]
    assert await dao.ingest_videos(items) == 2
    await dao.ingest_videos(items)  # not new: nothing to tell
    await dao.mark_video_transcript_safe("v1")
    await dao.mark_video_visuals_safe("v1")
    await dao.mark_video_done("v1")
    await dao.mark_video_failed("v2")
    await dao.mark_video_failed("nobody")
    await dao.requeue(["v2"])
    await dao.add_to_watchlist("w1")
    await dao.add_to_watchlist("w1")
    await execute(
        database,
        "UPDATE watchlist SET attempts = 1000, leased_until = now() - interval '1 minute', "
        "lease = gen_random_uuid()",
    )
    await dao.fetch_tracking_batch(10)
    await Work(database).requeue("retrack")
    await Janitor(database, vault).run()
    await Archiver(database, vault).forget(["v2"])
    await bus_of(database).endpoints.add("hook", "https://hook.example/")
    rows = await fetch(
        database, "SELECT event_type, entity_id, payload FROM system_events ORDER BY seq"
    )
    for row in rows:
        assert set(row["payload"]) <= set(CATALOGUE[row["event_type"]].fields), row
        assert (row["entity_id"] is not None) == bool(CATALOGUE[row["event_type"]].entity), row
    told = [(row["event_type"], row["entity_id"]) for row in rows if row["entity_id"] != "v2"]
    assert ("video.discovered", "v1") in told
    assert told.count(("video.discovered", "v1")) == 1
    assert ("video.done", "v1") in told
    assert ("watchlist.added", "w1") in told
    assert told.count(("watchlist.added", "w1")) == 1
    types = {name for name, _ in told}
    assert {"video.transcript_safe", "video.visuals_safe", "janitor.cycle_complete"} <= types
    assert {"archive.forgotten", "endpoint.added", "video.requeued"} <= types
