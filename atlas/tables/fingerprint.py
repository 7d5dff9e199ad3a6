"""An order-free fingerprint of rows: equal for equal multisets of rows, in whatever order they come.

The fingerprint is the sum modulo 2**64 of one 64-bit hash a row. Each row's hash mixes the hash of its
id with its numbers (splitmix64's finaliser, Steele, Lea and Flood 2014); null and zero differ. It guards
against loss, doubling and corruption, not against an adversary.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
#: Odd multipliers, one a column: digits of the golden ratio and of primes' square roots (Python's are exact).
_FACTORS = np.array(
    [
        0x9E3779B97F4A7C15,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        *(math.isqrt(prime << 128) & _MASK | 1 for prime in (13, 17, 19, 23, 29, 31, 37, 41)),
    ],
    dtype=np.uint64,
)
_NULL = np.uint64(0x9B05688C2B3E6C1F)
#: Rows hashed at once: the working arrays stay in the cache.
_CHUNK = 65_536


class Fingerprint:
    """Accumulates the fingerprint of tables; `hex` is its value, sixteen digits."""

    def __init__(self, columns: Sequence[str]) -> None:
        if len(columns) - 1 > len(_FACTORS):
            raise ValueError(f"at most {len(_FACTORS) + 1} columns, got {len(columns)}")
        self.columns = tuple(columns)
        self.rows = 0
        self._sum = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows; the first column is text (plain or dictionary), the others are integers or times."""
        ids = _id_hashes(batch.column(self.columns[0]))
        numbers = batch.select(list(self.columns[1:]))
        for start in range(0, batch.num_rows, _CHUNK):
            hashes = _row_hashes(ids[start : start + _CHUNK], numbers.slice(start, _CHUNK))
            self._sum = (self._sum + int(hashes.sum(dtype=np.uint64))) & _MASK
        self.rows += batch.num_rows

    def add(self, part: Fingerprint) -> None:
        """Add the rows of another fingerprint of the same columns."""
        self._sum = (self._sum + part.value) & _MASK
        self.rows += part.rows

    @property
    def value(self) -> int:
        """The fingerprint as a number: those of parts add up, modulo 2**64, to that of the whole."""
        return self._sum

    @property
    def hex(self) -> str:
        """The fingerprint of what was added so far."""
        return f"{self._sum:016x}"


def _id_hashes(ids: pa.Array) -> Hashes:
    """The hash of each row's id. Files are sorted by it: there each is hashed once, and found by comparing
    neighbours, which takes half as long as a dictionary."""
    if not pa.types.is_dictionary(ids.type):
        runs = pc.run_end_encode(ids)
        if 2 * len(runs.values) <= len(ids):
            lengths = np.diff(runs.run_ends.to_numpy(), prepend=0)
            return np.repeat(_text_hashes(runs.values), lengths)
        ids = ids.dictionary_encode()
    hashes: Hashes = _text_hashes(ids.dictionary)[ids.indices.to_numpy(zero_copy_only=False)]
    return hashes


def _row_hashes(ids: Hashes, batch: pa.RecordBatch) -> Hashes:
    hashes, product = ids.copy(), np.empty_like(ids)
    for factor, column in zip(_FACTORS, batch.columns, strict=False):
        numbers = column.cast(pa.int64())
        if column.null_count:
            hashes[column.is_null().to_numpy(zero_copy_only=False)] += factor ^ _NULL
            numbers = pc.fill_null(numbers, 0)
        np.multiply(numbers.to_numpy().view(np.uint64), factor, out=product)
        hashes += product
    return _mix(hashes)


def _text_hashes(values: pa.Array) -> Hashes:
    """One hash a text: its 8-byte words, one after the other, and its length.

    It depends on the text alone, not on what else is in the array: rows come in other batches each time.
    """
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    width = max(8, -(-int(lengths.max(initial=0)) // 8) * 8)
    padded = pc.binary_join_element_wise(
        values.cast(pa.binary()), pa.scalar(b"\0" * width), pa.scalar(b"")
    )
    words = _fixed(padded, width).reshape(len(values), width // 8)
    hashes: Hashes = lengths.astype(np.uint64) * _FACTORS[1]
    for position in range(width // 8):
        mixed = _mix(hashes ^ words[:, position]) + _FACTORS[0]
        hashes = mixed if position == 0 else np.where(lengths > position * 8, mixed, hashes)
    return hashes


def _fixed(padded: pa.Array, width: int) -> Hashes:
    """The first ``width`` bytes of each value, as 64-bit words."""
    cut = pc.binary_slice(padded, 0, width)
    words: Hashes = np.frombuffer(cut.cast(pa.binary(width)).buffers()[1], dtype="<u8")[
        : len(cut) * width // 8
    ]
    return words


def _mix(values: Hashes) -> Hashes:
    mixed = values >> np.uint64(30)
    mixed ^= values
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    shifted = mixed >> np.uint64(27)
    mixed ^= shifted
    mixed *= np.uint64(0x94D049BB133111EB)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    mixed ^= shifted
    return mixed


def rows_fingerprint(table: pa.Table) -> str:
    """The fingerprint of any table. One of an id and numbers or days is hashed as samples are; of others each
    row as canonical JSON, about 100,000 a second."""
    kinds = [column.type for column in table.columns[1:]]
    if all(pa.types.is_integer(kind) or pa.types.is_date32(kind) for kind in kinds):
        days = pa.int32()
        columns = [one.cast(days) if pa.types.is_date32(one.type) else one for one in table.columns]
        numbered = Fingerprint(table.column_names)
        for batch in pa.table(columns, table.column_names).to_batches():
            numbered.update(batch)
        return numbered.hex
    total = 0
    for row in table.to_pylist():
        text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=False)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        total = (total + int.from_bytes(digest, "little")) & _MASK
    return f"{total:016x}"
