"""What is a good row of an export, and what is said of a bad one."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atlas.errors import InvalidInput
from atlas.importing.importer import (
    Rejected,
    Row,
    _opened,
    derived_channel_id,
    parse_date,
    read_rows,
    resolve,
)

LATEST = datetime(2030, 1, 1, tzinfo=UTC)
HEADER = "video_id,title,channel_title,views,likes,comment_total,date"


def read(
    tmp_path: Path, *lines: str | bytes, formats: tuple[str, ...] = ("%d.%m",)
) -> list[Row | Rejected]:
    path = tmp_path / "export.csv"
    content = b"\n".join(
        one if isinstance(one, bytes) else one.encode() for one in (HEADER, *lines)
    )
    path.write_bytes(gzip.compress(content))
    with _opened(path) as (header, rows, _, _):
        return list(read_rows(rows, resolve(header, {}, formats, 2017), latest=LATEST))


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("13.09", (2017, 9, 13)),
        ("1.1", (2017, 10, 1)),
        ("10.1", (2017, 10, 10)),
        ("31.1", (2017, 10, 31)),
        ("1.01", (2017, 1, 1)),
        ("1.11", (2017, 11, 1)),
        ("01.10", (2017, 10, 1)),
    ],
)
def test_a_day_and_month_that_a_spreadsheet_took_for_a_number_is_the_day_that_was_meant(
    written: str, day: tuple[int, int, int]
) -> None:
    assert parse_date(written, ("%d.%m",), 2017) == datetime(*day, tzinfo=UTC)


@pytest.mark.parametrize("written", ["24.09l7yxJDFvTRM", "31.2", "1.2", "", "13/09", "32.09"])
def test_a_date_that_does_not_fit_is_not_guessed(written: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        parse_date(written, ("%d.%m",), 2017)


def test_several_formats_are_tried_in_order_and_zones_are_kept() -> None:
    formats = ("%Y-%m-%d", "%d/%m/%y", "%Y-%m-%dT%H:%M%z")
    assert parse_date("05/03/18", formats, None) == datetime(2018, 3, 5, tzinfo=UTC)
    assert parse_date("2018-03-05T01:00+0200", formats, None) == datetime(
        2018, 3, 4, 23, tzinfo=UTC
    )
    assert parse_date("2018-03-05T01:00:00Z", (), None) == datetime(2018, 3, 5, 1, tzinfo=UTC)


def test_a_good_row_has_its_counters_and_a_stable_channel(tmp_path: Path) -> None:
    (row,) = read(tmp_path, 'jt2OHQh0HoQ,"A, title",Apple Event,10,,5,13.09')
    assert isinstance(row, Row)
    assert (row.sample.views, row.sample.likes, row.sample.comment_count) == (10, None, 5)
    assert (row.video.title, row.video.channel_id) == (
        "A, title",
        derived_channel_id("Apple Event"),
    )
    assert row.line == 2


def test_each_bad_row_says_line_field_value_and_reason(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        "#NAME?,t,c,1,1,1,13.09",
        '"jt2OHQh0HoQ","two\nlines",c,1,1,1,13.09',
        "jt2OHQh0HoQ,t,c,-1,1,1,13.09",
        "jt2OHQh0HoQ,t,c,1,NaN,1,13.09",
        "jt2OHQh0HoQ,t,c,1,1,many,13.09",
        "jt2OHQh0HoQ,t,c,1,1,1,24.09l7yxJDFvTRM",
        "jt2OHQh0HoQ,t,c,1,1",
        b"jt2OHQh0HoQ,\xff\xfe,c,1,1,1,13.09",
        "",
        "jt2OHQh0HoQ,t\0,c,1,1,1,13.09",
    )
    bad = [(one.line, one.field) for one in rows if isinstance(one, Rejected)]
    assert bad == [
        (2, "video_id"),
        (5, "views"),
        (6, "likes"),
        (7, "comment_total"),
        (8, "date"),
        (9, "row"),
        (10, "row"),
        (12, "row"),
    ]
    assert rows[0].value == "#NAME?"
    assert [one.line for one in rows if isinstance(one, Row)] == [3]


def test_a_sample_far_ahead_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "ahead.csv"
    path.write_text("id,date\njt2OHQh0HoQ,2030-01-02\n")
    with _opened(path) as (header, rows, _, _):
        (row,) = read_rows(rows, resolve(header, {}, (), None), latest=LATEST)
    assert isinstance(row, Rejected)
    assert "ahead" in row.reason


@pytest.mark.parametrize(
    ("columns", "formats", "year"),
    [
        ({"colour": "title"}, (), None),
        ({"title": "headline"}, (), None),
        ({}, ("%d.%m",), None),
        ({}, ("day",), 2017),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(
    columns: dict[str, str], formats: tuple[str, ...], year: int | None
) -> None:
    with pytest.raises(InvalidInput):
        resolve(HEADER.split(","), columns, formats, year)


def test_a_file_without_ids_or_dates_is_refused() -> None:
    with pytest.raises(InvalidInput, match="timestamp"):
        resolve(["video_id", "views"], {}, (), None)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken gzip"])
def test_a_file_that_is_no_csv_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput), _opened(path):
        pass
