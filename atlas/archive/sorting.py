"""Sorting samples by (video_id, timestamp) and merging sorted streams in bounded memory."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY = ("video_id", "timestamp")


def sort_samples(table: pa.Table, tie_breaks: Sequence[str] = ()) -> pa.Table:
    """The rows in order of video_id (byte-wise), timestamp, then ``tie_breaks`` ascending.

    Ids are ranked once by dictionary, so that the sort compares integers: several times quicker
    than comparing text.
    """
    if table.num_rows < 2:
        return table
    ids = table["video_id"].combine_chunks()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.chunk(0)
    if not pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_encode()
    order = pc.array_sort_indices(ids.dictionary).to_numpy()
    rank_of = np.empty(len(order), dtype=np.int64)
    rank_of[order] = np.arange(len(order), dtype=np.int64)
    ranks = rank_of[ids.indices.to_numpy(zero_copy_only=False)]
    times = table["timestamp"].cast(pa.int64()).to_numpy()
    earliest = int(times.min())
    span = int(times.max()) - earliest + 1
    if tie_breaks or len(order) * span >= 1 << 62:
        columns = [table[name].to_numpy() for name in reversed(tie_breaks)]
        indices = np.lexsort([*columns, times, ranks])
    else:
        indices = np.argsort(ranks * span + (times - earliest), kind="stable")
    return table.take(pa.array(indices))


def merge_sorted(
    sources: Sequence[Iterable[pa.Table]],
    *,
    winner: str | None = None,
    on_losers: Callable[[pa.Table], object] = lambda losers: None,
) -> Iterator[pa.Table]:
    """Merge streams that are each sorted by (video_id, timestamp) into one that is.

    With ``winner``, of rows with the same key only the one with the highest value in that column is
    kept, and ``on_losers`` is told the others. Memory is bounded by two tables a source plus the
    rows of the video at the seam.
    """
    streams = [_Stream(source) for source in sources]
    while True:
        for stream in streams:
            stream.fill()
        streams = [stream for stream in streams if stream.buffer is not None]
        if not streams:
            return
        unfinished = [stream for stream in streams if not stream.exhausted]
        # ids below the smallest last id have been read whole from every stream
        frontier = min((stream.last_id for stream in unfinished), default=None)
        parts = [part for stream in streams if (part := stream.take_below(frontier)).num_rows]
        if parts:
            yield _settle(parts, winner, on_losers)
        else:
            for stream in unfinished:
                if stream.last_id == frontier:
                    stream.extend()


class _Stream:
    """A sorted stream and what has been read of it but not given out."""

    def __init__(self, source: Iterable[pa.Table]) -> None:
        self._rest = iter(source)
        self.buffer: pa.Table | None = None
        self.exhausted = False

    @property
    def last_id(self) -> str:
        assert self.buffer is not None
        return _id_at(self.buffer, -1)

    def fill(self) -> None:
        """Read until there is something to give out, or the stream ends."""
        while self.buffer is None and not self.exhausted:
            self.extend()

    def extend(self) -> None:
        """Read one more table."""
        table = next(self._rest, None)
        if table is None:
            self.exhausted = True
        elif table.num_rows:
            self.buffer = table if self.buffer is None else pa.concat_tables([self.buffer, table])

    def take_below(self, frontier: str | None) -> pa.Table:
        """Give out the rows whose id is below ``frontier`` (None: all of them)."""
        buffer = self.buffer
        assert buffer is not None
        end = (
            buffer.num_rows
            if frontier is None
            else bisect.bisect_left(
                range(buffer.num_rows), frontier, key=lambda i: _id_at(buffer, i)
            )
        )
        self.buffer = buffer.slice(end) if end < buffer.num_rows else None
        return buffer.slice(0, end)


def _id_at(table: pa.Table, row: int) -> str:
    # Arrow compares text byte by byte, and so does Python for the code points of UTF-8
    return str(table["video_id"][row].as_py())


def _settle(
    parts: list[pa.Table], winner: str | None, on_losers: Callable[[pa.Table], object]
) -> pa.Table:
    if winner is None:
        return parts[0] if len(parts) == 1 else sort_samples(pa.concat_tables(parts))
    table = sort_samples(pa.concat_tables(parts), tie_breaks=(winner,)).combine_chunks()
    if table.num_rows < 2:
        return table
    changes = [
        pc.not_equal(table[name].slice(1), table[name].slice(0, table.num_rows - 1)) for name in KEY
    ]
    is_last = pa.concat_arrays([pc.or_(*changes).combine_chunks(), pa.array([True])])
    if not pc.all(is_last).as_py():
        on_losers(table.filter(pc.invert(is_last)))
    return table.filter(is_last)
