"""What a sample is: one declaration, from which schemas, lists of columns, fingerprints and checks follow.

`SAMPLE` is taken from the fields of `atlas.types.Sample`: a further counter is one line there and a
migration; docs/file-format.md says how it is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from atlas.types import Sample

__all__ = [
    "COUNTERS",
    "FIELD_ID",
    "FORMAT",
    "KEY",
    "METRICS_SCHEMA",
    "MOMENT",
    "SAMPLE",
    "SAMPLE_COLUMNS",
    "SAMPLE_SQL",
    "STATS_SCHEMA",
    "WATCHED",
    "Column",
    "columns_since",
    "numbered",
    "stated_columns",
    "stated_in_footer",
    "with_field_id",
]

#: Arrow's name for the number by which Iceberg and its like know a column.
FIELD_ID = b"PARQUET:field_id"
MOMENT = pa.timestamp("us", tz="UTC")

_TYPES = {
    "text": pa.string(),
    "timestamptz": MOMENT,
    "bigint": pa.int64(),
}
#: Columns that files have and samples do not. Their numbers are given for ever.
_SEQ_ID, _PUBLISHED_AT_ID = 6, 7


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a sample: its types, the format of files that brought it, and its number in them.

    ``watched``: the schedule keeps the last value of it.
    """

    name: str
    sql: str
    since: int
    field_id: int
    watched: bool

    @property
    def arrow(self) -> pa.DataType:
        """The type in Arrow and Parquet."""
        return _TYPES[self.sql]

    @property
    def field(self) -> pa.Field:
        """The column in a schema."""
        return with_field_id(pa.field(self.name, self.arrow), self.field_id)


def with_field_id(field: pa.Field, number: int) -> pa.Field:
    """The field with its number."""
    return field.with_metadata({FIELD_ID: str(number)})


def numbered(columns: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    """A schema whose columns are numbered in order, the values of lists after all of them."""
    columns = list(columns)
    fields = []
    for number, (name, kind) in enumerate(columns, start=1):
        if pa.types.is_list(kind):
            element = pa.field("element", kind.value_type)
            kind = pa.list_(with_field_id(element, 100 + number))
        fields.append(with_field_id(pa.field(name, kind), number))
    return pa.schema(fields)


#: Every column of a sample, in the order of `Sample`.
SAMPLE = tuple(
    Column(
        field.name,
        field.metadata["sql"],
        field.metadata["since"],
        field.metadata["field_id"],
        field.metadata.get("watched", False),
    )
    for field in dataclasses.fields(Sample)
)
SAMPLE_COLUMNS = tuple(column.name for column in SAMPLE)
#: What identifies a sample.
KEY = SAMPLE_COLUMNS[:2]
COUNTERS = SAMPLE_COLUMNS[2:]
#: Counters of which the schedule keeps the last value.
WATCHED = tuple(column.name for column in SAMPLE if column.watched)
#: The columns as a list in SQL.
SAMPLE_SQL = ", ".join(SAMPLE_COLUMNS)
#: The format of the files that this version writes; 1 named no columns and had no field ids.
FORMAT = max(2, *(column.since for column in SAMPLE))

_FIRST = [column.field for column in SAMPLE if column.since == 1]
_LATER = [column.field for column in SAMPLE if column.since > 1]

#: Archived samples. Of two rows for one (video_id, timestamp) the one with the higher ``seq`` counts.
STATS_SCHEMA = pa.schema([*_FIRST, with_field_id(pa.field("seq", pa.int64()), _SEQ_ID), *_LATER])
#: Samples appended by agents.
METRICS_SCHEMA = pa.schema(
    [*STATS_SCHEMA, with_field_id(pa.field("published_at", MOMENT), _PUBLISHED_AT_ID)]
)

#: In a footer: the columns that its fingerprint covers, and the format.
_COLUMNS, _FORMAT = b"atlas.columns", b"atlas.format"


def columns_since(version: int) -> tuple[str, ...]:
    """The columns of a sample in files of a format."""
    return tuple(column.name for column in SAMPLE if column.since <= version)


def stated_columns(footer: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The columns that a file's fingerprint covers, by its own footer: files are for ever.

    Files of format 1 do not say so, and cover the columns of that format. Raises ValueError for columns
    that this version does not know: it would lose them.
    """
    stated = footer.get(_COLUMNS)
    columns = columns_since(1) if stated is None else tuple(stated.decode().split(","))
    unknown = [name for name in columns if name not in SAMPLE_COLUMNS]
    if unknown or columns[:2] != KEY:
        version = footer.get(_FORMAT, b"?").decode(errors="replace")
        raise ValueError(
            f"its columns {', '.join(unknown or columns)} are not known here: it is of format {version}, "
            f"this version of Atlas writes {FORMAT}"
        )
    return columns


def stated_in_footer(columns: Iterable[str] = SAMPLE_COLUMNS) -> dict[str, str]:
    """What files of this version say of their columns, in the order in which the fingerprint takes them."""
    return {_FORMAT.decode(): str(FORMAT), _COLUMNS.decode(): ",".join(columns)}
