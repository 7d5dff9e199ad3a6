"""Runs that are merged cost what their rows cost, however many ids the whole has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.tables.external_sort import encoded_runs
from atlas.tables.sorting import merge_sorted

ROWS, RUN_ROWS = 120_000, 50_000


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "video_id": [f"v{n * 7919 % 30_011:05d}" for n in range(ROWS)],
            "timestamp": pa.array(
                [datetime.fromtimestamp(n, UTC) for n in range(ROWS)], pa.timestamp("us", "UTC")
            ),
        }
    )


def test_a_slice_of_a_run_carries_its_own_ids_and_not_those_of_the_whole_run(
    table: pa.Table, tmp_path: Path
) -> None:
    runs = encoded_runs(tmp_path, merge_sorted, run_rows=RUN_ROWS)
    for batch in table.to_batches(max_chunksize=10_000):
        runs.add(pa.Table.from_batches([batch]))
    streams = [list(stream) for stream in runs.streams()]
    assert len(streams) == 3
    for part in (part for stream in streams for part in stream):
        ids = part["video_id"].combine_chunks()
        assert len(ids.dictionary) == len(ids.unique())
    assert not list(tmp_path.iterdir())  # read, therefore gone


def test_the_last_run_stays_in_memory_and_a_single_one_makes_no_file(
    table: pa.Table, tmp_path: Path
) -> None:
    runs = encoded_runs(tmp_path, merge_sorted, run_rows=ROWS)
    for batch in table.to_batches(max_chunksize=10_000):
        runs.add(pa.Table.from_batches([batch]))
    assert not list(tmp_path.iterdir())
    merged = pa.concat_tables(runs.merged()).cast(table.schema)
    assert merged.equals(table.sort_by([("video_id", "ascending"), ("timestamp", "ascending")]))
