"""Rows of ``append_metrics``: what is taken, what is refused, and where it is filed."""

from __future__ import annotations

import decimal
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import InvalidInput
from atlas.tables.parquet import METRICS_SCHEMA
from atlas.vault.metrics import MetricsFile, metrics_files

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def one(row: dict[str, Any], *where: Any) -> tuple[MetricsFile, dict[str, Any]]:
    (file,) = metrics_files([{"video_id": "V"} | row], *where, now=NOW)
    (stored,) = file.table.to_pylist()
    return file, stored


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [
        (0, 0),
        ("12", 12),
        (" 7 ", 7),
        (None, None),
        (float("nan"), None),
        (np.float32("nan"), None),
        (pd.NA, None),
        (3.0, 3),
        (np.int32(4), 4),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_counters_are_whole_numbers_or_their_digits(
    given_value: object, stored: int | None
) -> None:
    for field in ("views", "likes", "comment_count"):
        assert one({field: given_value})[1][field] == stored


@pytest.mark.parametrize(
    "wrong",
    [
        -1,
        "-1",
        float("inf"),
        1.5,
        "",
        "1.0",
        "many",
        "1_000",
        "٣",
        True,
        2**63,
        "9" * 39,
        [],
        {},
        b"1",
        decimal.Decimal("NaN"),
    ],
)
@pytest.mark.parametrize("field", ["views", "likes", "comment_count", "comments"])
def test_what_is_no_counter_is_refused_by_row_and_field(field: str, wrong: object) -> None:
    rows = [{"video_id": "V"}, {"video_id": "V", field: wrong}]
    with pytest.raises(InvalidInput) as caught:
        metrics_files(rows, now=NOW)
    assert (caught.value.row, caught.value.field) == (1, field)


def test_comments_are_taken_for_comment_count_unless_that_is_known() -> None:
    assert one({"comments": "5"})[1]["comment_count"] == 5
    assert one({"comments": 5, "comment_count": None})[1]["comment_count"] == 5
    assert one({"comments": 5, "comment_count": float("nan")})[1]["comment_count"] == 5
    assert one({"comments": 5, "comment_count": 0})[1]["comment_count"] == 0


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime(2026, 1, 2, 5, 4, 5, 6, tzinfo=timezone(timedelta(hours=2))),
        "2026-01-02T03:04:05.000006Z",
        " 2026-01-02 03:04:05.000006",
        pd.Timestamp("2026-01-02T03:04:05.000006007Z"),
        pd.Timestamp("2026-01-02T03:04:05.000006"),
    ],
)
def test_times_are_utc_and_name_the_folder(moment: object) -> None:
    file, stored = one({"timestamp": moment, "published_at": moment})
    wanted = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert stored["timestamp"] == stored["published_at"] == wanted
    assert file.key.startswith("metrics/date=2026-01-02/hour=03/1767323045000006-1767323045000006-")


@pytest.mark.parametrize("field", ["timestamp", "published_at"])
@pytest.mark.parametrize(
    "wrong", ["", "yesterday", 1_700_000_000, date(2026, 1, 2), pd.NaT, "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_is_refused_by_row_and_field(field: str, wrong: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        metrics_files([{"video_id": "V", field: wrong}], now=NOW)
    assert (caught.value.row, caught.value.field) == (0, field)


@pytest.mark.parametrize("moment", [NOW + timedelta(days=1, seconds=1), datetime(2004, 12, 31)])
def test_a_time_far_ahead_or_before_youtube_is_refused(moment: datetime) -> None:
    with pytest.raises(InvalidInput):
        metrics_files([{"video_id": "V", "timestamp": moment}], now=NOW)
    metrics_files([{"video_id": "V", "timestamp": NOW + timedelta(hours=23)}], now=NOW)


@pytest.mark.parametrize("wrong", [None, "row", ["video_id"], 7])
def test_what_is_no_row_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        metrics_files([{"video_id": "V"}, wrong], now=NOW)
    assert caught.value.row == 1


def test_a_row_without_a_time_is_of_the_date_and_hour_given_else_of_now() -> None:
    assert one({})[1]["timestamp"] == NOW
    assert one({}, "2026-01-15", 3)[1]["timestamp"] == datetime(2026, 1, 15, 3, tzinfo=UTC)
    # without the hour two samples of a day must not fall together
    assert one({}, "2026-01-15")[1]["timestamp"] == NOW.replace(month=1, day=15)
    assert one({}, None, 3)[1]["timestamp"] == datetime(2026, 3, 4, 3, tzinfo=UTC)
    assert one({}, "2026-01-15")[0].key.startswith("metrics/date=2026-01-15/hour=05/")


def test_a_date_or_hour_given_replaces_that_part_of_the_folder_only() -> None:
    row = {"timestamp": "2026-01-02T03:04:05Z"}
    for where, folder in (
        (("2026-01-15", 7), "metrics/date=2026-01-15/hour=07/"),
        (("2026-01-15",), "metrics/date=2026-01-15/hour=03/"),
        ((None, 7), "metrics/date=2026-01-02/hour=07/"),
        (
            (datetime(2026, 1, 15, 22, tzinfo=timezone(timedelta(hours=-3))),),
            "metrics/date=2026-01-16/hour=03/",
        ),
    ):
        file, stored = one(row, *where)
        assert file.key.startswith(folder)
        assert stored["timestamp"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("hour", ["10", 10, 10.0, np.int64(10)])
def test_an_hour_may_be_text_as_it_stands_in_a_folders_name(hour: Any) -> None:
    assert one({}, "2026-01-15", hour)[0].key.startswith("metrics/date=2026-01-15/hour=10/")


@pytest.mark.parametrize("hour", [-1, 24, "24", "x", 3.5, True, float("nan")])
def test_an_hour_outside_the_day_is_refused(hour: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        metrics_files([{"video_id": "V"}], None, hour, now=NOW)
    assert caught.value.field == "hour"


def test_the_last_of_a_repeated_sample_counts_and_rows_are_in_order() -> None:
    moment = "2026-01-02T03:00:00Z"
    rows = [
        {"video_id": "b", "timestamp": moment, "views": 1},
        {"video_id": "a", "timestamp": "2026-01-02T03:30:00Z", "views": 2},
        {"video_id": "B", "timestamp": moment},
        {"video_id": "a", "timestamp": moment, "views": 3},
        {"video_id": "b", "timestamp": moment, "likes": 4},
    ]
    (file,) = metrics_files(rows, now=NOW)
    assert file.table["video_id"].to_pylist() == ["B", "a", "a", "b"]
    assert file.table["views"].to_pylist() == [None, 3, 2, None]
    assert file.table["likes"].to_pylist() == [None, None, None, 4]
    assert file.name.startswith("1767322800000000-1767324600000000-")


def test_a_later_append_has_a_higher_seq_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = one({})[1]["seq"]
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert one({})[1]["seq"] == first + 1


COUNTERS = st.none() | st.integers(0, 2**63 - 1)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "video_id": st.sampled_from(["a", "B", "_c", "-d"]),
            "timestamp": st.datetimes(datetime(2005, 1, 1), datetime(2026, 3, 4)),
            "views": COUNTERS,
            "likes": COUNTERS,
            "comment_count": COUNTERS,
        }
    ),
    max_size=12,
    unique_by=lambda row: (row["video_id"], row["timestamp"]),
)


@given(rows=ROWS, order=st.randoms())
def test_the_same_rows_in_any_order_and_spelling_are_the_same_files(rows: Any, order: Any) -> None:
    files = metrics_files(rows, now=NOW)
    again = [
        {k: str(v) if isinstance(v, int) else v for k, v in row.items()}
        | {"timestamp": row["timestamp"].isoformat() + "Z"}
        for row in rows
    ]
    order.shuffle(again)
    assert [file.key for file in metrics_files(again, now=NOW)] == [file.key for file in files]
    assert sum(file.table.num_rows for file in files) == len(rows)
    assert all(file.table.schema.equals(METRICS_SCHEMA) for file in files)


@given(rows=ROWS.filter(bool), field=st.sampled_from(["views", "likes", "comment_count"]))
def test_a_changed_counter_is_another_file(rows: Any, field: str) -> None:
    before = {file.key for file in metrics_files(rows, now=NOW)}
    value = rows[0][field]
    rows[0][field] = value - 1 if value else 1  # 1 for unknown and for none
    assert {file.key for file in metrics_files(rows, now=NOW)} != before
