"""How every job begins: the lock, the epoch, and a ledger that names what the vault holds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from atlas.archive.fencing.epoch import advance_epoch
from atlas.archive.fencing.lock import archiver_lock
from atlas.archive.recovery.taking import take_in
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.types import ObjectStore


@contextlib.asynccontextmanager
async def begin_job(
    database: Database, store: ObjectStore, *, wait: bool = False
) -> AsyncIterator[Steps]:
    """The archive lock, with database and vault proved to belong together and to agree.

    What a job that died left is settled before: no job deletes or replaces anything that another history of
    this database may count. When a job ends well the list of live files is published in
    the vault. Raises `ArchiverBusy`, `WrongVault`, `EpochBehind`, `VaultError`.
    """
    async with archiver_lock(database, wait=wait) as fence:
        control = await advance_epoch(database, store, fence)
        steps = Steps(database, store, control, fence)
        await take_in(steps)
        yield steps
        await steps.publisher.publish_at_end()
