"""Writing many new samples at once: binary COPY of a whole Arrow table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import InvalidInput
from atlas.repositories.hot.stats import EARLIEST, Stats
from atlas.tables.sample import COUNTERS, SAMPLE_COLUMNS
from atlas.types import Sample

#: PostgreSQL counts from 2000.
_POSTGRES_EPOCH = 946_684_800_000_000
#: Rows that are sent together: bounds memory.
_PART = 16_384

_ID = r"^[A-Za-z0-9_-]{1,64}$"


class BulkStats(Stats):
    """Writes tables of samples."""

    async def upsert_table(self, samples: pa.Table, *, latest: datetime) -> int:
        """`upsert` for a table whose (video_id, timestamp) differ; quick where none of them is stored yet."""
        _check(samples, latest)
        samples = await self._not_forgotten(samples)
        if samples.num_rows and not await self._copied_table(samples):
            for batch in samples.select(SAMPLE_COLUMNS).to_batches(max_chunksize=_PART):
                columns = batch.to_pydict().values()
                await self.upsert(
                    [Sample(*row) for row in zip(*columns, strict=True)], latest=latest
                )
        return int(samples.num_rows)

    async def _not_forgotten(self, samples: pa.Table) -> pa.Table:
        forgotten = await self._forgotten_among(pc.unique(samples["video_id"]).to_pylist())
        if not forgotten:
            return samples
        left_out = pc.is_in(samples["video_id"], pa.array(sorted(forgotten), pa.string()))
        return samples.filter(pc.invert(left_out))

    async def _copied_table(self, samples: pa.Table) -> bool:
        return await self._copied(
            lambda driver: driver.copy_to_table(
                "video_stats_log",
                source=_binary_copy(samples),
                columns=SAMPLE_COLUMNS,
                format="binary",
            )
        )


async def _binary_copy(samples: pa.Table) -> AsyncIterator[bytes]:
    """The table as PostgreSQL's binary COPY has it, in parts."""
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
    for batch in samples.to_batches(max_chunksize=_PART):
        yield _copied_rows(batch)
    yield b"\xff\xff"


def _copied_rows(samples: pa.RecordBatch) -> bytes:
    """Rows of binary COPY, made by numpy, all at once.

    Each is the number of its fields, and each field its size (-1: null) and as many bytes. All rows are laid
    out in the width of the longest; then the bytes that a row does not have are dropped.
    """
    ids = samples["video_id"]
    sizes = pc.binary_length(ids).to_numpy()
    width = int(sizes.max(initial=0))
    layout: list[tuple[Any, ...]] = [("fields", ">i2"), ("size", ">i4"), ("id", "u1", (width,))]
    for name in SAMPLE_COLUMNS[1:]:
        layout += [(f"{name} size", ">i4"), (name, ">i8")]
    rows = np.zeros(len(ids), layout)
    has = np.ones((len(ids), rows.dtype.itemsize), bool)
    offsets: Any = rows.dtype.fields

    rows["fields"], rows["size"] = len(SAMPLE_COLUMNS), sizes
    has[:, offsets["id"][1] :][:, :width] = in_id = np.arange(width) < sizes[:, None]
    rows["id"][in_id] = np.frombuffer("".join(ids.to_pylist()).encode(), np.uint8)
    for name in SAMPLE_COLUMNS[1:]:
        known = samples[name].is_valid().to_numpy(zero_copy_only=False)
        values = pc.fill_null(samples[name].cast(pa.int64()), 0).to_numpy()
        rows[name] = values - _POSTGRES_EPOCH if name == "timestamp" else values
        rows[f"{name} size"] = np.where(known, 8, -1)
        at = offsets[name][1]
        has[:, at : at + 8] = known[:, None]
    return bytes(rows.view(np.uint8).reshape(has.shape)[has])


def _check(samples: pa.Table, latest: datetime) -> None:
    """Raise `InvalidInput` for a table that `upsert` would not take."""
    moments = samples["timestamp"]
    fits = {
        "video_id": pc.match_substring_regex(samples["video_id"], _ID),
        "timestamp": pc.and_(
            pc.greater_equal(moments, pa.scalar(EARLIEST, moments.type)),
            pc.less_equal(moments, pa.scalar(latest, moments.type)),
        ),
    } | {name: pc.fill_null(pc.greater_equal(samples[name], 0), True) for name in COUNTERS}
    for field, fitting in fits.items():
        if pc.all(pc.fill_null(fitting, False)).as_py() is False:
            raise InvalidInput(f"{field} of a sample in a table cannot be taken", field=field)
