"""The archiver: moves closed partitions of samples from PostgreSQL to the vault, exactly once.

docs/archive.md documents the protocol; each function here is one of its steps.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta

from atlas.archive.budget import hot_tier
from atlas.archive.export.schedule import restore_schedule
from atlas.archive.export.slices import ArchiveReport, Run
from atlas.archive.fencing.lock import archiver_lock
from atlas.archive.jobs import begin_job
from atlas.archive.maintenance.compaction import (
    TARGET_BYTES,
    CompactionReport,
    compact,
    notice_metrics,
)
from atlas.archive.maintenance.erasure import ForgetReceipt, forget
from atlas.archive.maintenance.fsck import Finding, GarbageReport, clean_up, compare, stored
from atlas.archive.maintenance.rebuild import RebuildReport, rebuild
from atlas.archive.maintenance.restore import ReleaseReport, RestoreReport, release, restore
from atlas.archive.recovery.adoption import AdoptReport, adopt, survey
from atlas.archive.recovery.moving import MoveReport, move_vault
from atlas.archive.session import Steps
from atlas.config import get_settings
from atlas.db import Database, db
from atlas.db.clock import clock
from atlas.errors import InvalidInput
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.notifications.jobs import tracked
from atlas.parsing import parse_age, parse_boundary, parse_moment
from atlas.repositories.erasure import Erasure
from atlas.repositories.ledger.files import LedgerReader
from atlas.types import Boundary, ObjectStore, Progress, check_id
from atlas.vault import Vault, get_vault
from atlas.vault.offload import offload

log = get_logger(__name__)

#: How long an object that nothing names is left alone: longer than any run or scan takes.
GRACE = timedelta(days=7)


class Archiver:
    """Moves samples from hot to cold. Safe to call from anywhere: one runs, others raise `ArchiverBusy`."""

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self._vault = vault

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault."""
        return (self._vault or get_vault()).store

    @tracked("archiver")
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
        async with self._held(wait=wait) as steps:
            await self._finish_erasure(steps)
            await notice_metrics(steps)
            report = await Run(steps, cutoff, progress).go(max_rows)
        if report.files:
            facts = {
                "rows": report.rows,
                "files": report.files,
                "bytes": report.bytes,
                "late_rows": report.late_rows,
            }
            await bus_of(self.database).emit("archive.finished", payload=facts)
        return report

    @tracked("archiver")
    async def adopt(
        self,
        dry_run: bool = False,
        *,
        owner: uuid.UUID | None = None,
        set_aside: bool = False,
        progress: Progress | None = None,
    ) -> AdoptReport:
        """Make this database the one the vault belongs to, on a person's word, before collectors start.

        Every whole file of this database that its ledger does not name counts from then on, what was replaced
        counts no more, ids that were forgotten are barred, and any other copy of the database is refused.
        Hot rows of which the vault has later ones are kept aside. A database that never archived takes over
        the ``owner``'s files (default: the only one there is). With ``set_aside`` slices that a copy
        archived since do not count. Changes nothing with ``dry_run``; may be repeated after whatever stopped
        it. Raises `WrongVault` where the vault is another database's, `InvalidInput` where the owner is not
        clear, `ArchiverBusy`, `EpochBehind` where somebody else adopted it meanwhile, `VaultError`.
        """
        if dry_run:
            return await survey(self.database, self.store, owner, set_aside=set_aside)
        async with archiver_lock(self.database) as fence:
            report = await adopt(
                self.database, self.store, fence, owner, set_aside=set_aside, progress=progress
            )
        facts = {"epoch": report.epoch, "files": report.files, "missing": len(report.missing)}
        await bus_of(self.database).emit("archive.adopted", payload=facts)
        return report

    @tracked("archiver")
    async def move(self, target: Vault, *, progress: Progress | None = None) -> MoveReport:
        """Copy the vault to ``target``, another prefix or place, and have this database go on there.

        Objects are copied create-only and compared; one transaction makes the copy count; nothing is deleted.
        An older copy of the database is refused at the old place from then on. Called again it finishes what
        was stopped, and copies what other machines have delivered to the old place since. Raises
        `WrongVault` where ``target`` is another database's, `InvalidInput` where it is the same place, else
        as `compact` does.
        """
        report = await move_vault(self.database, self._vault or get_vault(), target, progress)
        facts = {"objects": report.objects, "bytes": report.bytes}
        await bus_of(self.database).emit("archive.moved", payload=facts)
        return report

    @tracked("archiver")
    async def rebuild(
        self, owner: uuid.UUID | None = None, *, progress: Progress | None = None
    ) -> RebuildReport:
        """Write the ledger of a database that never archived anew from the files in the vault.

        Every file is read whole and compared with its own footer. ``owner`` says whose files, where
        several databases share the vault. The database takes over the owner's mark and the epoch:
        another one with the same mark is refused from then on. Videos found in ``videos/`` are not
        collected again, forgotten ids stay forgotten; pins are not in the vault. The same as `adopt`, and
        may be repeated until it is done. Raises `Conflict` where there is a ledger already, `InvalidInput`
        where the owner is not clear.
        """
        async with archiver_lock(self.database) as fence:
            report = await rebuild(self.database, self.store, fence, owner, progress)
        facts = {"epoch": report.epoch, "files": report.files, "rows": report.rows}
        await bus_of(self.database).emit("archive.rebuilt", payload=facts)
        return report

    async def fsck(self, *, deep: bool = False, progress: Progress | None = None) -> list[Finding]:
        """Compare the ledger with the store, changing nothing; no finding means all is well.

        Names, sizes, footers, and what nothing names; with ``deep`` every object is read and its
        checksum compared, appended metrics are decoded. Raises `DatabaseError`, `VaultError`.
        """
        store = self.store
        # the store first: whatever has a name in the ledger had it before it had an object
        objects = await offload(stored, store)
        async with self.database.transaction(read_only=True) as session:
            ledger = LedgerReader(session)
            files = await ledger.named_files()
            gone = await ledger.gone_keys()
            control = await ledger.control()
        report_progress = progress or (lambda done, total, what: None)
        return await offload(
            lambda: list(
                compare(
                    store,
                    objects,
                    files,
                    gone,
                    control.owner,
                    deep=deep,
                    report_progress=report_progress,
                )
            )
        )

    @tracked("archiver")
    async def compact(
        self,
        *,
        target_bytes: int = TARGET_BYTES,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> CompactionReport:
        """Merge small files of a UTC day into few, and adopt appended metrics of hours that are over.

        Of rows for one sample the one with the highest ``seq`` is kept; rows keep their ``seq``. What was
        replaced stays in the vault until `collect_garbage` finds its grace period over, so that no
        scan under way breaks. A day with an object that cannot be read is left as it is and reported.
        Raises `ArchiverBusy`, `EpochBehind`, `WrongVault`, `VaultError`; nothing is lost whatever is raised.
        """
        async with self._held() as steps:
            report = await compact(steps, target_bytes, dry_run=dry_run, progress=progress)
        if report.files_before and not dry_run:
            facts = {"files_before": report.files_before, "files_after": report.files_after}
            await bus_of(self.database).emit("archive.compacted", payload=facts)
        if report.left_out and not dry_run:
            named = {"objects": list(report.left_out[:20]), "count": len(report.left_out)}
            await bus_of(self.database).emit("archive.metrics_left_out", payload=named)
        return report

    @tracked("archiver")
    async def restore(
        self, since: Boundary, until: Boundary, *, progress: Progress | None = None
    ) -> RestoreReport:
        """Bring the cold samples of ``since <= timestamp < until`` back to PostgreSQL and keep them there.

        The span is pinned: runs leave it hot until `release`. Cold files stay, so that a failure in
        between loses nothing; calling again finishes, and a finished restore called again changes
        nothing. Hot rows are newer and win. Every file is checked against the ledger, every row
        found in PostgreSQL before its part commits. Raises `InvalidInput` for a naive time or a
        span that HOT_MAX_BYTES has no room for, else as `compact` does.
        """
        first, last = parse_boundary(since, field="since"), parse_boundary(until, field="until")
        if first is None or last is None:
            raise InvalidInput(
                "restore wants both ends", field="since", hint="give since and until"
            )
        async with self._held() as steps:
            report = await restore(steps, first, last, progress)
        facts = {"since": first, "until": last, "rows": report.restored}
        await bus_of(self.database).emit("archive.restored", payload=facts)
        return report

    @tracked("archiver")
    async def restore_schedule(self, *, progress: Progress | None = None) -> int:
        """Bring the part of the watchlist that lies in the vault back to PostgreSQL; returns how many videos.

        For a downgrade, or a vault that is given up: set WATCHLIST_VAULT_MONTHS to 0 first, or the
        janitor moves them out again. 6.5 bytes a video. May be stopped and called again; the files stay until
        `collect_garbage` finds their grace period over. Raises as `compact` does.
        """
        async with self._held() as steps:
            return await restore_schedule(steps, progress)

    @tracked("archiver")
    async def release(
        self, since: Boundary | None = None, until: Boundary | None = None
    ) -> ReleaseReport:
        """Let go of the restored spans that lie between ``since`` and ``until`` (default: all).

        Rows that were not written since are removed from PostgreSQL; the others stay and are archived by the
        next run. Readers notice nothing.
        """
        first, last = parse_boundary(since, field="since"), parse_boundary(until, field="until")
        async with self._held() as steps:
            report = await release(steps, first, last)
        if report.pins:
            facts = {"spans": report.pins, "rows": report.rows, "kept": report.kept}
            await bus_of(self.database).emit("archive.released", payload=facts)
        return report

    @tracked("archiver")
    async def forget(
        self, video_ids: Iterable[str], *, progress: Progress | None = None
    ) -> ForgetReceipt:
        """Erase videos: samples of both tiers and ``metrics/``, rows of ``videos/``, transcripts, metadata,
        frames, and what waits on this machine; bar their ids from coming back.

        The receipt names every file that was rewritten or deleted and what remains outside of Atlas's
        reach. From the first moment readers show nothing of them. An erasure that died, or that a transaction
        which began before outlived, is finished by the next run, or by calling again. Raises `InvalidInput`
        for what is no id, else as `compact` does; a file that is not what the ledger says stops it with
        `VerificationFailed` or `CorruptObject`.
        """
        ids = [check_id(one) for one in ([video_ids] if isinstance(video_ids, str) else video_ids)]
        vault = self._vault or get_vault()
        async with self._held() as steps:
            receipt = await forget(steps, vault, ids, progress)
        # neither which nor where: an event outlives the erasure
        await bus_of(self.database).emit("archive.forgotten", payload={"videos": len(ids)})
        return receipt

    @tracked("archiver")
    async def collect_garbage(
        self, older_than: timedelta = GRACE, *, dry_run: bool = False
    ) -> GarbageReport:
        """Delete objects that the ledger calls replaced or given up, longer ago than the grace period.

        Never touches what counts, what the ledger does not name, appended metrics that were not adopted, or
        another owner's files; see docs/adoption.md. Raises `ArchiverBusy`, `EpochBehind`, `WrongVault`,
        `VaultError`.
        """
        async with self._held() as steps:
            report = await clean_up(steps, older_than, dry_run=dry_run)
        if report.keys and not dry_run:
            facts = {"objects": len(report.keys)}
            await bus_of(self.database).emit("archive.garbage_collected", payload=facts)
        return report

    async def _finish_erasure(self, steps: Steps) -> None:
        async with self.database.transaction(read_only=True) as session:
            ids = await Erasure(session).unfinished()
        if ids:
            await forget(steps, self._vault or get_vault(), ids, None)

    @contextlib.asynccontextmanager
    async def _held(self, *, wait: bool = False) -> AsyncIterator[Steps]:
        """The archive lock, with database and vault proved to belong together."""
        async with begin_job(self.database, self.store, wait=wait) as steps:
            yield steps

    async def _cutoff(self, older_than: timedelta | datetime | None) -> datetime:
        if older_than is not None and not isinstance(older_than, timedelta):
            moment = parse_moment(older_than, field="older_than")
            assert moment is not None
            return moment
        if older_than is None:
            older_than = timedelta(days=get_settings().janitor_retention_days)
        age = parse_age(older_than / timedelta(days=1), field="older_than")
        async with self.database.transaction(read_only=True) as session:
            now = await clock(session)
        return now - age

    async def _foresee(self, cutoff: datetime, max_rows: int | None) -> ArchiveReport:
        rows = size = slices = 0
        async with self.database.transaction(read_only=True) as session:
            ledger = LedgerReader(session)
            tables = [
                (file.relation, 0)
                for file in await ledger.open_files()
                if file.relation is not None
            ]
            hot = await hot_tier(session)
            left = hot.attached_bytes
            for part in hot.closed:
                if part.upper <= cutoff or left + hot.arriving_bytes > hot.max_bytes:
                    tables.append((part.name, part.byte_size))
                    left -= part.byte_size
            for name, bytes_ in tables:
                count = await ledger.count_rows(name)
                rows, size, slices = rows + count, size + bytes_, slices + bool(count)
                if max_rows is not None and rows >= max_rows:
                    break
        return ArchiveReport(rows=rows, files=slices, bytes=size, slices=slices)
