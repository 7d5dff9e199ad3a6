"""How age decides the next sample."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from atlas.errors import InvalidInput
from atlas.scheduling import AgePolicy, Observation, VelocityPolicy
from atlas.scheduling.policies import INTERVALS, jittered
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


HOUR = timedelta(hours=1)


def seen(
    *,
    age: timedelta | None = 3 * DAY,
    views: int | None = 1_000,
    gained: int | None = 0,
    since: timedelta = HOUR,
    tier: TrackingTier | None = TrackingTier.HOURLY,
    video_id: str = "v",
) -> Observation:
    """What a policy is told; ``gained`` None: there was no sample before."""
    return Observation(
        video_id,
        None if age is None else NOW - age,
        tier,
        NOW,
        views,
        None if gained is None else NOW - since,
        None if gained is None or views is None else views - gained,
    )


def hours(policy: AgePolicy | VelocityPolicy, observation: Observation) -> float:
    """The interval without the jitter."""
    interval = policy.schedule(observation).next_track_at - NOW
    return interval / jittered(HOUR, observation.video_id)


def test_the_age_policy_schedules_by_the_intervals_of_its_tiers() -> None:
    for age, tier in ((HOUR, TrackingTier.HOURLY), (3 * DAY, TrackingTier.DAILY)):
        assert AgePolicy().schedule(seen(age=age)).tier is tier
        assert hours(AgePolicy(), seen(age=age)) == pytest.approx(INTERVALS[tier] / HOUR)


def test_a_video_that_grows_fast_stays_hourly_and_a_flat_one_becomes_weekly() -> None:
    policy = VelocityPolicy()
    # it doubles every hour, on its third day
    fast = policy.schedule(seen(gained=500))
    assert fast.tier is TrackingTier.HOURLY and hours(policy, seen(gained=500)) < 4
    flat = policy.schedule(seen(views=1_000_000, gained=0, since=DAY))
    assert flat.tier is TrackingTier.WEEKLY
    # and back, when it spreads again
    back = policy.schedule(seen(gained=900, tier=TrackingTier.WEEKLY, age=60 * DAY))
    assert back.tier is TrackingTier.HOURLY


def test_the_interval_is_the_cube_root_of_age_by_growth_between_an_hour_and_a_week() -> None:
    policy = VelocityPolicy(spacing=2.0)
    # a thousandth an hour at an age of 72 hours
    assert hours(policy, seen(gained=1)) == pytest.approx(2 * (72 / 0.001) ** (1 / 3), rel=1e-6)
    assert hours(policy, seen(gained=8)) == pytest.approx(2 * (72 / 0.008) ** (1 / 3), rel=1e-6)
    # a quarter an hour: as if it were four hours old
    assert hours(policy, seen(gained=250)) == pytest.approx(2 * (4 / 0.25) ** (1 / 3), rel=1e-6)
    assert hours(policy, seen(gained=1000, age=HOUR)) == pytest.approx(2.0)
    assert hours(VelocityPolicy(0.01), seen(gained=1000)) == pytest.approx(1.0)
    assert hours(policy, seen(views=10**9, gained=0, age=900 * DAY)) == pytest.approx(168.0)


def test_a_video_between_two_tiers_keeps_the_one_it_has() -> None:
    policy = VelocityPolicy(spacing=0.26)
    between = seen(gained=4)
    assert 5 < hours(policy, between) < 8
    for tier in (TrackingTier.HOURLY, TrackingTier.DAILY):
        assert policy.schedule(seen(gained=4, tier=tier)).tier is tier
    # and however it comes and goes about the border, the tier changes once
    tiers = [TrackingTier.HOURLY]
    for gained in (8, 3, 2, 3, 8, 4, 2, 6):
        tiers.append(policy.schedule(seen(gained=gained, tier=tiers[-1])).tier)
    assert tiers[3:] == [TrackingTier.DAILY] * 6 and set(tiers[:3]) == {TrackingTier.HOURLY}
    assert policy.schedule(seen(gained=12, tier=tiers[-1])).tier is TrackingTier.HOURLY


@pytest.mark.parametrize(
    "observation",
    [
        seen(gained=None, age=HOUR),
        seen(views=None, age=2 * DAY),
        seen(tier=TrackingTier.DORMANT),
        seen(gained=None, age=None, tier=None),
        seen(since=timedelta(0)),
    ],
    ids=["first sample", "views hidden", "dormant", "nothing known", "same moment"],
)
def test_without_two_counters_age_decides(observation: Observation) -> None:
    assert VelocityPolicy().schedule(observation) == AgePolicy().schedule(observation)


def test_views_that_were_purged_are_no_growth() -> None:
    assert hours(VelocityPolicy(), seen(gained=-500)) == hours(VelocityPolicy(), seen(gained=0))


def test_a_spacing_that_is_no_positive_number_is_refused() -> None:
    for spacing in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="spacing"):
            VelocityPolicy(spacing)


def test_videos_that_were_discovered_together_are_soon_due_apart_and_the_mean_is_kept() -> None:
    steps = [jittered(HOUR, f"video-{number}") for number in range(20_000)]
    assert all(0.9 * HOUR <= step <= 1.1 * HOUR for step in steps)
    assert sum(steps, timedelta()) / len(steps) / HOUR == pytest.approx(1, abs=0.002)
    for turn, largest in ((1, 0.1), (6, 0.02)):
        minutes = Counter(int(turn * step / timedelta(minutes=1)) for step in steps)
        assert max(minutes.values()) < largest * len(steps)
    # in every process, for ever
    assert jittered(HOUR, "dQw4w9WgXcQ") == timedelta(seconds=3809, microseconds=227645)
