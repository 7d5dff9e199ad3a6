"""Policies compared: samples spent beside the error of the view curve that is drawn through them.

The error of a video is the time average of |interpolated - true| over the horizon, as a part of its views at
the horizon's end; that of a policy is the mean over videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from atlas.cli.simulator import Simulator
from atlas.db import Database
from atlas.importing.importer import Options, read_samples
from atlas.scheduling import AgePolicy, Observation, Policy, Schedule, VelocityPolicy
from atlas.scheduling.policies import INTERVALS, jittered
from atlas.types import TrackingTier
from benchmarks.encodings import REAL
from benchmarks.support import Result

#: Views by hours since upload.
Curve = Callable[[Any], Any]

_START = datetime(2026, 1, 1, tzinfo=UTC)
_VIDEOS = 600
#: Videos that are followed for a year.
_LONG_VIDEOS = 80
#: Hours from upload to the first sample.
_FOUND_AFTER = 0.5
_SPACINGS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4)
_GOAL = 0.5


@dataclass(frozen=True, slots=True)
class Video:
    """A true curve, known up to ``hours`` after the upload."""

    curve: Curve
    hours: float


@dataclass(frozen=True, slots=True)
class Score:
    """Samples a video, and the mean error."""

    samples: float
    error: float


@dataclass(frozen=True, slots=True)
class SmoothAge:
    """For comparison: intervals that grow with age alone, without steps."""

    spacing: float

    def schedule(self, seen: Observation) -> Schedule:
        assert seen.published_at is not None
        hours = self.spacing * ((seen.sampled_at - seen.published_at) / timedelta(hours=1)) ** (
            2 / 3
        )
        interval = timedelta(hours=min(max(hours, 1.0), 168.0))
        return Schedule(TrackingTier.HOURLY, seen.sampled_at + jittered(interval, seen.video_id))


@dataclass(frozen=True, slots=True)
class Stretched:
    """`AgePolicy`, whose slow tier is stretched as the calendar does it for a budget: by age."""

    c: float

    def schedule(self, seen: Observation) -> Schedule:
        assert seen.published_at is not None
        found = AgePolicy().schedule(seen)
        age = seen.sampled_at - seen.published_at
        if found.tier is not TrackingTier.WEEKLY:
            return found
        interval = max(INTERVALS[TrackingTier.WEEKLY], age / self.c)
        return Schedule(found.tier, seen.sampled_at + jittered(interval, seen.video_id))


@dataclass(frozen=True, slots=True)
class Evenly:
    """For comparison: the slow tier is stretched alike for every age."""

    weeks: float

    def schedule(self, seen: Observation) -> Schedule:
        found = AgePolicy().schedule(seen)
        if found.tier is not TrackingTier.WEEKLY:
            return found
        interval = INTERVALS[TrackingTier.WEEKLY] * self.weeks
        return Schedule(found.tier, seen.sampled_at + jittered(interval, seen.video_id))


def budgeted(
    videos: Sequence[Video], name: str, cs: Sequence[float] = (8.0, 4.0, 2.0)
) -> list[Result]:
    """Errors with a budget that stretches by age, and at as many samples by one interval for all."""
    results = []
    for c in cs:
        by_age = score(Stretched(c), videos)
        low, high = 1.0, 60.0
        for _ in range(8):
            middle = (low * high) ** 0.5
            if score(Evenly(middle), videos).samples > by_age.samples:
                low = middle
            else:
                high = middle
        even = score(Evenly(high), videos)
        results.append(
            Result(
                f"{name}, budget: error x 1e6, {by_age.samples:.1f} samples a video",
                by_age.error * 1e6,
                f"one interval for all, {even.samples:.1f}",
                even.error * 1e6,
                "",
            )
        )
    return results


async def measure(
    database: Database, folder: Path, rows: int, images: Path | None = None
) -> list[Result]:
    worlds = {
        "simulator, 30 days": _simulated(30),
        "simulator, 90 days": _simulated(90),
        "simulator with second bursts, 30 days": _bursting(30),
    }
    if REAL.exists():
        worlds["real videos"] = _real(REAL)
    results = []
    for name, videos in worlds.items():
        age = score(AgePolicy(), videos)
        equal = _at_samples(VelocityPolicy, videos, age.samples)
        smooth = _at_samples(SmoothAge, videos, age.samples)
        what = f"{name}: error x 1e6, {equal.samples:.1f} samples a video"
        beside = f"AgePolicy, {age.samples:.1f}"
        results += [
            Result(what, equal.error * 1e6, beside, age.error * 1e6, "", _GOAL, most=True),
            Result(
                what,
                equal.error * 1e6,
                f"by age, smooth, {smooth.samples:.1f}",
                smooth.error * 1e6,
                "",
            ),
        ]
    results += budgeted(_simulated(365, _LONG_VIDEOS), "simulator, a year")
    results += budgeted(_bursting(365, _LONG_VIDEOS), "simulator with second bursts, a year")
    if "real videos" in worlds:
        faster = [_faster(video, 7) for video in worlds["real videos"]]
        results += budgeted(faster, "real videos, a day taken for a week")
    if images is not None:
        plot(worlds, images / "policies.png")
        plot_burst(images / "jitter.png")
    return results


def score(policy: Policy, videos: Sequence[Video]) -> Score:
    """What a policy costs and how wrong it is."""
    spent, errors = 0, 0.0
    for place, video in enumerate(videos):
        hours, views = _sampled(policy, f"video-{place}", video)
        spent += len(hours)
        grid = np.arange(0.0, video.hours, 0.5)
        drawn = np.interp(grid, [0.0, *hours], [0.0, *views])
        whole = max(float(video.curve(video.hours)), 1.0)
        errors += float(np.abs(drawn - video.curve(grid)).mean()) / whole
    return Score(spent / len(videos), errors / len(videos))


def _sampled(policy: Policy, video_id: str, video: Video) -> tuple[list[float], list[float]]:
    """Hours and views of all samples, the first one beyond the horizon included: it ends the last line."""
    hours, views = [], []
    tier: TrackingTier | None = TrackingTier.HOURLY
    at, before = _START + timedelta(hours=_FOUND_AFTER), None
    while True:
        hour = (at - _START) / timedelta(hours=1)
        seen = int(video.curve(hour))
        hours.append(hour)
        views.append(float(seen))
        if hour >= video.hours:
            return hours, views
        told = (None, None) if before is None else before
        schedule = policy.schedule(Observation(video_id, _START, tier, at, seen, *told))
        before = (at, seen)
        at, tier = schedule.next_track_at, schedule.tier


def _at_samples(make: Callable[[float], Policy], videos: Sequence[Video], samples: float) -> Score:
    """The policy whose spacing spends at most as many samples, by bisection."""
    low, high = 0.05, 5.0
    for _ in range(10):
        middle = (low * high) ** 0.5
        if score(make(middle), videos).samples > samples:
            low = middle
        else:
            high = middle
    return score(make(high), videos)


def _simulated(days: int, videos: int = _VIDEOS) -> list[Video]:
    platform = Simulator(7, videos, _START, _START + timedelta(days=30))
    # the curves by themselves: nothing is deleted here
    pairs = zip(platform._total, platform._days_to_grow, strict=True)
    return [Video(_saturating(total, grow), days * 24.0) for total, grow in pairs]


def _bursting(days: int, videos: int = _VIDEOS) -> list[Video]:
    """The same videos, each of which spreads a second time, some days after it was uploaded."""
    random = np.random.default_rng(11)

    def again(first: Curve) -> Curve:
        begins, size = random.uniform(72, 480), random.lognormal(-0.5, 0.8)
        second = _saturating(float(first(1e6)) * size, random.uniform(0.3, 3.0))
        return lambda hours: first(hours) + second(np.asarray(hours) - begins)

    return [Video(again(video.curve), video.hours) for video in _simulated(days, videos)]


def _saturating(total: float, days_to_grow: float) -> Curve:
    def views(hours: Any) -> Any:
        days = np.maximum(hours, 0.0) / 24
        return np.floor(total * (1 - np.exp(-((days / days_to_grow) ** 0.8))))

    return views


def _real(path: Path) -> list[Video]:
    """Videos with five daily observations and more, a monotone cubic between them.

    When they were uploaded is not in the data: a day before they were first seen.
    """
    observed: dict[str, dict[datetime, int]] = {}
    for row in read_samples([path], Options(year=2017)).to_pylist():
        if row["views"] is not None:
            observed.setdefault(row["video_id"], {})[row["timestamp"]] = row["views"]
    videos = []
    for days in observed.values():
        if len(days) < 5:
            continue
        moments = sorted(days)
        hours = [(moment - moments[0]) / timedelta(hours=1) + 24 for moment in moments]
        views = np.maximum.accumulate([days[moment] for moment in moments])
        cubic = PchipInterpolator([0.0, *hours], [0.0, *views])
        videos.append(Video(_until(cubic, hours[-1]), hours[-1]))
    return videos


def _faster(video: Video, times: float) -> Video:
    """The same video in a world in which schedules take so many times longer."""
    return Video(lambda hours: video.curve(np.asarray(hours) / times), video.hours * times)


def _until(cubic: Any, last: float) -> Curve:
    return lambda hours: np.floor(cubic(np.minimum(hours, last)))


def plot(worlds: dict[str, list[Video]], path: Path) -> None:
    """Error against samples, one panel a world."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(worlds), 4), layout="constrained")
    panels: Any = figure.subplots(1, len(worlds))
    for axes, (name, videos) in zip(panels, worlds.items(), strict=True):
        lines: list[tuple[str, Callable[[float], Policy]]] = [
            ("VelocityPolicy", VelocityPolicy),
            ("by age alone, smooth", SmoothAge),
        ]
        for label, make in lines:
            scores = [score(make(spacing), videos) for spacing in _SPACINGS]
            axes.plot(
                [s.samples for s in scores], [s.error for s in scores], marker=".", label=label
            )
        age = score(AgePolicy(), videos)
        axes.plot([age.samples], [age.error], "k*", markersize=11, label="AgePolicy")
        axes.set(title=name, xlabel="samples a video", yscale="log", xlim=(0, 100))
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.axes[0].set_ylabel("error, part of the video's views")
    figure.savefig(path, dpi=110)


def plot_burst(path: Path) -> None:
    """When 20,000 videos that were discovered in one minute are due, through their first day."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    for label, count in (
        ("without jitter", due_by_minute(1, 24)),
        ("with it", due_by_minute(20_000, 24)),
    ):
        scale = 20_000 / max(sum(count.values()) / 24, 1)
        minutes = sorted(count)
        axes.vlines(
            minutes if label == "with it" else [m + 0.5 for m in minutes],
            1,
            [count[m] * scale for m in minutes],
            color="tab:orange" if label == "with it" else "tab:gray",
            linewidth=1,
            label=label,
        )
    axes.set(xlabel="minutes after the discovery", ylabel="videos due in a minute", yscale="log")
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=110)


def due_by_minute(videos: int, hours: int) -> Counter[int]:
    """How many are due in each minute, hourly samples: one video stands for all that have no jitter."""
    count: Counter[int] = Counter()
    for place in range(videos):
        step = INTERVALS[TrackingTier.HOURLY]
        interval = step if videos == 1 else jittered(step, f"burst-{place}")
        for turn in range(1, hours + 1):
            count[int(turn * interval / timedelta(minutes=1))] += 1
    return count
