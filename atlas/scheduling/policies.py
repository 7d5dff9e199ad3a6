"""Policies that decide how often a video is sampled. Pure: the time is an argument.

docs/scheduling.md derives them, and compares them on real and simulated videos.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from atlas.errors import InvalidInput
from atlas.types import TrackingTier, utc

_HOUR = timedelta(hours=1)

#: Time between samples of each tier.
INTERVALS = {
    TrackingTier.HOURLY: timedelta(hours=1),
    TrackingTier.DAILY: timedelta(days=1),
    TrackingTier.WEEKLY: timedelta(days=7),
    TrackingTier.DORMANT: timedelta(days=30),
}

#: Up to which age (exclusive) a tier holds; older videos are weekly.
AGES = ((timedelta(hours=24), TrackingTier.HOURLY), (timedelta(days=7), TrackingTier.DAILY))

#: By which part of itself an interval is longer or shorter, at most.
JITTER = 0.1


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
    """Decides when a video that was just sampled is due again. Pure: it reads no clock."""

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
        """`next` after a sample, `jittered`."""
        tier = self.tier(seen.published_at, seen.sampled_at, seen.tier)
        interval = jittered(INTERVALS[tier], seen.video_id)
        return Schedule(tier, utc(seen.sampled_at, field="sampled_at") + interval)


@dataclass(frozen=True, slots=True)
class VelocityPolicy:
    """Samples where the view curve bends, estimated from the last two counters: stateless.

    The interval is ``spacing * (min(age, 1 / growth) / growth) ** (1/3)``, in hours, where ``growth`` is the
    part of its views that a video gained in an hour: samples that lie so make the least of the error
    of the lines between them. A video that still grows fast stays hourly whatever its age, one that
    lies flat becomes weekly within a day. The larger ``spacing``, the fewer samples: the error grows with
    its square.

    The tier is a name for the interval, between an hour and a week; on the border between two it stays
    what it was (`BORDERS`). Where there are no two counters to compare, age decides as in `AgePolicy`.
    DORMANT stays.
    """

    spacing: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.spacing < float("inf"):
            raise InvalidInput(
                f"spacing is not a positive number: {self.spacing}",
                field="spacing",
                value=self.spacing,
                hint="0.5 takes about as many samples as AgePolicy",
            )

    def schedule(self, seen: Observation) -> Schedule:
        """When the curve will have bent away from a line by as much as is allowed; `jittered`."""
        growth = _growth(seen)
        if growth is None or seen.tier is TrackingTier.DORMANT:
            return AgePolicy().schedule(seen)
        # a video that spreads anew bends as quickly as one that is as young as it grows fast
        bends_in = min(_age(seen), 1 / growth)
        hours = self.spacing * (bends_in / growth) ** (1 / 3)
        interval = timedelta(hours=min(max(hours, 1.0), 168.0))
        due = utc(seen.sampled_at, field="sampled_at") + jittered(interval, seen.video_id)
        return Schedule(_named(interval, seen.tier), due)


#: The interval from which on a video is in the slower of two tiers, from the faster one and back: two
#: borders, so that one which lies between does not change its tier each time.
BORDERS = (
    (TrackingTier.HOURLY, timedelta(hours=8), timedelta(hours=5)),
    (TrackingTier.DAILY, timedelta(days=4), timedelta(days=2.5)),
)
_SLOWNESS = (TrackingTier.HOURLY, TrackingTier.DAILY, TrackingTier.WEEKLY)
#: What a video whose age is not known is taken for, at least.
_UNKNOWN_AGE = timedelta(days=7)


def jittered(interval: timedelta, video_id: str) -> timedelta:
    """The interval, up to a tenth longer or shorter: the same for the same id, another for others.

    Videos that were discovered together are due together; so they drift apart from the first sample on,
    and stay apart, in every process.
    """
    number = int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest())
    return interval * (1 + JITTER * (number / 2**63 - 1))


def _growth(seen: Observation) -> float | None:
    """The part of its views that the video gained in an hour; None: there is nothing to compare."""
    if seen.views is None or seen.previous_views is None or seen.previous_at is None:
        return None
    hours = (seen.sampled_at - seen.previous_at) / _HOUR
    if hours <= 0:
        return None
    # what was not seen to grow may have grown by less than one view; purges take views away
    gained = max(seen.views - seen.previous_views, 0.5)
    return gained / max(seen.views, 1) / hours


def _age(seen: Observation) -> float:
    """In hours, one at least."""
    if seen.published_at is None:
        known = seen.sampled_at - (seen.previous_at or seen.sampled_at)
        return max(known, _UNKNOWN_AGE) / _HOUR
    return max((seen.sampled_at - utc(seen.published_at, field="published_at")) / _HOUR, 1.0)


def _named(interval: timedelta, tier: TrackingTier | None) -> TrackingTier:
    """The tier of an interval, the present one where it lies between two borders."""
    name = TrackingTier.HOURLY
    for faster, slower_from, faster_from in BORDERS:
        is_slow = tier is not None and _SLOWNESS.index(tier) > _SLOWNESS.index(faster)
        if interval >= (faster_from if is_slow else slower_from):
            name = _SLOWNESS[_SLOWNESS.index(faster) + 1]
    return name
