"""One run of the archiver: which slices go, and each one's way from attached to live."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from atlas.archive.budget import hot_tier
from atlas.archive.export import SAMPLE_COLUMNS, export_samples, verify_samples
from atlas.archive.steps import Steps, object_key, workdir
from atlas.db import Database
from atlas.db.arrow import ArrowConnection
from atlas.db.locks import retry_when_locked
from atlas.errors import MigrationsPending, VerificationFailed
from atlas.repositories.archive import FileFacts, FileRecord, LedgerReader, NewFile
from atlas.repositories.erasure import NOT_FORGOTTEN
from atlas.repositories.partitions import Partition
from atlas.types import ArchiveState, Dataset, ObjectStore, Progress
from atlas.vault.offload import offload

log = structlog.get_logger()

#: Slices between sealed and live at the same time; each holds up to `export.RUN_ROWS` rows in memory.
_SLICES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What a run did. ``rows`` counts rows made live, ``late_rows`` those of slices that had a file already.

    With ``dry_run`` the numbers are what a run would take; bytes are then those of the hot tables.
    """

    rows: int = 0
    files: int = 0
    bytes: int = 0
    slices: int = 0
    late_rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run under the lock."""

    steps: Steps
    cutoff: datetime
    progress: Progress | None

    @property
    def database(self) -> Database:
        return self.steps.database

    @property
    def store(self) -> ObjectStore:
        return self.steps.store

    async def go(self, max_rows: int | None) -> ArchiveReport:
        begun = time.monotonic()
        done: list[tuple[FileRecord, FileFacts]] = []
        # while one slice is encoded, verified and made live, the next one is read
        width = _SLICES_AT_ONCE if max_rows is None else 1
        under_way: set[asyncio.Task[tuple[FileRecord, FileFacts]]] = set()
        try:
            async for file in self._slices(uuid.uuid4()):
                under_way.add(asyncio.create_task(self._settle(file)))
                if len(under_way) == width:
                    under_way = await self._collect(under_way, done)
                if max_rows is not None and sum(facts.row_count for _, facts in done) >= max_rows:
                    break
            while under_way:
                under_way = await self._collect(under_way, done)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        report = ArchiveReport(
            rows=sum(facts.row_count for _, facts in done),
            files=len(done),
            bytes=sum(facts.byte_size for _, facts in done),
            slices=len(done),
            late_rows=sum(facts.row_count for file, facts in done if file.is_late),
            seconds=time.monotonic() - begun,
        )
        log.info("archive_run", rows=report.rows, files=report.files, late_rows=report.late_rows)
        return report

    async def finish_left(self) -> None:
        """Carry what an earlier run left sealed to the end."""
        async with self.database.transaction(read_only=True) as session:
            left = await LedgerReader(session).open_files()
        for file in left:
            if file.relation is not None:
                await self._settle(file)

    async def _collect(
        self,
        under_way: set[asyncio.Task[tuple[FileRecord, FileFacts]]],
        done: list[tuple[FileRecord, FileFacts]],
    ) -> set[asyncio.Task[tuple[FileRecord, FileFacts]]]:
        """Wait for a slice to end; gives those still under way."""
        finished, rest = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            done.append(task.result())
            rows = sum(facts.row_count for _, facts in done)
            self._tell(rows, None, f"{done[-1][0].slice_start:%Y-%m-%d %H:%M}")
        return rest

    def _tell(self, done: int, total: int | None, what: str) -> None:
        if self.progress is not None:
            self.progress(done, total, what)

    async def _slices(self, batch_id: uuid.UUID) -> AsyncIterator[FileRecord]:
        """Slices to carry to the end: those an earlier run left, then freshly sealed ones."""
        async with self.database.transaction(read_only=True) as session:
            left = await LedgerReader(session).open_files()
        for file in left:
            if file.relation is not None:
                yield file
        # a steady stream of late rows makes partition after partition: each range goes once a run
        taken: set[datetime] = set()
        while (partition := await self._next_partition(taken)) is not None:
            taken.add(partition.lower)
            sealed = await self._seal(partition, batch_id)
            if sealed is not None:
                yield sealed

    async def _next_partition(self, taken: set[datetime]) -> Partition | None:
        """The oldest closed partition, not ``taken``, that is past the cutoff or the byte budget."""
        async with self.database.transaction(read_only=True) as session:
            hot = await hot_tier(session)
        closed = [partition for partition in hot.closed if partition.lower not in taken]
        if closed and (closed[0].upper <= self.cutoff or hot.is_short):
            return closed[0]
        if hot.attached_bytes > hot.max_bytes:
            log.warning(
                "hot_budget_too_small",
                hot_bytes=hot.attached_bytes,
                hot_max_bytes=hot.max_bytes,
                hint="what is left is still being written, or pinned by a restore: "
                "lower STATS_PARTITION_HOURS, raise HOT_MAX_BYTES, or release what was restored",
            )
        return None

    async def _seal(self, partition: Partition, batch_id: uuid.UUID) -> FileRecord | None:
        """attached -> sealed."""

        @retry_when_locked
        async def seal() -> FileRecord | None:
            async with self.database.transaction() as session:
                ledger = await self.steps.ledger(session)
                seq = await ledger.next_seq(Dataset.STATS)
                return await ledger.seal(
                    partition,
                    NewFile(
                        Dataset.STATS,
                        object_key(Dataset.STATS, partition.lower, seq),
                        self.store.identity,
                        seq,
                        partition.lower,
                        partition.upper,
                        batch_id,
                    ),
                )

        sealed = await seal()
        if sealed is not None:
            log.debug("archive_sealed", slice=partition.lower.isoformat(), seq=sealed.seq)
        return sealed

    async def _settle(self, file: FileRecord) -> tuple[FileRecord, FileFacts]:
        """Carry a slice from whatever state it is in to live.

        An object that is not what it must be is replaced once, under a new name: names are create-only.
        """
        with workdir() as folder:
            try:
                return file, await self._carry(file, folder)
            except MigrationsPending:
                # a table is missing: another archiver may have finished the slice and dropped it
                async with self.database.transaction() as session:
                    await self.steps.ledger(session)
                raise
            except VerificationFailed as error:
                log.error("archive_object_differs", key=file.object_key, error=str(error))
                return file, await self._carry(await self.steps.send_back(file), folder)

    async def _carry(self, file: FileRecord, folder: Path) -> FileFacts:
        if file.state == ArchiveState.SEALED:
            path = folder / "slice.parquet"
            url = await self.database.libpq_url()
            facts = await offload(self._export, file, path, url)
            log.debug("archive_exported", key=file.object_key, rows=facts.row_count)
            await self.steps.put(file, path)
            await self.steps.written(file, facts)
        else:
            facts = file.facts
        if file.state != ArchiveState.VERIFIED:
            await offload(verify_samples, self.store, file.object_key, facts, file.seq, folder)
            await self.steps.verified(file, facts)
        await self.steps.live(file)
        return facts

    def _export(self, file: FileRecord, path: Path, url: str) -> FileFacts:
        columns = ", ".join(SAMPLE_COLUMNS)
        with ArrowConnection(url) as connection:
            batches = connection.batches(
                f'SELECT {columns} FROM "{file.relation}" WHERE {NOT_FORGOTTEN}'
            )
            return export_samples(batches, path, seq=file.seq, metadata=self.steps.footer(file))
