"""Taking in samples: one call, one transaction, whatever partitions they need.

`parse_sample` turns what collectors deliver into samples by the rules of `atlas.parsing`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.config import get_settings
from atlas.db.clock import Session
from atlas.db.locks import retry_when_locked
from atlas.errors import DatabaseError, DatabaseUnavailable
from atlas.parsing import invalid, parse_counter, parse_moment
from atlas.repositories.hot.bulk import BulkStats
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.hot.stats import Stats
from atlas.tables.sample import COUNTERS
from atlas.types import Sample

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = [
    "AHEAD",
    "insert_table",
    "parse_sample",
    "record_samples",
    "record_table",
    "with_partitions",
]

T = TypeVar("T")

#: How far ahead of the database's clock a sample may lie.
AHEAD = timedelta(days=1)

#: Rounds of making the partitions of a batch before giving up; each one is lost only if an archiver
#: takes a partition away between making and writing.
ROUNDS = 6

#: Partitions that one transaction of `record_table` writes to.
PARTITIONS = 250

#: check_violation; without a constraint's name it says that a row has no partition.
_CHECK_VIOLATION = "23514"

#: Samples, or a function of the time that returns them.
Samples = Sequence[Sample] | Callable[[datetime], Sequence[Sample]]


async def record_samples(
    database: Database,
    samples: Samples,
    *,
    then: Callable[[Session, datetime], Awaitable[object]] | None = None,
) -> int:
    """Write samples into the hot tier, all or none; returns how many distinct (video_id, timestamp).

    Idempotent: the last of a repeated sample replaces the whole row, within a call and between calls.
    Missing partitions are made. ``samples`` may be a function of the time by the database's clock,
    which is read once; ``then`` does more in the same transaction and receives the same time.

    Raises `InvalidInput` naming row and field, for a timestamp more than a day ahead of the
    database's clock too; nothing is written then.
    """
    taken: Sequence[Sample] = ()

    @retry_when_locked
    async def write() -> int:
        nonlocal taken
        async with database.transaction() as session:
            stats = Stats(session)
            now = await stats.now()
            taken = samples(now) if callable(samples) else samples
            written = await stats.upsert(taken, latest=now + AHEAD)
            if then is not None:
                await then(session, now)
            return written

    return await with_partitions(database, write, lambda: taken)


async def record_table(database: Database, samples: pa.Table) -> int:
    """`record_samples` for an Arrow table of different (video_id, timestamp), in several transactions.

    Each holds the rows of at most `PARTITIONS` partitions, in order of time: a transaction locks every
    partition that it touches, and a server has room for some thousands of locks. Returns how many rows were
    written; those of forgotten videos are not.
    """
    firsts, places = _slots(samples)
    written = 0
    for begin in range(0, len(firsts), PARTITIONS):
        end = begin + PARTITIONS
        part = samples.filter(pa.array((begin <= places) & (places < end)))
        written += await _record_part(
            database, part, _moments(samples, firsts[begin:end]), BulkStats.upsert_table
        )
    return written


async def insert_table(database: Database, samples: pa.Table) -> int | None:
    """`record_table` where none of the samples is in the hot tier yet, in one transaction.

    None, and nothing is written, where one is, or where they lie in more than `PARTITIONS` partitions.
    """
    firsts, _ = _slots(samples)
    if len(firsts) > PARTITIONS:
        return None
    return await _record_part(database, samples, _moments(samples, firsts), BulkStats.insert_table)


def _slots(samples: pa.Table) -> tuple[Any, Any]:
    """The first row of each partition, and for each row the place of its partition."""
    width = get_settings().stats_partition_hours * 3_600_000_000
    slots = samples["timestamp"].cast(pa.int64()).to_numpy() // width
    _, firsts, places = np.unique(slots, return_index=True, return_inverse=True)
    return firsts, places


def _moments(samples: pa.Table, rows: Any) -> list[datetime]:
    return list(samples["timestamp"].take(pa.array(rows)).to_pylist())


async def _record_part(
    database: Database,
    part: pa.Table,
    moments: Sequence[datetime],
    by: Callable[..., Awaitable[T]],
) -> T:
    """Write rows in one transaction; ``moments`` has one of each partition."""
    rows = part.take(pc.sort_indices(part, [("video_id", "ascending"), ("timestamp", "ascending")]))

    @retry_when_locked
    async def ensure() -> None:
        async with database.transaction() as session:
            await Partitions(session).ensure(moments, get_settings().stats_partition_hours)

    @retry_when_locked
    async def write() -> T:
        async with database.transaction() as session:
            stats = BulkStats(session)
            return await by(stats, rows, latest=await stats.now() + AHEAD)

    await ensure()
    return await with_partitions(database, write, lambda: [Sample("-", one) for one in moments])


async def with_partitions(
    database: Database, write: Callable[[], Awaitable[T]], samples: Callable[[], Sequence[Sample]]
) -> T:
    """Run ``write``, a whole transaction, again after making the partitions that its samples lack.

    Raises `DatabaseUnavailable` where an archiver took them away every time.
    """

    @retry_when_locked
    async def make_partitions() -> None:
        async with database.transaction() as session:
            moments = {sample.timestamp for sample in samples()}
            await Partitions(session).ensure(moments, get_settings().stats_partition_hours)

    for rounds_left in reversed(range(ROUNDS)):
        try:
            return await write()
        except DatabaseError as error:
            if error.sqlstate != _CHECK_VIOLATION or error.constraint:
                raise
            if not rounds_left:
                raise DatabaseUnavailable(
                    f"the partitions of these samples were taken away {ROUNDS} times in a row",
                    hint="nothing was written; an archiver is at work on the same hours, retry",
                ) from error
        await make_partitions()
    raise AssertionError("the last round returns or raises")


def parse_sample(row: object, number: int, now: datetime) -> Sample:
    """A sample from a mapping of video_id and, if known, timestamp and counters.

    Without a timestamp it is of ``now``. ``number`` is the row's place in its batch, for errors.
    """
    if not isinstance(row, Mapping):
        raise invalid(row, "row", number, "give a mapping with a video_id")
    moment = row.get("timestamp")
    if type(moment) is not datetime or moment.tzinfo is not UTC:
        moment = parse_moment(moment, field="timestamp", row=number) or now
    counters = (
        (
            value
            if value is None or type(value) is int
            else parse_counter(value, field=name, row=number)
        )
        for name in COUNTERS
        for value in (row.get(name),)
    )
    # ids and ranges are checked where every sample passes, in `Stats.upsert`
    return Sample(cast(str, row.get("video_id")), moment, *counters)
