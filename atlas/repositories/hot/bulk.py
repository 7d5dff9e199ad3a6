"""Writing many new samples at once: COPY of a whole Arrow table, as text that Arrow writes."""

from __future__ import annotations

import io
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from atlas.errors import InvalidInput
from atlas.repositories.hot.stats import EARLIEST, Stats
from atlas.tables.sample import COUNTERS, SAMPLE_COLUMNS
from atlas.types import Sample

_ID = r"^[A-Za-z0-9_-]{1,64}$"


class BulkStats(Stats):
    """Writes tables of samples."""

    async def upsert_table(self, samples: pa.Table, *, latest: datetime) -> int:
        """`upsert` for a table whose (video_id, timestamp) differ; quick where none of them is stored yet."""
        _check(samples, latest)
        samples = await self._not_forgotten(samples)
        if samples.num_rows and not await self._copied_table(samples):
            columns = samples.select(SAMPLE_COLUMNS).to_pydict()
            return await self.upsert(
                [Sample(*row) for row in zip(*columns.values(), strict=True)], latest=latest
            )
        return int(samples.num_rows)

    async def _not_forgotten(self, samples: pa.Table) -> pa.Table:
        ids = pc.unique(samples["video_id"])
        probes = {(one, EARLIEST): Sample(one, EARLIEST) for one in ids.to_pylist()}
        allowed = await self._allowed(probes)
        if len(allowed) == len(probes):
            return samples
        kept = pa.array([one for one, _ in allowed], pa.string())
        return samples.filter(pc.is_in(samples["video_id"], kept))

    async def _copied_table(self, samples: pa.Table) -> bool:
        text = io.BytesIO()
        pyarrow.csv.write_csv(
            samples.select(SAMPLE_COLUMNS),
            text,
            pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed"),
        )
        text.seek(0)
        return await self._copied(
            lambda driver: driver.copy_to_table(
                "video_stats_log", source=text, columns=SAMPLE_COLUMNS, format="csv"
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
