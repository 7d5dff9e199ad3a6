"""Arrow rows as PostgreSQL's binary COPY takes them, made by numpy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: PostgreSQL counts from 2000.
_POSTGRES_EPOCH = 946_684_800_000_000
#: Rows that are sent together: bounds memory.
_PART = 16_384


async def binary_copy(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str]
) -> AsyncIterator[bytes]:
    """The rows in parts. The first of the columns is text without nulls; the others are bigint and
    timestamps."""
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
    for batch in batches:
        for start in range(0, batch.num_rows, _PART):
            yield _rows(batch.slice(start, _PART), columns)
    yield b"\xff\xff"


def _rows(batch: pa.RecordBatch, columns: Sequence[str]) -> bytes:
    """Each row is the number of its fields, each field its size (-1: null) and as many bytes. All rows are
    laid out in the width of the longest; then the bytes that a row does not have are dropped.
    """
    texts, others = batch[columns[0]], columns[1:]
    sizes = pc.binary_length(texts).to_numpy()
    width = int(sizes.max(initial=0))
    layout: list[tuple[Any, ...]] = [("fields", ">i2"), ("size", ">i4"), ("text", "u1", (width,))]
    for name in others:
        layout += [(f"{name} size", ">i4"), (name, ">i8")]
    rows = np.zeros(len(texts), layout)
    has = np.ones((len(texts), rows.dtype.itemsize), bool)
    offsets: Any = rows.dtype.fields

    rows["fields"], rows["size"] = len(columns), sizes
    has[:, offsets["text"][1] :][:, :width] = in_text = np.arange(width) < sizes[:, None]
    rows["text"][in_text] = np.frombuffer("".join(texts.to_pylist()).encode(), np.uint8)
    for name in others:
        column = batch[name]
        known = column.is_valid().to_numpy(zero_copy_only=False)
        values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
        rows[name] = values - _POSTGRES_EPOCH if pa.types.is_timestamp(column.type) else values
        rows[f"{name} size"] = np.where(known, 8, -1)
        at = offsets[name][1]
        has[:, at : at + 8] = known[:, None]
    return bytes(rows.view(np.uint8).reshape(has.shape)[has])
