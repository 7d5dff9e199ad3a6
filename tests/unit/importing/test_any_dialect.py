"""Random tables in random dialects: every value comes back, or the row has a reason."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
from hypothesis import strategies as st

from atlas.importing.columns import rows as rows_module
from atlas.importing.columns.rows import Plan
from tests.support.importing import understand as read

FIRST = datetime(2018, 3, 5, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
counters = st.none() | st.integers(0, 2**63 - 1)
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\uffff\ufffe")
    | st.sampled_from("\"',;\t|\\\n\r =-"),
    max_size=20,
)
tables = st.lists(
    st.tuples(
        st.text(ALPHABET, min_size=11, max_size=11) | st.sampled_from(["#NAME?", ""]),
        st.integers(0, 50_000_000).map(lambda seconds: FIRST + timedelta(seconds=seconds)),
        texts,
        *[counters] * 3,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: (row[0], row[1]),
)
HEADERS = (
    ("video_id", "timestamp", "title", "views", "likes", "comment_count"),
    ("videoId", "Trending Date", "video title", "viewCount", "likeCount", "comment total"),
)
TIMES: tuple[Any, ...] = (
    lambda moment: moment.isoformat(),
    lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC",
    lambda moment: str(int(moment.timestamp())),
    lambda moment: f"{moment:%b %d, %Y, %I:%M:%S %p}",
)


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    delimiter = draw(st.sampled_from(",;\t|"))
    quote = draw(st.sampled_from('"""\''))
    doubled = draw(st.booleans())
    # with fewer quotes 'a' may as well be a cell that has them
    few = [csv.QUOTE_MINIMAL] if quote == '"' else []
    return {
        "delimiter": delimiter,
        "quotechar": quote,
        "doublequote": doubled,
        "escapechar": None if doubled else "\\",
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, *few])),
    }


def shape(counter: int | None, style: int) -> str:
    if counter is None:
        return ("", "N/A", "nan")[style]
    return (str(counter), f"{counter:,}", f"{counter}.0")[style]


@hypothesis.settings(max_examples=40, derandomize=True)
@hypothesis.given(
    table=tables,
    dialect=dialects(),
    header=st.sampled_from(HEADERS),
    time=st.sampled_from(TIMES),
    style=st.integers(0, 2),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
    packed=st.booleans(),
)
def test_every_value_comes_back_or_its_row_has_a_reason(
    table: list[tuple[Any, ...]],
    dialect: dict[str, Any],
    header: tuple[str, ...],
    time: Any,
    style: int,
    encoding: str,
    packed: bool,
) -> None:
    if not dialect["doublequote"]:  # a backslash alone may as well be one
        table = [(*row[:2], row[2].replace("\\", "/"), *row[3:]) for row in table]
    if dialect["quoting"] == csv.QUOTE_MINIMAL:  # the csv module of 3.11 leaves "\r" unquoted
        table = [(*row[:2], row[2].replace("\r", " "), *row[3:]) for row in table]
    text = io.StringIO(newline="")
    writer = csv.writer(text, **dialect)
    writer.writerow(header)
    for video_id, moment, title, *counts in table:
        writer.writerow((video_id, time(moment), title, *(shape(one, style) for one in counts)))
    content = text.getvalue().encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export"
        path.write_bytes(gzip.compress(content) if packed else content)
        told = {"delimiter": dialect["delimiter"]} if len(table) < 2 else {}
        found = read(path, report=Path(folder) / "report.csv", **told)
        report = Path(folder) / "report.csv"
        reported = report.read_text().count("\n") if report.exists() else 0
    good = [row for row in table if len(row[0]) == 11]
    expected = {
        (row[0], row[1]): row[3:] for row in good if any(one is not None for one in row[3:])
    }
    assert found.samples == expected
    assert found.report.rows == len(table)
    assert (found.report.good, found.report.bad) == (len(good), len(table) - len(good))
    assert reported >= found.report.bad
    for row in good:
        if row[2].strip() and [one[0] for one in good].count(row[0]) == 1:
            assert found.videos[row[0]]["title"] == row[2].strip()


@hypothesis.given(
    cells=st.lists(
        st.sampled_from(
            ["2018-03-05T01:02:03Z", "2018-03-05 01:02:03", "2018-03-05 01:02:03.25", None]
        )
        | st.datetimes(datetime(1969, 1, 1), datetime(2040, 1, 1)).map(lambda one: one.isoformat()),
        min_size=1,
        max_size=6,
    )
)
def test_the_quick_way_for_whole_columns_reads_what_the_slow_one_does(
    cells: list[str | None],
) -> None:
    from atlas.importing.columns.times import Survey, reader

    plan = Plan(None, reader(Survey()), reader(Survey()), datetime(2030, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]  # not asked
    column = pa.array(cells, pa.string())
    found = rows_module._times(column, plan, len(cells))
    read: list[datetime | None] = []
    for one in cells:
        try:
            read.append(None if one is None else rows_module._in_range(one, plan))
        except ValueError:
            read.append(None)
    assert found.values.to_pylist() == read
    lost = [cell is not None and moment is None for cell, moment in zip(cells, read, strict=True)]
    assert found.failed().tolist() == lost
