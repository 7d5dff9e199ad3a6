"""The sampling schedule."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.repositories.base import Repository, as_json, chunks
from atlas.repositories.hot.stats import COUNTER_COLUMNS, INSERT_SAMPLES
from atlas.repositories.leases import Head, Leases, Queue, held, release
from atlas.repositories.ledger.digests import not_erased
from atlas.repositories.ring.membership import Answers, Deciding, Membership
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.ring.parking import Parking
from atlas.tables.sample import WATCHED
from atlas.types import TrackingTier, check_id, utc

TRACK = Queue(
    kind="track",
    table="watchlist",
    key="video_id",
    ready="coalesce(q.leased_until, q.next_track_at) <= (SELECT now FROM clock)",
    order="coalesce(q.leased_until, q.next_track_at)",
    returning="q.video_id, q.tracking_tier, q.last_tracked_at, q.next_track_at, "
    "q.published_at, q.last_views, q.omissions",
    claimable="coalesce(q.leased_until, q.next_track_at)",
)


# The report that ends a call of the calendar: the pointer's day says when the video was sampled, and its
# place when it is next. What was sampled on another day, in another tier or by another rhythm stays a row.
def _settles(moment: str) -> str:
    return f"""coalesce(
        q.woken_at > '-infinity' AND q.tracking_tier = r.tracking_tier
        AND date_trunc('day', timezone('UTC', {moment})) = date_trunc('day', timezone('UTC', q.woken_at))
        AND r.next_track_at - {moment} >= interval '84 hours', false)"""


#: A row that is reported otherwise is one like all others, which also lies in the ring.
_ORDINARY = "woken_at = CASE WHEN q.woken_at IS NOT NULL THEN timestamptz '-infinity' END"

# The newest report of a video in the batch is the one that counts. A worker's clock may be wrong: a
# time that lies far ahead would make every later report look old, so it is cut to a day ahead.
_REPORT = text(f"""
    WITH report AS MATERIALIZED (
        SELECT DISTINCT ON (video_id) *
        FROM ROWS FROM (jsonb_to_recordset(CAST(:reports AS jsonb)) AS (
            video_id text COLLATE "C", tracking_tier text, last_tracked_at timestamptz,
            next_track_at timestamptz, {COUNTER_COLUMNS},
            lease uuid)) WITH ORDINALITY
        ORDER BY video_id, last_tracked_at DESC, ordinality DESC
    ),
    locked AS MATERIALIZED (
        SELECT q.video_id, q.tracking_tier, {_settles("r.last_tracked_at")} AS settles
        FROM watchlist q JOIN report r ON r.video_id = q.video_id
        WHERE (q.last_tracked_at IS NULL OR q.last_tracked_at <= r.last_tracked_at)
          AND (r.lease IS NULL OR r.lease = q.lease)
        ORDER BY q.video_id FOR UPDATE OF q
    ),
    settled AS (
        DELETE FROM watchlist q USING locked
        WHERE q.video_id = locked.video_id AND locked.settles
        RETURNING q.video_id, q.tracking_tier, q.tracking_tier
    ),
    rescheduled AS (
        UPDATE watchlist q
        SET tracking_tier = r.tracking_tier,
            last_tracked_at = least(r.last_tracked_at, now() + interval '1 day'),
            next_track_at = r.next_track_at,
            last_views = coalesce(r.views, q.last_views),
            last_likes = coalesce(r.likes, q.last_likes),
            last_comment_count = coalesce(r.comment_count, q.last_comment_count),
            omissions = 0, {_ORDINARY},
            {release()}
        FROM report r, locked
        WHERE q.video_id = locked.video_id AND r.video_id = locked.video_id AND NOT locked.settles
        RETURNING q.video_id, locked.tracking_tier, q.tracking_tier
    )
    SELECT * FROM settled UNION ALL SELECT * FROM rescheduled
    """)

# a late sample is none of the last ones
_LAST_COUNTERS = ", ".join(
    f"last_{name} = CASE WHEN r.timestamp < q.last_tracked_at THEN q.last_{name} "
    f"ELSE coalesce(r.{name}, q.last_{name}) END"
    for name in WATCHED
)

# What of a sample is written, and the new schedule, stand or fall together with the lease.
_RECORD = text(f"""
    WITH report AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(
            video_id text COLLATE "C", tracking_tier text, next_track_at timestamptz,
            timestamp timestamptz, {COUNTER_COLUMNS},
            omissions smallint)
    ),
    {held(TRACK, "ARRAY(SELECT video_id FROM report)")},
    samples AS ({INSERT_SAMPLES}),
    settled AS (
        DELETE FROM watchlist q USING report r, held
        WHERE q.video_id = held.key AND r.video_id = held.key AND {_settles("r.timestamp")}
        RETURNING q.video_id
    ),
    rescheduled AS (
        UPDATE watchlist q
        SET tracking_tier = r.tracking_tier,
            next_track_at = r.next_track_at,
            last_tracked_at = greatest(r.timestamp, q.last_tracked_at),
            {_LAST_COUNTERS},
            omissions = r.omissions, {_ORDINARY},
            {release()}
        FROM report r, held
        WHERE q.video_id = held.key AND r.video_id = held.key AND NOT {_settles("r.timestamp")}
        RETURNING q.video_id
    )
    SELECT video_id FROM settled UNION ALL SELECT video_id FROM rescheduled
    """)

_ADD = text(f"""
    INSERT INTO watchlist (video_id, tracking_tier, published_at, last_tracked_at, next_track_at,
                           last_views, last_likes, last_comment_count)
    SELECT video_id, tracking_tier, published_at, last_tracked_at, coalesce(next_track_at, now()),
           views, likes, comment_count
    FROM jsonb_to_recordset(CAST(:entries AS jsonb)) AS e(
        video_id text COLLATE "C", tracking_tier text, published_at timestamptz,
        last_tracked_at timestamptz, next_track_at timestamptz,
        views bigint, likes bigint, comment_count bigint)
    WHERE NOT EXISTS (
        SELECT FROM video_tombstones t WHERE t.video_id = e.video_id AND t.reason = 'forgotten')
    AND {not_erased("e.video_id")}
    ON CONFLICT (video_id) DO NOTHING
    RETURNING video_id
    """)

_REMOVE = text("DELETE FROM watchlist WHERE video_id = ANY (:ids)").bindparams(
    bindparam("ids", type_=ARRAY(Text))
)
# what is awake lies in the ring as well, and is counted there
_SUMMARY = text("""
    SELECT tier, CAST(sum(entries) AS bigint), CAST(sum(due) AS bigint), CAST(sum(leased) AS bigint)
    FROM (
        SELECT tracking_tier AS tier, count(*) FILTER (WHERE woken_at IS NULL) AS entries,
               count(*) FILTER (WHERE coalesce(leased_until, next_track_at) <= now()) AS due,
               count(*) FILTER (WHERE leased_until > now() AND lease IS NOT NULL) AS leased
        FROM watchlist GROUP BY tracking_tier
        UNION ALL
        SELECT CASE cohort WHEN 1 THEN 'DORMANT' ELSE 'WEEKLY' END, sum(entries), 0, 0
        FROM watchlist_cohorts WHERE cohort > 0 AND entries > 0 GROUP BY 1
        UNION ALL
        -- a month before there were videos stands for DORMANT ones
        SELECT CASE WHEN slice_start < '2005-01-01T00:00Z' THEN 'DORMANT' ELSE 'WEEKLY' END,
               sum(row_count), 0, 0
        FROM archive_files WHERE dataset = 'schedule' AND state = 'live' GROUP BY 1
    ) AS forms
    GROUP BY tier ORDER BY tier
    """)
_AWAKE = text("SELECT count(*) FROM watchlist WHERE woken_at > '-infinity'")
_ROWS_A_DAY = text("""
    SELECT coalesce(sum(CASE tracking_tier WHEN 'HOURLY' THEN 24.0 WHEN 'DAILY' THEN 1.0
                        WHEN 'WEEKLY' THEN 1 / 7.0 ELSE 1 / 30.0 END), 0)
    FROM watchlist WHERE woken_at IS NULL OR woken_at = '-infinity'
    """)


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A video to sample from now on. Without ``next_track_at`` it is due at once."""

    video_id: str
    tracking_tier: TrackingTier = TrackingTier.HOURLY
    published_at: datetime | None = None
    last_tracked_at: datetime | None = None
    next_track_at: datetime | None = None
    views: int | None = None
    likes: int | None = None
    comment_count: int | None = None


@dataclass(frozen=True, slots=True)
class DueVideo:
    """A leased entry. ``lease`` is its token; ``next_track_at`` when it had been due.

    ``omissions`` counts the answers in a row that left it out, ``attempts`` the claims since the last
    report; ``claimed_at`` is the database's time.
    """

    video_id: str
    tracking_tier: str
    last_tracked_at: datetime | None
    next_track_at: datetime
    published_at: datetime | None
    last_views: int | None
    omissions: int
    lease: uuid.UUID
    attempts: int
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class TrackingReport:
    """A video was sampled at ``last_tracked_at`` and is due again at ``next_track_at``.

    With ``lease`` the report counts only while that lease is the current one. Counters that are not
    known leave the last known ones.
    """

    video_id: str
    tracking_tier: TrackingTier
    last_tracked_at: datetime
    next_track_at: datetime
    views: int | None = None
    likes: int | None = None
    comment_count: int | None = None
    lease: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of asking for a video: a sample at ``timestamp``, or None and one omission more."""

    video_id: str
    tracking_tier: TrackingTier
    next_track_at: datetime
    timestamp: datetime | None
    views: int | None
    likes: int | None
    comment_count: int | None
    omissions: int


@dataclass(frozen=True, slots=True)
class TierChange:
    """A video is sampled by another tier than before."""

    video_id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class TierSummary:
    """How many entries a tier has, how many of them are due now, and how many are leased."""

    tier: str
    entries: int
    due: int
    leased: int


class WatchlistReader(Repository):
    """Reads the schedule."""

    async def summary(self) -> list[TierSummary]:
        """One row a tier that has entries."""
        return [TierSummary(*row) for row in await self.session.execute(_SUMMARY)]

    async def awake(self) -> int:
        """How many rows the calendar has woken and nobody has reported yet."""
        return int((await self.session.execute(_AWAKE)).scalar_one())

    async def samples_a_day(self) -> float:
        """How many samples a day the rows that are not of the calendar ask for, by their tiers."""
        return float((await self.session.execute(_ROWS_A_DAY)).scalar_one())


class Watchlist(Deciding, WatchlistReader):
    """Changes the schedule. ``added`` are the ids that came in, ``tier_changes`` what `report` changed."""

    def __init__(self, session: AsyncSession, answers: Answers | None = None) -> None:
        super().__init__(session, answers)
        self.added: list[str] = []
        self.tier_changes: list[TierChange] = []

    async def add(self, entries: Iterable[NewEntry], seen: Membership | None = None) -> int:
        """Add videos that are not there yet; those that are stay as they are. Returns how many came in.

        ``seen``: what was known of all of them, found in this transaction.
        """
        added = 0
        unique = {check_id(entry.video_id): entry for entry in entries}
        for entry in unique.values():
            for field in ("published_at", "last_tracked_at", "next_track_at"):
                if (moment := getattr(entry, field)) is not None:
                    utc(moment, field=field)
        for part in chunks([unique[video_id] for video_id in sorted(unique)]):
            added += await self._add(part, seen)
        return added

    async def _add(self, entries: Sequence[NewEntry], seen: Membership | None) -> int:
        ring = RingReader(self.session)
        published = {entry.video_id: entry.published_at for entry in entries}
        if seen is None:
            seen = await ring.find(published, self._answers, published)
        out = seen.sampled | self._note(seen, published.keys())
        new = [entry for entry in entries if entry.video_id not in out]
        rows = await self.session.execute(_ADD, {"entries": as_json(new)})
        added = set(rows.scalars())
        # what was parked between the look and the insert had its row deleted by then: look again
        if added and await ring.has_changed(seen):
            seen = await ring.find(added, self._answers, published)
            out = seen.sampled | self._note(seen, added)
            await self.session.execute(_REMOVE, {"ids": list(out)})
            added -= out
        self.added += sorted(added)
        return len(added)

    async def claim(
        self, limit: int, head: Head | None = None, before: datetime | None = None
    ) -> list[DueVideo]:
        """Lease up to ``limit`` due videos, earliest first; for the others see `Leases.claim`."""
        rows = await Leases(self.session, TRACK).claim(limit, head=head, before=before)
        return [DueVideo(*row) for row in rows]

    async def record(self, token: uuid.UUID, outcomes: Sequence[Recorded]) -> set[str]:
        """Write samples, reschedule and end leases, in one statement; returns the ids still held.

        For the others nothing is written, no sample either. SQLSTATE 23514 without a constraint: a
        sample has no partition.
        """
        values = {"token": token, "reports": as_json(outcomes)}
        return set(await self.session.scalars(_RECORD, values))

    async def report(self, reports: Sequence[TrackingReport]) -> set[str]:
        """Record samplings, end their leases; returns the ids of the entries that were changed.

        A report older than what is stored, under a lease that is no longer the current one, or of a
        video that is not on the list changes nothing; nor does one without a lease of a video that lies in a
        file of the vault and is not awake.
        """
        for report in reports:
            check_id(report.video_id)
            utc(report.last_tracked_at, field="last_tracked_at")
            utc(report.next_track_at, field="next_track_at")
        changed: set[str] = set()
        by_video = sorted(reports, key=lambda report: report.video_id)
        for part in chunks(by_video):
            changed |= await self._report(part)
            # who reports without a lease need not know that the calendar has the video
            others = [one for one in part if one.lease is None and one.video_id not in changed]
            cohorts = await RingReader(self.session).cohorts_of(one.video_id for one in others)
            if parked := {video_id for video_id, cohort in cohorts.items() if cohort != KNOWN}:
                woken = await Parking(self.session).wake_ids(parked)
                again = [one for one in others if one.video_id in parked]
                changed |= await self._report(again)
                # a report older than the last sample leaves the video parked
                await self.session.execute(_REMOVE, {"ids": sorted(woken - changed)})
        return changed

    async def _report(self, reports: Sequence[TrackingReport]) -> set[str]:
        rows = (await self.session.execute(_REPORT, {"reports": as_json(reports)})).all()
        self.tier_changes += [
            TierChange(video_id, before, after)
            for video_id, before, after in rows
            if before != after
        ]
        return {video_id for video_id, _, _ in rows}
