"""Forgetting videos: their rows leave both tiers and every folder of the vault, and their ids stay out.

The ids are barred first: from then on no reader shows their rows, no export takes them along, and no writer
adds new ones, so that everything after that can be done in any order and again after a crash. Files that held
rows of theirs are replaced by files without, and the objects are deleted at once, not after the grace period:
a scan that has one of them open may fail, and finds the new files when it begins again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.finished import announce, export_rows
from atlas.archive.export.samples import read_back
from atlas.archive.export.schedule import schedule_has
from atlas.archive.export.slices import Run
from atlas.archive.maintenance.compaction import TARGET_BYTES
from atlas.archive.maintenance.fsck import stored
from atlas.archive.maintenance.inputs import Input
from atlas.archive.maintenance.rewrite import NotRewritten, record_file, rewrite
from atlas.archive.recovery.forgotten import record_erasure
from atlas.archive.recovery.ownership import SHARED_HINT, is_sole_owner
from atlas.archive.session import Steps
from atlas.db.clock import clock
from atlas.db.locks import retry_when_locked
from atlas.errors import CorruptObject, VerificationFailed
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.cold import open_cold
from atlas.repositories.erasure import ErasedRows, Erasure
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.repositories.ledger.files import FileRecord, LedgerReader
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ledger.swap import Replacement
from atlas.tables.archived import ArchivedTable, Origin, archived, of_origin
from atlas.tables.fingerprint import rows_fingerprint
from atlas.tables.parquet import UNDECODABLE
from atlas.types import ArchiveState, Dataset, ObjectStore, Progress
from atlas.vault import Vault
from atlas.vault.layout import flat_transcript_key, transcript_key, visuals_key
from atlas.vault.offload import offload
from atlas.vault.records import BatchRecord, check_batch
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: Seconds that an erasure waits for transactions that may not have seen the bar.
_PATIENCE = 10.0
_UNENDED = "the next run of `atlas archive` deletes them and ends the erasure"
_ANY_TIME = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class ErasedFile:
    """A file that held rows of the videos: its fingerprints before and after, and what took its place."""

    key: str
    rows: int
    fingerprint_before: str
    fingerprint_after: str
    replaced_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetReceipt:
    """What was erased, and what lies outside of Atlas's reach.

    ``hot`` are rows of the database, ``files`` the tables of the vault that were rewritten, ``documents``
    the deleted transcripts, frames and metadata, ``objects`` every deleted object of a table.
    """

    video_ids: tuple[str, ...]
    hot: ErasedRows
    cold_rows: int
    files: tuple[ErasedFile, ...]
    documents: tuple[str, ...]
    objects: tuple[str, ...]
    remains: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What has been erased so far."""

    hot: ErasedRows = field(default_factory=ErasedRows)
    files: list[ErasedFile] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)


async def forget(
    steps: Steps, vault: Vault, video_ids: Sequence[str], progress: Progress | None
) -> ForgetReceipt:
    """Erase the videos; see `Archiver.forget`."""
    report_progress = progress or (lambda done, total, what: None)
    ids = sorted(set(video_ids))
    found = _Found()
    async with steps.database.transaction() as session:
        await steps.ledger(session)
        await Erasure(session).bar(ids)
    log.debug("forget_barred", videos=len(ids))
    await record_erasure(steps, ids)
    writers = await _writers(steps)
    # rows that wait on this machine's disk become objects, which are found below
    await offload(vault.flush)
    await Run(steps, _ANY_TIME[0], None).finish_left()
    found.hot = await _delete_rows(steps, ids)
    log.debug("forget_hot", samples=found.hot.samples)
    await _rewrite_samples(steps, ids, found, report_progress)
    for table in of_origin(Origin.FINISHED, Origin.PARKED):
        if table.video_column is not None:
            await _rewrite_rows(steps, table, table.video_column, ids, found)
    await _delete_leftovers(steps, ids, found)
    aside = await _held_aside(steps, ids)
    report_progress(0, None, "documents")
    found.documents = await offload(_delete_documents, vault, ids)
    # a transaction that had begun before the ids were barred may have written since
    unended = await _wait_for(steps, writers, report_progress)
    found.hot += await _delete_rows(steps, ids)
    if unended:
        log.warning("forget_unfinished", transactions=len(unended), hint=_UNENDED)
        aside.append(f"rows that a transaction which began before may write: {_UNENDED}")
    else:
        async with steps.database.transaction() as session:
            await steps.ledger(session)
            await Erasure(session).finish(ids)
    log.info("forget_erased", videos=len(ids), files=len(found.files), objects=len(found.objects))
    return ForgetReceipt(
        tuple(ids),
        found.hot,
        sum(file.rows for file in found.files),
        tuple(found.files),
        tuple(found.documents),
        tuple(found.objects),
        (*out_of_reach(steps.store.identity), *aside),
    )


def out_of_reach(identity: str) -> tuple[str, ...]:
    """What Atlas cannot erase in a vault of this kind, and how it is done by hand."""
    remains = [
        "the ids themselves stay in video_tombstones, so that they cannot come back",
        "backups and the write-ahead log of PostgreSQL, until they expire",
        "documents stored under paths of your own, spools of other machines (compaction drops their "
        "rows), other databases that share the vault, and copies made by others",
    ]
    if identity.startswith("hf://"):
        remains.append(
            "earlier commits of the Hugging Face repository, until its history is squashed "
            "(HfApi.super_squash_history) and unreferenced LFS files are deleted"
        )
    elif identity.startswith("gs://"):
        remains.append(
            "deleted objects that the bucket keeps by soft delete (7 days by default), object "
            "versioning or a retention policy"
        )
    return tuple(remains)


async def _writers(steps: Steps) -> set[str]:
    async with steps.database.transaction(read_only=True) as session:
        return await Erasure(session).writers()


async def _wait_for(steps: Steps, writers: set[str], report_progress: Progress) -> set[str]:
    """Wait until these transactions have ended; returns those that did not within a while."""
    until = time.monotonic() + _PATIENCE
    while (unended := writers & await _writers(steps)) and time.monotonic() < until:
        report_progress(0, None, "transactions that began before")
        await asyncio.sleep(0.1)
    return unended


async def _delete_rows(steps: Steps, ids: Sequence[str]) -> ErasedRows:
    @retry_when_locked
    async def delete() -> ErasedRows:
        async with steps.database.transaction() as session:
            await steps.ledger(session)
            return await Erasure(session).delete_rows(ids)

    return await delete()


async def _rewrite_samples(
    steps: Steps, ids: Sequence[str], found: _Found, report_progress: Progress
) -> None:
    """Replace every counting file that holds rows of the videos, each by one without."""
    async with steps.database.transaction(read_only=True) as session:
        # the numbers of files follow the same clock: no row gets one above that of the file it goes into
        now = await clock(session)
        ledger = LedgerReader(session)
        live = await ledger.live_files(Dataset.STATS)
        adopted = await ledger.keys(Dataset.METRICS)
    candidates = [Input.of(file) for file in live]
    appended = list[ColdFile]()
    if await offload(is_sole_owner, steps.store, steps.owner):
        appended = await offload(
            lambda: list(appended_files(steps.store, Selection(), adopted, now))
        )
    else:
        # the other rows of such a file would be missing to the other databases
        log.warning("metrics_not_erased", hint=SHARED_HINT)
    candidates += [Input.appended(file) for file in appended]
    holding = []
    for number, one in enumerate(candidates):
        report_progress(number, len(candidates), "files")
        if await offload(_holds, steps.store, one.key, one.file, ids):
            holding.append([one])
    failed = None
    async for done in rewrite(steps, holding, target_bytes=TARGET_BYTES):
        if isinstance(done, NotRewritten):
            failed = failed or done.error
            continue
        found.files.append(
            ErasedFile(
                done.inputs[0].key,
                done.rows_excluded,
                done.fingerprint_before,
                done.fingerprint_after,
                tuple(file.object_key for file in done.outputs),
            )
        )
    if failed is not None:
        raise failed


def _holds(store: ObjectStore, key: str, file: FileRecord | None, ids: Sequence[str]) -> bool:
    """Whether an object holds rows of samples of these videos; one that is not there holds none."""
    first, last = _ANY_TIME
    if file is not None:
        if not file.facts.row_count:
            return False
        first, last = file.facts.min_timestamp or first, file.facts.max_timestamp or last
        selection = Selection(video_ids=tuple(ids))
        if not selection.may_touch(first, last, file.min_video_id, file.max_video_id):
            return False
    if store.stat(key) is None:
        return False
    # an appended file that was adopted is what it was before: of whatever program
    is_own = file is not None and archived(file.dataset).origin is not Origin.APPENDED
    cold = ColdFile(key, store.identity, first, last, None, in_ledger=is_own)
    found = open_cold(store, cold, Selection(tuple(ids)), forgiving=True)
    return any(found.read(part).num_rows for part in found.parts)


async def _delete_leftovers(steps: Steps, ids: Sequence[str], found: _Found) -> None:
    """Delete what was replaced or given up, now or earlier, where it holds such rows."""
    store = steps.store
    objects = await offload(stored, store)
    async with steps.database.transaction() as session:
        ledger = await steps.ledger(session)
        retired, gone = await ledger.retired_files(), await ledger.gone_keys()

    def holding() -> tuple[list[FileRecord], list[str]]:
        files = [file for file in retired if _may_hold(steps, file, ids)]
        return files, [info.key for info in objects if info.key in gone]

    files, late = await offload(holding)
    await steps.delete_files(files, late)
    found.objects += [*(file.object_key for file in files), *late]


def _may_hold(steps: Steps, file: FileRecord, ids: Sequence[str]) -> bool:
    """Whether a replaced file holds such rows."""
    origin = archived(file.dataset).origin
    if origin is Origin.PARKED:
        return schedule_has(steps, file, ids)
    # one of videos held such a row, or it would not have been replaced
    return origin is Origin.FINISHED or _holds(steps.store, file.object_key, file, ids)


async def _held_aside(steps: Steps, ids: Sequence[str]) -> list[str]:
    """What to do about files of a copy that a person set aside: they stay as they are, and are named."""
    async with steps.database.transaction(read_only=True) as session:
        files = await LedgerReader(session).all_files()
    aside = [file for file in files if file.state == ArchiveState.ASIDE]

    def holding() -> list[str]:
        keys = [one.object_key for one in aside if _holds(steps.store, one.object_key, one, ids)]
        return [f"{key}, which was set aside as a copy's: delete it by hand" for key in keys]

    return await offload(holding)


def _delete_documents(vault: Vault, ids: Sequence[str]) -> list[str]:
    """Delete the documents of the videos, those besides that the store refused and this machine kept."""
    store = vault.store
    names = {f"{video_id}.json" for video_id in ids}
    keys = [
        make(video_id)
        for video_id in ids
        for make in (transcript_key, flat_transcript_key, visuals_key)
    ]

    def is_metadata(key: str) -> bool:
        return key.startswith("metadata/") and key.rsplit("/", 1)[-1] in names

    there = [key for key in keys if store.stat(key) is not None]
    there += [info.key for info in store.list("metadata") if is_metadata(info.key)]
    store.delete(there)
    return there + vault.drop_refused(lambda key: key in keys or is_metadata(key))


async def _rewrite_rows(
    steps: Steps, table: ArchivedTable, column: str, ids: Sequence[str], found: _Found
) -> None:
    """Replace the files of whole rows that hold some of these videos'."""
    async with steps.database.transaction(read_only=True) as session:
        live = await LedgerReader(session).live_files(table.dataset)
    selection = Selection(video_ids=tuple(ids))
    for file in live:
        if not selection.may_touch(*_ANY_TIME, file.min_video_id, file.max_video_id):
            continue
        if table.origin is Origin.PARKED and not await offload(schedule_has, steps, file, ids):
            continue
        with workdir() as folder:
            rows = await offload(_rows_of, steps.store, file, folder)
            if rows is None:
                continue
            mask = pc.is_in(rows[column], value_set=pa.array(list(ids), pa.string()))
            kept = rows.filter(pc.invert(mask))
            if kept.num_rows < rows.num_rows:
                outputs = await _replace_rows(steps, table, file, kept, folder)
                async with steps.database.transaction() as session:
                    replacement = Replacement(session, steps.fence)
                    await replacement.hold()
                    await replacement.swap(
                        outputs, [file], [], vault=steps.store.identity, batch_id=file.batch_id
                    )
                    if table.origin is Origin.PARKED:
                        await ScheduleFiles(session).inherit(file.id, [one.id for one in outputs])
                log.debug("archive_swapped", inputs=1, outputs=len(outputs))
                found.files.append(
                    ErasedFile(
                        file.object_key,
                        rows.num_rows - kept.num_rows,
                        rows_fingerprint(rows),
                        rows_fingerprint(kept),
                        tuple(one.object_key for one in outputs),
                    )
                )


def _rows_of(store: ObjectStore, file: FileRecord, folder: Path) -> pa.Table | None:
    """The rows of a file, checked; None if there is no such object."""
    fetched = read_back(store, file.object_key, folder)
    if fetched is None:
        return None
    path, sha256 = fetched
    if sha256 != file.sha256:
        raise VerificationFailed(
            f"{file.object_key} has SHA-256 {sha256}, written was {file.sha256}",
            path=file.object_key,
            hint="run `atlas vault fsck --deep`; this file was not replaced",
        )
    try:
        return pq.read_table(path, partitioning=None)
    except UNDECODABLE as error:
        raise CorruptObject(
            f"{file.object_key} cannot be decoded: {error}", path=file.object_key
        ) from error


async def _replace_rows(
    steps: Steps, table: ArchivedTable, old: FileRecord, rows: pa.Table, folder: Path
) -> list[FileRecord]:
    """Write the rows as a new file, up to verified; none where no row is left."""
    batch_id, span = uuid.uuid4(), (old.slice_start, old.slice_end)
    files = [await announce(steps, table, span[0], span, batch_id)] if rows.num_rows else []
    batch = BatchRecord(batch_id, (old.object_key,), tuple(file.object_key for file in files))
    records = [record_file(steps, batch, folder)]
    for file in files:
        await export_rows(steps, file, rows, folder, batch, records)
    if not files:
        await steps.put([], records)
        await offload(check_batch, steps.store, steps.owner, batch)
    return files
