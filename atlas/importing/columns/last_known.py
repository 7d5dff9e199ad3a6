"""Rows of one key as one row: of each column the last value that is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.importing.columns.cells import whole


def last_known(table: pa.Table, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """One row a key, in the order of their first; of each column the last value that is known."""
    codes, firsts = numbered(table, keys)
    if len(firsts) == table.num_rows:
        return table.select([*keys, *columns])
    firsts_of_keys = pa.array(firsts)
    named = {name: table[name].take(firsts_of_keys) for name in keys}
    return pa.table(named | {name: last(table[name], codes, len(firsts)) for name in columns})


def numbered(table: pa.Table, keys: Sequence[str]) -> tuple[Any, Any]:
    """A number for the key of each row, and the first row of each number."""
    codes = np.zeros(table.num_rows, np.int64)
    for name in keys:
        coded = whole(table[name]).dictionary_encode()
        codes = codes * max(1, len(coded.dictionary)) + coded.indices.to_numpy()
    if len(keys) > 1:
        codes = pa.array(codes).dictionary_encode().indices.to_numpy()
    firsts = np.zeros(int(codes.max()) + 1 if len(codes) else 0, np.int64)
    firsts[codes[::-1]] = np.arange(
        len(codes) - 1, -1, -1
    )  # of equal ones the last assignment stays
    return codes, firsts


def last(column: pa.ChunkedArray, codes: Any, keys: int) -> pa.Array:
    """The last known value of each key."""
    values, rows = whole(column), np.arange(len(codes))
    if values.null_count == len(values):
        return pa.nulls(keys, values.type)
    if values.null_count:
        known = values.is_valid().to_numpy(zero_copy_only=False)
        codes, rows = codes[known], rows[known]
    last = np.full(keys, -1)
    last[codes] = rows
    return values.take(pa.array(last, mask=last < 0))
