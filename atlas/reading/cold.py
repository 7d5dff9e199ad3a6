"""Reading cold files: which rows of which objects, in the one shape that every reader shares."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.errors import CorruptObject, VaultError
from atlas.logging import get_logger
from atlas.reading.appended import COLUMNS as APPENDED_COLUMNS
from atlas.reading.appended import as_samples, check_chunks, check_groups
from atlas.reading.footers import Footer, corrupt, fetch, fetch_footer, footers
from atlas.repositories.hot.snapshot import HOT_SCHEMA, ColdFile, Selection
from atlas.tables.parquet import ROW_GROUP_ROWS, UNREADABLE
from atlas.tables.sample import KEY, SAMPLE_COLUMNS
from atlas.types import ReadableStore
from atlas.vault.metrics import digest_differs

log = get_logger(__name__)

#: What a reader returns: string, timestamp[us, UTC] and three int64, null where not known.
COLUMNS = SAMPLE_COLUMNS
_WARNED_AT_MOST = 10_000
#: Adjacent row groups that are fetched in one request and decoded together.
PART_GROUPS = 4


def read_cold(
    store: ReadableStore, cold: ColdFile, selection: Selection, schema: pa.Schema = HOT_SCHEMA
) -> Iterator[pa.Table]:
    """The selected rows of a file, in order, from the row groups that can hold them."""
    file = open_cold(store, cold, selection)
    for part in file.parts:
        yield file.read(part, schema)


def open_cold(
    store: ReadableStore, cold: ColdFile, selection: Selection, *, forgiving: bool = False
) -> OpenedFile:
    """Find out which row groups can hold selected rows; no request if the footer is remembered.

    Raises `CorruptObject`, `VaultError`. With ``forgiving`` an object that the ledger does not name is left
    out instead, whole or the part that cannot be read, with a warning in the log.
    """
    forgiving = forgiving and not cold.in_ledger
    try:
        return _opened(store, cold, selection, forgiving=forgiving)
    except CorruptObject as error:
        if not forgiving:
            raise
        _warn(cold, error.message)
        return OpenedFile(store, cold, selection, Footer(b"", (), is_sorted=False), [], None)


def why_left_out(store: ReadableStore, cold: ColdFile) -> str | None:
    """What is wrong with an object that no ledger names; None: it is what ``append_metrics`` writes, or was
    meant to be. Reads all of it. Raises `VaultError`."""
    try:
        file = open_cold(store, cold, Selection())
        for part in file.parts:
            rows = sum(file.footer.groups[at].rows for at in part)
            if refused := rows - file.read(part).num_rows:
                return f"{refused} of {rows} rows are no samples"
        source = store.open(cold.object_key)
        if source is None:
            return None  # deleted meanwhile
        with source, pq.ParquetFile(source) as whole:
            groups = (whole.read_row_group(at) for at in range(whole.num_row_groups))
            footer = whole.metadata.metadata or {}
            if digest_differs(cold.object_key.rsplit("/", 1)[-1], groups, footer):
                return "its rows do not match the digest in its name"
    except CorruptObject as error:
        return error.message
    except VaultError:
        raise  # some are ValueErrors too
    except UNREADABLE as error:
        return str(error)
    return None


_warned: set[str] = set()


def _warn(cold: ColdFile, reason: str) -> None:
    """Once a process for each object: the same ones are met by every read."""
    if cold.object_key not in _warned and len(_warned) < _WARNED_AT_MOST:
        _warned.add(cold.object_key)
        log.warning("metrics_left_out", key=cold.object_key, reason=reason)


def _opened(
    store: ReadableStore, cold: ColdFile, selection: Selection, *, forgiving: bool
) -> OpenedFile:
    content = None
    footer = footers.get(cold)
    if footer is None:
        footer, content = fetch_footer(store, cold)
        footers.put(cold, footer)
    if not cold.in_ledger:
        check_groups(footer)
    parts: list[list[int]] = []
    for at, group in enumerate(footer.groups):
        if not group.may_match(selection):
            continue
        adjacent = parts and parts[-1][-1] == at - 1 and len(parts[-1]) < PART_GROUPS
        if adjacent and group.rows <= ROW_GROUP_ROWS:
            parts[-1].append(at)
        else:
            parts.append([at])
    return OpenedFile(store, cold, selection, footer, parts, content, forgiving)


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file whose footer is known. Holds nothing open: each part is one request of its own.

    ``parts`` are the row groups that can hold selected rows, adjacent ones together. ``content`` is
    the whole file where it is small.
    """

    store: ReadableStore
    cold: ColdFile
    selection: Selection
    footer: Footer
    parts: list[list[int]]
    content: bytes | None
    forgiving: bool = False

    def read(self, part: Sequence[int], schema: pa.Schema = HOT_SCHEMA) -> pa.Table:
        """The selected rows of a part in the columns of ``schema``, a subset of `HOT_SCHEMA`.

        Raises `CorruptObject` where the bytes are not what was written or a column cannot be read
        without loss; `VaultError`. Of a ``forgiving`` file the part is left out then.
        """
        try:
            return self._read(part, schema)
        except CorruptObject as error:
            if not self.forgiving:
                raise
            _warn(self.cold, error.message)
            return schema.empty_table()

    def _read(self, part: Sequence[int], schema: pa.Schema) -> pa.Table:
        groups = [self.footer.groups[at] for at in part]
        start, end = min(one.start for one in groups), max(one.end for one in groups)
        span = (
            Span(start, fetch(self.store, self.cold, start, end))
            if self.content is None
            else Span(0, self.content)
        )
        try:
            if not self.cold.in_ledger:
                return self._appended(span, part, schema)
            by_id = self.selection.video_ids is not None
            names = _stored(schema)
            rows = decoded(span, self.footer, part, names, ["video_id"] if by_id else [])
            if rows.num_rows != sum(one.rows for one in groups):
                raise CorruptObject("a row group has other rows than the footer says")
            return _selected(rows, self.selection, schema)
        except CorruptObject as error:
            raise corrupt(self.cold, error.message) from error
        except (pa.ArrowException, OSError, EOFError, ValueError, LookupError) as error:
            raise corrupt(self.cold, error) from error

    def _appended(self, span: Span, part: Sequence[int], schema: pa.Schema) -> pa.Table:
        """The selected rows, of those that can be samples."""
        for at in part:
            group = self.footer.groups[at]
            span.seek(group.start)
            check_chunks(self.footer, at, span.read(group.end - group.start), group.start)
        # text as numbers of distinct values: what is long and repeated stays short
        schema_of_file = self.footer.metadata.schema
        text = [
            schema_of_file.column(at).path
            for at in range(len(schema_of_file.names))
            if schema_of_file.column(at).physical_type == "BYTE_ARRAY"
        ]
        found = decoded(span, self.footer, part, APPENDED_COLUMNS, text)
        rows = as_samples(found, self.cold)
        if rows.num_rows < found.num_rows:
            _warn(self.cold, f"{found.num_rows - rows.num_rows} rows are no samples")
        return matching(rows, self.selection).select(schema.names)


class Span(io.RawIOBase):
    """Bytes of a file at their place in it, for a decoder that must not ask for any other."""

    def __init__(self, start: int, data: bytes) -> None:
        super().__init__()
        self._start, self._data, self._position = start, memoryview(data), start

    def read(self, size: int | None = -1) -> bytes:
        begin = self._position - self._start
        end = begin + (size if size is not None and size >= 0 else len(self._data))
        if begin < 0 or end > len(self._data):
            raise EOFError(f"byte {self._position} lies outside of its row group")
        self._position = self._start + end
        return bytes(self._data[begin:end])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._start + len(self._data),
        }
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def decoded(
    span: Span, footer: Footer, part: Sequence[int], names: Sequence[str], encoded: Sequence[str]
) -> pa.Table:
    """The row groups with those columns of ``names`` that the file has, in the file's types.

    Text of ``encoded`` columns stays encoded: ids that are looked for are compared as numbers, and made text
    only where they are selected.
    """
    with pq.ParquetFile(
        span,
        metadata=footer.metadata,
        read_dictionary=list(encoded),
        pre_buffer=False,
        page_checksum_verification=True,
    ) as file:
        present = [name for name in names if name in file.schema_arrow.names]
        # threads of their own read several parts at once
        return file.read_row_groups(list(part), columns=present, use_threads=False)


def _stored(schema: pa.Schema) -> list[str]:
    return ["seq" if name == "priority" else name for name in schema.names]


def _selected(table: pa.Table, selection: Selection, schema: pa.Schema) -> pa.Table:
    """The rows that are asked for: by id before anything is converted, which most rows are spared."""
    if selection.video_ids is not None and "video_id" in table.column_names:
        table = table.filter(_among(table["video_id"], selection.video_ids))
    return matching(conformed(table, schema), selection)


def _among(ids: pa.ChunkedArray, wanted: Sequence[str]) -> pa.ChunkedArray:
    if not pa.types.is_dictionary(ids.type):
        return pc.is_in(ids.cast(pa.string()), value_set=pa.array(wanted, pa.string()))
    return pa.chunked_array(
        [
            pc.is_in(
                chunk.dictionary.cast(pa.string()), value_set=pa.array(wanted, pa.string())
            ).take(chunk.indices)
            for chunk in ids.chunks
        ],
        pa.bool_(),
    )


def conformed(table: pa.Table, schema: pa.Schema = HOT_SCHEMA) -> pa.Table:
    """The file's rows as ``schema``, a subset of `HOT_SCHEMA`: a column that the file does not have is
    null, one that the schema does not have is left out, other types are widened.

    Raises `CorruptObject` naming the column that cannot be converted without loss, or that has to be
    there and is not.
    """
    columns = []
    for wanted in schema:
        name = "seq" if wanted.name == "priority" else wanted.name
        if name in table.column_names:
            column = _widened(name, table[name], wanted.type)
        else:
            column = pa.chunked_array([pa.nulls(table.num_rows, wanted.type)])
        if name == "seq":
            column = pc.fill_null(column, 0)
        elif column.null_count and name in KEY:
            raise CorruptObject(f"the column {name} is missing or has nulls")
        columns.append(column)
    return pa.table(columns, schema=schema)


def _widened(name: str, column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    found = column.type
    values = found.value_type if pa.types.is_dictionary(found) else found
    if found == wanted:
        return column
    if not (pa.types.is_null(values) or any(kind(values) for kind in _KINDS[str(wanted)])):
        raise CorruptObject(f"the column {name} is {found}, which is not read as {wanted}")
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise CorruptObject(
            f"the column {name} is {found}, and a value would be lost as {wanted}: {error}"
        ) from error


#: Types that are read as each type of `HOT_SCHEMA`, where no value is lost.
_KINDS: dict[str, tuple[Any, ...]] = {
    str(pa.string()): (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
    ),
    str(pa.timestamp("us", "UTC")): (pa.types.is_timestamp,),
    str(pa.int64()): (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
}


def matching(table: pa.Table, selection: Selection) -> pa.Table:
    """The rows of the selection."""
    conditions: list[pa.ChunkedArray] = []
    if selection.video_ids is not None:
        ids = pa.array(selection.video_ids, pa.string())
        conditions.append(pc.is_in(table["video_id"], value_set=ids))
    if selection.excluded:
        ids = pa.array(selection.excluded, pa.string())
        conditions.append(pc.invert(pc.is_in(table["video_id"], value_set=ids)))
    if selection.erased is not None:
        unknown = selection.erased.among(pc.unique(table["video_id"]).to_pylist())
        if unknown:
            ids = pa.array(unknown, pa.string())
            conditions.append(pc.invert(pc.is_in(table["video_id"], value_set=ids)))
    if selection.since is not None:
        conditions.append(pc.greater_equal(table["timestamp"], as_scalar(selection.since)))
    if selection.until is not None:
        conditions.append(pc.less(table["timestamp"], as_scalar(selection.until)))
    return table.filter(functools.reduce(pc.and_, conditions)) if conditions else table


def as_scalar(value: datetime) -> pa.Scalar:
    """A moment in the type of the column ``timestamp``."""
    return pa.scalar(value, HOT_SCHEMA.field("timestamp").type)
