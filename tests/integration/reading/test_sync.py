"""The blocking calls, with and without a running event loop."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from atlas import sync
from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import InvalidInput
from atlas.ingest import record_samples
from atlas.reader import ColdReader, SampleReader, StatsReader
from atlas.tables.sample import MOMENT
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, samples

LARGEST = 2**63 - 1


@pytest.fixture
async def cold(database: Database, tmp_path: Path) -> ColdReader:
    """Twelve hours of 20 videos in the vault, and one sample that is hot."""
    vault = LocalVault(tmp_path / "vault")
    await record_samples(database, samples(times=12))
    await record_samples(database, [Sample("large", OLD, views=LARGEST)])
    await Archiver(database, vault).run(timedelta(days=7))
    await record_samples(database, [Sample("large", OLD + timedelta(hours=1), views=None)])
    return ColdReader(vault)


def everything(reader: SampleReader) -> tuple[int, int, list[int | None]]:
    rows = sum(batch.num_rows for batch in sync.scan(columns=["views"], reader=reader))
    views = sync.history("large", OLD.date(), reader=reader)["views"].to_pylist()
    return sync.count(since=OLD.isoformat(), reader=reader), rows, views


async def test_calls_work_where_a_loop_runs(database: Database, cold: ColdReader) -> None:
    assert everything(cold) == (241, 241, [LARGEST])
    assert everything(StatsReader(database, cold._vault)) == (242, 242, [LARGEST, None])


def test_calls_work_where_none_does_and_leave_no_thread(
    database: Database, cold: ColdReader
) -> None:
    assert everything(cold) == (241, 241, [LARGEST])
    reader = StatsReader(database, cold._vault)
    assert everything(reader) == (242, 242, [LARGEST, None])
    batches = sync.scan(reader=reader)
    next(batches)
    batches.close()
    with pytest.raises(InvalidInput):
        next(sync.scan(["../etc"], reader=cold))
    assert not [one for one in threading.enumerate() if one.name == "atlas-sync"]


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_counters_are_whole_numbers_in_pandas_up_to_the_largest(backend: Any) -> None:
    views = pa.array([LARGEST, None, 2**53 + 1], pa.int64())
    table = pa.table(
        {"video_id": ["a"] * 3, "timestamp": pa.array([OLD] * 3, MOMENT), "views": views}
    )
    frame = sync.to_pandas(table, backend)
    assert [frame["views"][0], frame["views"][2]] == [LARGEST, 2**53 + 1]
    assert frame["views"].isna().tolist() == [False, True, False]
    assert str(frame["timestamp"].dtype) in (
        "datetime64[us, UTC]",
        "timestamp[us, tz=UTC][pyarrow]",
    )
    assert frame["timestamp"][0] == OLD


async def test_hours_and_growth_are_computed_over_what_the_reader_shows(cold: ColdReader) -> None:
    first, last = OLD + timedelta(minutes=30), (OLD + timedelta(days=1)).isoformat()
    table = sync.hourly(["video-0003", "video-0001"], first, last, reader=cold)
    assert table.num_rows == 2 * 23
    assert table["timestamp"][0].as_py() == OLD + timedelta(hours=1)
    # three microseconds before the sample of the hour, and none after the twelfth
    assert table["views"].to_pylist()[23:] == [3001, *range(3002, 3012), *[None] * 12]
    narrow = sync.hourly("video-0003", first, last, max_gap=timedelta(minutes=59), reader=cold)
    assert narrow["views"].null_count == 23
    top = sync.top_growth(OLD, OLD + timedelta(hours=6), 3, reader=cold).to_pylist()
    assert [(one["video_id"], one["gained"]) for one in top] == [
        ("video-0000", 5),
        ("video-0001", 5),
        ("video-0002", 5),
    ]
    for arguments in ({"limit": 0}, {"limit": True}, {"since": "soon"}):
        with pytest.raises(InvalidInput):
            sync.top_growth(**{"since": OLD, "until": None, "limit": 3, **arguments}, reader=cold)
    with pytest.raises(InvalidInput):
        sync.hourly(["video-0001"], None, last, reader=cold)  # type: ignore[arg-type]  # on purpose


async def test_an_export_that_loses_the_race_for_its_name_replaces_nothing(
    cold: ColdReader, tmp_path: Path
) -> None:
    target = tmp_path / "out.csv"

    def arrive(done: int, total: int | None, what: str) -> None:
        target.write_text("somebody else's")

    with pytest.raises(InvalidInput, match="exists already"):
        sync.export(target, reader=cold, progress=arrive)
    assert target.read_text() == "somebody else's"
    assert sync.export(target, reader=cold, overwrite=True).rows == 241
    assert sorted(one for one in os.listdir(tmp_path) if "out.csv" in one) == ["out.csv"]
