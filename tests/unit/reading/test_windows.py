"""Spans of time whose hot rows fit into memory."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from atlas.reading.windows import BYTES, windows
from atlas.repositories.hot.partitions import Partition

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize("sizes", [[], [0], [10] * 200, [BYTES * 5, 1, BYTES // 2, BYTES]])
@pytest.mark.parametrize("since", [None, START - DAY, START + DAY / 3])
@pytest.mark.parametrize("until", [None, START + DAY * 2])
def test_windows_cover_the_span_without_gap_and_hold_little(
    sizes: list[int], since: datetime | None, until: datetime | None
) -> None:
    partitions = [
        Partition(str(n), START + n * DAY, START + (n + 1) * DAY, size)
        for n, size in enumerate(sizes)
    ]
    found = list(windows(partitions, since, until))
    assert (found[0][0], found[-1][1]) == (since, until)
    for (_, end), (begin, _) in itertools.pairwise(found):
        assert end == begin
    for begin, end in found:
        held = sum(
            one.byte_size
            * max(
                timedelta(), min(end or one.upper, one.upper) - max(begin or one.lower, one.lower)
            )
            / DAY
            for one in partitions
        )
        assert held <= BYTES + 1
    if sum(sizes) <= BYTES:
        assert len(found) == 1
