"""Samples that were brought back from the vault, and the pins that keep them hot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.models import ArchivePin
from atlas.repositories.erasure import NOT_FORGOTTEN
from atlas.tables.sample import COUNTERS, SAMPLE_COLUMNS, SAMPLE_SQL

_SAME = " AND ".join(f"h.{name} IS NOT DISTINCT FROM c.{name}" for name in COUNTERS)


@dataclass(frozen=True, slots=True)
class Pin:
    """A span of time, ``since`` inclusive and ``until`` exclusive."""

    since: datetime
    until: datetime

    def touches(self, since: datetime, until: datetime) -> bool:
        """Whether some moment is in both spans."""
        return self.since < until and since < self.until


class Pins:
    """The pinned spans; they never overlap."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def all(self) -> list[Pin]:
        """Every pin, oldest span first."""
        rows = await self.session.execute(
            select(ArchivePin.pinned_from, ArchivePin.pinned_until).order_by(ArchivePin.pinned_from)
        )
        return [Pin(since, until) for since, until in rows]

    async def add(self, pin: Pin) -> Pin:
        """Pin a span, as one with those that it touches; gives the whole of it."""
        touching = [
            one for one in await self.all() if one.since <= pin.until and pin.since <= one.until
        ]
        whole = Pin(
            min([pin.since, *(one.since for one in touching)]),
            max([pin.until, *(one.until for one in touching)]),
        )
        for one in touching:
            await self.remove(one)
        self.session.add(ArchivePin(pinned_from=whole.since, pinned_until=whole.until))
        await self.session.flush()
        return whole

    async def remove(self, pin: Pin) -> None:
        """Let go of a pin."""
        await self.session.execute(
            delete(ArchivePin).where(
                ArchivePin.pinned_from == pin.since, ArchivePin.pinned_until == pin.until
            )
        )


class StagedSamples:
    """Cold samples in a temporary table, beside the hot ones; for one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def load(self, samples: pa.Table) -> None:
        """Take the samples in: distinct by (video_id, timestamp)."""
        await self.session.execute(
            text("CREATE TEMP TABLE staged_samples (LIKE video_stats_log) ON COMMIT DROP")
        )
        connection = await (await self.session.connection()).get_raw_connection()
        driver = connection.driver_connection
        assert driver is not None
        columns = [samples[name].to_pylist() for name in SAMPLE_COLUMNS]
        await driver.copy_records_to_table(
            "staged_samples", records=list(zip(*columns, strict=True)), columns=SAMPLE_COLUMNS
        )

    async def insert_missing(self) -> int:
        """Write those that are not hot; a hot row is newer and stays. Gives how many were missing.

        A sample without a partition is SQLSTATE 23514 without a constraint.
        """
        inserted = await self.session.scalars(
            text(
                f"WITH inserted AS (INSERT INTO video_stats_log ({SAMPLE_SQL}) "
                f"SELECT {SAMPLE_SQL} FROM staged_samples WHERE {NOT_FORGOTTEN} "
                "ORDER BY video_id, timestamp ON CONFLICT DO NOTHING RETURNING 1) "
                "SELECT count(*) FROM inserted"
            )
        )
        return int(inserted.one())

    async def count_hot(self) -> int:
        """How many of them are hot."""
        return int(
            await self.session.scalar(
                text(
                    "SELECT count(*) FROM staged_samples "
                    "JOIN video_stats_log USING (video_id, timestamp)"
                )
            )
            or 0
        )

    async def delete_equal(self) -> int:
        """Remove the hot rows that say the same as the cold ones; gives how many."""
        deleted = await self.session.scalars(
            text(
                "WITH deleted AS (DELETE FROM video_stats_log h USING staged_samples c "
                "WHERE (h.video_id, h.timestamp) = (c.video_id, c.timestamp) "
                f"AND {_SAME} RETURNING 1) "
                "SELECT count(*) FROM deleted"
            )
        )
        return int(deleted.one())
