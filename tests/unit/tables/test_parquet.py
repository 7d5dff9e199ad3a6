"""The files of the vault as other programs find them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.tables.archived import ARCHIVED
from atlas.tables.parquet import (
    METRICS_SCHEMA,
    ROW_GROUP_ROWS,
    STATS_SCHEMA,
    VISUALS_SCHEMA,
    open_writer,
)
from atlas.types import Dataset


def written(schema: pa.Schema, rows: list[dict[str, object]]) -> pq.ParquetFile:
    target = io.BytesIO()
    with open_writer(target, schema, {"atlas.before": "1"}) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata({"atlas.after": "2"})
    return pq.ParquetFile(target)


@pytest.mark.parametrize("schema", [STATS_SCHEMA, METRICS_SCHEMA])
def test_samples_are_compressed_ordered_and_found_by_statistics(schema: pa.Schema) -> None:
    rows = [{"video_id": f"v{n:06}", "views": n, "seq": 1} for n in range(ROW_GROUP_ROWS + 5)]
    file = written(schema, rows)
    assert [file.metadata.row_group(group).num_rows for group in (0, 1)] == [ROW_GROUP_ROWS, 5]
    group = file.metadata.row_group(1)
    assert [one.column_index for one in group.sorting_columns] == [0, 1]
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all(column.has_column_index for name, column in columns.items() if name != "timestamp")
    assert all(column.has_offset_index for column in columns.values())
    assert "DELTA_BINARY_PACKED" in columns["likes"].encodings
    for plain in ("video_id", "timestamp", "comment_count"):
        assert set(columns[plain].encodings) == {"PLAIN", "RLE"}
    assert "DELTA_BINARY_PACKED" in columns["views"].encodings
    assert columns["video_id"].statistics.min == f"v{ROW_GROUP_ROWS:06}"
    footer = file.metadata.metadata
    assert (footer[b"atlas.before"], footer[b"atlas.after"]) == (b"1", b"2")


def test_arrow_pandas_polars_and_duckdb_read_the_encodings(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    moment = datetime(2026, 1, 15, 1, 2, 3, 45, tzinfo=UTC)
    rows = [
        {"video_id": f"v{n // 3:05}", "timestamp": moment, "views": n * n, "seq": 7}
        | {"likes": None if n % 7 == 0 else n}
        for n in range(1_000)
    ]
    with open_writer(path, STATS_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, STATS_SCHEMA))
    views, likes = (sum(row[name] or 0 for row in rows) for name in ("views", "likes"))
    wanted = (1_000, views, likes, "v00333", moment)
    one, other = pd.read_parquet(path), pl.read_parquet(path)
    for frame in (one, other):
        found = [frame["views"].sum(), frame["likes"].sum(), frame["video_id"].max()]
        assert (len(frame), *found, frame["timestamp"].max()) == wanted
    ids = pq.read_table(path, read_dictionary=["video_id"])["video_id"]
    assert ids.cast(pa.string()).to_pylist() == [row["video_id"] for row in rows]
    query = f"SELECT count(*), sum(views), sum(likes), max(video_id) FROM '{path}'"
    assert duckdb.sql(query).fetchall() == [wanted[:-1]]
    query = f"SELECT epoch_us(max(timestamp)) FROM '{path}'"
    assert duckdb.sql(query).fetchall() == [(int(moment.timestamp()) * 1_000_000 + 45,)]


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        (
            ARCHIVED[Dataset.VIDEOS].schema,
            {"id": "v", "tags": ["a", "ü"], "has_visuals": True, "wiki_topics": [], "seq": 1},
        ),
        (VISUALS_SCHEMA, {"video_id": "v", "frame_index": 3, "image": b"\xff"}),
    ],
)
def test_other_tables_come_back_as_they_were(schema: pa.Schema, row: dict[str, object]) -> None:
    file = written(schema, [row])
    assert file.schema_arrow.equals(schema)
    assert file.read().to_pylist() == [dict.fromkeys(schema.names) | row]
    assert not file.metadata.row_group(0).sorting_columns


def test_every_column_of_a_video_is_kept() -> None:
    contract = (
        "id channel_id title published_at duration tags category_id default_language wiki_topics"
    )
    contract += " discovered_at last_updated_at status has_transcript has_visuals seq"
    assert ARCHIVED[Dataset.VIDEOS].schema.names == contract.split()
