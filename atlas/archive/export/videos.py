"""Files of removed videos: written, and read back to prove it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.samples import file_sha256, read_back
from atlas.errors import VerificationFailed
from atlas.repositories.ledger.files import FileFacts, FileRecord
from atlas.tables.fingerprint import rows_fingerprint
from atlas.tables.parquet import VIDEOS_SCHEMA, open_writer
from atlas.tables.sample import stated_in_footer
from atlas.types import ObjectStore


def write_videos(table: pa.Table, path: Path, footer: dict[str, str]) -> FileFacts:
    """sealed -> a local file."""
    # rows of an older file keep its columns, and get the numbers that these have by now
    table = table.cast(
        pa.schema(
            [
                (
                    VIDEOS_SCHEMA.field(name)
                    if name in VIDEOS_SCHEMA.names
                    else table.schema.field(name)
                )
                for name in table.column_names
            ]
        )
    )
    fingerprint = rows_fingerprint(table)
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(
            {
                **footer,
                **stated_in_footer(table.column_names),
                "atlas.rows": str(table.num_rows),
                "atlas.fingerprint": fingerprint,
            }
        )
    bounds = pc.min_max(table["id"]).as_py()
    return FileFacts(
        row_count=table.num_rows,
        byte_size=path.stat().st_size,
        sha256=file_sha256(path),
        fingerprint=fingerprint,
        min_timestamp=None,
        max_timestamp=None,
        min_video_id=bounds["min"],
        max_video_id=bounds["max"],
    )


def verify_videos(store: ObjectStore, file: FileRecord, facts: FileFacts, folder: Path) -> None:
    """Read an object back from the store and prove that it is what was written.

    Raises `VerificationFailed`.
    """
    fetched = read_back(store, file.object_key, folder)
    if fetched is not None and fetched[1] == facts.sha256:
        table = pq.read_table(fetched[0], partitioning=None)
        if table.num_rows == facts.row_count and rows_fingerprint(table) == facts.fingerprint:
            return
    raise VerificationFailed(
        f"{file.object_key} read back from the vault is not what was written",
        path=file.object_key,
        hint="nothing was deleted; run the janitor again and look at the vault's health",
    )
