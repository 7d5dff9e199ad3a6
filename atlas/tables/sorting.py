"""Sorting samples by (video_id, timestamp) and merging sorted streams in bounded memory."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas.tables.sample import KEY


def sort_samples(table: pa.Table, tie_breaks: Sequence[str] = ()) -> pa.Table:
    """The rows in order of video_id (byte-wise), timestamp, then ``tie_breaks`` ascending.

    Ids are ranked once by dictionary and the ranks are sorted by their 16-bit digits, the last first:
    numpy sorts those by counting, four times quicker than 64-bit keys. Where ``video_id`` comes
    dictionary-encoded it stays so, and its dictionary comes out in order.
    """
    if table.num_rows < 2:
        return table
    table = table.combine_chunks()
    ids = encoded(table["video_id"])
    by_name = pc.array_sort_indices(ids.dictionary)
    rank_of = np.empty(len(by_name), dtype=np.int32)
    rank_of[by_name.to_numpy()] = np.arange(len(by_name), dtype=np.int32)
    ranks = rank_of[ids.indices.to_numpy()]
    # samples come nearly in order of time, which a stable sort makes use of
    keys = [table[name].to_numpy() for name in reversed(tie_breaks)]
    keys.append(table["timestamp"].cast(pa.int64()).to_numpy())
    keys += [(ranks >> bits).astype(np.uint16) for bits in range(0, len(by_name).bit_length(), 16)]
    order = np.argsort(keys[0], kind="stable")
    for key in keys[1:]:
        order = order[np.argsort(key[order], kind="stable")]
    indices = pa.array(order)
    if not pa.types.is_dictionary(table.schema.field("video_id").type):
        return table.take(indices)
    column = table.schema.get_field_index("video_id")
    in_order = pa.DictionaryArray.from_arrays(ranks[order], ids.dictionary.take(by_name))
    taken = [
        in_order if at == column else table.column(at).take(indices)
        for at in range(table.num_columns)
    ]
    return pa.table(taken, names=table.column_names)


def encoded(ids: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    """The ids as one array with one dictionary."""
    if not pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    # an empty or a very large column comes in chunks again
    return pa.concat_arrays(ids.chunks) if isinstance(ids, pa.ChunkedArray) else ids


def compacted(table: pa.Table) -> pa.Table:
    """The same rows, in order by id, with a dictionary of their own ids: a slice keeps the whole one."""
    if not table.num_rows:
        return table
    ids = encoded(table["video_id"])
    codes = ids.indices.to_numpy()
    first, last = int(codes.min()), int(codes.max())
    own = pa.DictionaryArray.from_arrays(
        codes - first, ids.dictionary.slice(first, last + 1 - first)
    )
    return table.set_column(table.schema.get_field_index("video_id"), "video_id", own)


def merge_sorted(
    sources: Sequence[Iterable[pa.Table]],
    *,
    winner: str | None = None,
    on_losers: Callable[[pa.Table], object] = lambda losers: None,
) -> Iterator[pa.Table]:
    """Merge streams that are each sorted by (video_id, timestamp) into one that is.

    With ``winner``, of rows with the same key only the one with the highest value in that column is
    kept, and ``on_losers`` receives the others. Memory is bounded by two tables a source plus the
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
