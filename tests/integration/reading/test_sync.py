"""The blocking calls, with and without a running event loop."""

from __future__ import annotations

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
