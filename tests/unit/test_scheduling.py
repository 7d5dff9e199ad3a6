"""How age decides the next sample."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atlas.errors import InvalidInput
from atlas.scheduling import AgePolicy
from atlas.types import TrackingTier

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("age", "tier", "wait"),
    [
        (timedelta(0), TrackingTier.HOURLY, timedelta(hours=1)),
        (-DAY, TrackingTier.HOURLY, timedelta(hours=1)),
        (DAY - INSTANT, TrackingTier.HOURLY, timedelta(hours=1)),
        (DAY, TrackingTier.DAILY, DAY),
        (7 * DAY - INSTANT, TrackingTier.DAILY, DAY),
        (7 * DAY, TrackingTier.WEEKLY, 7 * DAY),
        (5000 * DAY, TrackingTier.WEEKLY, 7 * DAY),
    ],
)
def test_age_decides_the_tier_up_to_the_very_limit(
    age: timedelta, tier: TrackingTier, wait: timedelta
) -> None:
    schedule = AgePolicy().next(NOW - age, NOW)
    assert (schedule.tier, schedule.next_track_at) == (tier, NOW + wait)


def test_a_tier_is_not_kept_against_the_age() -> None:
    assert AgePolicy().tier(NOW - 2 * DAY, NOW, TrackingTier.HOURLY) is TrackingTier.DAILY
    assert AgePolicy().tier(NOW, NOW, TrackingTier.WEEKLY) is TrackingTier.HOURLY


def test_a_dormant_video_is_not_woken_by_its_age() -> None:
    schedule = AgePolicy().next(NOW, NOW, TrackingTier.DORMANT)
    assert (schedule.tier, schedule.next_track_at) == (TrackingTier.DORMANT, NOW + 30 * DAY)


def test_a_video_of_unknown_age_keeps_its_tier() -> None:
    assert AgePolicy().tier(None, NOW, TrackingTier.WEEKLY) is TrackingTier.WEEKLY
    assert AgePolicy().tier(None, NOW) is TrackingTier.DAILY


@pytest.mark.parametrize(
    "times", [(NOW.replace(tzinfo=None), NOW), (NOW, NOW.replace(tzinfo=None))]
)
def test_naive_times_are_refused_not_guessed(times: tuple[datetime, datetime]) -> None:
    with pytest.raises(InvalidInput, match="no time zone"):
        AgePolicy().next(*times)
