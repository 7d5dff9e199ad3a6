"""The archiver: moves closed partitions of samples from PostgreSQL to the vault, exactly once.

docs/archive.md tells the protocol; each function here is one of its steps.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text

from atlas.archive.epoch import adopt_vault, advance_epoch
from atlas.archive.lock import archiver_lock
from atlas.archive.run import ArchiveReport, Run
from atlas.archive.steps import Steps
from atlas.archive.upkeep import Finding, GarbageReport, compare, garbage, stored, unnamed
from atlas.config import get_settings
from atlas.db import Database, db
from atlas.repositories.archive import LedgerReader
from atlas.repositories.partitions import Partitions
from atlas.types import ObjectStore, Progress
from atlas.vault import Vault, get_vault

log = structlog.get_logger()

#: How long an object that nothing names is left alone: longer than any run or scan takes.
GRACE = timedelta(days=7)


class Archiver:
    """Moves samples from hot to cold. Safe to call from anywhere: one works, others are told busy."""

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self._vault = vault

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault."""
        return (self._vault or get_vault()).store

    async def run(
        self,
        older_than: timedelta | datetime | None = None,
        max_rows: int | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        *,
        wait: bool = False,
    ) -> ArchiveReport:
        """Finish what an earlier run left, then archive every closed partition older than asked.

        ``older_than`` is an age or a moment (default: JANITOR_RETENTION_DAYS). Past HOT_MAX_BYTES the
        oldest closed partitions go early. ``max_rows`` is a soft cap: the run stops after the slice that
        reaches it. Raises `ArchiverBusy`, `EpochBehind`, `WrongVault`, `VaultError`,
        `VerificationFailed`; whatever is raised, no sample is lost and the next run goes on.
        """
        cutoff = await self._cutoff(older_than)
        if dry_run:
            return await self._foresee(cutoff, max_rows)
        async with archiver_lock(self.database, wait=wait) as fence:
            control = await advance_epoch(self.database, self.store)
            steps = Steps(self.database, self.store, control, fence)
            return await Run(steps, cutoff, progress).go(max_rows)

    async def adopt(self) -> int:
        """Make this database the one the vault belongs to, on a person's word; gives the epoch."""
        async with archiver_lock(self.database):
            return (await adopt_vault(self.database, self.store)).epoch

    async def fsck(self, *, deep: bool = False) -> list[Finding]:
        """Compare the ledger with the store, changing nothing; no finding means all is well.

        Names, sizes and what nothing names; with ``deep`` every object is read and its checksum
        compared. Raises `DatabaseError`, `VaultError`.
        """
        store = self.store
        async with self.database.transaction(read_only=True) as session:
            files = await LedgerReader(session).named_files()
        return await asyncio.to_thread(lambda: list(compare(store, files, deep=deep)))

    async def collect_garbage(
        self, older_than: timedelta = GRACE, *, dry_run: bool = False
    ) -> GarbageReport:
        """Delete objects that no ledger row names, older than the grace period and of this database.

        Never touches what the ledger names, appended metrics, or another owner's files. The archive
        lock is held meanwhile, and the ledger is read after the store was listed: an object's ledger
        row is always older than the object.
        """
        store = self.store
        async with archiver_lock(self.database) as fence:
            control = await advance_epoch(self.database, store)
            objects = await asyncio.to_thread(stored, store)
            async with self.database.transaction() as session:
                ledger = await Steps(self.database, store, control, fence).ledger(session)
                named = {file.object_key for file in await ledger.named_files()}
            found = await asyncio.to_thread(
                lambda: list(garbage(store, objects, named, control.owner, older_than))
            )
            if not dry_run:
                await asyncio.to_thread(store.delete, [info.key for info in found])
        keys = tuple(info.key for info in found)
        log.info("garbage_collected", objects=len(keys), dry_run=dry_run)
        kept = unnamed(objects, named) - len(keys)
        return GarbageReport(keys, sum(info.size for info in found), kept)

    async def _cutoff(self, older_than: timedelta | datetime | None) -> datetime:
        if isinstance(older_than, datetime):
            return older_than if older_than.tzinfo else older_than.replace(tzinfo=UTC)
        if older_than is None:
            older_than = timedelta(days=get_settings().janitor_retention_days)
        async with self.database.transaction(read_only=True) as session:
            now = await session.scalar(text("SELECT now()"))
        assert isinstance(now, datetime)
        return now - older_than

    async def _foresee(self, cutoff: datetime, max_rows: int | None) -> ArchiveReport:
        rows = size = slices = 0
        async with self.database.transaction(read_only=True) as session:
            ledger = LedgerReader(session)
            tables = [
                (file.relation, 0)
                for file in await ledger.open_files()
                if file.relation is not None
            ]
            partitions = await Partitions(session).attached()
            tables += [(part.name, part.byte_size) for part in partitions if part.upper <= cutoff]
            for name, bytes_ in tables:
                count = await ledger.count_rows(name)
                rows, size, slices = rows + count, size + bytes_, slices + bool(count)
                if max_rows is not None and rows >= max_rows:
                    break
        return ArchiveReport(rows=rows, files=slices, bytes=size, slices=slices)
