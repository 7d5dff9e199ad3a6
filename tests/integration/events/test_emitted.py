"""What Atlas emits when agents and operators work: with the payload that the catalogue tells of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.config import ApiKey, reset_settings
from atlas.db import Database, db
from atlas.errors import QuotaExhausted
from atlas.events import Event, bus_of, events
from atlas.events.catalogue import CATALOGUE
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.keys import HydraExecutor, KeyRing
from atlas.keys.accounting.sharing import default_accounts
from atlas.scheduling import Work
from atlas.types import SearchStatus
from atlas.vault import LocalVault
from tests.support.samples import samples
from tests.support.servers.postgres import Server
from tests.support.servers.quota_api import QuotaAPI, raise_as_agents_do
from tests.support.sql import execute, fetch


async def emitted(database: Database, prefix: str) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Type, entity and payload of the events of a room, each as the catalogue says."""
    rows = await fetch(
        database,
        "SELECT event_type, entity_id, payload FROM system_events WHERE event_type LIKE :of ORDER BY seq",
        of=f"{prefix}.%",
    )
    for row in rows:
        one = CATALOGUE[row["event_type"]]
        assert set(row["payload"]) <= set(one.fields), row
        assert (row["entity_id"] is not None) == bool(one.entity), row
    return [(row["event_type"], row["entity_id"], row["payload"]) for row in rows]


@pytest.fixture
def heard(database: Database) -> Iterator[list[str]]:
    """The types that a handler of the database's bus was called with."""
    found: list[str] = []

    def handler(event: Event) -> None:
        found.append(event.event_type)

    bus_of(database).on("*")(handler)
    yield found
    bus_of(database).off(handler)


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


async def test_work_that_is_claimed_and_reported_tells_what_it_changed(
    database: Database, heard: list[str]
) -> None:
    dao, work = MaiaDAO(database), Work(database)
    now = datetime.now(UTC)
    await dao.ingest_videos([{"id": "v1", "snippet": {"title": "t"}}])
    for kind in ("transcript", "visuals"):
        async with work.claim(kind) as batch:
            for item in batch:
                item.done()
    assert await emitted(database, "video") == [
        ("video.discovered", "v1", {"video_id": "v1", "channel_id": None, "published_at": None}),
        ("video.transcript_safe", "v1", {"video_id": "v1"}),
        ("video.visuals_safe", "v1", {"video_id": "v1"}),
    ]

    for name in ("old", "new"):
        published = now - timedelta(days=20 if name == "old" else 0)
        await dao.add_to_watchlist(name, published_at=published)
    async with work.claim("track") as batch:
        for item in batch:
            item.done(views=1)
    changed = {
        "video_id": "new",
        "tracking_tier": "DAILY",
        "last_tracked_at": now,
        "next_track_at": now,
    }
    later = {**changed, "last_tracked_at": now + timedelta(minutes=1)}
    await dao.update_watchlist_schedule([later, {**changed, "video_id": "nobody"}])
    await dao.update_watchlist_schedule([{**later, "last_tracked_at": now + timedelta(minutes=2)}])
    told = await emitted(database, "watchlist")
    assert [one for one in told if one[0] == "watchlist.tier_changed"] == [
        (
            "watchlist.tier_changed",
            "old",
            {"video_id": "old", "tracking_tier": "WEEKLY", "before": "HOURLY"},
        ),
        (
            "watchlist.tier_changed",
            "new",
            {"video_id": "new", "tracking_tier": "DAILY", "before": "HOURLY"},
        ),
    ]
    await bus_of(database).drain()
    assert {"video.visuals_safe", "watchlist.tier_changed"} <= set(heard)


async def test_search_terms_tell_when_they_come_end_and_come_back(
    database: Database, tmp_path: Path
) -> None:
    dao = MaiaDAO(database)
    await dao.add_to_search_queue(["one", "two"])
    await dao.add_to_search_queue(["one"])
    first, second = await dao.fetch_hunter_batch(2)
    await dao.update_search_state(first["id"], None, 3, "exhausted")
    await execute(database, "UPDATE search_queue SET leased_until = NULL, lease = NULL")
    async with Work(database).claim("hunt") as batch:
        for item in batch:
            item.done(None, 3, SearchStatus.EXHAUSTED)
    await execute(database, "UPDATE search_queue SET last_searched_at = now() - interval '1 year'")
    await Janitor(database, LocalVault(tmp_path / "vault")).run()
    assert await emitted(database, "search") == [
        ("search.added", None, {"terms": 2}),
        ("search.exhausted", str(first["id"]), {"term": first["query_term"]}),
        ("search.exhausted", str(second["id"]), {"term": second["query_term"]}),
        ("search.revived", None, {"terms": 2}),
    ]


async def test_the_last_sample_of_a_days_budget_is_told_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKING_SAMPLES_PER_DAY", "3")
    reset_settings()
    dao = MaiaDAO(database)
    for number in range(5):
        await dao.add_to_watchlist(f"v{number}")
    assert [len(await dao.fetch_tracking_batch(2)) for _ in range(4)] == [2, 1, 0, 0]
    told = [one for one in await emitted(database, "watchlist") if "budget" in one[0]]
    assert [(name, facts["samples"]) for name, _, facts in told] == [("watchlist.budget_spent", 3)]


async def test_what_is_put_into_quarantine_reaches_handlers(
    database: Database, heard: list[str]
) -> None:
    dao = MaiaDAO(database)
    await dao.add_to_watchlist("w1")
    await execute(
        database,
        "UPDATE watchlist SET attempts = 1000, leased_until = now() - interval '1 minute', "
        "lease = gen_random_uuid()",
    )
    await dao.fetch_tracking_batch(10)
    await bus_of(database).drain()
    assert heard.count("work.quarantined") == 1
    assert ("work.quarantined", "track") in [one[:2] for one in await emitted(database, "work")]


KEYS = [f"AIzaSyFakeFakeFakeFakeFakeFakeFakeEvent{n}" for n in range(2)]
DEAD = "AIzaSyFakeFakeFakeFakeFakeFakeFakeEvent9"
LIMITS = {"general": 1, "search": 1}


async def test_spent_keys_and_pools_are_told_to_handlers_of_the_default_bus(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("YOUTUBE_QUOTA_JSON", json.dumps(LIMITS))
    reset_settings()
    heard: list[Event] = []

    def handler(event: Event) -> None:
        heard.append(event)

    api = QuotaAPI(dict(zip(KEYS, ("a", "b"), strict=True)), LIMITS)

    async def request(key: str) -> Any:
        return raise_as_agents_do(api.answer("videos", key))

    accounts = default_accounts()
    members = [ApiKey(key, project) for key, project in zip(KEYS, ("a", "b"), strict=True)]
    members.append(ApiKey(DEAD, "c"))  # which Google does not know
    # somebody else has used the first project up
    api.answer("videos", KEYS[0])
    executor = HydraExecutor(
        KeyRing("hunting", members, accounts=accounts), "agent", on_exhausted="raise"
    )
    events.on("hydra.*")(handler)
    try:
        with pytest.raises(QuotaExhausted):
            while True:
                await executor.execute_async(request)
        with pytest.raises(QuotaExhausted):
            await executor.execute_async(request)
        await events.drain()
    finally:
        events.off(handler)
        await db.close()
    types = {event.event_type for event in heard}
    assert types == {"hydra.key_disabled", "hydra.key_rotated", "hydra.pool_exhausted"}
    told = await emitted(database, "hydra")
    assert [name for name, _, _ in told].count("hydra.pool_exhausted") == 1
    assert {name for name, _, _ in told} == types
    (dead,) = [facts for name, _, facts in told if name == "hydra.key_disabled"]
    assert (dead["key"], dead["agent"]) == (f"\N{HORIZONTAL ELLIPSIS}{DEAD[-4:]}", "agent")
    assert {entity for _, entity, _ in told} == {"hunting"}
    assert not [key for key in (*KEYS, DEAD) if key in str(told)]


async def test_spans_that_are_let_go_of_and_a_ledger_that_is_rebuilt_are_told(
    database: Database, postgres_server: Server, migrated_template: str, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    archiver, rows = Archiver(database, vault), samples(times=30)
    await record_samples(database, rows)
    await archiver.run(timedelta(days=7))
    assert (await archiver.release()).pins == 0  # nothing was restored: nothing to tell
    first = min(row.timestamp for row in rows)
    await archiver.restore(first, first + timedelta(hours=6))
    released = await archiver.release()
    told = [one for one in await emitted(database, "archive") if one[0] == "archive.released"]
    facts = {"spans": released.pins, "rows": released.rows, "kept": released.kept}
    assert told == [("archive.released", None, facts)]
    assert released.rows > 0

    url = postgres_server.create(migrated_template)
    other = Database(url)
    rebuilt = await Archiver(other, vault).rebuild()
    facts = {"epoch": rebuilt.epoch, "files": rebuilt.files, "rows": rebuilt.rows}
    told = [one for one in await emitted(other, "archive") if one[0] == "archive.rebuilt"]
    assert told == [("archive.rebuilt", None, facts)]
    assert rebuilt.rows == len(rows)
    await other.close()
    postgres_server.drop(url)
