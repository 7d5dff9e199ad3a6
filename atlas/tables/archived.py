"""Every table that Atlas archives: its folder, its schema, and where its rows come from.

What is not declared here is no table of Atlas: ledger, card, clean-up, adoption and erasure walk `ARCHIVED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from atlas.tables.sample import METRICS_SCHEMA, MOMENT, STATS_SCHEMA, numbered
from atlas.types import Dataset


class Origin(Enum):
    """Where the rows of an archived table come from."""

    #: Slices of the partitioned table of samples.
    HOT = "hot"
    #: Samples that agents appended; the ledger names their files once they are adopted.
    APPENDED = "appended"
    #: Rows that are finished with in PostgreSQL: `atlas.repositories.finished` says which.
    FINISHED = "finished"
    #: Slow videos of the watchlist that were published long ago; a file holds those of one month.
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class ArchivedTable:
    """One table in the vault.

    ``dataset`` is its folder; ``folders`` what lies between that and its files. ``key`` identifies a row.
    ``video_column`` says which video's it is, and erasure goes by it; None for rows that are no video's.
    ``row_group_rows`` are what a reader of one row has to fetch (None: the file).
    """

    dataset: Dataset
    schema: pa.Schema
    key: tuple[str, ...]
    video_column: str | None
    origin: Origin
    folders: str = "*/"
    row_group_rows: int | None = None


ARCHIVED = {
    table.dataset: table
    for table in (
        ArchivedTable(
            Dataset.STATS, STATS_SCHEMA, ("video_id", "timestamp"), "video_id", Origin.HOT
        ),
        ArchivedTable(
            Dataset.METRICS,
            METRICS_SCHEMA,
            ("video_id", "timestamp"),
            "video_id",
            Origin.APPENDED,
            folders="*/*/",
        ),
        ArchivedTable(
            Dataset.VIDEOS,
            numbered(
                [
                    ("id", pa.string()),
                    ("channel_id", pa.string()),
                    ("title", pa.string()),
                    ("published_at", MOMENT),
                    ("duration", pa.int64()),
                    ("tags", pa.list_(pa.string())),
                    ("category_id", pa.string()),
                    ("default_language", pa.string()),
                    ("wiki_topics", pa.list_(pa.string())),
                    ("discovered_at", MOMENT),
                    ("last_updated_at", MOMENT),
                    ("status", pa.string()),
                    ("has_transcript", pa.bool_()),
                    ("has_visuals", pa.bool_()),
                    ("seq", pa.int64()),
                ]
            ),
            ("id",),
            "id",
            Origin.FINISHED,
        ),
        ArchivedTable(
            Dataset.SCHEDULE,
            numbered(
                [
                    ("video_id", pa.string()),
                    # of the ring, less 2^63, as PostgreSQL has it: files are in its order
                    ("position", pa.int64()),
                    ("last_sampled", pa.date32()),
                    ("parked_on", pa.date32()),
                    ("seq", pa.int64()),
                ]
            ),
            ("video_id",),
            "video_id",
            Origin.PARKED,
            row_group_rows=4_096,
        ),
    )
}


def archived(dataset: str) -> ArchivedTable:
    """The table of a folder. Raises ValueError for what is none."""
    return ARCHIVED[Dataset(dataset)]


def of_origin(*origins: Origin) -> tuple[ArchivedTable, ...]:
    """The tables whose rows come from there."""
    return tuple(table for table in ARCHIVED.values() if table.origin in origins)
