"""Parquet, as columns of text: the same rules then hold as for every other shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.importing.files.delimited import unique
from atlas.importing.files.payloads import cell
from atlas.importing.files.spool import ROWS, table


def read_parquet(content: IO[bytes], source: int) -> Iterator[pa.Table]:
    """The rows in batches; ``line`` is the number of the row, the first being 1."""
    line = 1
    with pq.ParquetFile(content, memory_map=False, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
            rows = pa.Table.from_batches([batch])
            while any(pa.types.is_struct(one.type) for one in rows.schema):
                rows = rows.flatten()
            names = unique(rows.column_names)
            columns = {name: as_text(rows.column(at)) for at, name in enumerate(names)}
            yield table(columns, range(line, line + rows.num_rows), {}, source)
            line += rows.num_rows


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | list[str | None]:
    """A column as text, exact: whole floats without a point, times as ISO 8601, lists as JSON."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_text(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    simple = pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_date(kind)
    if simple or pa.types.is_large_string(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if one is None else one.decode(errors="replace") for one in column.to_pylist()]
    return [cell(_plain(one)) for one in column.to_pylist()]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, bool | int | float | str | dict):
        return None if isinstance(value, float) and value != value else value
    return str(value)
