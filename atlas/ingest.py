"""Taking in samples: one call, one transaction, whatever partitions they need.

The ``parse_*`` functions turn what collectors deliver (counters as text, times without a zone, keys
left out) into the types of `atlas.types`, or raise `InvalidInput` naming row and field.
"""

from __future__ import annotations

import numbers
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import get_settings
from atlas.db.locks import retry_when_locked
from atlas.errors import DatabaseError, InvalidInput
from atlas.repositories.partitions import Partitions
from atlas.repositories.stats import COUNTERS, Stats, check_counter
from atlas.types import Sample

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["parse_counter", "parse_moment", "parse_sample", "record_samples"]

#: How far ahead of the database's clock a sample may lie.
AHEAD = timedelta(days=1)

#: Rounds of making the partitions of a batch before giving up; each one is lost only if an archiver
#: takes a partition away between making and writing.
ROUNDS = 5

#: check_violation; without a constraint's name it says that a row has no partition.
_CHECK_VIOLATION = "23514"

#: Samples, or what makes them when told the time.
Samples = Sequence[Sample] | Callable[[datetime], Sequence[Sample]]


async def record_samples(
    database: Database,
    samples: Samples,
    *,
    then: Callable[[AsyncSession, datetime], Awaitable[object]] | None = None,
) -> int:
    """Write samples into the hot tier, all or none; returns how many distinct (video_id, timestamp).

    Idempotent: the last of a repeated sample replaces the whole row, within a call and between calls.
    Missing partitions are made. ``samples`` may be a function of the time by the database's clock,
    which is read once; ``then`` does more in the same transaction, told the same time.

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

    @retry_when_locked
    async def make_partitions() -> None:
        async with database.transaction() as session:
            moments = {sample.timestamp for sample in taken}
            await Partitions(session).ensure(moments, get_settings().stats_partition_hours)

    for _ in range(ROUNDS):
        try:
            return await write()
        except DatabaseError as error:
            if error.sqlstate != _CHECK_VIOLATION or error.constraint:
                raise
        await make_partitions()
    return await write()


def parse_sample(row: object, number: int, now: datetime) -> Sample:
    """A sample from a mapping of video_id and, if known, timestamp and counters.

    Without a timestamp it is of ``now``. ``number`` is the row's place in its batch, for errors.
    """
    if not isinstance(row, Mapping):
        raise _invalid(row, "row", number, "give a mapping with a video_id")
    moment = row.get("timestamp")
    if type(moment) is not datetime or moment.tzinfo is not UTC:
        moment = parse_moment(moment, field="timestamp", row=number) or now
    views, likes, comment_count = (
        (
            value
            if value is None or type(value) is int
            else parse_counter(value, field=name, row=number)
        )
        for name in COUNTERS
        for value in (row.get(name),)
    )
    # ids and ranges are checked where every sample passes, in `Stats.upsert`
    return Sample(row.get("video_id"), moment, views, likes, comment_count)  # type: ignore[arg-type]  # see above


def parse_counter(value: object, *, field: str, row: int | None = None) -> int | None:
    """A counter from a whole number or its decimal digits; None stays None.

    Anything else raises `InvalidInput`: signs and separators, fractions, NaN, truth values, blanks.
    """
    number: object = value
    if isinstance(value, str):
        if value.isascii() and value.strip().isdecimal() and len(value) < 40:
            number = int(value)
    elif isinstance(value, bool):
        pass  # an int to Python, but no counter
    elif isinstance(value, numbers.Integral):  # numpy's too
        number = int(value)
    elif isinstance(value, numbers.Real) and float(value).is_integer():
        number = int(float(value))
    try:
        return check_counter(number, field, row)
    except InvalidInput:
        raise _invalid(value, field, row, "counters are whole numbers from 0 to 2^63 - 1") from None


def parse_moment(value: object, *, field: str, row: int | None = None) -> datetime | None:
    """A time from a datetime or ISO 8601 text; without a zone it is UTC; None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _invalid(value, field, row, "write times as 2026-01-15T12:00:00Z") from None
    # pandas' NaT is a datetime too, one that has no year
    if not isinstance(value, datetime) or not isinstance(value.year, int):
        raise _invalid(value, field, row, "give a datetime or ISO 8601 text")
    return value if value.utcoffset() is not None else value.replace(tzinfo=UTC)


def _invalid(value: Any, field: str, row: int | None, hint: str) -> InvalidInput:
    where = "" if row is None else f" in row {row}"
    return InvalidInput(
        f"{field}{where} cannot be taken: {value!r:.80}",
        row=row,
        field=field,
        value=value,
        hint=hint,
    )
