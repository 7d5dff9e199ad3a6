"""Joining hot rows and cold files into one stream in which each sample comes once, in bounded memory."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from atlas.reading.cold import OpenedFile, as_scalar, open_cold
from atlas.repositories.hot.snapshot import HOT_SCHEMA, ColdFile, Selection, Snapshot
from atlas.tables.external_sort import runs_by_id, runs_by_time, settled
from atlas.tables.sorting import merge_sorted
from atlas.types import ReadableStore
from atlas.vault.temporary import workdir

T = TypeVar("T")

#: Files that are read at once where few of their rows are selected: what counts is waiting for the store.
SELECTIVE_READS = 8
#: Parts of files that are read ahead where all rows are selected: what counts is memory.
SCANNING_READS = 2


@dataclass(slots=True)
class Span:
    """Sources that overlap in time, and nothing else does."""

    first: datetime
    last: datetime
    files: list[ColdFile] = field(default_factory=list)
    hot: pa.Table = field(default_factory=HOT_SCHEMA.empty_table)

    def known_rows(self, selection: Selection) -> int | None:
        """The number of selected rows, if that needs no reading."""
        if not self.files:
            return int(self.hot.num_rows)
        if (
            len(self.files) == 1
            and not self.hot.num_rows
            and selection.covers(self.first, self.last)
        ):
            return self.files[0].row_count
        return None


def into_spans(snapshot: Snapshot, appended: list[ColdFile]) -> list[Span]:
    """Files grouped by overlap in time, oldest first, each with the hot rows of its time."""
    spans: list[Span] = []
    for file in sorted(snapshot.files + appended, key=lambda file: (file.first, file.last)):
        if spans and file.first <= spans[-1].last:
            spans[-1].files.append(file)
            spans[-1].last = max(spans[-1].last, file.last)
        else:
            spans.append(Span(file.first, file.last, [file]))
    hot = snapshot.hot
    if snapshot.sealed:
        hot = settled(hot)
    earliest = _bounds(hot)[0]
    for span in spans:
        if earliest is None or span.last < earliest:
            continue  # as of almost all spans: hot rows are the latest
        inside = pc.and_(
            pc.greater_equal(hot["timestamp"], as_scalar(span.first)),
            pc.less_equal(hot["timestamp"], as_scalar(span.last)),
        )
        span.hot = hot.filter(inside)
        hot = hot.filter(pc.invert(inside))
        earliest = _bounds(hot)[0]
    first, last = _bounds(hot)
    if first is not None and last is not None:
        spans.append(Span(first, last, [], hot))
        spans.sort(key=lambda span: (span.first, span.last))
    return spans


def _bounds(table: pa.Table) -> tuple[datetime | None, datetime | None]:
    found = pc.min_max(table["timestamp"]).as_py()
    return found["min"], found["max"]


def joined(
    store: Callable[[], ReadableStore],
    spans: list[Span],
    selection: Selection,
    schema: pa.Schema,
    *,
    by_time: bool = False,
) -> Iterator[pa.Table]:
    """The selected rows of all spans, the oldest span first; blocking, for a thread.

    Inside a span rows are in order of (video_id, timestamp), with ``by_time`` of (timestamp, video_id).
    ``store`` is asked for only where there are files. Whatever ends the iterator, no thread, open file
    or temporary folder of it is left.
    """
    with contextlib.ExitStack() as stack:
        folder = _Folder(stack)
        opened: Iterator[_Started] = iter(())
        if any(span.files for span in spans):
            pool = stack.enter_context(_pool())
            starts = (
                partial(_start, store(), file, selection, schema, pool)
                for span in spans
                for file in span.files
            )
            ahead = SCANNING_READS if selection.video_ids is None else SELECTIVE_READS
            opened = in_order(pool, starts, ahead)
        for span in spans:
            rows = _span_rows(span, opened, schema, folder)
            if by_time:
                runs = runs_by_time(folder)
                for table in rows:
                    runs.add(table)
                rows = runs.merged()
            yield from rows


def _span_rows(
    span: Span, opened: Iterator[_Started], schema: pa.Schema, folder: Callable[[], Path]
) -> Iterator[pa.Table]:
    """The rows of a span, each sample once."""
    hot = span.hot.select(schema.names)
    if len(span.files) == 1 and not hot.num_rows:
        only = next(opened)
        # a file of the ledger is in order and has each sample once; of others nobody promises that
        if only.file.cold.row_count is not None:
            yield from only.tables(SCANNING_READS)
            return
        opened = iter([only])
    # a merge holds some of every file: the more files, the less of each
    ahead = SCANNING_READS if len(span.files) <= SCANNING_READS else 0
    streams = []
    loose = runs_by_id(folder)
    loose.add(hot)
    for _ in span.files:
        started = next(opened)
        of_atlas = started.file.cold.in_ledger and started.file.footer.is_sorted
        if of_atlas and len(started.file.parts) > 1:
            streams.append(started.tables(ahead))
        else:
            # small files are many, and need no stream each
            for table in started.tables(SCANNING_READS):
                loose.add(table)
    yield from merge_sorted([*streams, *loose.streams()], winner="priority")


@dataclass(frozen=True, slots=True)
class _Started:
    """A file of which the first part has been read."""

    file: OpenedFile
    schema: pa.Schema
    pool: ThreadPoolExecutor
    first: pa.Table | None

    def tables(self, ahead: int) -> Iterator[pa.Table]:
        """The selected rows of the file, read ``ahead`` of the consumer by so many parts."""
        if self.first is not None:
            yield self.first
        rest = (partial(self.file.read, part, self.schema) for part in self.file.parts[1:])
        yield from in_order(self.pool, rest, ahead)


def _start(
    store: ReadableStore,
    cold: ColdFile,
    selection: Selection,
    schema: pa.Schema,
    pool: ThreadPoolExecutor,
) -> _Started:
    file = open_cold(store, cold, selection, forgiving=True)
    first = file.read(file.parts[0], schema) if file.parts else None
    return _Started(file, schema, pool, first)


def in_order(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """The results of the tasks in their order; at most ``ahead`` of them are under way or wait."""
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(SELECTIVE_READS, thread_name_prefix="atlas-read")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Folder:
    """A temporary folder, made when it is first asked for."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._path: Path | None = None

    def __call__(self) -> Path:
        if self._path is None:
            self._path = self._stack.enter_context(workdir())
        return self._path


class Blocking(Generic[T]):
    """Steps a blocking iterator in threads, one step at a time, and closes it when the last one is over.

    `close` never waits for a step: it may be hanging in a store that does not answer.
    """

    def __init__(self, steps: Iterator[T]) -> None:
        self._steps = steps
        self._busy = threading.Lock()
        self._closed = False

    def next(self) -> T | None:
        """The next item, or None at the end."""
        with self._busy:
            item = None if self._closed else next(self._steps, None)
        if self._closed:
            self.close()
        return item

    def close(self) -> None:
        """Close the iterator now, or have the step that is under way do it."""
        self._closed = True
        close = getattr(self._steps, "close", None)
        if close is not None and self._busy.acquire(blocking=False):
            try:
                close()
            finally:
                self._busy.release()
