"""What each way of writing a column costs in the cold files: the table that decides `open_writer`.

Two loads, cut into slices of six hours as the archiver cuts them, each sorted by (video_id, timestamp):
real counters replayed hourly, by interpolation between the days on which they were observed, and the
simulator's. Samples of a batch of 50 videos share one timestamp in microseconds, as the tracker logs them.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from atlas.cli.simulator import Simulator
from atlas.db import Database
from atlas.importing.importer import Options, read_samples
from atlas.tables.parquet import ROW_GROUP_ROWS, STATS_SCHEMA, open_writer
from atlas.tables.sorting import sort_samples
from benchmarks.support import Result

REAL = Path(__file__).resolve().parents[2] / "shared/data/youtube_trending_gb.csv.gz"
_LIMIT = 8
_SLICE = timedelta(hours=6)
_BATCH = 50
_ENCODINGS = {
    "video_id": ("dictionary", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"),
    "timestamp": ("dictionary", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "PLAIN"),
    "views": ("dictionary", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "PLAIN"),
    "likes": ("dictionary", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "PLAIN"),
    "comment_count": ("dictionary", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "PLAIN"),
    "seq": ("dictionary", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "PLAIN"),
}
_LEVELS = (1, 3, 6, 9)
_GROUPS = (8_192, 16_384, 32_768, 65_536)


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    console = Console(width=140)
    simulated = _simulated(60_000)
    loads = {"simulator": simulated}
    if REAL.exists():
        loads["real"] = _real(REAL)
    else:
        console.print(f"{REAL.name} is not there: the real load is left out")
    for name, load in loads.items():
        slices = _slices(load)
        console.print(f"{name}: {load.num_rows:,} rows in {len(slices)} slices")
        console.print(_by_encoding(slices))
        console.print(_by_level(slices))
    console.print(_by_row_group(_slices(simulated)[-1]))
    results = []
    for name, load in loads.items():
        for what, width in (("6 h", _SLICE), ("1 day, compacted", timedelta(days=1))):
            size = sum(_size(table) for table in _slices(load, width)) / load.num_rows
            title = f"cold size, {name}, {what}"
            results.append(Result(title, size, "limit", _LIMIT, "B/row", 1, most=True))
    return results


def _by_encoding(slices: list[pa.Table]) -> Table:
    table = Table(title="bytes a row by column and encoding, zstd 3, pages of all slices")
    for heading in ("column", "encoding", "B/row"):
        table.add_column(heading, justify="right" if heading == "B/row" else "left")
    for column, encodings in _ENCODINGS.items():
        found = {
            encoding: _pages([_written(one, {column: encoding}) for one in slices])
            for encoding in encodings
        }
        least = min(found.values())
        for encoding, size in found.items():
            table.add_row(column, encoding, f"{size:.3f}" + (" *" if size == least else "  "))
    return table


def _by_level(slices: list[pa.Table]) -> Table:
    table = Table(title="zstd level, the columns encoded as `open_writer` does")
    for heading in ("level", "B/row", "writing, CPU ns/row"):
        table.add_column(heading, justify="right")
    for level in _LEVELS:
        begun = time.process_time()
        files = [_written(one, _chosen(one), level=level) for one in slices]
        spent = time.process_time() - begun
        rows = sum(one.num_rows for one in slices)
        size = sum(len(one) for one in files) / rows
        table.add_row(str(level), f"{size:.3f}", f"{spent / rows * 1e9:,.0f}")
    return table


def _by_row_group(one: pa.Table) -> Table:
    table = Table(title=f"row-group size, one file of {one.num_rows:,} rows")
    headings = ("rows", "B/row", "footer, bytes", "one row group, bytes", "reading it, ms")
    for heading in headings:
        table.add_column(heading, justify="right")
    for rows in _GROUPS:
        data = _written(one, _chosen(one), rows=rows)
        file = pq.ParquetFile(io.BytesIO(data))
        group = file.metadata.row_group(0)
        held = sum(group.column(at).total_compressed_size for at in range(group.num_columns))
        begun = time.process_time()
        for _ in range(10):
            file.read_row_group(0)
        spent = (time.process_time() - begun) / 10
        table.add_row(
            f"{rows:,}",
            f"{len(data) / one.num_rows:.3f}",
            f"{file.metadata.serialized_size:,}",
            f"{held:,}",
            f"{spent * 1e3:.1f}",
        )
    return table


def _size(table: pa.Table) -> int:
    target = io.BytesIO()
    with open_writer(target, STATS_SCHEMA) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return len(target.getvalue())


def _written(
    table: pa.Table, encodings: dict[str, str], *, level: int = 3, rows: int = ROW_GROUP_ROWS
) -> bytes:
    table = table.select(list(encodings))
    target = io.BytesIO()
    pq.write_table(
        table,
        target,
        row_group_size=rows,
        compression="zstd",
        compression_level=level,
        use_dictionary=[name for name, one in encodings.items() if one == "dictionary"],
        column_encoding={name: one for name, one in encodings.items() if one != "dictionary"},
        write_page_index=True,
        store_schema=False,
    )
    return target.getvalue()


def _chosen(table: pa.Table) -> dict[str, str]:
    """What `open_writer` takes for each column, as read from a file of its own."""
    target = io.BytesIO()
    with open_writer(target, STATS_SCHEMA) as writer:
        writer.write_table(table.slice(0, 100))
    group = pq.ParquetFile(target).metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    return {
        column.path_in_schema: (
            "dictionary"
            if column.has_dictionary_page
            else next(one for one in column.encodings if one != "RLE")
        )
        for column in columns
    }


def _pages(files: list[bytes]) -> float:
    """Bytes a row of the pages of files with one column: footers are left out."""
    held = rows = 0
    for data in files:
        metadata = pq.ParquetFile(io.BytesIO(data)).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        held += sum(group.column(0).total_compressed_size for group in groups)
        rows += metadata.num_rows
    return held / rows


def _slices(load: pa.Table, width: timedelta = _SLICE) -> list[pa.Table]:
    """The load by slices of time, each sorted and with a ``seq`` of its own."""
    micros = load["timestamp"].cast(pa.int64()).to_numpy()
    numbers = micros // int(width / timedelta(microseconds=1))
    slices = []
    for number in np.unique(numbers):
        one = sort_samples(load.filter(pa.array(numbers == number)))
        seq = pa.repeat(pa.scalar(1_790_000_000_000_000 + int(number), pa.int64()), one.num_rows)
        slices.append(one.append_column("seq", seq).cast(STATS_SCHEMA))
    return slices


def _table(columns: list[list[Any]]) -> pa.Table:
    return pa.table(columns, schema=STATS_SCHEMA.remove(STATS_SCHEMA.get_field_index("seq")))


def _moments(hour: datetime, videos: int, random: np.random.Generator) -> Iterator[datetime]:
    """When each of the videos is sampled in the hour: batches one after the other, with jitter."""
    moment = hour
    for place in range(videos):
        if place % _BATCH == 0:
            moment += timedelta(microseconds=int(random.integers(50_000, 900_000)))
        yield moment


def _simulated(videos: int) -> pa.Table:
    """A week's uploads, sampled hourly through the day after it."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 8, tzinfo=UTC)
    platform = Simulator(1, videos, start, end)
    random = np.random.default_rng(1)
    columns: list[list[Any]] = [[], [], [], [], []]
    for hour in range(12):
        moments = _moments(end + timedelta(hours=hour), videos, random)
        for video_id, moment in zip(platform.ids, moments, strict=True):
            shown = platform.counters(video_id, moment)
            if shown is not None:
                row = (video_id, moment, shown.views, shown.likes, shown.comment_count)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
    return _table(columns)


def _real(path: Path) -> pa.Table:
    """Each video from its first to its last observation, hourly."""
    observed: dict[str, dict[datetime, dict[str, Any]]] = {}
    for row in read_samples([path], Options(year=2017)).to_pylist():
        observed.setdefault(row["video_id"], {})[row["timestamp"]] = row
    hourly: dict[datetime, list[tuple[str, list[int | None]]]] = {}
    for video_id, rows in observed.items():
        days = sorted(rows)
        hours = np.arange(days[0].timestamp(), days[-1].timestamp() + 1, 3600)
        counters = [
            _interpolated(hours, days, [rows[day][name] for day in days])
            for name in ("views", "likes", "comment_count")
        ]
        for at, *values in zip(hours, *counters, strict=True):
            hour = datetime.fromtimestamp(at, UTC)
            hourly.setdefault(hour, []).append((video_id, values))
    random = np.random.default_rng(1)
    columns: list[list[Any]] = [[], [], [], [], []]
    for hour in sorted(hourly):
        due = hourly[hour]
        for (video_id, values), moment in zip(due, _moments(hour, len(due), random), strict=True):
            for column, value in zip(columns, (video_id, moment, *values), strict=True):
                column.append(value)
    return _table(columns)


def _interpolated(hours: Any, days: list[datetime], values: list[int | None]) -> list[int | None]:
    known = [(day.timestamp(), value) for day, value in zip(days, values, strict=True) if value]
    if not known:
        return [None] * len(hours)
    return [int(one) for one in np.interp(hours, *zip(*known, strict=True))]
