"""Writing many new samples at once: binary COPY of a whole Arrow table."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import InvalidInput
from atlas.repositories.hot.binary_copy import binary_copy
from atlas.repositories.hot.stats import EARLIEST, Stats
from atlas.tables.sample import COUNTERS, SAMPLE_COLUMNS
from atlas.types import Sample

#: Rows that an upsert takes at once: bounds memory.
_PART = 16_384

_ID = r"^[A-Za-z0-9_-]{1,64}$"


class BulkStats(Stats):
    """Writes tables of samples."""

    async def upsert_table(self, samples: pa.Table, *, latest: datetime) -> int:
        """`upsert` for a table whose (video_id, timestamp) differ; quick where none of them is stored yet."""
        samples = await self._taken(samples, latest)
        if not await self._copied_table(samples):
            for batch in samples.select(SAMPLE_COLUMNS).to_batches(max_chunksize=_PART):
                columns = batch.to_pydict().values()
                await self.upsert(
                    [Sample(*row) for row in zip(*columns, strict=True)], latest=latest
                )
        return int(samples.num_rows)

    async def insert_table(self, samples: pa.Table, *, latest: datetime) -> int | None:
        """`upsert_table` where none of the samples is stored yet; else None, and nothing is written."""
        samples = await self._taken(samples, latest)
        return int(samples.num_rows) if await self._copied_table(samples) else None

    async def _taken(self, samples: pa.Table, latest: datetime) -> pa.Table:
        """The samples without those of forgotten videos. Raises `InvalidInput`."""
        _check(samples, latest)
        forgotten = await self._forgotten_among(pc.unique(samples["video_id"]).to_pylist())
        if not forgotten:
            return samples
        left_out = pc.is_in(samples["video_id"], pa.array(sorted(forgotten), pa.string()))
        return samples.filter(pc.invert(left_out))

    async def _copied_table(self, samples: pa.Table) -> bool:
        return await self._copied(
            lambda driver: driver.copy_to_table(
                "video_stats_log",
                source=binary_copy(samples.to_batches(), SAMPLE_COLUMNS),
                columns=SAMPLE_COLUMNS,
                format="binary",
            )
        )


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
