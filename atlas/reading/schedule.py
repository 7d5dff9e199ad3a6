"""Rows of the schedule's files: looked up by id and read in spans, a row group at a time.

What was read is remembered in memory and nowhere else: it names ids, and erased ids must leave every place.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.errors import Unavailable, VaultDenied, VaultError
from atlas.forks import renew_in_child
from atlas.logging import get_logger
from atlas.reading.cold import Span, decoded
from atlas.reading.footers import Footer, corrupt, fetch, fetch_footer, footers
from atlas.repositories.hot.snapshot import ColdFile
from atlas.repositories.ledger.schedule import ScheduleFile
from atlas.repositories.ring.membership import Answers
from atlas.repositories.ring.page import Entries, joined
from atlas.repositories.ring.positions import Positions, positions_of
from atlas.tables.parquet import UNREADABLE
from atlas.types import ReadableStore

log = get_logger(__name__)

#: Row groups that are remembered: 25 MB of those that Atlas writes; and files of which the bounds of all are.
_GROUPS, _FILES = 512, 512
#: Requests at the same time.
_AT_ONCE = 8
#: What numpy makes of a day that is not known.
_NO_DAY = 0
_ANY_TIME = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_COLUMNS = ("position", "last_sampled", "parked_on")

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Memory(Generic[KeyT, ValueT]):
    """Up to ``limit`` things that were read, the least recently used leave first. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[KeyT, ValueT] = OrderedDict()
        self._unlock()
        renew_in_child(self, Memory._unlock)

    def _unlock(self) -> None:
        self._lock = threading.Lock()

    def get(self, key: KeyT, read: Callable[[], ValueT]) -> ValueT:
        """What is remembered; else what ``read`` returns, which is remembered from then on."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = read()
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._limit:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._values.clear()


#: By vault, file, and number of the row group. Shared by all readers of the process, as the next.
row_groups = Memory[tuple[str, str, int], Entries](_GROUPS)
#: First and last positions of the row groups, by vault and file.
bounds = Memory[tuple[str, str], tuple[Positions, Positions]](_FILES)


@contextlib.contextmanager
def passing_over(file: ScheduleFile) -> Iterator[None]:
    """A file that is lost or damaged is passed over, with an error in the log: the others go on.

    A vault that does not answer is raised.
    """
    try:
        yield
    except (Unavailable, VaultDenied):
        raise
    except VaultError as error:
        log.error("schedule_file_unreadable", key=file.object_key, error=str(error))


class ScheduleReader:
    """Reads live files of the schedule from a store. Blocking; any thread may use it.

    Raises `CorruptObject`, `VaultError`.
    """

    def __init__(self, store: ReadableStore) -> None:
        self._store = store

    def between(self, file: ScheduleFile, first: int, last: int) -> Entries:
        """The entries of a file whose position is ``first <= position <= last``."""
        opened = _Opened(self._store, file)
        parts = [opened.group(at) for at in opened.groups_between(first, last)]
        return joined(parts).between(first, last)

    def has(self, file: ScheduleFile, positions: Positions) -> npt.NDArray[np.bool_]:
        """For each position whether the file has it."""
        opened = _Opened(self._store, file)
        there = np.zeros(len(positions), np.bool_)
        at = opened.groups_of(positions)
        for group in np.unique(at[at >= 0]).tolist():
            inside = at == group
            there[inside] = opened.group(group).found(positions[inside])[0]
        return there

    def answers(
        self,
        video_ids: Mapping[str, frozenset[int]],
        files: Mapping[int, Sequence[ScheduleFile]],
    ) -> Answers:
        """Look ids up in the files of the cohorts in which the filter has them, but for damaged files."""
        present: dict[str, int] = {}
        read: dict[str, set[str]] = {video_id: set() for video_id in video_ids}

        def look(file: ScheduleFile) -> tuple[ScheduleFile, list[str], npt.NDArray[np.bool_]]:
            ids = [one for one, cohorts in video_ids.items() if file.cohort in cohorts]
            with passing_over(file):
                return file, ids, self.has(file, positions_of(ids))
            return file, [], np.empty(0, np.bool_)

        wanted = {cohort for cohorts in video_ids.values() for cohort in cohorts}
        some = [file for cohort in sorted(wanted) for file in files.get(cohort, ())]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="atlas-schedule") as pool:
            for file, ids, there in pool.map(look, some):
                for video_id, is_there in zip(ids, there.tolist(), strict=True):
                    read[video_id].add(file.object_key)
                    if is_there:
                        present[video_id] = file.cohort
        return Answers(present, {one: frozenset(ids) for one, ids in read.items()})


class _Opened:
    """A file whose footer is known, and the bounds of its row groups."""

    def __init__(self, store: ReadableStore, file: ScheduleFile) -> None:
        self._store, self._file = store, file
        self._cold = ColdFile(
            file.object_key,
            store.identity,
            *_ANY_TIME,
            file.rows,
            file.byte_size,
            in_ledger=True,
        )
        key = (store.identity, file.object_key)
        self._firsts, self._lasts = bounds.get(key, self._bounds)

    @functools.cached_property
    def _footer(self) -> Footer:
        footer = footers.get(self._cold)
        if footer is None:
            footer, _ = fetch_footer(self._store, self._cold)
            footers.put(self._cold, footer)
        return footer

    def _bounds(self) -> tuple[Positions, Positions]:
        try:
            metadata = self._footer.metadata
            place = [metadata.schema.column(at).path for at in range(metadata.num_columns)].index(
                "position"
            )
            columns = [
                metadata.row_group(at).column(place) for at in range(metadata.num_row_groups)
            ]
            if not all(one.is_stats_set for one in columns):
                raise ValueError("it does not say where its positions lie")
            firsts = np.array([one.statistics.min for one in columns], np.int64)
            lasts = np.array([one.statistics.max for one in columns], np.int64)
        except UNREADABLE as error:
            raise corrupt(self._cold, error) from error
        return _positions(firsts), _positions(lasts)

    def groups_between(self, first: int, last: int) -> range:
        """The row groups that can have positions of a span."""
        start = np.searchsorted(self._lasts, np.uint64(first), "left")
        stop = np.searchsorted(self._firsts, np.uint64(last), "right")
        return range(int(start), int(stop))

    def groups_of(self, positions: Positions) -> npt.NDArray[np.intp]:
        """The row group that can have each position; -1: none."""
        at = np.searchsorted(self._lasts, positions, "left")
        known = at < len(self._lasts)
        known[known] = self._firsts[at[known]] <= positions[known]
        return np.where(known, at, -1)

    def group(self, at: int) -> Entries:
        """The entries of a row group."""
        key = (self._store.identity, self._file.object_key, at)
        return row_groups.get(key, lambda: self._read(at))

    def _read(self, at: int) -> Entries:
        group = self._footer.groups[at]
        span = Span(group.start, fetch(self._store, self._cold, group.start, group.end))
        try:
            return entries_of(decoded(span, self._footer, [at], _COLUMNS, []), self._file.cohort)
        except UNREADABLE as error:
            raise corrupt(self._cold, error) from error
        except LookupError as error:
            raise corrupt(self._cold, f"a column is missing: {error}") from error


def entries_of(rows: pa.Table, cohort: int) -> Entries:
    """Rows of a file of the schedule as entries of a cohort, in their order."""
    return Entries(
        _positions(rows["position"].to_numpy()),
        np.full(rows.num_rows, cohort, np.uint16),
        _days(rows["last_sampled"]),
        _days(rows["parked_on"]),
    )


def _positions(stored: npt.NDArray[np.int64]) -> Positions:
    return stored.astype(np.int64).view(np.uint64) ^ np.uint64(2**63)


def _days(column: pa.ChunkedArray) -> npt.NDArray[np.uint16]:
    days = column.cast(pa.int32()).fill_null(_NO_DAY).to_numpy()
    return np.asarray(days, np.uint16)
