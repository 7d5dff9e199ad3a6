"""Policies that say how often a video is sampled. Pure: they are told the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from atlas.types import TrackingTier, utc

#: Time between samples of each tier.
INTERVALS = {
    TrackingTier.HOURLY: timedelta(hours=1),
    TrackingTier.DAILY: timedelta(days=1),
    TrackingTier.WEEKLY: timedelta(days=7),
    TrackingTier.DORMANT: timedelta(days=30),
}

#: Up to which age (exclusive) a tier holds; older videos are weekly.
AGES = ((timedelta(hours=24), TrackingTier.HOURLY), (timedelta(days=7), TrackingTier.DAILY))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The tier of a video and when it is due."""

    tier: TrackingTier
    next_track_at: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """A sample just taken, and the one before it as far as the watchlist knows it.

    ``tier`` is the one the video has; None asks for one afresh. All times are timezone-aware.
    """

    video_id: str
    published_at: datetime | None
    tier: TrackingTier | None
    sampled_at: datetime
    views: int | None
    previous_at: datetime | None
    previous_views: int | None


class Policy(Protocol):
    """Says when a video that was just sampled is due again. Pure: told everything, reads no clock."""

    def schedule(self, seen: Observation) -> Schedule:
        """The tier from now on, and the next time."""
        ...


@dataclass(frozen=True, slots=True)
class AgePolicy:
    """Hourly under 24 hours of age, daily under 7 days, weekly from then on.

    A tier is not kept against a video's age, with one exception: DORMANT is a decision, not an age,
    and stays, at a sample every 30 days, until somebody gives the video another tier. A video of
    unknown age keeps the tier it has, or is daily. One that is not out yet is hourly.
    """

    def tier(
        self, published_at: datetime | None, now: datetime, current: TrackingTier | None = None
    ) -> TrackingTier:
        """The tier at ``now``. Naive times raise `InvalidInput`."""
        if current is TrackingTier.DORMANT:
            return current
        if published_at is None:
            return current or TrackingTier.DAILY
        age = utc(now, field="now") - utc(published_at, field="published_at")
        return next((tier for limit, tier in AGES if age < limit), TrackingTier.WEEKLY)

    def next(
        self, published_at: datetime | None, now: datetime, current: TrackingTier | None = None
    ) -> Schedule:
        """The tier, and when a video that is sampled at ``now`` is due again."""
        tier = self.tier(published_at, now, current)
        return Schedule(tier, utc(now, field="now") + INTERVALS[tier])

    def schedule(self, seen: Observation) -> Schedule:
        """`next` after a sample."""
        return self.next(seen.published_at, seen.sampled_at, seen.tier)
