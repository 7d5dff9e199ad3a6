"""The tables Atlas keeps as Parquet, and the one way in which it writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.tables.checksum import ChecksummedWriter
from atlas.tables.sample import KEY, METRICS_SCHEMA, STATS_SCHEMA

__all__ = [
    "METRICS_SCHEMA",
    "ROW_GROUP_ROWS",
    "STATS_SCHEMA",
    "UNDECODABLE",
    "UNREADABLE",
    "VISUALS_SCHEMA",
    "open_writer",
]

#: What decoding raises for bytes that are not what was written: pyarrow reports some damage as OSError.
UNDECODABLE: tuple[type[Exception], ...] = (pa.ArrowException, OSError, EOFError)
#: The same, and what a footer says that cannot be.
UNREADABLE: tuple[type[Exception], ...] = (*UNDECODABLE, ValueError)
#: Rows of a row group at most: what a reader of one video has to fetch and decode.
ROW_GROUP_ROWS = 32_768

#: Frames of one video; ``image`` is the encoded picture as it was given.
VISUALS_SCHEMA = pa.schema(
    [("video_id", pa.string()), ("frame_index", pa.int64()), ("image", pa.binary())]
)

#: Encodings by column, measured: docs/performance.md has the table. Other columns take a dictionary.
_ENCODINGS = {
    "timestamp": "PLAIN",  # repeats within a batch of samples: zstd finds them, deltas hide them
    "views": "DELTA_BINARY_PACKED",
    "likes": "DELTA_BINARY_PACKED",
    "comment_count": "PLAIN",
    "seq": "DELTA_BINARY_PACKED",
    "published_at": "DELTA_BINARY_PACKED",
    "position": "DELTA_BINARY_PACKED",
    "frame_index": "DELTA_BINARY_PACKED",
    "image": "PLAIN",
}
#: Ids in order: a dictionary would cost its codes, while zstd finds the repeats. (Delta encodings of text
#: save another tenth, and pyarrow cannot read them as a dictionary.)
_IDS_IN_ORDER = "PLAIN"


def open_writer(
    where: str | Path | IO[bytes], schema: pa.Schema, metadata: Mapping[str, str] | None = None
) -> pq.ParquetWriter:
    """A Parquet writer with the options that every file of the vault shares.

    zstd, statistics, page index, checksums of pages and footer on. A schema with video_id and timestamp
    promises rows in that order over the whole file: the caller sorts, and passes
    ``row_group_size=ROW_GROUP_ROWS`` with tables that may be larger. ``metadata`` goes to the footer; what
    is known only at the end is added with ``add_key_value_metadata`` before the writer is closed.
    """
    ordered = all(name in schema.names for name in KEY)
    encodings = {name: _ENCODINGS[name] for name in schema.names if name in _ENCODINGS}
    if ordered:
        encodings["video_id"] = _IDS_IN_ORDER
    dictionary = [name for name in schema.names if name not in encodings]
    order = [(name, "ascending") for name in KEY]
    writer = ChecksummedWriter(
        where,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=_leaves(schema, dictionary),
        column_encoding=encodings,
        write_statistics=True,
        write_page_index=True,
        # without them a flipped byte decodes to other numbers in silence
        write_page_checksum=True,
        # Parquet's own types say all, and Arrow's would be a third of the footer
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(schema, order) if ordered else None,
    )
    if metadata:
        writer.add_key_value_metadata(dict(metadata))
    return writer


def _leaves(schema: pa.Schema, names: list[str]) -> list[str]:
    """Parquet's own paths of these columns: a list's values are two levels below it."""
    return [
        f"{name}.list.element" if pa.types.is_list(schema.field(name).type) else name
        for name in names
    ]
