"""Footers of cold files: what each row group can hold and where it lies, remembered in memory.

They are kept nowhere on disk: bounds of row groups name ids, and erased ids must leave every place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import CorruptObject, VaultError
from atlas.forks import renew_in_child
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.tables.checksum import check_footer
from atlas.tables.sample import KEY
from atlas.types import ReadableStore

#: Read first of a file of which nothing is known: its footer in most cases, and small files whole.
TAIL_BYTES = 64 << 10
#: What the footers in memory may take: those of some 1,500 files of a million rows.
CACHE_BYTES = 32 << 20

_MAGIC = b"PAR1"
_ENDING = len(_MAGIC) + 4
#: A row group as it is remembered, about.
_GROUP_BYTES = 512


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where a row group lies in its file, and its bounds; None where the file does not record them."""

    rows: int
    start: int
    end: int
    first: datetime | None
    last: datetime | None
    first_id: str | None
    last_id: str | None

    def may_match(self, selection: Selection) -> bool:
        """Whether selected rows can be in it."""
        first = self.first or datetime.min.replace(tzinfo=UTC)
        last = self.last or datetime.max.replace(tzinfo=UTC)
        return selection.may_touch(first, last, self.first_id, self.last_id)


@dataclass(frozen=True, slots=True)
class Footer:
    """A footer as it is in the file, and what was taken from it.

    ``is_sorted``: the file says that its rows are in order of (video_id, timestamp).
    """

    raw: bytes
    groups: tuple[RowGroup, ...]
    is_sorted: bool

    @property
    def metadata(self) -> pq.FileMetaData:
        """The footer decoded: a tenth of a millisecond, and many times the memory."""
        return pq.read_metadata(pa.BufferReader(self.raw))

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, about."""
        return len(self.raw) + _GROUP_BYTES * len(self.groups)


class FooterCache:
    """Footers by vault and object, the least recently used leave first. Any thread may use it."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._footers: OrderedDict[tuple[str, str, int | None], Footer] = OrderedDict()
        self._unlock()
        renew_in_child(self, FooterCache._unlock)

    def _unlock(self) -> None:
        self._lock = threading.Lock()

    def get(self, cold: ColdFile) -> Footer | None:
        """The footer of this object, if it is remembered."""
        with self._lock:
            footer = self._footers.get(_key(cold))
            if footer is not None:
                self._footers.move_to_end(_key(cold))
            return footer

    def put(self, cold: ColdFile, footer: Footer) -> None:
        """Remember the footer of an object of the ledger; other names may be used again."""
        if not cold.in_ledger:
            return
        with self._lock:
            if _key(cold) not in self._footers:
                self._footers[_key(cold)] = footer
                self.bytes += footer.weight
            while self.bytes > self.limit:
                _, gone = self._footers.popitem(last=False)
                self.bytes -= gone.weight

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._footers.clear()
            self.bytes = 0


#: Shared by all readers of the process.
footers = FooterCache()


def _key(cold: ColdFile) -> tuple[str, str, int | None]:
    return cold.vault, cold.object_key, cold.byte_size


def fetch(store: ReadableStore, cold: ColdFile, start: int, end: int) -> bytes:
    """The bytes from ``start`` to ``end``, in one request; nothing stays open."""
    with _opened(store, cold) as source:
        source.seek(start)
        data = source.read(end - start)
    if len(data) != end - start:
        raise CorruptObject(
            f"{cold.object_key} ends before byte {end}, where its footer or the ledger has data",
            path=cold.object_key,
        )
    return data


def fetch_tail(store: ReadableStore, cold: ColdFile) -> tuple[int, bytes]:
    """The size of an object and its last `TAIL_BYTES`, in one request where the size is known."""
    size = cold.byte_size
    if size is None:
        with _opened(store, cold) as source:
            size = source.seek(0, 2)
            source.seek(max(0, size - TAIL_BYTES))
            return size, source.read()
    return size, fetch(store, cold, max(0, size - TAIL_BYTES), size)


def fetch_footer(store: ReadableStore, cold: ColdFile) -> tuple[Footer, bytes | None]:
    """The footer, and where the file is small its whole content: at most two requests."""
    size, tail = fetch_tail(store, cold)
    length = int.from_bytes(tail[-_ENDING : -len(_MAGIC)], "little") + _ENDING
    if size < _ENDING or not tail.endswith(_MAGIC) or length > size:
        raise corrupt(cold, "it does not end as a Parquet file does")
    before = fetch(store, cold, size - length, size - len(tail)) if length > len(tail) else b""
    raw = (before + tail)[-length:]
    try:
        check_footer(raw)
        footer = _footer(raw)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise corrupt(cold, error) from error
    if any(not 0 <= group.start <= group.end <= size for group in footer.groups):
        raise corrupt(cold, "its footer names data outside of it")
    if cold.row_count is not None and footer.metadata.num_rows != cold.row_count:
        raise corrupt(cold, "its footer counts other rows than the ledger")
    return footer, tail if size == len(tail) else None


def corrupt(cold: ColdFile, why: object) -> CorruptObject:
    """The error of an object that is not what was written."""
    return CorruptObject(
        f"{cold.object_key} cannot be read: {why}",
        path=cold.object_key,
        hint="run `atlas vault fsck --deep`; restore the object from the store's versions or a backup",
    )


def _opened(store: ReadableStore, cold: ColdFile) -> BinaryIO:
    source = store.open(cold.object_key, cold.byte_size)
    if source is None:
        raise VaultError(
            f"the ledger names {cold.object_key}, which is not in the vault",
            path=cold.object_key,
            hint="somebody deleted it: restore it from the vault's history or a backup",
        )
    return source


def _footer(raw: bytes) -> Footer:
    metadata = pq.read_metadata(pa.BufferReader(raw))
    groups = tuple(_row_group(metadata.row_group(at)) for at in range(metadata.num_row_groups))
    if sum(group.rows for group in groups) != metadata.num_rows:
        raise ValueError("the rows of its groups do not add up")
    names = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    order = [(name, False) for name in KEY]
    is_sorted = all(
        [
            (names[by.column_index], by.descending)
            for by in metadata.row_group(at).sorting_columns[: len(order)]
        ]
        == order
        for at in range(metadata.num_row_groups)
    )
    return Footer(raw, groups, is_sorted)


def _row_group(group: pq.RowGroupMetaData) -> RowGroup:
    starts, ends = [], []
    bounds: dict[str, tuple[object, object]] = {}
    for index in range(group.num_columns):
        column = group.column(index)
        start = column.data_page_offset
        if column.dictionary_page_offset is not None:
            start = min(start, column.dictionary_page_offset)
        starts.append(start)
        ends.append(start + column.total_compressed_size)
        if column.path_in_schema in KEY:
            bounds[column.path_in_schema] = _bounds(column)
    first, last = bounds.get("timestamp", (None, None))
    first_id, last_id = bounds.get("video_id", (None, None))
    return RowGroup(
        group.num_rows,
        min(starts, default=0),
        max(ends, default=0),
        _moment(first),
        _moment(last),
        first_id if isinstance(first_id, str) else None,
        last_id if isinstance(last_id, str) else None,
    )


def _bounds(column: pq.ColumnChunkMetaData) -> tuple[object, object]:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return None, None
    try:
        return statistics.min, statistics.max
    except (
        ValueError,
        OverflowError,
        pa.ArrowException,
    ):  # nanoseconds, or years, that Python's datetime cannot hold
        return None, None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
