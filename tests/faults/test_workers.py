"""Workers that are killed at random: no work is lost, none is reported twice, every lease returns.

Some are asked to stop instead, and leave no lease behind. Meanwhile slow videos are parked and woken. ``make
chaos`` runs 16 workers for 60 seconds; otherwise it is 6 for as long as 12 deaths take.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from atlas.db import Database
from atlas.scheduling import Work
from atlas.scheduling.calendar import Calendar
from tests.support.children import worker_child
from tests.support.parked import check_whole, parked, video_ids
from tests.support.sql import execute, fetch, scalar

LONG = "ATLAS_CHAOS" in os.environ
WORKERS, DEATHS, SECONDS, ENTRIES = (16, 10_000, 60.0, 1_000) if LONG else (6, 12, 30.0, 150)
#: Videos that are in the ring at first.
SLOW = 300
SEED = int(os.environ.get("ATLAS_CHAOS_SEED", "1"))

# What the database itself sees, in the transaction that does it: no lease is given away before its time, and
# who reports holds the lease.
WITNESS = (
    "CREATE TABLE holders (video_id text PRIMARY KEY, holder text)",
    "CREATE TABLE reports (video_id text, due timestamptz, sampled timestamptz, "
    "PRIMARY KEY (video_id, due))",
    """
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE me text := current_setting('application_name');
    BEGIN
        IF NEW.lease IS NOT NULL AND NEW.lease IS DISTINCT FROM OLD.lease THEN
            IF OLD.lease IS NOT NULL AND OLD.leased_until > clock_timestamp() THEN
                RAISE EXCEPTION 'the lease of % was given away', OLD.video_id;
            END IF;
            INSERT INTO holders VALUES (OLD.video_id, me)
                ON CONFLICT (video_id) DO UPDATE SET holder = me;
        END IF;
        IF NEW.lease IS NULL THEN
            IF OLD.lease IS NULL
               OR me <> (SELECT holder FROM holders h WHERE h.video_id = OLD.video_id) THEN
                RAISE EXCEPTION '% reports %, which it does not hold', me, OLD.video_id;
            END IF;
            IF NEW.next_track_at <> OLD.next_track_at THEN
                INSERT INTO reports VALUES (OLD.video_id, OLD.next_track_at,
                    CASE WHEN NEW.omissions = 0 THEN NEW.last_tracked_at END);
            END IF;
        END IF;
        RETURN NULL;
    END $$
    """,
    "CREATE TRIGGER witness AFTER UPDATE ON watchlist FOR EACH ROW EXECUTE FUNCTION witness()",
    # a row that goes was reported by its holder, who sampled it, or parked while nobody held it
    """
    CREATE FUNCTION witness_gone() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE me text := current_setting('application_name');
    BEGIN
        IF OLD.lease IS NULL AND me NOT LIKE 'worker-%' THEN
            INSERT INTO parked VALUES (OLD.video_id);
        ELSIF OLD.lease IS NULL
              OR me <> (SELECT holder FROM holders h WHERE h.video_id = OLD.video_id) THEN
            RAISE EXCEPTION '% takes %, which it does not hold', me, OLD.video_id;
        ELSE
            INSERT INTO reports VALUES (OLD.video_id, OLD.next_track_at, (
                SELECT max(timestamp) FROM video_stats_log s WHERE s.video_id = OLD.video_id));
        END IF;
        RETURN NULL;
    END $$
    """,
    "CREATE TABLE parked (video_id text)",
    "CREATE TRIGGER witness_gone AFTER DELETE ON watchlist "
    "FOR EACH ROW EXECUTE FUNCTION witness_gone()",
)

# What a worker still holds.
LEFT = (
    "SELECT count(lease) FROM watchlist JOIN holders USING (video_id) "
    "WHERE holder = CAST(:me AS text)"
)


@pytest.fixture
def workers(database_url: str) -> Iterator[list[Any]]:
    running: list[Any] = []
    yield running
    for process in running:
        process.kill()
        process.join()


@pytest.mark.timeout(300)
async def test_workers_that_are_killed_lose_no_work_and_report_none_twice(
    database: Database, database_url: str, workers: list[Any]
) -> None:
    slow = video_ids(SLOW)
    await parked(database, slow, now=datetime.now(UTC) - timedelta(days=20))
    for statement in WITNESS:
        await execute(database, statement)
    await execute(
        database,
        "INSERT INTO watchlist (video_id, next_track_at) SELECT 'v' || n, "
        f"now() - n * interval '1 millisecond' FROM generate_series(1, {ENTRIES}) n",
    )
    dice = random.Random(SEED)
    url = make_url(database_url).render_as_string(hide_password=False)
    seeds = iter(range(SEED * 100_000, SEED * 100_000 + 100_000))
    environment = dict(os.environ)
    names: list[str] = []

    def started() -> Any:
        seed = next(seeds)
        names.append(worker_child.name_of(seed))
        return worker_child.start(url, seed, environment)

    async def keep_house() -> None:
        calendar = Calendar(database)
        while True:
            await execute(
                database,
                "UPDATE watchlist_cohorts SET interval = interval '1 day', "
                "turned_at = now() - interval '1 hour'",
            )
            await calendar.turn()
            await calendar.park()
            await asyncio.sleep(0.2)

    workers += [started() for _ in range(WORKERS)]
    house = asyncio.create_task(keep_house())
    kills = stops = swept = 0
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while kills + stops < DEATHS and loop.time() < end:
        await asyncio.sleep(dice.uniform(0.05, 0.4))  # at a random moment of their work
        assert all(worker.exitcode is None for worker in workers), "a worker ended by itself"
        place = dice.randrange(WORKERS)
        if dice.random() < 0.3:
            workers[place].terminate()
            workers[place].join()
            stops += workers[place].exitcode == 0  # else it had not begun yet
            assert await scalar(database, LEFT, me=names[place]) == 0, "it was stopped in peace"
        else:
            workers[place].kill()
            workers[place].join()
            kills += 1
        workers[place] = started()
        names[place] = names.pop()
    for worker in workers:
        worker.kill()
        worker.join()
    house.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await house
    ids = [f"v{number}" for number in range(1, ENTRIES + 1)] + slow
    await check_whole(database, ids)
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = now() + interval '1 day'")
    entries = await scalar(database, "SELECT count(*) FROM watchlist")

    held = await scalar(database, "SELECT count(*) FROM watchlist WHERE lease IS NOT NULL")
    reported = await scalar(database, "SELECT count(*) FROM reports")
    # as if the leases of the dead had run out, and everything had come due
    await execute(database, "ALTER TABLE watchlist DISABLE TRIGGER witness")
    await execute(
        database,
        "UPDATE watchlist SET next_track_at = now() - interval '1 second', "
        "leased_until = now() - interval '1 second' WHERE lease IS NULL OR leased_until < 'infinity'",
    )
    await execute(database, "ALTER TABLE watchlist ENABLE TRIGGER witness")
    work = Work(database)
    async with asyncio.timeout(120):
        while True:
            async with work.claim("track", limit=500) as batch:
                for item in batch:
                    item.done(views=1)
                swept += len(batch)
                if not len(batch):
                    break
    await check_whole(database, ids)
    settled = await scalar(
        database,
        "SELECT count(*) FROM reports WHERE video_id = ANY (CAST(:ids AS text[]))",
        ids=slow,
    )
    aside = sum(one.quarantined for one in await work.counts())
    print(
        f"{WORKERS} workers, {kills} killed, {stops} stopped: {reported} reports, "
        f"{held} leases left by the dead, {swept} swept afterwards, {aside} in quarantine, "
        f"{settled} reports of slow videos"
    )
    assert reported > 0 and kills > 0 and stops > 0
    # nothing is lost: every entry is there, was reported at last, and nobody holds it
    assert swept == entries >= ENTRIES
    assert settled > 0
    assert aside == 0
    assert await scalar(database, "SELECT count(*) FROM watchlist WHERE lease IS NOT NULL") == 0
    # nothing is told twice: each report of a sample is one sample, and the list knows the last of them
    (counts,) = await fetch(
        database,
        "SELECT (SELECT count(*) FROM video_stats_log) AS samples, "
        "(SELECT count(*) FROM reports WHERE sampled IS NOT NULL) AS reports, "
        "(SELECT count(*) FROM reports r JOIN video_stats_log s "
        " ON (s.video_id, s.timestamp) = (r.video_id, r.sampled)) AS matched",
    )
    assert counts["samples"] == counts["reports"] == counts["matched"]
