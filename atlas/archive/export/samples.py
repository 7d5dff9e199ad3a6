"""From rows in any order to one sorted Parquet file, in bounded memory, and back to prove it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.errors import CorruptObject, VerificationFailed
from atlas.repositories.ledger.files import FileFacts
from atlas.tables.external_sort import encoded_runs, rechunked
from atlas.tables.fingerprint import Fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS, UNREADABLE, open_writer
from atlas.tables.sample import SAMPLE_COLUMNS, STATS_SCHEMA, stated_columns, stated_in_footer
from atlas.tables.sorting import merge_sorted
from atlas.types import ObjectStore

#: Rows sorted in memory at once (about 80 MB); more are sorted in runs on disk and merged.
RUN_ROWS = 524_288

_COPY_BYTES = 4 << 20


def export_samples(
    batches: Iterable[pa.RecordBatch],
    path: Path,
    *,
    seq: int,
    metadata: dict[str, str],
    on_rows: Callable[[int], None] = lambda rows: None,
) -> FileFacts:
    """Write the samples to ``path``, sorted by (video_id, timestamp) over the whole file.

    ``batches`` may come in any order; ``metadata`` goes to the footer together with the row count and
    the fingerprint. Blocking: call it in a thread.
    """
    fingerprint = Fingerprint(SAMPLE_COLUMNS)
    bounds = Bounds()

    def see(run: pa.RecordBatch) -> None:
        fingerprint.update(run)
        bounds.see(run)
        on_rows(fingerprint.rows)

    runs = encoded_runs(path.parent, merge_sorted, see, RUN_ROWS)
    for batch in batches:
        runs.add(pa.Table.from_batches([batch]))
    with open_writer(path, STATS_SCHEMA) as writer:
        for table in rechunked(runs.merged(), ROW_GROUP_ROWS):
            bounds.see_sorted(table)
            column = pa.repeat(pa.scalar(seq, pa.int64()), table.num_rows)
            table = table.append_column("seq", column)
            table = table.select(STATS_SCHEMA.names).cast(STATS_SCHEMA)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(
            {
                **metadata,
                **stated_in_footer(),
                "atlas.rows": str(fingerprint.rows),
                "atlas.fingerprint": fingerprint.hex,
            }
        )
    return FileFacts(
        row_count=fingerprint.rows,
        byte_size=path.stat().st_size,
        sha256=file_sha256(path),
        fingerprint=fingerprint.hex,
        min_timestamp=bounds.min_timestamp,
        max_timestamp=bounds.max_timestamp,
        min_video_id=bounds.min_video_id,
        max_video_id=bounds.max_video_id,
    )


def read_back(store: ObjectStore, key: str, workdir: Path) -> tuple[Path, str] | None:
    """Fetch an object whole to a local file; its path and SHA-256, or None if there is no object."""
    source = store.open(key)
    if source is None:
        return None
    path = workdir / "read-back.parquet"
    digest = hashlib.sha256()
    with source, path.open("wb") as copy:
        while chunk := source.read(_COPY_BYTES):
            digest.update(chunk)
            copy.write(chunk)
    return path, digest.hexdigest()


def verify_samples(
    store: ObjectStore,
    key: str,
    expected: FileFacts,
    seq: int | None,
    workdir: Path,
    *,
    with_seq: str | None = None,
) -> None:
    """Read an object back from the store and prove that it is what was exported.

    Compares size, checksum, footer, row count, bounds and the fingerprint of the decoded rows; that
    all rows carry ``seq``, or where they carry several, that their fingerprint with it is
    ``with_seq``. Raises `VerificationFailed` naming the first difference.
    """
    fetched = read_back(store, key, workdir)
    if fetched is None:
        raise VerificationFailed(f"{key} is not in the vault", path=key)
    path, sha256 = fetched

    def demand(what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise VerificationFailed(
                f"{key} read back from the vault has {what} {found}, written was {wanted}", path=key
            )

    demand("size", path.stat().st_size, expected.byte_size)
    demand("SHA-256", sha256, expected.sha256)
    try:
        with pq.ParquetFile(path) as file:
            footer = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
            demand("footer fingerprint", footer.get("atlas.fingerprint"), expected.fingerprint)
            demand("footer rows", footer.get("atlas.rows"), str(expected.row_count))
            if seq is not None:
                demand("footer seq", footer.get("atlas.seq"), str(seq))
            demand("rows", file.metadata.num_rows, expected.row_count)
            fingerprint = Fingerprint(stated_columns(file.metadata.metadata or {}))
            whole = Fingerprint(STATS_SCHEMA.names)
            bounds = Bounds()
            for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
                fingerprint.update(batch)
                bounds.see(batch)
                bounds.see_sorted(batch)
                if seq is None:
                    whole.update(batch)
                else:
                    demand("seq", pc.min_max(batch["seq"]).as_py(), {"min": seq, "max": seq})
    except UNREADABLE as error:
        raise CorruptObject(f"{key} cannot be decoded: {error}", path=key) from error
    demand("fingerprint", fingerprint.hex, expected.fingerprint)
    if seq is None:
        demand("fingerprint with seq", whole.hex, with_seq)
    demand("first timestamp", bounds.min_timestamp, expected.min_timestamp)
    demand("last timestamp", bounds.max_timestamp, expected.max_timestamp)
    demand("first id", bounds.min_video_id, expected.min_video_id)
    demand("last id", bounds.max_video_id, expected.max_video_id)


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bounds:
    """First and last timestamp and id."""

    min_timestamp: datetime | None = None
    max_timestamp: datetime | None = None
    min_video_id: str | None = None
    max_video_id: str | None = None

    def see(self, batch: pa.RecordBatch) -> None:
        """Widen the time bounds; the batch may be in any order."""
        if batch.num_rows:
            found = pc.min_max(batch["timestamp"]).as_py()
            self.min_timestamp = min(self.min_timestamp or found["min"], found["min"])
            self.max_timestamp = max(self.max_timestamp or found["max"], found["max"])

    def add(self, later: Bounds) -> None:
        """Widen the bounds by those of rows that come after."""
        both = (self.min_timestamp, self.max_timestamp, later.min_timestamp, later.max_timestamp)
        moments = [one for one in both if one is not None]
        self.min_timestamp, self.max_timestamp = min(moments, default=None), max(
            moments, default=None
        )
        if self.min_video_id is None:
            self.min_video_id = later.min_video_id
        self.max_video_id = later.max_video_id or self.max_video_id

    def see_sorted(self, table: pa.Table | pa.RecordBatch) -> None:
        """Take the id bounds from tables that come in order."""
        if table.num_rows:
            if self.min_video_id is None:
                self.min_video_id = table["video_id"][0].as_py()
            self.max_video_id = table["video_id"][-1].as_py()
