"""Putting any number of samples in order in bounded memory: sorted runs on disk, merged."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas.tables.sorting import compacted, encoded, merge_sorted, sort_samples

#: Rows sorted in memory at once (about 100 MB with what the sort needs).
RUN_ROWS = 1_000_000
#: Runs merged at once, and the rows of each that are in memory then.
FAN_IN = 64
_CHUNK_ROWS = 16_384
_SLICE_ROWS = 65_536

Merge = Callable[[Sequence[Iterable[pa.Table]]], Iterator[pa.Table]]


class Runs:
    """Takes tables in any order and returns their rows in one.

    ``sort`` orders a table in memory, ``merge`` joins ordered streams. ``folder`` names a private folder
    for what does not fit into memory; it is asked only then. Files are gone once they were read, or
    with the folder. ``run_rows``: rows sorted in memory at once, `RUN_ROWS` if not given.
    """

    def __init__(
        self,
        sort: Callable[[pa.Table], pa.Table],
        merge: Merge,
        folder: Callable[[], Path],
        run_rows: int | None = None,
    ) -> None:
        self._sort, self._merge, self._folder = sort, merge, folder
        self._run_rows = run_rows or RUN_ROWS
        self._pending: list[pa.Table] = []
        self._rows = 0
        self._runs: list[Iterable[pa.Table]] = []
        self._spilled = 0

    def add(self, table: pa.Table) -> None:
        """Take some rows."""
        if self._rows and self._rows + table.num_rows > self._run_rows:
            self._runs.append(self._spill(_sliced(self._sorted(), _CHUNK_ROWS)))
            if len(self._runs) >= FAN_IN:
                self._runs = [self._spill(self._merge(self._runs))]
        if table.num_rows:
            self._pending.append(table)
            self._rows += table.num_rows

    def streams(self) -> list[Iterable[pa.Table]]:
        """What was taken, as ordered streams for ``merge``."""
        last = [_sliced(self._sorted(), _SLICE_ROWS)] if self._rows else []
        runs, self._runs = self._runs, []
        return [*runs, *last]

    def merged(self) -> Iterator[pa.Table]:
        """What was taken, in order."""
        yield from self._merge(self.streams())

    def _sorted(self) -> pa.Table:
        return self._sort(self._taken())

    def _taken(self) -> pa.Table:
        # nothing here holds on to the table: its rows are in memory twice while it is sorted already
        pending, self._pending, self._rows = self._pending, [], 0
        return pa.concat_tables(pending)

    def _spill(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        self._spilled += 1
        path = self._folder() / f"{id(self):x}-{self._spilled}.arrow"
        tables = iter(tables)
        first = next(tables)
        # a stream, because only there each batch may have a dictionary of its own
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            writer.write_table(first, max_chunksize=_CHUNK_ROWS)
            for table in tables:
                writer.write_table(table, max_chunksize=_CHUNK_ROWS)
        return _unspilled(path)


def _unspilled(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])
    path.unlink()


def _sliced(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    # each with the ids of its own: the dictionary of a whole run would be unified at every step of a merge
    is_encoded = pa.types.is_dictionary(table.schema.field("video_id").type)
    for start in range(0, table.num_rows, rows):
        part = table.slice(start, rows)
        yield compacted(part) if is_encoded else part


def rechunked(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ``rows`` rows, but for the last."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(pending)
            yield whole.slice(0, rows).combine_chunks()
            pending, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(pending).combine_chunks()


def settled(table: pa.Table) -> pa.Table:
    """The rows in order of (video_id, timestamp), of those with one key the one of highest ``priority``."""
    one = sort_samples(table, tie_breaks=("priority",))
    return pa.concat_tables([table.slice(0, 0), *merge_sorted([[one]], winner="priority")])


def runs_by_id(folder: Callable[[], Path]) -> Runs:
    """Rows in order of (video_id, timestamp); of those with one key the highest ``priority`` is kept."""
    return Runs(
        lambda table: sort_samples(table, tie_breaks=("priority",)),
        lambda streams: merge_sorted(streams, winner="priority"),
        folder,
    )


def encoded_runs(
    folder: Path,
    merge: Merge,
    see: Callable[[pa.RecordBatch], object] = lambda run: None,
    run_rows: int | None = None,
) -> Runs:
    """Rows in order of (video_id, timestamp), with ids encoded once, for the sort and the file alike.

    ``see`` is shown each run as it came, before it is sorted.
    """

    def sort(table: pa.Table) -> pa.Table:
        table = table.combine_chunks()
        column = table.schema.get_field_index("video_id")
        table = table.set_column(column, "video_id", encoded(table.column(column)))
        for batch in table.to_batches():
            see(batch)
        return sort_samples(table)

    return Runs(sort, merge, lambda: folder, run_rows)


def runs_by_time(folder: Callable[[], Path]) -> Runs:
    """Rows in order of (timestamp, video_id); no key may come twice."""
    return Runs(sort_by_time, merge_by_time, folder)


def sort_by_time(table: pa.Table) -> pa.Table:
    """The rows in order of (timestamp, video_id)."""
    ids = table["video_id"].combine_chunks().dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.chunk(0)
    order = pc.array_sort_indices(ids.dictionary).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order), dtype=np.int64)
    indices = np.lexsort([ranks[ids.indices.to_numpy()], _times(table)])
    return table.take(pa.array(indices))


def merge_by_time(sources: Sequence[Iterable[pa.Table]]) -> Iterator[pa.Table]:
    """Merge streams that are each in order of (timestamp, video_id), no key twice, into one that is.

    Memory holds one table a source and what is given out.
    """
    streams = [_Stream(iter(source)) for source in sources]
    while streams := [stream for stream in streams if stream.fill()]:
        if len(streams) == 1:
            yield streams[0].take_up_to(None)
            continue
        # whatever is not after the least of the last keys has been read from every stream
        frontier = min(stream.last for stream in streams)
        parts = [part for stream in streams if (part := stream.take_up_to(frontier)).num_rows]
        yield parts[0] if len(parts) == 1 else sort_by_time(pa.concat_tables(parts))


class _Stream:
    """An ordered stream and the table of it that was read last, less what was given out."""

    def __init__(self, rest: Iterator[pa.Table]) -> None:
        self._rest = rest
        self._buffer: pa.Table | None = None
        self._moments: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def fill(self) -> bool:
        """Have at least one row; False: there is none left."""
        while self._buffer is None or not self._buffer.num_rows:
            self._buffer = next(self._rest, None)
            if self._buffer is None:
                return False
            self._moments = _times(self._buffer)
        return True

    @property
    def last(self) -> tuple[int, str]:
        assert self._buffer is not None
        return int(self._moments[-1]), _id_at(self._buffer, -1)

    def take_up_to(self, frontier: tuple[int, str] | None) -> pa.Table:
        """Give out the rows with keys up to ``frontier`` (None: all of them)."""
        buffer = self._buffer
        assert buffer is not None
        end = buffer.num_rows
        if frontier is not None:
            moment, video_id = frontier
            low = int(np.searchsorted(self._moments, moment, "left"))
            high = int(np.searchsorted(self._moments, moment, "right"))
            end = bisect.bisect_right(
                range(high), video_id, lo=low, key=lambda row: _id_at(buffer, row)
            )
        self._buffer, self._moments = buffer.slice(end), self._moments[end:]
        return buffer.slice(0, end)


def _times(table: pa.Table) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = table["timestamp"].cast(pa.int64()).to_numpy()
    return times


def _id_at(table: pa.Table, row: int) -> str:
    # Arrow compares text byte by byte, and so does Python for the code points of UTF-8
    return str(table["video_id"][row].as_py())
