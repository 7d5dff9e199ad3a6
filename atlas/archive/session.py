"""The steps from sealed to live that every kind of file takes, each fenced and safe to repeat."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from atlas.archive.fencing.epoch import check_epoch
from atlas.archive.publishing import Publisher
from atlas.db import Database
from atlas.db.clock import Session
from atlas.db.locks import retry_when_locked
from atlas.errors import ObjectExists, VaultUnavailable, VerificationFailed
from atlas.logging import get_logger
from atlas.repositories.ledger.files import Control, FileFacts, FileRecord, LedgerWriter
from atlas.repositories.ledger.swap import Replacement
from atlas.types import Dataset, ObjectStore
from atlas.vault.offload import offload
from atlas.vault.records import condemn

log = get_logger(__name__)

T = TypeVar("T")

#: Temporary folders older than this were left by a crash.
_STALE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Steps:
    """What an archiver may do while it holds the lock under ``fence``."""

    database: Database
    store: ObjectStore
    control: Control
    fence: int

    @property
    def owner(self) -> uuid.UUID:
        """The mark of this database's files."""
        assert self.control.owner is not None
        return self.control.owner

    @property
    def publisher(self) -> Publisher:
        """What says in the vault which files count."""
        return Publisher(self.database, self.store, self.control, self.fence)

    async def ledger(self, session: Session) -> LedgerWriter:
        """The ledger, after the fence was found unchanged in this transaction."""
        ledger = LedgerWriter(session, self.fence)
        await ledger.hold()
        return ledger

    def footer(self, file: FileRecord) -> dict[str, str]:
        """What every file says of itself beside its columns: the ledger can be made again from the files."""
        return {
            "atlas.dataset": file.dataset,
            "atlas.slice_start": file.slice_start.astimezone(UTC).isoformat(),
            "atlas.slice_end": file.slice_end.astimezone(UTC).isoformat(),
            "atlas.seq": str(file.seq),
            "atlas.batch_id": str(file.batch_id),
            "atlas.owner": str(self.control.owner),
            **({"atlas.merged": "true"} if file.merged else {}),
        }

    async def put(
        self,
        new: Sequence[tuple[FileRecord, Path]],
        records: Sequence[tuple[str, Path]] = (),
    ) -> None:
        """Create the objects by one put, after the ``records`` of what they replace.

        An unclear answer is settled by looking, never by writing again.
        """
        left = dict(records) | {file.object_key: path for file, path in new}
        while left:
            try:
                await offload(self.store.put_files, list(left.items()))
                break
            except ObjectExists as error:
                # an earlier run died after its put; verification says whether the object is the right one
                if error.path not in left:
                    raise
                del left[error.path]
                log.info("archive_object_found", key=error.path)
            except VaultUnavailable:
                # the answer is lost, the objects perhaps not
                for key in left:
                    if await offload(self.store.stat, key) is None:
                        raise
                break
        for file, _ in new:
            log.debug("archive_stored", key=file.object_key)

    async def written(self, file: FileRecord, facts: FileFacts) -> None:
        """sealed -> written."""
        async with self.database.transaction() as session:
            await (await self.ledger(session)).mark_written(file.id, facts)
        log.debug("archive_written", key=file.object_key)

    async def verified(self, file: FileRecord, facts: FileFacts) -> None:
        """written -> verified, once the object was read back.

        A sealed table is counted by PostgreSQL itself: an export that lost rows would agree with its
        own file. Raises `VerificationFailed`.
        """
        async with self.database.transaction() as session:
            ledger = await self.ledger(session)
            if file.relation is not None:
                counted = await ledger.count_rows(file.relation)
                if counted != facts.row_count:
                    raise VerificationFailed(
                        f"{file.object_key} has {facts.row_count} rows, its table has {counted}",
                        path=file.object_key,
                    )
            await ledger.mark_verified(file.id)
        log.debug("archive_verified", key=file.object_key)

    async def live(
        self, file: FileRecord, also: Callable[[Session], Awaitable[T]] | None = None
    ) -> T | None:
        """verified -> live; ``also`` runs in the same transaction, which may be tried again whole."""

        @retry_when_locked
        async def go() -> T | None:
            async with self.database.transaction() as session:
                await (await self.ledger(session)).mark_live(file)
                return None if also is None else await also(session)

        result = await go()
        log.debug("archive_live", key=file.object_key)
        return result

    async def send_back(self, file: FileRecord) -> FileRecord:
        """Back to sealed under a new name; the object of the old one, never live, is removed.

        First the ledger, under the fence: an archiver that was overtaken must not delete what the other
        one has made live.
        """
        async with self.database.transaction() as session:
            ledger = await self.ledger(session)
            key = object_key(Dataset(file.dataset), file.slice_start, file.seq)
            dropped = await ledger.send_back(file, key)
            renamed = await ledger.get(file.id)
        await self.delete_files([dropped])
        return renamed

    async def give_up_outputs(self) -> None:
        """Open merged files -> gone: their rows still count where they were. No object is deleted here:
        another history of this database may count it."""
        async with self.database.transaction() as session:
            ledger = await self.ledger(session)
            left = [file for file in await ledger.open_files() if file.relation is None]
            if left:
                await ledger.give_up(left)
                log.info("archive_outputs_abandoned", files=len(left))

    async def delete_files(self, files: Sequence[FileRecord], gone: Sequence[str] = ()) -> None:
        """retired -> gone, with their objects, and objects that the ledger calls ``gone`` already.

        The only place where objects of data folders are deleted. Whoever adopts the vault swaps the epoch
        and then reads what is condemned: either it sees these keys, or they are not deleted. A crash in
        between is made good by clean-up. Before, no manifest names them as live any more. Raises
        `EpochBehind`, `LeaseLost`.
        """
        keys = [*(file.object_key for file in files), *gone]
        if not keys:
            return
        await self.publisher.publish_before_deletion(keys)
        announcement = await offload(condemn, self.store, self.owner, keys)
        await check_epoch(self.store, self.control)
        # the announcement goes last
        await offload(self.store.delete, [*keys, announcement])
        async with self.database.transaction() as session:
            replacement = Replacement(session, self.fence)
            await replacement.hold()
            await replacement.gone(files)


def object_key(dataset: Dataset, start: datetime, seq: int) -> str:
    """A fresh, unique object name in the folder of the slice's UTC day."""
    start = start.astimezone(UTC)
    return f"{dataset}/date={start:%Y-%m-%d}/{start:%H}-{seq}-{uuid.uuid4().hex[:8]}.parquet"
