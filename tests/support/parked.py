"""Slow videos for tests of the calendar: making them, playing time, and what must hold of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from sqlalchemy import text

from atlas.archive.export import schedule
from atlas.archive.export.schedule import cohorts_to_move, move_schedule, restore_schedule
from atlas.archive.jobs import begin_job
from atlas.db import Database
from atlas.reading.schedule import ScheduleReader
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.cohorts import CohortReader
from atlas.repositories.ring.filter import FilterReader, counting
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.ring.positions import LAST_POSITION, ids_of, positions_of, stored
from atlas.scheduling.calendar import Calendar
from atlas.vault import Vault
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


async def parked_long_ago(
    database: Database, ids: list[str], now: datetime, years: float = 3
) -> Calendar:
    """The same, of videos published years ago; of an odd number of years in a month each."""
    await slow_rows(database, ids, now=now)
    await execute(
        database,
        "UPDATE watchlist SET published_at = :published WHERE video_id = ANY (:ids)",
        published=now - timedelta(days=365 * years),
        ids=ids,
    )
    calendar = Calendar(database)
    assert (await calendar.park(now)).videos == len(ids)
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = :now", now=now)
    return calendar


async def moved_to(vault: Vault, database: Database) -> int:
    """What one run of the janitor's job moves to the vault, however few they are; in three slices or more."""
    async with database.transaction(read_only=True) as session:
        months = await cohorts_to_move(session, least=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "PAGES_A_SLICE", 1)
        async with begin_job(database, vault.store, wait=True) as steps:
            return await move_schedule(steps, months, least=1)


async def restored_from(vault: Vault, database: Database) -> int:
    """Bring everything back, in three slices or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "PAGES_A_SLICE", 1)
        async with begin_job(database, vault.store, wait=True) as steps:
            return await restore_schedule(steps)


def neighbour(video_id: str) -> str:
    """Another id, which the filter cannot tell from this one."""
    return ids_of(positions_of([video_id]) ^ np.uint64(1))[0]


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


async def check_whole(
    database: Database,
    ids: Iterable[str],
    known: Iterable[str] = (),
    vault: Vault | None = None,
) -> None:
    """Fail unless exactly these videos are on the watchlist, each once, these besides are known, and the
    pages and the numbers of the cohorts are right. With ``vault`` some may lie in its files."""
    async with database.transaction(read_only=True, isolation="REPEATABLE READ") as session:
        entries = await RingReader(session).between(0, LAST_POSITION)
        cohort_of = dict(zip(ids_of(entries.positions), entries.cohorts.tolist(), strict=True))
        in_ring = len(cohort_of)
        pairs = await FilterReader(session).between(0, LAST_POSITION)
        for file in await ScheduleFiles(session).live():
            assert vault is not None
            rows = ScheduleReader(vault.store).between(file, 0, LAST_POSITION)
            there = counting(rows, entries, pairs)
            cohort_of |= dict.fromkeys(ids_of(there.positions), file.cohort)
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
    counted = Counter(entries.cohorts.tolist())
    assert {one.number: one.in_ring for one in cohorts if one.in_ring} == counted
    assert (pages[0].lower, pages[-1].upper) == (stored(0), stored(LAST_POSITION))
    assert all(one.upper + 1 == two.lower for one, two in pairwise(pages))
    assert sum(page.entries for page in pages) == in_ring
