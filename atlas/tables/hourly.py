"""Counters at whole hours, from samples at any times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas.tables.sample import COUNTERS, MOMENT

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR = timedelta(hours=1) // _MICROSECOND


def at_whole_hours(
    samples: pa.Table,
    video_ids: Sequence[str],
    since: datetime,
    until: datetime,
    max_gap: timedelta | None,
) -> pa.Table:
    """Each video at each whole hour of ``since <= hour < until``: as many rows as both say.

    A counter is linear between the two samples around the hour in which it is known, rounded to a whole
    number; at the time of a sample it is the sample's. It is null where one of the two is missing or they lie
    further apart than ``max_gap``. ``samples`` may be in any order, and hold others.
    """
    hours = np.arange(-(-_microseconds(since) // _HOUR) * _HOUR, _microseconds(until), _HOUR)
    ids = sorted(set(video_ids))
    widest = None if max_gap is None else max_gap // _MICROSECOND
    samples = samples.sort_by([("video_id", "ascending"), ("timestamp", "ascending")])
    numbers = pc.index_in(samples["video_id"], value_set=pa.array(ids, pa.string()))
    samples = samples.filter(pc.is_valid(numbers))
    numbers = numbers.drop_null().to_numpy()
    ends = np.searchsorted(numbers, np.arange(len(ids) + 1))
    times = samples["timestamp"].cast(pa.int64()).to_numpy()
    columns: dict[str, pa.Array] = {
        "video_id": pa.array(np.repeat(np.array(ids, object), len(hours)), pa.string()),
        "timestamp": pa.array(np.tile(hours, len(ids)), pa.int64()).cast(MOMENT),
    }
    for name in COUNTERS:
        known = samples[name].is_valid().to_numpy()
        values = pc.fill_null(samples[name], 0).to_numpy()
        found = [
            _interpolated(times[a:b][known[a:b]], values[a:b][known[a:b]], hours, widest)
            for a, b in pairwise(ends.tolist())
        ]
        joined, missing = (
            np.concatenate([one[part] for one in found]) if found else np.empty(0, kind)
            for part, kind in ((0, np.int64), (1, np.bool_))
        )
        columns[name] = pa.array(joined, pa.int64(), mask=missing)
    return pa.table(columns)


def _interpolated(
    times: Integers, values: Integers, hours: Integers, widest: int | None
) -> tuple[Integers, Mask]:
    """The values at the hours, and where they are not known."""
    if not len(times):
        return np.zeros(len(hours), np.int64), np.ones(len(hours), np.bool_)
    before = np.searchsorted(times, hours, side="right") - 1
    first = np.clip(before, 0, None)
    second = np.minimum(before + 1, len(times) - 1)
    met = (before >= 0) & (times[first] == hours)
    gap = times[second] - times[first]
    between = (before >= 0) & (gap > 0)
    if widest is not None:
        between &= gap <= widest
    share = np.where(between, (hours - times[first]) / np.maximum(gap, 1), 0.0)
    rise = values[second] - values[first]
    # what a large rise loses as a float must not carry a value beyond the second one
    part = np.rint(rise * share).astype(np.int64)
    part = np.where(rise >= 0, np.minimum(part, rise), np.maximum(part, rise))
    return values[first] + np.where(met | ~between, 0, part), ~(met | between)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
