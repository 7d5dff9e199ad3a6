"""Which videos gained the most views, from a stream of samples in any order."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

#: Rows that are collected before all but the first and last of each video are dropped.
_ROWS = 1 << 20
_NEEDED = ("video_id", "timestamp", "views")


class Growth:
    """The first and the last known views of each video: memory grows with the videos, not the samples."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._limit = _ROWS

    def add(self, samples: pa.Table) -> None:
        """Take samples into account."""
        samples = samples.select(_NEEDED)
        self._tables.append(samples.filter(pc.is_valid(samples["views"])))
        self._rows += self._tables[-1].num_rows
        if self._rows > self._limit:
            ends = self._ends()
            self._tables = [
                pa.table(
                    [ends["video_id"], ends[f"timestamp_{end}"], ends[f"views_{end}"]], _NEEDED
                )
                for end in ("first", "last")
            ]
            self._rows = 2 * ends.num_rows
            self._limit = max(_ROWS, 2 * self._rows)

    def top(self, limit: int) -> pa.Table:
        """The ``limit`` videos with the largest gain, the largest first, equal ones by id."""
        ends = self._ends()
        ends = ends.filter(pc.less(ends["timestamp_first"], ends["timestamp_last"]))
        gained = pc.subtract(ends["views_last"], ends["views_first"])
        found = pa.table(
            {
                "video_id": ends["video_id"],
                "gained": gained,
                "views_first": ends["views_first"],
                "views_last": ends["views_last"],
                "first": ends["timestamp_first"],
                "last": ends["timestamp_last"],
            }
        )
        return found.sort_by([("gained", "descending"), ("video_id", "ascending")]).slice(0, limit)

    def _ends(self) -> pa.Table:
        if not self._tables:
            kinds = (pa.string(), pa.timestamp("us", "UTC"), pa.int64())
            self._tables = [pa.schema(zip(_NEEDED, kinds, strict=True)).empty_table()]
        rows = pa.concat_tables(self._tables)
        rows = rows.sort_by([("video_id", "ascending"), ("timestamp", "ascending")])
        # in order only without threads
        return rows.group_by("video_id", use_threads=False).aggregate(
            [(name, end) for name in ("timestamp", "views") for end in ("first", "last")]
        )
