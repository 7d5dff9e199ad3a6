"""What is computed from samples: counters at whole hours, and the largest gains."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.tables import growth as growths
from atlas.tables.growth import Growth
from atlas.tables.hourly import at_whole_hours
from atlas.tables.sample import COUNTERS, MOMENT

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LARGEST = 2**63 - 1

_ROWS = st.dictionaries(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 5 * 3600).map(lambda s: START + s * HOUR / 3600)
    ),
    st.none() | st.integers(0, 10**6) | st.sampled_from([LARGEST, LARGEST - 1, 2**53 + 1]),
    max_size=12,
)


def table(rows: dict[tuple[str, datetime], int | None]) -> pa.Table:
    return pa.table(
        {
            "video_id": pa.array([one for one, _ in rows], pa.string()),
            "timestamp": pa.array([at for _, at in rows], MOMENT),
            **{name: pa.array(list(rows.values()), pa.int64()) for name in COUNTERS},
        }
    )


def expected(
    rows: dict[tuple[str, datetime], int | None], one: str, at: datetime, gap: timedelta | None
) -> Fraction | None:
    known = sorted((when, v) for (video, when), v in rows.items() if video == one and v is not None)
    before = [point for point in known if point[0] <= at]
    after = [point for point in known if point[0] >= at]
    if not (before and after):
        return None
    (then, low), (soon, high) = before[-1], after[0]
    if then == soon:
        return Fraction(low)
    if gap is not None and soon - then > gap:
        return None
    return low + (high - low) * Fraction(
        (at - then) // HOUR.resolution, (soon - then) // HOUR.resolution
    )


@given(_ROWS, st.sampled_from([None, HOUR, 3 * HOUR]))
def test_hours_are_linear_between_samples_and_never_extrapolated(
    rows: dict[tuple[str, datetime], int | None], gap: timedelta | None
) -> None:
    # from within an hour on: the first whole one is the next
    found = at_whole_hours(table(rows), ["b", "a", "c"], START - HOUR / 2, START + 6 * HOUR, gap)
    hours = [START + n * HOUR for n in range(6)]
    assert found["video_id"].to_pylist() == [one for one in "abc" for _ in hours]
    assert found["timestamp"].to_pylist() == hours * 3
    assert found.schema.types == [pa.string(), MOMENT, pa.int64(), pa.int64(), pa.int64()]
    for one, at, views in zip(
        *(found[name].to_pylist() for name in found.column_names[:3]), strict=True
    ):
        wanted = expected(rows, one, at, gap)
        if wanted is None:
            assert views is None
        elif (one, at) in rows and rows[one, at] is not None:
            assert views == rows[one, at]  # exact, however large
        else:
            # of a rise above 2^53 the first 53 bits are right
            rise = max(v or 0 for v in rows.values())
            assert abs(views - wanted) <= max(Fraction(1, 2), Fraction(rise, 2**51))


def test_no_videos_or_no_hours_give_no_rows() -> None:
    assert at_whole_hours(table({}), [], START, START + HOUR, None).num_rows == 0
    assert at_whole_hours(table({}), ["a"], START + HOUR / 60, START + HOUR / 2, None).num_rows == 0


@pytest.mark.parametrize("at_once", [1 << 20, 3])
@given(_ROWS, st.integers(1, 3))
def test_gains_are_those_of_first_and_last_known_views(
    at_once: int, rows: dict[tuple[str, datetime], int | None], parts: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growths, "_ROWS", at_once)
        growth = Growth()
        items = list(rows.items())
        for part in range(parts):
            growth.add(table(dict(items[part::parts])))
        found = growth.top(5).to_pylist()
    wanted: list[dict[str, Any]] = []
    for one in "ab":
        known = sorted((at, v) for (video, at), v in items if video == one and v is not None)
        if len(known) > 1:
            (first, low), (last, high) = known[0], known[-1]
            wanted.append(
                {
                    "video_id": one,
                    "gained": high - low,
                    "views_first": low,
                    "views_last": high,
                    "first": first,
                    "last": last,
                }
            )
    assert found == sorted(wanted, key=lambda row: (-row["gained"], row["video_id"]))


def test_equal_gains_come_in_order_of_id_and_the_limit_cuts_behind_them() -> None:
    growth = Growth()
    for number, one in enumerate(("d", "b", "a", "c")):
        growth.add(table({(one, START): number, (one, START + HOUR): number + 7}))
    assert growth.top(3)["video_id"].to_pylist() == ["a", "b", "c"]
