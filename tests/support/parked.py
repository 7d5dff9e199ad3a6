"""Slow videos for tests of the calendar: making them, playing time, and what must hold of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from sqlalchemy import text

from atlas.db import Database
from atlas.repositories.ring.cohorts import CohortReader
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.ring.positions import LAST_POSITION, ids_of, stored
from atlas.scheduling.calendar import Calendar
from tests.support.sql import execute, fetch


def video_ids(count: int, start: int = 0) -> list[str]:
    """Ids of YouTube's shape."""
    return [
        base64.urlsafe_b64encode((number * 2_654_435_761 % 2**64).to_bytes(8))[:11].decode()
        for number in range(start + 1, start + 1 + count)
    ]


async def slow_rows(
    database: Database, ids: list[str], tier: str = "WEEKLY", now: datetime | None = None
) -> None:
    """Rows that were sampled a day before and wait for their week."""
    now = now or datetime.now(UTC)
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO watchlist (video_id, tracking_tier, last_tracked_at, next_track_at) "
                "SELECT unnest(CAST(:ids AS text[])), :tier, :sampled, :due"
            ),
            {
                "ids": ids,
                "tier": tier,
                "sampled": now - timedelta(days=1),
                "due": now + timedelta(days=6),
            },
        )


async def parked(
    database: Database, ids: list[str], tier: str = "WEEKLY", now: datetime | None = None
) -> Calendar:
    """A calendar that has these videos, from that moment on."""
    await slow_rows(database, ids, tier, now)
    calendar = Calendar(database)
    assert (await calendar.park(now)).videos == len(ids)
    if now is not None:
        await execute(database, "UPDATE watchlist_cohorts SET turned_at = :now", now=now)
    return calendar


async def in_ring(database: Database, ids: list[str]) -> dict[str, int]:
    """The cohort of each of the ids that is in the ring."""
    async with database.transaction(read_only=True) as session:
        return dict((await RingReader(session).find(ids)).cohorts)


async def played(
    calendar: Calendar, database: Database, since: datetime, hours: int, step: int = 6
) -> Counter[str]:
    """Turn the calendar for so many hours, report what is woken at once; how often each video was."""
    woken: Counter[str] = Counter()
    for hour in range(step, hours + step, step):
        await calendar.turn(since + timedelta(hours=hour))
        woken.update(
            row["video_id"] for row in await fetch(database, "SELECT video_id FROM watchlist")
        )
        await execute(database, "DELETE FROM watchlist")
    return woken


async def check_whole(database: Database, ids: Iterable[str], known: Iterable[str] = ()) -> None:
    """Fail unless exactly these videos are on the watchlist, each once, these besides are known, and the
    pages and the numbers of the cohorts are right."""
    async with database.transaction(read_only=True, isolation="REPEATABLE READ") as session:
        entries = await RingReader(session).between(0, LAST_POSITION)
        cohort_of = dict(zip(ids_of(entries.positions), entries.cohorts.tolist(), strict=True))
        cohorts = await CohortReader(session).all()
        pages = (
            await session.execute(
                text("SELECT lower, upper, entries FROM watchlist_ring ORDER BY lower")
            )
        ).all()
        rows = {
            row.video_id: row.woken_at is not None
            for row in await session.execute(text("SELECT video_id, woken_at FROM watchlist"))
        }
        tombstones = set(await session.scalars(text("SELECT video_id FROM video_tombstones")))
    sampled = {one for one, cohort in cohort_of.items() if cohort != KNOWN}
    assert sampled | rows.keys() == set(ids)
    assert {one for one, is_woken in rows.items() if is_woken} == sampled & rows.keys()
    assert set(known) <= tombstones | cohort_of.keys()
    counted = Counter(cohort_of.values())
    assert {one.number: one.entries for one in cohorts if one.entries} == counted
    assert (pages[0].lower, pages[-1].upper) == (stored(0), stored(LAST_POSITION))
    assert all(one.upper + 1 == two.lower for one, two in pairwise(pages))
    assert sum(page.entries for page in pages) == len(cohort_of)
