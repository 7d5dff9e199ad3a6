"""The sampling schedule: what is added, what a report changes."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.repositories.watchlist import NewEntry, TierSummary, TrackingReport, Watchlist
from atlas.types import TrackingTier
from tests.support.sql import execute, scalar

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
REPORT = TrackingReport("v", TrackingTier.DAILY, NOON, NOON + 24 * HOUR)


async def entry(session: AsyncSession, video_id: str = "v") -> dict[str, Any]:
    query = text("SELECT * FROM watchlist WHERE video_id = :id")
    return dict((await session.execute(query, {"id": video_id})).mappings().one())


async def test_a_new_video_is_due_at_once(session: AsyncSession) -> None:
    assert await Watchlist(session).add([NewEntry("v")]) == 1
    (due,) = await Watchlist(session).claim(5)
    assert (due.video_id, due.tracking_tier, due.last_tracked_at) == ("v", "HOURLY", None)


async def test_adding_again_changes_nothing(session: AsyncSession) -> None:
    await Watchlist(session).add([NewEntry("v", TrackingTier.WEEKLY, NOON)])
    await Watchlist(session).claim(1)
    before = await entry(session)
    assert await Watchlist(session).add([NewEntry("v"), NewEntry("w"), NewEntry("w")]) == 1
    assert await entry(session) == before


async def test_a_report_sets_the_schedule_and_the_counters_that_are_known(
    session: AsyncSession,
) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("v", views=1, likes=2)])
    await watchlist.claim(1)
    assert await watchlist.report([replace(REPORT, views=5)]) == {"v"}
    row = await entry(session)
    assert (row["tracking_tier"], row["last_tracked_at"]) == ("DAILY", NOON)
    assert row["next_track_at"] == NOON + 24 * HOUR
    assert (row["last_views"], row["last_likes"], row["last_comment_count"]) == (5, 2, None)
    assert (row["leased_until"], row["lease"], row["attempts"]) == (None, None, 0)


async def test_an_older_report_changes_nothing_not_even_the_lease(session: AsyncSession) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("v")])
    await watchlist.report([REPORT])
    await watchlist.claim(1)
    before = await entry(session)
    older = replace(REPORT, last_tracked_at=NOON - timedelta(microseconds=1))
    assert await watchlist.report([older]) == set()
    assert await entry(session) == before
    assert await watchlist.report([REPORT]) == {"v"}  # the same again is no older


async def test_of_several_reports_in_a_call_the_newest_counts(session: AsyncSession) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("v")])
    later = replace(REPORT, last_tracked_at=NOON + HOUR, tracking_tier=TrackingTier.WEEKLY)
    same = replace(later, tracking_tier=TrackingTier.DORMANT)
    assert await watchlist.report([REPORT, later, same, REPORT]) == {"v"}
    row = await entry(session)
    assert (row["tracking_tier"], row["last_tracked_at"]) == ("DORMANT", NOON + HOUR)


async def test_a_report_under_a_lost_lease_changes_nothing_and_says_so(
    session: AsyncSession,
) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("v")])
    (due,) = await watchlist.claim(1)
    assert await watchlist.report([replace(REPORT, lease=uuid.uuid4())]) == set()
    assert await watchlist.report([replace(REPORT, lease=due.lease)]) == {"v"}


async def test_a_report_of_a_video_that_is_not_on_the_list_adds_none(session: AsyncSession) -> None:
    assert await Watchlist(session).report([REPORT]) == set()
    assert await session.scalar(text("SELECT count(*) FROM watchlist")) == 0


async def test_a_workers_wrong_clock_does_not_make_later_reports_look_old(
    session: AsyncSession,
) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("v")])
    wrong = replace(REPORT, last_tracked_at=datetime(2999, 1, 1, tzinfo=UTC))
    assert await watchlist.report([wrong]) == {"v"}
    now = await watchlist.now()
    assert (await entry(session))["last_tracked_at"] <= now + timedelta(days=1)
    right = replace(REPORT, last_tracked_at=now + timedelta(days=1, seconds=1))
    assert await watchlist.report([right]) == {"v"}


@pytest.mark.parametrize("field", ["last_tracked_at", "next_track_at"])
async def test_naive_times_are_refused(session: AsyncSession, field: str) -> None:
    naive: dict[str, Any] = {field: NOON.replace(tzinfo=None)}
    with pytest.raises(InvalidInput, match=f"{field} has no time zone"):
        await Watchlist(session).report([replace(REPORT, **naive)])
    with pytest.raises(InvalidInput, match=f"{field} has no time zone"):
        await Watchlist(session).add([replace(NewEntry("v"), **naive)])


async def test_reports_of_the_same_videos_in_opposite_order_do_not_deadlock(
    database: Database,
) -> None:
    insert = "INSERT INTO watchlist (video_id) SELECT 'v' || g FROM generate_series(1, 400) g"
    await execute(database, insert)

    async def report(order: int, moment: datetime) -> None:
        reports = [
            TrackingReport(f"v{number}", TrackingTier.DAILY, moment, moment)
            for number in range(1, 401)[::order]
        ]
        async with database.transaction() as session:
            await Watchlist(session).report(reports)

    for step in range(5):
        moment = NOON + step * HOUR
        await asyncio.gather(report(1, moment), report(-1, moment), report(1, moment))
    query = "SELECT count(*) FROM watchlist WHERE last_tracked_at = :last"
    assert await scalar(database, query, last=NOON + 4 * HOUR) == 400


async def test_the_summary_counts_by_tier_what_is_due_and_leased(session: AsyncSession) -> None:
    watchlist = Watchlist(session)
    await watchlist.add([NewEntry("a"), NewEntry("b"), NewEntry("c", TrackingTier.WEEKLY)])
    await watchlist.add([NewEntry("d", next_track_at=await watchlist.now() + HOUR)])
    await watchlist.claim(1)
    summary = await watchlist.summary()
    assert sum(tier.leased for tier in summary) == 1
    assert sum(tier.due for tier in summary) == 2
    assert [(tier.tier, tier.entries) for tier in summary] == [("HOURLY", 3), ("WEEKLY", 1)]
    assert isinstance(summary[0], TierSummary)
