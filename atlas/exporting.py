"""Samples to a file that other programs read: Parquet, CSV or JSON lines, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from atlas.errors import InvalidInput
from atlas.parsing import parse_boundary
from atlas.reader import COLUMNS, SampleReader, StatsReader, schema_of
from atlas.reading.windows import windows
from atlas.repositories.hot.partitions import Partitions
from atlas.tables.parquet import ROW_GROUP_ROWS
from atlas.types import Boundary, Progress
from atlas.vault import files
from atlas.vault.offload import offload

__all__ = ["ExportReport", "export_samples"]

#: Lines of JSON that are made at once: bounds memory.
_LINES = 8_192

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and where."""

    path: str
    format: str
    rows: int
    bytes: int
    seconds: float


async def export_samples(
    reader: SampleReader,
    path: str | os.PathLike[str],
    video_ids: Collection[str] | None = None,
    since: Boundary | None = None,
    until: Boundary | None = None,
    columns: Sequence[str] | None = None,
    *,
    format: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the samples that ``reader.scan`` returns to a file, older spans of time first.

    Many hot samples are read in several looks, each of a span of its own: every sample is written once.

    ``format`` is ``parquet``, ``csv`` or ``jsonl`` (default: by the suffix). Times are UTC, in text as
    ``2026-01-15T12:00:00.000000Z``; what is not known is null, in CSV an empty cell. The file appears whole
    under its name or not at all, and replaces another one only with ``overwrite``. Raises `InvalidInput`,
    `VaultFull` or `VaultDenied` where the file cannot be written, and what reading raises.
    """
    begun, target = time.monotonic(), Path(path)
    kind, schema = _format(target, format), schema_of(COLUMNS if columns is None else columns)
    _check_place(target, overwrite)
    staged = target.parent / f".{target.name[:40]}.{uuid.uuid4().hex[:8]}.part"
    rows = 0
    try:
        with _opened(staged, target) as file:
            writer = _FORMATS[kind](file, schema)
            scan = _scan(reader, video_ids, since, until, schema.names)
            async with contextlib.aclosing(scan) as batches:
                async for table in _row_groups(batches, schema):
                    await offload(_on_disk, target, partial(writer.write, table))
                    rows += table.num_rows
                    if progress is not None:
                        progress(rows, None, "samples")
            await offload(_on_disk, target, partial(_finish, writer, file))
            size = file.tell()
        await offload(_on_disk, target, partial(_give_name, staged, target, overwrite))
    finally:
        staged.unlink(missing_ok=True)
    return ExportReport(str(target), kind, rows, size, time.monotonic() - begun)


async def _scan(
    reader: SampleReader,
    video_ids: Collection[str] | None,
    since: Boundary | None,
    until: Boundary | None,
    columns: Sequence[str],
) -> AsyncGenerator[pa.RecordBatch]:
    """The samples; in memory are the hot ones of a part of the span."""
    first, last = parse_boundary(since, field="since"), parse_boundary(until, field="until")
    spans = [(first, last)]
    if isinstance(reader, StatsReader):
        async with reader.database.transaction(read_only=True) as session:
            spans = list(windows(await Partitions(session).attached(), first, last))
    for begin, end in spans:
        async with contextlib.aclosing(reader.scan(video_ids, begin, end, columns)) as batches:
            async for batch in batches:
                yield batch
        # a span needs what the one before it did
        pa.default_memory_pool().release_unused()


async def _row_groups(
    batches: AsyncIterator[pa.RecordBatch], schema: pa.Schema
) -> AsyncIterator[pa.Table]:
    """The rows in tables of a row group, the last one smaller."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    async for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(waiting, schema)
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, schema)


def _on_disk(path: Path, work: Callable[[], object]) -> None:
    """Write; what the operating system refuses is a `VaultError`."""
    with files.raised_as_vault_error(str(path)):
        work()


def _finish(writer: _Writer, file: BinaryIO) -> None:
    writer.close()
    file.seek(0, os.SEEK_END)
    file.flush()
    os.fsync(file.fileno())


def _give_name(staged: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        files.replace(staged, path)
        return
    try:
        files.create(staged, path)
    except FileExistsError:  # somebody else's, since this began
        raise _taken(path) from None


class _Writer(ABC):
    """One format."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.file, self.schema = file, schema

    @abstractmethod
    def write(self, table: pa.Table) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what ends the file."""
        return


class _Parquet(_Writer):
    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        super().__init__(file, schema)
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=2 * ROW_GROUP_ROWS)

    def close(self) -> None:
        self._writer.close()


class _Csv(_Writer):
    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        super().__init__(file, schema)
        self.file.write((",".join(schema.names) + "\n").encode())
        self._options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")

    def write(self, table: pa.Table) -> None:
        pyarrow.csv.write_csv(_with_text_times(table), self.file, self._options)


class _JsonLines(_Writer):
    def write(self, table: pa.Table) -> None:
        for first in range(0, table.num_rows, _LINES):
            self.file.write("".join(self._lines(table.slice(first, _LINES))).encode())

    def _lines(self, table: pa.Table) -> list[str]:
        members = [
            pc.binary_join_element_wise(f'"{name}":', _as_json(column), "")
            for name, column in zip(self.schema.names, _with_text_times(table).columns, strict=True)
        ]
        lines = pc.binary_join_element_wise(
            "{", pc.binary_join_element_wise(*members, ","), "}\n", ""
        )
        return list(lines.to_pylist())


_FORMATS: dict[str, type[_Writer]] = {"parquet": _Parquet, "csv": _Csv, "jsonl": _JsonLines}


def _as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as JSON; text is the same few times over."""
    if pa.types.is_string(column.type):
        texts = column.combine_chunks().dictionary_encode()
        encoded = pa.array([json.dumps(one) for one in texts.dictionary.to_pylist()], pa.string())
        column = pa.chunked_array([encoded.take(texts.indices)])
    return pc.fill_null(column.cast(pa.string()), "null")


def _with_text_times(table: pa.Table) -> pa.Table:
    """Times as ISO 8601 text."""
    if "timestamp" not in table.column_names:
        return table
    # twenty times quicker without a zone
    text = table["timestamp"].cast(pa.timestamp("us")).cast(pa.string())
    text = pc.binary_join_element_wise(pc.utf8_replace_slice(text, 10, 11, "T"), "Z", "")
    return table.set_column(table.column_names.index("timestamp"), "timestamp", text)


def _format(path: Path, wanted: str | None) -> str:
    found = _SUFFIXES.get(path.suffix.lower()) if wanted is None else wanted
    if found not in _FORMATS:
        raise InvalidInput(
            f"{wanted or path.name!r} names no format",
            field="format",
            value=wanted,
            hint=f"end the name with one of {' '.join(_SUFFIXES)}, or give a format: "
            f"{', '.join(_FORMATS)}",
        )
    return found


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (not overwrite and os.path.lexists(path)):
        raise _taken(path)
    if not path.parent.is_dir():
        raise InvalidInput(
            f"there is no folder {path.parent}", field="path", hint="make it, or choose another"
        )


def _opened(staged: Path, path: Path) -> BinaryIO:
    with files.raised_as_vault_error(str(path)):
        return staged.open("xb")


def _taken(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} exists already", field="path", hint="--force (overwrite=True) replaces a file"
    )
