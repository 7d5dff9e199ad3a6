"""Objects under ``metrics/``: anybody may have put them there, and no ledger vouches for them.

What ``append_metrics`` writes is read, and what was meant well: the platform's first version wrote times as
text or without a zone (UTC), ``comments`` for ``comment_count``, whole numbers as doubles. Every value is
checked as ``append_metrics`` does; a row with another is left out, and so is what cannot be decoded in
bounded memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import CorruptObject, InvalidInput
from atlas.parsing import parse_counter, parse_moment
from atlas.reading.footers import Footer
from atlas.repositories.hot.snapshot import HOT_SCHEMA, ColdFile, Selection
from atlas.tables.pages import CHUNK_BYTES, check_pages
from atlas.tables.sample import COUNTERS, MOMENT
from atlas.types import Dataset, ReadableStore
from atlas.vault.metrics import EARLIEST

#: Rows of a row group, at most: what other writers make by default.
GROUP_ROWS = 1 << 20
#: Columns that are looked at, under whatever name a sample has them.
COLUMNS = ("video_id", "timestamp", *COUNTERS, "comments", "seq")

_BOUNDS = re.compile(r"(\d{1,17})-(\d{1,17})-[0-9a-f]{32}\.parquet")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
#: How far ahead of the clock a sample may lie.
_AHEAD = timedelta(days=1)
#: A store's time of an object may be older than its writing: clocks of file systems tick.
_TICK = 20_000
_SECOND = 1_000_000
_ID = r"^[A-Za-z0-9_-]{1,64}\z"
_MOST = 2**63 - 1

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def appended_files(
    store: ReadableStore,
    selection: Selection,
    adopted: Collection[str] = (),
    now: datetime | None = None,
) -> Iterator[ColdFile]:
    """Objects under ``metrics/`` that can hold selected rows; names of ``append_metrics`` carry bounds.

    Those that compaction has ``adopted`` are left out: their rows lie in files of the ledger. ``now`` is what
    no ``seq`` may pass (default: this machine's clock).
    """
    now = now or datetime.now(UTC)
    for info in store.list(str(Dataset.METRICS)):
        name = info.key.rsplit("/", 1)[-1]
        if info.key in adopted or name.startswith((".", "_")) or not name.endswith(".parquet"):
            continue
        first, last = _name_bounds(name)
        if selection.may_touch(first, last):
            yield ColdFile(
                info.key,
                store.identity,
                first,
                last,
                None,
                info.size,
                arrived=info.modified_at,
                seen=now,
            )


def _name_bounds(name: str) -> tuple[datetime, datetime]:
    bounds = _BOUNDS.fullmatch(name)
    if bounds is None:
        return _FOREVER
    try:
        first, last = (_EPOCH + timedelta(microseconds=int(one)) for one in bounds.groups())
    except OverflowError:
        return _FOREVER
    return first, last


def check_groups(footer: Footer) -> None:
    """Raise `CorruptObject` for row groups that are too large to be decoded in bounded memory."""
    metadata = footer.metadata
    names = set(COLUMNS)
    for at, group in enumerate(footer.groups):
        if not 0 <= group.rows <= GROUP_ROWS:
            raise CorruptObject(f"a row group has {group.rows} rows, at most {GROUP_ROWS} are read")
        chunks = [metadata.row_group(at).column(index) for index in range(metadata.num_columns)]
        size = max(group.end - group.start, sum(
            max(one.total_uncompressed_size, one.total_compressed_size)
            for one in chunks
            if one.path_in_schema in names
        ))  # fmt: skip
        if not 0 <= size <= 2 * CHUNK_BYTES:
            raise CorruptObject(
                f"a row group takes {size} bytes, at most {2 * CHUNK_BYTES} are read"
            )


def check_chunks(footer: Footer, at: int, data: bytes, start: int) -> None:
    """Look into the pages of a row group that lies at ``start``. Raises ValueError."""
    group, view = footer.metadata.row_group(at), memoryview(data)
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema not in COLUMNS:
            continue
        if column.num_values != group.num_rows:
            raise ValueError(f"the column {column.path_in_schema} has lists or other rows")
        begin = column.data_page_offset
        if column.dictionary_page_offset is not None:
            begin = min(begin, column.dictionary_page_offset)
        end = begin + column.total_compressed_size
        if not 0 <= begin - start <= end - start <= len(view):
            raise ValueError(f"the column {column.path_in_schema} lies outside of its row group")
        check_pages(view[begin - start : end - start], group.num_rows)


def as_samples(table: pa.Table, cold: ColdFile) -> pa.Table:
    """The rows that can be samples, as `HOT_SCHEMA`; others are left out.

    Raises `CorruptObject` where there is no column for the id or the time.
    """
    if len(set(table.column_names)) != table.num_columns:
        raise CorruptObject("it has several columns of one name")
    for name in ("video_id", "timestamp"):
        if name not in table.column_names:
            raise CorruptObject(f"the column {name} is missing")
    moments, valid = _moments(table["timestamp"])
    latest = min(cold.last, (cold.seen or datetime.now(UTC)) + _AHEAD)
    valid &= moments >= _microseconds(max(cold.first, EARLIEST))
    valid &= moments <= _microseconds(latest)
    valid &= _plausible_ids(table["video_id"])
    columns: dict[str, Any] = {}
    for name in COUNTERS:
        columns[name], known = _counter(table, name)
        valid &= known
    seqs, known = _counter(table, "seq")
    columns["priority"] = pa.array(_bounded(np.where(known, pc.fill_null(seqs, 0), 0), cold))
    columns["timestamp"] = pa.array(moments).cast(MOMENT)
    mask = pa.array(valid)
    columns = {name: column.filter(mask) for name, column in columns.items()}
    # text last: what is no id may be of any length
    columns["video_id"] = table["video_id"].filter(mask).cast(pa.string())
    return pa.table([columns[name] for name in HOT_SCHEMA.names], schema=HOT_SCHEMA)


def _plausible_ids(column: pa.ChunkedArray) -> Mask:
    found: list[Mask] = []
    for chunk in column.chunks:
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
                raise CorruptObject(f"the column video_id is {column.type}")
            values = values.cast(pa.string())
        known = pc.fill_null(pc.match_substring_regex(values, _ID), False)
        if pa.types.is_dictionary(chunk.type):
            known = pc.fill_null(known.take(chunk.indices), False)
        found.append(known.to_numpy(zero_copy_only=False))
    return np.concatenate(found) if found else np.empty(0, bool)


def _moments(column: pa.ChunkedArray) -> tuple[Integers, Mask]:
    """Microseconds since 1970, and where they are known."""
    kind = column.type
    if not pa.types.is_timestamp(kind):
        column, known = _parsed(
            column, lambda value: parse_moment(value, field="timestamp"), MOMENT
        )
        numbers, present = _plain(column.cast(pa.int64()))
        return numbers, known & present
    numbers, known = _plain(column.cast(pa.int64()))
    if kind.unit == "ns":
        return numbers // 1_000, known
    factor = {"s": _SECOND, "ms": 1_000, "us": 1}[kind.unit]
    known &= np.abs(numbers) <= _MOST // factor - 1
    return np.where(known, numbers, 0) * factor, known


def _counter(table: pa.Table, name: str) -> tuple[pa.Array, Mask]:
    """A counter's values, null where it is not known, and where it is a counter or not known."""
    spelled = [name, "comments"] if name == "comment_count" else [name]
    found = [_numbers(table[one]) for one in spelled if one in table.column_names]
    if not found:
        return pa.nulls(table.num_rows, pa.int64()), np.ones(table.num_rows, bool)
    values, valid = found[0]
    for others, known in found[1:]:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        values, valid = pc.coalesce(values, others), valid & (known | ~missing)
    return values, valid


def _numbers(column: pa.ChunkedArray) -> tuple[pa.Array, Mask]:
    kind = column.type
    if pa.types.is_floating(kind):
        reals = column.cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False)
        unknown = np.isnan(reals)
        valid = unknown | ((reals >= 0) & (reals < 2.0**63) & (np.floor(reals) == reals))
        whole = np.where(valid & ~unknown, reals, 0).astype(np.int64)
        return pa.array(whole, mask=unknown), valid
    if not pa.types.is_integer(kind):
        column, parsed = _parsed(
            column, lambda value: parse_counter(value, field="counter"), pa.int64()
        )
    else:
        parsed = np.ones(len(column), bool)
        if kind == pa.uint64():
            large = pc.fill_null(pc.greater(column, pa.scalar(_MOST, pa.uint64())), False)
            parsed = ~large.to_numpy(zero_copy_only=False)
            column = pc.if_else(large, pa.scalar(None, pa.uint64()), column)
    numbers, known = _plain(column.cast(pa.int64()))
    return pa.array(numbers, mask=~known), parsed & (~known | (numbers >= 0))


def _parsed(
    column: pa.ChunkedArray, parse: Callable[[object], object], kind: pa.DataType
) -> tuple[pa.ChunkedArray, Mask]:
    """Values of another type one by one, each distinct one once, and where they could be taken."""
    if pa.types.is_nested(column.type):
        raise CorruptObject(f"a column is {column.type}")
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    values, taken = [], []
    for value in encoded.dictionary.to_pylist():
        try:
            values.append(parse(value))
            taken.append(True)
        except (InvalidInput, OverflowError):
            values.append(None)
            taken.append(False)
    known = pc.fill_null(pa.array(taken, pa.bool_()).take(encoded.indices), True)
    column = pa.chunked_array([pa.array(values, kind).take(encoded.indices)])
    return column, known.to_numpy(zero_copy_only=False)


def _plain(column: pa.ChunkedArray) -> tuple[Integers, Mask]:
    array = column.combine_chunks()
    known = array.is_valid().to_numpy(zero_copy_only=False)
    return pc.fill_null(array, 0).to_numpy(zero_copy_only=False), known.copy()


def _bounded(seqs: Integers, cold: ColdFile) -> Integers:
    """The numbers of the rows, none of them later than when they came.

    ``seq`` is the clock of whoever appended, and that may be fast: such rows would win over every correction
    until the others have caught up. So no row is later than the store's own time of its object, nor than
    ``seen``. What lies beyond is pressed together, not cut off: the order of one machine's rows stays.
    """
    if cold.arrived is not None:
        arrived = _microseconds(cold.arrived) + _TICK
        seqs = np.where(seqs <= arrived, seqs, arrived + ((seqs - arrived) >> 16))
    seen = _microseconds(cold.seen or datetime.now(UTC))
    pressed = seen - _SECOND + np.minimum((seqs - seen) >> 16, _SECOND)
    return np.where(seqs <= seen, seqs, pressed)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
