"""Forgotten ids and the vault: their records are written and read, so that they stay forgotten."""

from __future__ import annotations

import uuid

from atlas.archive.recovery.examination import NOT_WHOLE, Sieve, ids_in, raise_if_no_damage
from atlas.archive.session import Steps
from atlas.logging import get_logger
from atlas.repositories.erasure import Erasure
from atlas.repositories.ledger.digests import ErasedDigests
from atlas.repositories.ledger.files import FileRecord
from atlas.tables.archived import Origin, archived
from atlas.types import ArchiveState, ObjectStore
from atlas.vault.offload import offload
from atlas.vault.owners import digest
from atlas.vault.records import erasure_record, put_erasure, read_erasures

log = get_logger(__name__)


async def record_erasure(steps: Steps, video_ids: list[str]) -> None:
    """Write into the vault that these barred ids are forgotten, before anything of them is deleted."""
    key, content = erasure_record(steps.owner, video_ids)
    async with steps.database.transaction(read_only=True) as session:
        if key in await ErasedDigests(session).known_records():
            return
    await offload(put_erasure, steps.store, key, content)
    async with steps.database.transaction() as session:
        await steps.ledger(session)
        await ErasedDigests(session).remember_records([key])


async def bar_recorded(steps: Steps) -> int:
    """Bar what the vault knows to be forgotten, and have it know what this database does; returns how many
    ids this database did not know to be forgotten.

    Hashes of ids that are nowhere in the database or in its files are kept.
    """
    owner = steps.owner
    async with steps.database.transaction(read_only=True) as session:
        known = await ErasedDigests(session).known_records()
        forgotten = await Erasure(session).forgotten()
        unfinished = await Erasure(session).unfinished()
        kept = await ErasedDigests(session).all()
    # those that were forgotten before there were records have none
    unrecorded = unfinished if known else forgotten
    if unrecorded:
        await record_erasure(steps, unrecorded)
    new = await offload(read_erasures, steps.store, owner, known)
    if not new:
        return 0
    recorded = {one for found in new.values() for one in found}
    async with steps.database.transaction() as session:
        ledger = await steps.ledger(session)
        files = await ledger.all_files()
        sealed = [file.relation for file in files if file.relation is not None]
        digests = ErasedDigests(session)
        await digests.add(recorded, sealed)
        unmet = await digests.all()
    met = await offload(_among_files, steps.store, owner, unmet, files) if unmet else set()
    async with steps.database.transaction() as session:
        await steps.ledger(session)
        digests = ErasedDigests(session)
        await digests.met(met)
        # last: a process that dies before reads them again
        await digests.remember_records(new)
    barred = recorded - kept - {digest(owner, one) for one in forgotten}
    log.info("erasures_read", records=len(new), barred=len(barred))
    return len(barred)


def _among_files(
    store: ObjectStore, owner: uuid.UUID, digests: frozenset[bytes], files: list[FileRecord]
) -> set[str]:
    """Ids with one of these hashes in the files that count."""
    sieve = Sieve(owner, digests=digests)
    for file in files:
        table = archived(file.dataset)
        if file.state != ArchiveState.LIVE or table.origin is Origin.APPENDED:
            continue
        if table.video_column is None:
            continue
        try:
            ids_in(store, file.object_key, table.video_column, sieve)
        except NOT_WHOLE as error:  # fsck and every read of it say so
            raise_if_no_damage(error)
            log.error("archive_file_unreadable", key=file.object_key, error=str(error))
    return sieve.met
