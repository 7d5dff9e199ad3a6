"""The hot samples: writing them."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from atlas.db.driver import driver_in
from atlas.errors import DatabaseError, InvalidInput
from atlas.logging import get_logger
from atlas.parsing import MAX_COUNTER
from atlas.repositories.base import Repository, chunks
from atlas.repositories.erasure import FORGOTTEN
from atlas.repositories.ledger.digests import ErasedDigests
from atlas.tables.sample import COUNTERS, SAMPLE, SAMPLE_COLUMNS, SAMPLE_SQL
from atlas.types import Sample, check_id, utc

log = get_logger(__name__)

#: No sample is older: a time before it is a mistake, and would make a partition of its own.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

#: From so many rows on COPY is tried first: 0.7 of the speed of plain COPY, where the upsert has 0.3.
#: (COPY into a temporary table and an upsert from there was no quicker than the upsert alone.)
_COPY_FROM = 500

_UNIQUE_VIOLATION = "23505"

_ARRAYS = ", ".join(f"CAST(:{column.name} AS {column.sql}[])" for column in SAMPLE)
_REPLACE = "ON CONFLICT (video_id, timestamp) DO UPDATE SET " + ", ".join(
    [*(f"{name} = excluded.{name}" for name in COUNTERS), "seq = NULL"]
)
_UPSERT = text(
    f"INSERT INTO video_stats_log ({SAMPLE_SQL}) SELECT * FROM unnest({_ARRAYS}) {_REPLACE}"
)

#: As part of a statement: writes the samples of ``report``, which has their columns, whose ids are
#: ``held(key)``. No timestamp: no sample.
INSERT_SAMPLES = f"""
    INSERT INTO video_stats_log ({SAMPLE_SQL})
    SELECT {", ".join(f"r.{name}" for name in SAMPLE_COLUMNS)}
    FROM report r JOIN held ON held.key = r.video_id
    WHERE r.timestamp IS NOT NULL AND r.video_id NOT IN (SELECT video_id {FORGOTTEN})
    ORDER BY r.video_id, r.timestamp
    {_REPLACE}
    """
#: A sample's columns and types, for records from JSON.
RECORD_COLUMNS = ", ".join(
    f"{column.name} {column.sql}" + (' COLLATE "C"' if column.sql == "text" else "")
    for column in SAMPLE
)
COUNTER_COLUMNS = ", ".join(f"{name} bigint" for name in COUNTERS)

_VALUES = operator.attrgetter(*SAMPLE_COLUMNS)
_ANY_FORGOTTEN = text(f"SELECT EXISTS (SELECT {FORGOTTEN}) OR EXISTS (SELECT FROM erased_digests)")
_FORGOTTEN_AMONG = text(f"SELECT video_id {FORGOTTEN} AND video_id = ANY(CAST(:ids AS text[]))")


class Stats(Repository):
    """Writes samples."""

    async def upsert(self, samples: Sequence[Sample], *, latest: datetime) -> int:
        """Write samples, each row whole; returns how many distinct ones.

        The last of repeated (video_id, timestamp) counts; samples of forgotten videos are left out,
        with a warning in the log. Raises `InvalidInput` naming row and field
        before anything is written: no timezone, later than ``latest`` or before 1970, a counter that
        is negative or no 64-bit integer. A sample without a partition is SQLSTATE 23514 without a
        constraint.
        """
        newest = await self._allowed(checked(samples, latest))
        # rows are locked in the order of the arrays: one order for everybody, and no deadlock
        for part in chunks([newest[key] for key in sorted(newest)]):
            if len(part) >= _COPY_FROM and await self._copied_samples(part):
                continue
            await self.session.execute(
                _UPSERT,
                {name: [getattr(sample, name) for sample in part] for name in SAMPLE_COLUMNS},
            )
        return len(newest)

    async def _allowed(
        self, newest: dict[tuple[str, datetime], Sample]
    ) -> dict[tuple[str, datetime], Sample]:
        """Without the samples of forgotten videos."""
        forgotten = await self._forgotten_among(video_id for video_id, _ in newest)
        if not forgotten:
            return newest
        return {key: sample for key, sample in newest.items() if key[0] not in forgotten}

    async def _forgotten_among(self, video_ids: Iterable[str]) -> set[str]:
        """Which of these videos are forgotten: their samples are refused."""
        if not await self.session.scalar(_ANY_FORGOTTEN):
            return set()
        ids = sorted(set(video_ids))
        await ErasedDigests(self.session).refused_among(ids)
        forgotten = set(await self.session.scalars(_FORGOTTEN_AMONG, {"ids": ids}))
        if forgotten:
            log.warning("samples_of_forgotten_videos_refused", videos=len(forgotten))
        return forgotten

    async def _copied_samples(self, samples: Sequence[Sample]) -> bool:
        rows = [_VALUES(one) for one in samples]
        return await self._copied(
            lambda driver: driver.copy_records_to_table(
                "video_stats_log", records=rows, columns=SAMPLE_COLUMNS
            )
        )

    async def _copied(self, copy: Callable[[Any], Awaitable[object]]) -> bool:
        """Write samples by COPY, or nothing and False if one of them is there already."""
        try:
            async with self.session.begin_nested(), driver_in(self.session) as driver:
                await copy(driver)
        except DatabaseError as error:
            if error.sqlstate != _UNIQUE_VIOLATION:
                raise
            return False
        return True


def check_counter(value: object, field: str, row: int | None = None) -> int | None:
    """Return ``value`` if it is None or a counter, else raise `InvalidInput`."""
    if value is None or (type(value) is int and 0 <= value <= MAX_COUNTER):  # bool is no counter
        return value
    where = "" if row is None else f" in row {row}"
    raise InvalidInput(
        f"{field}{where} is not a counter: {value!r:.80}",
        row=row,
        field=field,
        value=value,
        hint=f"counters are whole numbers from 0 to {MAX_COUNTER}; None is not known",
    )


def checked(samples: Sequence[Sample], latest: datetime) -> dict[tuple[str, datetime], Sample]:
    """The last sample of each (video_id, timestamp), or `InvalidInput`. Every sample passes: kept quick."""
    newest = {}
    for row, sample in enumerate(samples):
        video_id, moment = check_id(sample.video_id, row=row), sample.timestamp
        if moment.tzinfo is not UTC:
            utc(moment, row=row)
        if not EARLIEST <= moment <= latest:
            raise InvalidInput(
                f"timestamp in row {row} is out of range: {moment.isoformat()}",
                row=row,
                field="timestamp",
                value=moment,
                hint=f"samples lie between {EARLIEST:%Y} and a day ahead of the database's clock",
            )
        for name in COUNTERS:
            check_counter(getattr(sample, name), name, row)
        newest[video_id, moment] = sample
    return newest
