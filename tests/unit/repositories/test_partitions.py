"""Slots of time and the ranges that new partitions get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import InvalidInput
from atlas.repositories.hot.partitions import Partition, covering, slot

HOURS = [1, 2, 3, 4, 6, 8, 12, 24]
moments = st.datetimes(
    datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone(timedelta(hours=5.5)))
)


@given(moments, st.sampled_from(HOURS))
def test_a_slot_holds_its_moment_and_never_crosses_a_utc_day(moment: datetime, hours: int) -> None:
    lower, upper = slot(moment, hours)
    assert lower <= moment < upper
    assert upper - lower == timedelta(hours=hours)
    assert (
        lower.astimezone(UTC).date() == (upper - timedelta(microseconds=1)).astimezone(UTC).date()
    )


def test_a_naive_moment_has_no_slot() -> None:
    with pytest.raises(InvalidInput):
        slot(datetime(2026, 1, 1), 6)


@given(st.lists(st.tuples(moments, st.sampled_from(HOURS)), min_size=1, max_size=12))
def test_partitions_of_changing_width_never_overlap_and_always_cover(
    wishes: list[tuple[datetime, int]],
) -> None:
    attached: list[Partition] = []
    for moment, hours in wishes:
        lower, upper, exists = covering(moment, hours, attached)
        assert lower <= moment < upper
        if not exists:
            assert all(upper <= other.lower or other.upper <= lower for other in attached)
            attached.append(Partition("p", lower, upper, 0))
