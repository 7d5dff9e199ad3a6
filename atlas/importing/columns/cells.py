"""What a column of text is made of, by its bytes: answers for all cells at once, as fast as they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _bytes(allowed: Callable[[int], bool]) -> Any:
    return np.array([allowed(one) for one in range(256)])


_DIGITS = _bytes(lambda one: chr(one) in "0123456789")
_OF_IDS = _bytes(lambda one: one < 128 and (chr(one).isalnum() or chr(one) in "_-"))
#: Bytes that may be of a space, or of a letter beyond ASCII.
_MAY_BE_SPACE = _bytes(lambda one: one > 127 or chr(one).isspace())


def _parts(cells: pa.Array) -> tuple[Any, Any]:
    """Where each cell begins in the bytes of all (one more: where the last ends), and these bytes."""
    _, offsets, data = cells.buffers()
    bounds = np.frombuffer(offsets, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return bounds - bounds[0], content[bounds[0] : bounds[-1]]


def _fit(cells: pa.Array, allowed: Any, least: int, most: int) -> bool:
    """Whether every known cell has allowed bytes only, and ``least`` to ``most`` of them."""
    if not len(cells):
        return True
    bounds, content = _parts(cells)
    sizes = np.diff(bounds)
    if cells.null_count:
        sizes = sizes[cells.is_valid().to_numpy(zero_copy_only=False)]
    in_size = not len(sizes) or (sizes.min() >= least and sizes.max() <= most)
    return bool(in_size and allowed[content].all())


def are_counters(cells: pa.Array) -> bool:
    """Whether all are digits, not more than a counter has for certain."""
    return _fit(cells, _DIGITS, 1, 18)


def are_ids(cells: pa.Array) -> bool:
    """Whether all are plain ids of videos."""
    return _fit(cells, _OF_IDS, 11, 11)


def trimmed(cells: pa.Array) -> pa.Array:
    """The cells without space around them; empty ones are null."""
    if not len(cells):
        return cells
    bounds, content = _parts(cells)
    starts, ends = bounds[:-1], bounds[1:]
    some = ends > starts
    edges = np.concatenate([content[starts[some]], content[ends[some] - 1]])
    if _MAY_BE_SPACE[edges].any():
        cells = pc.utf8_trim_whitespace(cells)
    elif some.all():
        return cells
    return pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)


def alike(cells: pa.Array) -> str | None:
    """The first cell, if all are known and of its form: digits where it has digits, else the same."""
    if not len(cells) or cells.null_count:
        return None
    bounds, content = _parts(cells)
    size = int(bounds[1])
    if not size or (np.diff(bounds) != size).any():
        return None
    rows = content.reshape(len(cells), size)
    digits = _DIGITS[rows[0]]
    same = (rows[:, ~digits] == rows[0, ~digits]).all()
    return str(cells[0].as_py()) if same and _DIGITS[rows[:, digits]].all() else None
