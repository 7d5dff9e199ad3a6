"""Files of rows that PostgreSQL is finished with: written, read back, and only then deleted there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.samples import file_sha256, read_back
from atlas.archive.session import Steps, object_key
from atlas.config import Settings
from atlas.db.clock import Session, clock
from atlas.errors import VerificationFailed
from atlas.repositories.finished import FinishedRows
from atlas.repositories.ledger.files import FileFacts, FileRecord, NewFile
from atlas.tables.archived import ArchivedTable, archived
from atlas.tables.fingerprint import rows_fingerprint
from atlas.tables.parquet import open_writer
from atlas.tables.sample import stated_in_footer
from atlas.types import ObjectStore
from atlas.vault import Vault
from atlas.vault.layout import transcript_key, visuals_key
from atlas.vault.offload import offload
from atlas.vault.records import BatchRecord, check_batch
from atlas.vault.temporary import workdir

_DAY = timedelta(days=1)


async def move_finished(
    steps: Steps, vault: Vault, kind: type[FinishedRows], cutoff: datetime, settings: Settings
) -> int:
    """Archive the rows of one table that are finished with, then delete them; returns how many.

    Rows go by key and version in the transaction that makes the file live: one that changed meanwhile stays.
    """
    async with steps.database.transaction(read_only=True) as session:
        rows = kind(session)
        found = await rows.read(rows.finished(cutoff, settings))
        now = await clock(session)
    table = kind.archived
    if table.video_column is not None:
        # marked as safe when it was on this machine's disk: the store has to have it
        waiting = set(await offload(vault.waiting_documents))
        ids = [row.values[table.video_column] for row in found]
        found = [
            row
            for row, one in zip(found, ids, strict=True)
            if waiting.isdisjoint(_documents_of(one))
        ]
    if not found:
        return 0
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    file = await announce(steps, table, now, (day, day + _DAY))
    with workdir() as folder:
        await export_rows(steps, file, kind.table_of(found, file.seq), folder)

    async def delete(session: Session) -> int:
        return await kind(session).delete(found)

    return await steps.live(file, delete) or 0


def _documents_of(video_id: str) -> tuple[str, str]:
    """Where its transcript and its visuals lie."""
    return transcript_key(video_id), visuals_key(video_id)


async def announce(
    steps: Steps,
    table: ArchivedTable,
    moment: datetime,
    span: tuple[datetime, datetime],
    batch_id: UUID | None = None,
) -> FileRecord:
    """A new file's row in the ledger, sealed. ``batch_id``: it replaces others."""
    async with steps.database.transaction() as session:
        ledger = await steps.ledger(session)
        seq = await ledger.next_seq(table.dataset)
        key = object_key(table.dataset, moment, seq)
        new = NewFile(table.dataset, key, steps.store.identity, seq, *span)
        if batch_id is not None:
            new = replace(new, batch_id=batch_id, merged=True)
        return await ledger.add(new)


async def export_rows(
    steps: Steps,
    file: FileRecord,
    rows: pa.Table,
    folder: Path,
    batch: BatchRecord | None = None,
    records: Sequence[tuple[str, Path]] = (),
) -> None:
    """sealed -> verified. ``batch`` says what the file replaces, and is written before it as ``records``."""
    path = folder / "rows.parquet"
    facts = await offload(write_rows, rows, path, steps.footer(file))
    await steps.put([(file, path)], records)
    await steps.written(file, facts)
    if batch is not None:
        await offload(check_batch, steps.store, steps.owner, batch)
    await offload(verify_rows, steps.store, file, facts, folder)
    await steps.verified(file, facts)


def write_rows(rows: pa.Table, path: Path, footer: dict[str, str]) -> FileFacts:
    """sealed -> a local file."""
    table = archived(footer["atlas.dataset"])
    # rows of an older file keep its columns, and get the numbers that these have by now
    rows = rows.cast(
        pa.schema(
            [
                table.schema.field(name) if name in table.schema.names else rows.schema.field(name)
                for name in rows.column_names
            ]
        )
    )
    fingerprint = rows_fingerprint(rows)
    with open_writer(path, rows.schema) as writer:
        writer.write_table(rows, row_group_size=table.row_group_rows)
        writer.add_key_value_metadata(
            {
                **footer,
                **stated_in_footer(rows.column_names),
                "atlas.rows": str(rows.num_rows),
                "atlas.fingerprint": fingerprint,
            }
        )
    return facts_of_rows(rows, table, path, file_sha256(path))


def facts_of_rows(rows: pa.Table, table: ArchivedTable, path: Path, sha256: str) -> FileFacts:
    """What the ledger knows of a file of such rows; they have no time."""
    bounds = pc.min_max(rows[table.key[0]]).as_py()
    return FileFacts(
        row_count=rows.num_rows,
        byte_size=path.stat().st_size,
        sha256=sha256,
        fingerprint=rows_fingerprint(rows),
        min_timestamp=None,
        max_timestamp=None,
        min_video_id=bounds["min"],
        max_video_id=bounds["max"],
    )


def verify_rows(store: ObjectStore, file: FileRecord, facts: FileFacts, folder: Path) -> None:
    """Read an object back from the store and prove that it is what was written.

    Raises `VerificationFailed`.
    """
    fetched = read_back(store, file.object_key, folder)
    if fetched is not None and fetched[1] == facts.sha256:
        rows = pq.read_table(fetched[0], partitioning=None)
        if rows.num_rows == facts.row_count and rows_fingerprint(rows) == facts.fingerprint:
            return
    raise VerificationFailed(
        f"{file.object_key} read back from the vault is not what was written",
        path=file.object_key,
        hint="nothing was deleted; run the job again and look at the vault's health",
    )
