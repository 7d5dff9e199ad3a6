"""Pages of the ring as they are read: those that spans touch, each once, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from atlas.db import Database
from atlas.repositories.ring.cohorts import ROUND
from atlas.repositories.ring.filter import Filter, Pairs, prefixes_of
from atlas.repositories.ring.page import Entries
from atlas.repositories.ring.pages import Ring, RingReader
from atlas.repositories.ring.parking import Parking
from atlas.repositories.ring.positions import position
from tests.support.parked import parked, video_ids
from tests.support.sql import execute, fetch

LAST = ROUND - 1


async def test_pages_of_overlapping_spans_are_read_once(database: Database) -> None:
    random = np.random.default_rng(7)
    all_ = Entries.of(random.integers(0, LAST, 30_000, np.uint64, endpoint=True), 250)
    pairs = Pairs.of(prefixes_of(all_.positions), 250)
    async with database.transaction() as session:
        await Ring(session).rewrite(0, LAST, lambda *_: all_)
        await Filter(session).rewrite(0, LAST, lambda *_: pairs)
    rows = await fetch(database, "SELECT lower, upper FROM watchlist_ring ORDER BY lower")
    pages = [(position(row["lower"]), position(row["upper"])) for row in rows]
    (first, last), (lower, upper), (near_end, end) = pages[0], pages[9], pages[-1]
    async with database.transaction(read_only=True) as session:
        ring = RingReader(session)
        for spans, touched in (
            ([], []),
            ([(0, 0)], [(first, last)]),
            ([(end, end)], [(near_end, end)]),
            ([(lower, upper)], [pages[9]]),
            ([(lower, lower), (upper, upper), (lower + 5, lower + 6)], [pages[9]]),
            ([(lower - 1, lower)], pages[8:10]),
            ([(near_end, end), (lower, upper + 1), (0, last), (lower, lower)], None),
            ([(lower, upper), (0, LAST)], pages),
        ):
            if touched is None:
                touched = [pages[0], pages[9], pages[10], pages[-1]]
            found = await ring.around(spans)
            expected = [all_.between(*page).positions for page in touched]
            assert found.positions.tolist() == [n for part in expected for n in part.tolist()]
        assert len(await ring.between(lower, upper)) == len(all_.between(lower, upper))
        of_filter = await Filter(session).around([(0, last), (0, 5), (near_end, end)])
        few = Pairs.of(prefixes_of(all_.between(0, last).positions), 250)
        assert set(few.prefixes.tolist()) <= set(of_filter.prefixes.tolist())
        assert len(few) < len(of_filter) < len(pairs)


async def test_a_table_without_pages_has_no_entries(database: Database) -> None:
    await execute(database, "DELETE FROM watchlist_ring")
    async with database.transaction(read_only=True) as session:
        assert len(await RingReader(session).around([(0, LAST), (5, 5)])) == 0


async def test_videos_woken_out_of_turn_keep_their_tier_and_day(database: Database) -> None:
    now = datetime.now(UTC).replace(hour=12)
    weekly, dormant, rows = video_ids(30), video_ids(30, start=100), video_ids(2, start=200)
    await parked(database, weekly, now=now)
    calendar = await parked(database, dormant, "DORMANT", now - timedelta(days=3))
    await execute(database, "INSERT INTO video_tombstones (video_id) VALUES (:id)", id=rows[0])
    assert (await calendar.park(now)).collected == 1
    await execute(
        database,
        "INSERT INTO watchlist (video_id, tracking_tier) VALUES (:id, 'DAILY')",
        id=weekly[0],
    )
    async with database.transaction() as session:
        woken = await Parking(session).wake_ids([*weekly, *dormant, *rows])
    assert woken == {*weekly[1:], *dormant}
    found = await fetch(database, "SELECT * FROM watchlist WHERE tracking_tier <> 'DAILY'")
    days = {"WEEKLY": (now - timedelta(days=1)).date(), "DORMANT": (now - timedelta(days=4)).date()}
    for row in found:
        tier = "DORMANT" if row["video_id"] in dormant else "WEEKLY"
        assert (row["tracking_tier"], row["last_tracked_at"].date()) == (tier, days[tier])
    assert len(found) == 59
