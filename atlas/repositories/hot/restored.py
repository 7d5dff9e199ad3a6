"""Samples that were brought back from the vault, and the pins that keep them hot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.driver import driver_in
from atlas.models import ArchivePin
from atlas.repositories.erasure import NOT_FORGOTTEN
from atlas.repositories.hot.binary_copy import binary_copy
from atlas.tables.sample import COUNTERS, SAMPLE_COLUMNS

_COLUMNS = (*SAMPLE_COLUMNS, "seq")
_NAMES = ", ".join(_COLUMNS)
_BROUGHT = ", ".join(f"{name} = excluded.{name}" for name in (*COUNTERS, "seq"))


@dataclass(frozen=True, slots=True)
class Pin:
    """A span of time, ``since`` inclusive and ``until`` exclusive."""

    since: datetime
    until: datetime

    def days(self) -> Iterator[Pin]:
        """The span, day by day."""
        first = self.since
        while first < self.until:
            last = min(self.until, first + timedelta(days=1))
            yield Pin(first, last)
            first = last

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
        """Pin a span, as one with those that it touches; returns the whole of it."""
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
        async with driver_in(self.session) as driver:
            await driver.copy_to_table(
                "staged_samples",
                source=binary_copy(samples.to_batches(), _COLUMNS),
                columns=_COLUMNS,
                format="binary",
            )

    async def insert_missing(self) -> int:
        """Write those that are not hot, with their ``seq``; returns how many were written.

        A row that was written is newer and stays; an earlier copy is brought up to date. A sample without a
        partition is SQLSTATE 23514 without a constraint.
        """
        inserted = await self.session.scalars(
            text(
                f"WITH inserted AS (INSERT INTO video_stats_log AS hot ({_NAMES}) "
                f"SELECT {_NAMES} FROM staged_samples WHERE {NOT_FORGOTTEN} "
                "ORDER BY video_id, timestamp ON CONFLICT (video_id, timestamp) DO UPDATE "
                f"SET {_BROUGHT} WHERE hot.seq < excluded.seq RETURNING 1) SELECT count(*) FROM inserted"
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


class RestoredSamples:
    """Hot rows that are copies of cold ones: those that have a ``seq``. A write takes it from them."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def delete(self, span: Pin) -> int:
        """Remove the copies of a span; returns how many."""
        deleted = await self.session.scalars(
            text(
                "WITH deleted AS (DELETE FROM video_stats_log WHERE timestamp >= :since "
                "AND timestamp < :until AND seq IS NOT NULL RETURNING 1) SELECT count(*) FROM deleted"
            ),
            {"since": span.since, "until": span.until},
        )
        return int(deleted.one())

    async def count_written(self, span: Pin) -> int:
        """How many rows of a span are no copies."""
        query = text(
            "SELECT count(*) FROM video_stats_log "
            "WHERE timestamp >= :since AND timestamp < :until AND seq IS NULL"
        )
        return int(
            await self.session.scalar(query, {"since": span.since, "until": span.until}) or 0
        )
