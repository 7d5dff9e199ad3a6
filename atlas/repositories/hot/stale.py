"""Hot rows that are older than what the vault holds: removed by an adoption, and kept aside."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pyarrow as pa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.driver import driver_in
from atlas.repositories.hot.binary_copy import binary_copy
from atlas.tables.sample import SAMPLE_COLUMNS, SAMPLE_SQL

_KEY = ("video_id", "timestamp", "seq")
_REMOVED = ", ".join(f"h.{name}" for name in SAMPLE_COLUMNS)


class StaleSamples:
    """The steps inside the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def hot_hours(self) -> Sequence[int]:
        """The hours since 1970 in which there are hot rows that were not restored."""
        hours = await self.session.scalars(
            text(
                "SELECT DISTINCT floor(extract(epoch FROM timestamp) / 3600)::bigint "
                "FROM video_stats_log WHERE seq IS NULL"
            )
        )
        return hours.all()

    async def remove(self, later: Iterable[pa.RecordBatch]) -> int:
        """Move aside the hot rows that have the key of a row in ``later`` (video_id, timestamp, seq); returns
        how many. Restored rows stay: they compete by their ``seq``."""
        batches = iter(later)
        first = next(batches, None)
        if first is None:
            return 0
        await self.session.execute(
            text(
                'CREATE TEMP TABLE later_samples (video_id text COLLATE "C", timestamp timestamptz, '
                "seq bigint) ON COMMIT DROP"
            )
        )
        async with driver_in(self.session) as driver:
            await driver.copy_to_table(
                "later_samples",
                source=binary_copy(itertools.chain([first], batches), _KEY),
                columns=_KEY,
                format="binary",
            )
        removed = await self.session.scalar(
            text(
                "WITH removed AS (DELETE FROM video_stats_log h USING later_samples l "
                "WHERE (h.video_id, h.timestamp) = (l.video_id, l.timestamp) AND h.seq IS NULL "
                f"RETURNING {_REMOVED}, l.seq), "
                f"kept AS (INSERT INTO stale_samples ({SAMPLE_SQL}, outdated_by) "
                "SELECT * FROM removed RETURNING 1) SELECT count(*) FROM kept"
            )
        )
        return int(removed or 0)
