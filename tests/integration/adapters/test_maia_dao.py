"""`MaiaDAO` as agents call it: every method, its keys, and what it does with bad input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import event
from sqlalchemy.engine import Engine

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.maia_ghost import GhostTrackingMixin
from atlas.db import Database
from atlas.errors import AtlasError, DatabaseUnavailable, InvalidInput, NotFound
from atlas.vault import LocalVault
from tests.support.sql import execute, fetch, scalar

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
STATS = (
    "SELECT video_id, timestamp, views, likes, comment_count FROM video_stats_log "
    "ORDER BY video_id, timestamp"
)


@pytest.fixture
def dao(database: Database) -> MaiaDAO:
    return MaiaDAO(database)


def item(video_id: str = "v", **snippet: object) -> dict[str, Any]:
    facts = {"title": "A title", "channelId": "c", "channelTitle": "A channel"}
    return {
        "id": {"videoId": video_id},
        "snippet": {**facts, "publishedAt": "2026-01-15T12:00:00Z", **snippet},
    }


async def videos(database: Database) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in await fetch(database, "SELECT * FROM videos")}


async def test_hunters_get_exactly_their_keys(dao: MaiaDAO) -> None:
    assert await dao.add_to_search_queue(["one", "two", "one"]) == 2
    first, _ = await dao.fetch_hunter_batch()
    assert {**first, "id": 0} == {
        "id": 0,
        "query_term": "one",
        "next_page_token": None,
        "last_searched_at": None,
        "priority": 0,
    }
    await dao.update_search_state(first["id"], "token", 25)
    (again,) = await dao.fetch_hunter_batch()
    assert (again["id"], again["next_page_token"]) == (first["id"], "token")
    assert again["last_searched_at"].tzinfo is not None
    await dao.update_search_state(again["id"], None, 5, status="exhausted")
    query = "SELECT result_count_total, status FROM search_queue ORDER BY id LIMIT 1"
    assert await fetch(dao.database, query) == [{"result_count_total": 30, "status": "exhausted"}]
    assert await dao.fetch_hunter_batch() == []


async def test_a_discovered_video_is_collected_but_not_watched(
    dao: MaiaDAO, database: Database
) -> None:
    await dao.ingest_video_metadata({**item(), "contentDetails": {"duration": "PT2M"}})
    video = (await videos(database))["v"]
    assert (video["title"], video["channel_id"], video["duration"]) == ("A title", "c", 120)
    assert (video["published_at"], video["status"]) == (NOON, "PENDING")
    assert await scalar(database, "SELECT title FROM channels") == "A channel"
    assert await scalar(database, "SELECT count(*) FROM watchlist") == 0
    assert await fetch(database, STATS) == []


async def test_a_bare_item_later_takes_nothing_away(dao: MaiaDAO, database: Database) -> None:
    await dao.ingest_video_metadata(item(tags=["a"]))
    await dao.ingest_video_metadata({"id": "v"})
    video = (await videos(database))["v"]
    assert (video["title"], video["tags"], video["published_at"]) == ("A title", ["a"], NOON)


@pytest.mark.parametrize(
    "bad", [{}, {"id": None}, {"id": {}}, {"id": {"channelId": "c"}}, {"id": "no id"}, {"id": 5}]
)
async def test_an_item_without_a_usable_id_is_warned_of_and_not_written(
    dao: MaiaDAO, database: Database, bad: dict[str, Any]
) -> None:
    with structlog.testing.capture_logs() as logs:
        await dao.ingest_video_metadata({**item(), **bad} if bad else bad)
        assert await dao.ingest_videos([bad, item("good")]) == 1
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("video_without_usable_id", "warning"),
        ("item_left_out", "warning"),
    ]
    assert set(await videos(database)) == {"good"}
    assert await scalar(database, "SELECT count(*) FROM channels") == 1


async def test_a_video_that_was_collected_before_is_not_collected_again(
    dao: MaiaDAO, database: Database
) -> None:
    await execute(database, "INSERT INTO video_tombstones (video_id) VALUES ('v')")
    await dao.ingest_video_metadata(item())
    assert await dao.ingest_videos([item(), item("w")]) == 1
    assert set(await videos(database)) == {"w"}


async def test_many_videos_go_in_with_one_statement(dao: MaiaDAO) -> None:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert await dao.ingest_videos([item(f"v{n}", channelId=f"c{n}") for n in range(50)]) == 50
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len([sql for sql in statements if "INSERT" in sql]) == 1
    assert await dao.ingest_videos([]) == 0


async def test_a_priority_override_goes_ahead_in_the_scribe_and_painter_batches(
    dao: MaiaDAO,
) -> None:
    await dao.ingest_video_metadata(item("first"))
    await dao.ingest_video_metadata(item("urgent"), priority_override=10)
    assert [video["id"] for video in await dao.fetch_scribe_batch(1)] == ["urgent"]
    assert [video["id"] for video in await dao.fetch_painter_batch(1)] == ["urgent"]
    with pytest.raises(InvalidInput, match="priority"):
        await dao.ingest_video_metadata(item("v"), priority_override=-1)


@pytest.mark.parametrize("snippet", [{"publishedAt": "yesterday"}, {"publishedAt": 5}])
async def test_a_time_that_cannot_be_read_is_named_and_costs_its_item_only(
    dao: MaiaDAO, database: Database, snippet: dict[str, Any]
) -> None:
    taken = await dao.ingest_videos([item("good"), item("bad", **snippet)])
    assert [(error.row, error.field) for error in taken.left_out] == [(1, "publishedAt")]
    assert set(await videos(database)) == {"good"}


@pytest.mark.parametrize("batch", ["fetch_scribe_batch", "fetch_painter_batch"])
async def test_scribes_and_painters_get_exactly_their_keys(dao: MaiaDAO, batch: str) -> None:
    await dao.ingest_video_metadata(item())
    (video,) = await getattr(dao, batch)()
    assert list(video) == ["id", "title", "published_at", "discovered_at"]
    assert (video["id"], video["title"], video["published_at"]) == ("v", "A title", NOON)


async def test_trackers_get_exactly_their_keys_and_report_raw_items(
    dao: MaiaDAO, database: Database
) -> None:
    await dao.ingest_videos([item("a"), item("b"), item("c")])
    targets = await dao.fetch_tracker_targets()
    assert {video["id"] for video in targets} == {"a", "b", "c"}
    assert list(targets[0]) == ["id", "title", "published_at", "last_updated_at", "priority"]
    assert (targets[0]["last_updated_at"], targets[0]["priority"]) == (None, 3)
    written = await dao.update_video_stats_batch(
        [
            {"id": "a", "statistics": {"viewCount": "12", "commentCount": "0"}},
            {"id": "b", "statistics": {}},
            {"id": "unknown", "statistics": {"viewCount": 1}},
        ]
    )
    assert written == 2
    rows = await fetch(database, STATS)
    assert [tuple(row.values())[0::2] for row in rows] == [("a", 12, 0), ("unknown", 1, None)]
    state = await videos(database)
    assert state["a"]["last_updated_at"] == state["b"]["last_updated_at"] == rows[0]["timestamp"]
    assert state["a"]["stats_lease"] is state["b"]["stats_lease"] is None
    assert state["c"]["stats_lease"] is not None
    assert await dao.fetch_tracker_targets() == []
    assert await dao.update_video_stats_batch([]) == 0


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"id": "b", "statistics": {"viewCount": "-1"}}, "statistics.viewCount"),
        ({"statistics": {"viewCount": "1"}}, "video_id"),
    ],
)
async def test_one_bad_report_is_named_and_the_others_are_recorded(
    dao: MaiaDAO, database: Database, bad: dict[str, Any], field: str
) -> None:
    await dao.ingest_videos([item("a"), item("b")])
    taken = await dao.update_video_stats_batch([{"id": "a", "statistics": {"viewCount": "1"}}, bad])
    assert [(error.row, error.field) for error in taken.left_out] == [(1, field)]
    assert [row["video_id"] for row in await fetch(database, STATS)] == ["a"]
    assert (await videos(database))["b"]["last_updated_at"] is None


async def test_samples_are_taken_in_every_form_and_once(dao: MaiaDAO, database: Database) -> None:
    batch = [
        {"video_id": "a", "timestamp": NOON, "views": "5", "likes": None},
        {"video_id": "b", "timestamp": NOON.replace(tzinfo=None), "views": 6.0},
        {"video_id": "c", "timestamp": "2026-01-15T12:00:00Z", "comment_count": 7},
    ]
    expected = [
        ("a", NOON, 5, None, None),
        ("b", NOON, 6, None, None),
        ("c", NOON, None, None, 7),
    ]
    for _ in range(2):
        assert await dao.log_video_stats_batch(batch) == 3
        assert [tuple(row.values()) for row in await fetch(database, STATS)] == expected


async def test_samples_without_a_timestamp_share_one_reading_of_the_databases_clock(
    dao: MaiaDAO, database: Database
) -> None:
    before = await scalar(database, "SELECT clock_timestamp()")
    await dao.log_video_stats_batch([{"video_id": "a"}, {"video_id": "b", "timestamp": None}])
    first, second = await fetch(database, STATS)
    assert before < first["timestamp"] == second["timestamp"]
    assert await dao.log_video_stats_batch([]) == 0


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"video_id": "b", "views": "many"}, "views"),
        ({"video_id": "b", "likes": float("nan")}, "likes"),
        ({"video_id": "b", "comment_count": -3}, "comment_count"),
        ({"views": 1}, "video_id"),
        ({"video_id": "b", "timestamp": "soon"}, "timestamp"),
        ({"video_id": "b", "timestamp": datetime(2999, 1, 1)}, "timestamp"),
    ],
)
async def test_one_bad_sample_is_named_and_none_is_written(
    dao: MaiaDAO, database: Database, bad: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await dao.log_video_stats_batch([{"video_id": "a"}, bad])
    assert (caught.value.row, caught.value.field) == (1, field)
    assert await fetch(database, STATS) == []


async def test_what_became_of_a_video_is_recorded(dao: MaiaDAO, database: Database) -> None:
    await dao.ingest_videos([item("a"), item("b")])
    await dao.mark_video_transcript_safe("a")
    await dao.mark_video_visuals_safe("a")
    await dao.mark_video_done("a")
    await dao.mark_video_failed("b")
    state = await videos(database)
    assert (state["a"]["status"], state["b"]["status"]) == ("DONE", "FAILED")
    assert state["a"]["has_transcript"] and state["a"]["has_visuals"]
    assert await dao.fetch_scribe_batch() == await dao.fetch_painter_batch() == []
    assert await dao.requeue(["a", "b"]) == 1
    assert [video["id"] for video in await dao.fetch_scribe_batch()] == ["b"]


async def test_a_fact_about_a_video_that_is_gone_is_no_error(dao: MaiaDAO) -> None:
    with structlog.testing.capture_logs() as logs:
        await dao.mark_video_done("gone")
        await dao.mark_video_failed("gone")
        await dao.mark_video_transcript_safe("gone")
        await dao.mark_video_visuals_safe("gone")
    assert [log["fact"] for log in logs] == ["DONE", "FAILED", "transcript", "visuals"]


async def test_the_janitor_counts_in_a_dry_run_and_deletes_only_without(
    database: Database, tmp_path: Path
) -> None:
    dao = MaiaDAO(database, LocalVault(tmp_path / "vault"))
    assert await dao.run_janitor(dry_run=True) == {"deleted": 0, "reason": "none_eligible"}
    await dao.ingest_videos([item("a"), item("b")])
    for video_id in ("a", "b"):
        await dao.mark_video_transcript_safe(video_id)
        await dao.mark_video_visuals_safe(video_id)
        await dao.mark_video_done(video_id)
    await execute(database, "UPDATE videos SET discovered_at = now() - interval '8 days'")
    assert await dao.run_janitor(dry_run=True) == {
        "deleted": 0,
        "dry_run": True,
        "would_delete": 2,
    }
    assert set(await videos(database)) == {"a", "b"}
    result = await dao.run_janitor()
    assert (result["deleted"], result["retention_days"], result["safety_check_enabled"]) == (
        2,
        7,
        True,
    )
    assert datetime.fromisoformat(result["cutoff_date"]) < datetime.now(UTC) - timedelta(days=6)
    assert await videos(database) == {}
    assert await dao.run_janitor() == {"deleted": 0, "reason": "none_eligible"}


async def test_archiving_stops_after_the_slice_that_reaches_the_batch_size(
    database: Database, tmp_path: Path
) -> None:
    dao = MaiaDAO(database, LocalVault(tmp_path / "vault"))
    old = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(days=20)
    await dao.log_video_stats_batch(
        [
            {"video_id": f"v{n}", "views": n, "timestamp": old + timedelta(days=day)}
            for day in range(3)
            for n in range(4)
        ]
    )
    assert await dao.archive_cold_stats(retention_days=7, batch_size=1) == 4
    assert await dao.archive_cold_stats(batch_size=5) == 8
    assert await dao.archive_cold_stats(batch_size=5) == 0


async def test_a_schedule_is_added_fetched_and_reported(dao: MaiaDAO, database: Database) -> None:
    assert isinstance(dao, GhostTrackingMixin)
    await dao.add_to_watchlist("v", tier="daily", published_at=datetime(2026, 1, 15, 12))
    await dao.add_to_watchlist("v", tier="WEEKLY")
    (due,) = await dao.fetch_tracking_batch()
    assert list(due) == ["video_id", "tracking_tier", "last_tracked_at", "next_track_at"]
    assert (due["video_id"], due["tracking_tier"], due["last_tracked_at"]) == ("v", "DAILY", None)
    assert await scalar(database, "SELECT published_at FROM watchlist") == NOON
    tier, next_time = dao.calculate_next_track_time(NOON)
    report = {"video_id": "v", "tracking_tier": tier, "next_track_at": next_time}
    await dao.update_watchlist_schedule(
        [{**report, "last_tracked_at": datetime.now(UTC).replace(tzinfo=None)}]
    )
    assert await dao.fetch_tracking_batch() == []
    stored = await fetch(database, "SELECT * FROM watchlist")
    assert (stored[0]["next_track_at"], stored[0]["lease"]) == (next_time, None)
    older = {**report, "next_track_at": NOON, "last_tracked_at": NOON}
    await dao.update_watchlist_schedule([older])
    assert await fetch(database, "SELECT * FROM watchlist") == stored
    await dao.update_watchlist_schedule([])


REPORT = {
    "video_id": "v",
    "tracking_tier": "DAILY",
    "last_tracked_at": NOON,
    "next_track_at": NOON + timedelta(days=1),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("video_id", "no id"),
        ("tracking_tier", "YEARLY"),
        ("last_tracked_at", None),
        ("next_track_at", "later"),
    ],
)
async def test_one_bad_schedule_is_named_and_none_is_changed(
    dao: MaiaDAO, database: Database, field: str, value: object
) -> None:
    await dao.add_to_watchlist("v")
    with pytest.raises(InvalidInput) as caught:
        await dao.update_watchlist_schedule([REPORT, {**REPORT, field: value}])
    assert (caught.value.row, caught.value.field) == (1, field)
    assert await scalar(database, "SELECT last_tracked_at FROM watchlist") is None


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda dao: dao.add_to_watchlist("no id"), InvalidInput),
        (lambda dao: dao.add_to_watchlist("v", tier="YEARLY"), InvalidInput),
        (lambda dao: dao.add_to_search_queue("text"), InvalidInput),
        (lambda dao: dao.update_search_state(1, None, -1), InvalidInput),
        (lambda dao: dao.update_search_state(1, None, 1, "spent"), InvalidInput),
        (lambda dao: dao.update_search_state("one", None, 1), InvalidInput),
        (lambda dao: dao.update_search_state(None, None, 1), InvalidInput),
        (lambda dao: dao.update_search_state(404, None, 1), NotFound),
        (lambda dao: dao.mark_video_done("no id"), InvalidInput),
        (lambda dao: dao.mark_video_transcript_safe(None), InvalidInput),
        (lambda dao: dao.requeue(["no id"]), InvalidInput),
        (lambda dao: dao.fetch_tracker_targets(-1), InvalidInput),
    ],
)
async def test_what_cannot_be_taken_is_said_clearly(
    dao: MaiaDAO, call: Callable[[MaiaDAO], Awaitable[object]], error: type[AtlasError]
) -> None:
    with pytest.raises(error) as caught:
        await call(dao)
    assert caught.value.hint or error is NotFound


async def test_a_database_that_cannot_be_reached_is_said_clearly() -> None:
    database = Database("postgresql://atlas@127.0.0.1:1/atlas")
    with pytest.raises(DatabaseUnavailable):
        await MaiaDAO(database).fetch_tracking_batch()
    await database.close()


async def test_without_arguments_the_default_database_is_used(database: Database) -> None:
    dao = MaiaDAO()
    try:
        await dao.add_to_watchlist("v")
        assert await scalar(database, "SELECT video_id FROM watchlist") == "v"
    finally:
        await dao.database.close()
