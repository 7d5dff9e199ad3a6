"""A database of the platform's first version is taken over whole, in steps that may be cut off."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.errors import ConfigurationError
from atlas.importing import takeover
from atlas.reader import StatsReader
from atlas.vault import LocalVault
from tests.support.cli import Run
from tests.support.sql import execute, fetch, scalar

#: As the first version's schema.sql made it.
FIRST_SCHEMA = """
CREATE TABLE channels (id varchar PRIMARY KEY, title varchar NOT NULL, country varchar, custom_url varchar,
    created_at timestamp, is_verified boolean DEFAULT false, last_scraped_at timestamp);
CREATE TABLE videos (id varchar PRIMARY KEY, channel_id varchar REFERENCES channels (id) ON DELETE CASCADE,
    title varchar NOT NULL, published_at timestamp, duration integer, tags text[], category_id varchar,
    default_language varchar, wiki_topics text[], discovered_at timestamp DEFAULT now(),
    last_updated_at timestamp, status varchar DEFAULT 'PENDING', has_transcript boolean DEFAULT false,
    has_visuals boolean DEFAULT false);
CREATE INDEX idx_video_status ON videos (status);
CREATE TABLE video_stats_log (video_id varchar REFERENCES videos (id) ON DELETE CASCADE,
    timestamp timestamp DEFAULT now(), views bigint, likes bigint, comment_count bigint,
    PRIMARY KEY (video_id, timestamp));
CREATE INDEX idx_stats_timestamp ON video_stats_log (timestamp);
CREATE TABLE watchlist (video_id varchar PRIMARY KEY, tracking_tier varchar DEFAULT 'HOURLY',
    last_tracked_at timestamp, next_track_at timestamp NOT NULL, created_at timestamp DEFAULT now());
CREATE INDEX idx_watchlist_next_track ON watchlist (next_track_at);
CREATE TABLE search_queue (id serial PRIMARY KEY, query_term varchar UNIQUE NOT NULL, priority int DEFAULT 0,
    mention_count int DEFAULT 1, next_page_token varchar, last_searched_at timestamp,
    result_count_total int DEFAULT 0, status varchar DEFAULT 'active', created_at timestamp DEFAULT now());
CREATE TABLE transcripts (video_id varchar REFERENCES videos (id) ON DELETE CASCADE, language varchar,
    vault_uri varchar, created_at timestamp, PRIMARY KEY (video_id, language));
CREATE TABLE system_events (id serial PRIMARY KEY, event_type varchar, entity_id varchar, payload jsonb,
    created_at timestamp DEFAULT now());
CREATE TABLE reports (id serial PRIMARY KEY, video_id varchar REFERENCES videos (id), note text);
"""
ROWS = """
INSERT INTO channels (id, title, created_at) SELECT 'UC' || n, 'C' || n, '2026-01-01 10:00'
    FROM generate_series(1, 7) n;
INSERT INTO videos (id, channel_id, title, published_at, duration, tags, status)
    SELECT 'v' || n, 'UC' || (n % 7 + 1), 't' || n, '2026-01-01 10:00', n, ARRAY['a'], 'DONE'
    FROM generate_series(1, 300) n;
INSERT INTO video_stats_log
    SELECT 'v' || v, timestamp '2026-03-01 05:30' + h * interval '1 hour', v * 10 + h, h, NULL
    FROM generate_series(1, 30) v, generate_series(0, 50) h;
INSERT INTO video_stats_log VALUES ('v1', '1969-01-01', 1, 1, 1), ('v2', '2026-03-01 05:30:30', -1, 1, 1);
INSERT INTO watchlist (video_id, tracking_tier, next_track_at)
    SELECT 'v' || n, 'weekly', '2026-03-01 05:30' FROM generate_series(1, 9) n;
INSERT INTO search_queue (query_term, mention_count) SELECT 'term ' || n, n FROM generate_series(1, 20) n;
INSERT INTO transcripts VALUES ('v5', 'en', 'hf://datasets/x/transcripts/v5.json', now());
INSERT INTO system_events (event_type, payload) VALUES ('a', '{}');
INSERT INTO reports (video_id, note) VALUES ('v1', 'mine');
"""


async def run_script(database: Database, script: str) -> None:
    for statement in filter(str.strip, script.split(";")):
        await execute(database, statement)


@pytest.fixture
async def first(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    from atlas.config import reset_settings

    reset_settings()
    database = Database(empty_database_url)
    await run_script(database, FIRST_SCHEMA + ROWS)
    return database


async def check(database: Database, vault: LocalVault) -> None:
    assert await migrations.check(database) == migrations.head()
    counts = "SELECT (SELECT count(*) FROM channels), (SELECT count(*) FROM videos), "
    counts += "(SELECT count(*) FROM video_stats_log), (SELECT sum(views) FROM video_stats_log), "
    counts += "(SELECT count(*) FROM watchlist), (SELECT count(*) FROM search_queue)"
    async with database.session() as session:
        assert (await session.execute(text(counts))).one() == (7, 300, 1530, 275400, 9, 20)
    (video,) = await fetch(database, "SELECT * FROM videos WHERE id = 'v5'")
    assert video["published_at"] == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert (video["duration"], video["tags"], video["status"]) == (5, ["a"], "DONE")
    assert video["has_transcript"]
    assert await scalar(database, "SELECT count(*) FROM videos WHERE has_transcript") == 1
    assert await scalar(database, "SELECT tracking_tier FROM watchlist LIMIT 1") == "WEEKLY"
    history = await StatsReader(database, vault).history("v3")
    assert history["timestamp"][0].as_py() == datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
    assert await scalar(database, "SELECT note FROM reports") == "mine"
    assert await MaiaDAO(database).add_to_search_queue(["a new term"]) == 1


async def test_everything_is_taken_over_and_dropped_by_a_second_command(
    first: Database, atlas: Run, tmp_path: Path
) -> None:
    taken = atlas("db", "upgrade", "--take-over")
    assert taken.returncode == 0, taken.stderr
    assert "1,530" in taken.stdout
    await check(first, LocalVault(tmp_path / "vault"))
    # another program's table refers to the old videos: nothing is dropped until that is settled
    refused = atlas("db", "drop-old", "--yes")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert await scalar(first, "SELECT count(*) FROM public_before_atlas.video_stats_log") == 1532
    await execute(first, "ALTER TABLE reports DROP CONSTRAINT reports_video_id_fkey")
    assert atlas("db", "drop-old", "--yes").returncode == 0
    assert await scalar(first, "SELECT to_regnamespace('public_before_atlas')::text") is None
    await first.close()


async def test_a_take_over_that_is_cut_off_goes_on(
    first: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "STEP", 40)
    steps = 0

    async def cut(*arguments: object, note: object = takeover._note) -> None:
        nonlocal steps
        steps += 1
        if steps % 3 == 0:
            raise ConnectionResetError
        await note(*arguments)  # type: ignore[operator]

    monkeypatch.setattr(takeover, "_note", cut)
    tries = 0
    while True:
        tries += 1
        try:
            report = await takeover.take_over(first)
            break
        except ConnectionResetError:
            with pytest.raises(ConfigurationError, match="not finished"):
                await takeover.drop_old(first)
    assert tries > 5
    assert {one.table: (one.rows, one.left_out) for one in report} == {
        "channels": (7, 0),
        "videos": (300, 0),
        "watchlist": (9, 0),
        "search_queue": (20, 0),
        "video_stats_log": (1530, 2),
    }
    await check(first, LocalVault(tmp_path / "vault"))
    assert await takeover.take_over(first) == report  # and once more changes nothing
    await first.close()


async def test_a_table_of_the_same_name_that_is_not_the_platforms_is_left_alone(
    empty_database_url: str,
) -> None:
    database = Database(empty_database_url)
    await run_script(database, FIRST_SCHEMA)
    await execute(database, "ALTER TABLE search_queue RENAME COLUMN query_term TO words")
    with pytest.raises(ConfigurationError, match="search_queue is not the platform's"):
        await takeover.take_over(database)
    assert await scalar(database, "SELECT to_regclass('videos')::text") == "videos"
    await database.close()


async def test_there_is_nothing_to_take_over_in_other_databases(
    database: Database, empty_database_url: str
) -> None:
    empty = Database(empty_database_url)
    for one in (database, empty):
        with pytest.raises(ConfigurationError, match="first schema"):
            await takeover.take_over(one)
        with pytest.raises(ConfigurationError, match="first schema"):
            await takeover.drop_old(one)
    await empty.close()
