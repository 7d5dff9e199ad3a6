"""Counters as people and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.importing import DAY, ID, OTHER, understand, written


@pytest.mark.parametrize(
    ("cell", "count"),
    [
        ("123.0", 123),
        ("1,234", 1234),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("1 234", 1234),
        ("1\u00a0234\u00a0567", 1234567),
        ("1'234", 1234),
        ("1.2E+06", 1200000),
        ("9007199254740993", 9007199254740993),
        ("'42", 42),
        ("N/A", None),
        ("\\N", None),
        ("nan", None),
        ("", None),
    ],
)
def test_counters_as_spreadsheets_write_them(tmp_path: Path, cell: str, count: int | None) -> None:
    found = understand(written(tmp_path, f"id;date;views;likes\n{ID};2026-01-15;{cell};1\n"))
    assert found.sample == (count, 1, None)


@pytest.mark.parametrize(
    "cell", ["-1", "many", "1.2M", "1.5", "1.234", "1e400", "9223372036854775808", "1,23"]
)
def test_a_counter_that_cannot_be_read_costs_itself_and_no_other(tmp_path: Path, cell: str) -> None:
    found = understand(written(tmp_path, f"id;date;views;likes\n{ID};2026-01-15;7;{cell}\n"))
    assert found.sample == (7, None, None)
    assert (found.report.good, found.report.partial, found.report.bad) == (1, 1, 0)
    assert found.report.lost == {"likes: not a counter (a whole number, 0 or more)": 1}
    alone = understand(written(tmp_path, f"id;date;views\n{ID};2026-01-15;{cell}\n"))
    assert (alone.report.good, alone.report.bad) == (0, 1)


def test_thousands_set_apart_by_dots_are_proved_by_their_column(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"id;date;views\n{ID};2026-01-15;1.234\n{OTHER};2026-01-15;1.234.567\n")
    )
    assert found.samples[ID, DAY] == (1234, None, None)


def test_a_zero_of_what_is_disabled_is_not_known(tmp_path: Path) -> None:
    header = "video_id,date,views,likes,comment_count,comments_disabled,ratings_disabled"
    rows = [f"{ID},2026-01-15,9,0,0,True,True", f"{OTHER},2026-01-15,9,0,4,False,FALSE"]
    found = understand(written(tmp_path, "\n".join([header, *rows])))
    assert found.samples == {(ID, DAY): (9, None, None), (OTHER, DAY): (9, 0, 4)}
