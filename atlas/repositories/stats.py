"""The hot samples: writing them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import text

from atlas.errors import InvalidInput
from atlas.repositories.base import Repository, chunks
from atlas.types import Sample, check_id, utc

#: Largest counter that PostgreSQL's bigint and Parquet's int64 hold.
MAX_COUNTER = 2**63 - 1
#: No sample is older: a time before it is a mistake, and would make a partition of its own.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
COUNTERS = ("views", "likes", "comment_count")

# One unnest, because COPY into a temporary table and an upsert from there never pays enough for its
# second path: measured 45 against 15 thousand rows a second in batches of 50, 118 against 83 in
# batches of 5,000, 88 against 103 in one of 50,000, which is cut into the former here.
_UPSERT = text("""
    INSERT INTO video_stats_log (video_id, timestamp, views, likes, comment_count)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:timestamps AS timestamptz[]),
                         CAST(:views AS bigint[]), CAST(:likes AS bigint[]),
                         CAST(:comment_counts AS bigint[]))
    ON CONFLICT (video_id, timestamp) DO UPDATE
    SET views = excluded.views, likes = excluded.likes, comment_count = excluded.comment_count
    """)


class Stats(Repository):
    """Writes samples."""

    async def upsert(self, samples: Sequence[Sample], *, latest: datetime) -> int:
        """Write samples, each row whole; returns how many distinct ones.

        The last of repeated (video_id, timestamp) counts. Raises `InvalidInput` naming row and field
        before anything is written: no timezone, later than ``latest`` or before 1970, a counter that
        is negative or no 64-bit integer. A sample without a partition is SQLSTATE 23514 without a
        constraint.
        """
        newest = _checked(samples, latest)
        # rows are locked in the order of the arrays: one order for everybody, and no deadlock
        for part in chunks([newest[key] for key in sorted(newest)]):
            await self.session.execute(
                _UPSERT,
                {
                    "ids": [sample.video_id for sample in part],
                    "timestamps": [sample.timestamp for sample in part],
                    "views": [sample.views for sample in part],
                    "likes": [sample.likes for sample in part],
                    "comment_counts": [sample.comment_count for sample in part],
                },
            )
        return len(newest)


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


def _checked(samples: Sequence[Sample], latest: datetime) -> dict[tuple[str, datetime], Sample]:
    """The last sample of each (video_id, timestamp). Every sample passes here: kept quick."""
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
        check_counter(sample.views, "views", row)
        check_counter(sample.likes, "likes", row)
        check_counter(sample.comment_count, "comment_count", row)
        newest[video_id, moment] = sample
    return newest
