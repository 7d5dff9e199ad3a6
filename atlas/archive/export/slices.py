"""One run of the archiver: which slices go, and each one's way from attached to live."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from atlas.archive.budget import hot_tier
from atlas.archive.export.samples import export_samples, verify_samples
from atlas.archive.session import Steps, object_key
from atlas.db import Database
from atlas.db.arrow import ArrowConnection
from atlas.db.locks import retry_when_locked
from atlas.db.sql import identifier
from atlas.errors import MigrationsPending, VerificationFailed
from atlas.logging import get_logger
from atlas.repositories.erasure import NOT_FORGOTTEN
from atlas.repositories.hot.partitions import Partition
from atlas.repositories.ledger.files import FileFacts, FileRecord, LedgerReader, NewFile
from atlas.tables.sample import SAMPLE_COLUMNS
from atlas.types import ArchiveState, Dataset, ObjectStore, Progress
from atlas.vault.offload import offload
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: A slice that is live, and what its file holds.
Done: TypeAlias = tuple[FileRecord, FileFacts]

#: Batches between sealed and live at the same time; each holds up to `export.RUN_ROWS` rows in memory.
_BATCHES_AT_ONCE = 2
#: Bytes of hot tables in a batch of several slices, whose files lie on this machine's disk until one put.
_BATCH_BYTES = 4 << 30


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
        done: list[Done] = []
        # while one batch is encoded, verified and made live, the next one is read
        width = _BATCHES_AT_ONCE if max_rows is None else 1
        under_way: set[asyncio.Task[None]] = set()
        try:
            async for batch in self._batches(max_rows):
                under_way.add(asyncio.create_task(self._settle(batch, done)))
                if len(under_way) == width:
                    under_way = await _one_ended(under_way)
            while under_way:
                under_way = await _one_ended(under_way)
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
        left = await self._left()
        for start in range(0, len(left), self._batch_files):
            await self._settle(left[start : start + self._batch_files], [])

    def _report(self, done: int, total: int | None, what: str) -> None:
        if self.progress is not None:
            self.progress(done, total, what)

    @property
    def _batch_files(self) -> int:
        """Files in one put of the store: many where each put is a commit."""
        return self.store.batch

    async def _batches(self, max_rows: int | None) -> AsyncIterator[list[FileRecord]]:
        """Slices to carry to the end, by what goes in one put, until ``max_rows`` are reached."""
        batch: list[FileRecord] = []
        rows = size = 0
        async for file, byte_size in self._slices(uuid.uuid4()):
            batch.append(file)
            size += byte_size
            if max_rows is not None:
                rows += await self._rows(file)
            enough = max_rows is not None and rows >= max_rows
            if enough or len(batch) == self._batch_files or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
            if enough:
                return
        if batch:
            yield batch

    async def _slices(self, batch_id: uuid.UUID) -> AsyncIterator[tuple[FileRecord, int]]:
        """Slices and the bytes of their tables: those an earlier run left, then freshly sealed ones."""
        for file in await self._left():
            yield file, 0
        # a steady stream of late rows makes partition after partition: each range goes once a run
        taken: set[datetime] = set()
        while (partition := await self._next_partition(taken)) is not None:
            taken.add(partition.lower)
            sealed = await self._seal(partition, batch_id)
            if sealed is not None:
                yield sealed, partition.byte_size

    async def _left(self) -> list[FileRecord]:
        """What an earlier run sealed and did not carry to the end."""
        async with self.database.transaction(read_only=True) as session:
            left = await LedgerReader(session).open_files()
        return [file for file in left if file.relation is not None]

    async def _rows(self, file: FileRecord) -> int:
        assert file.relation is not None
        async with self.database.transaction() as session:
            return await (await self.steps.ledger(session)).count_rows(file.relation)

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

    async def _settle(self, batch: Sequence[FileRecord], done: list[Done]) -> None:
        """Carry slices from whatever state each is in to live, with one put for all of them."""
        try:
            with workdir() as folder:
                facts = await self._store(batch, folder)
                for file in batch:
                    done.append(await self._finish(file, facts.get(file.id, file.facts), folder))
                    rows = sum(facts.row_count for _, facts in done)
                    self._report(rows, None, f"{file.slice_start:%Y-%m-%d %H:%M}")
        except MigrationsPending:
            # a table is missing: another archiver may have finished the slice and dropped it
            async with self.database.transaction() as session:
                await self.steps.ledger(session)
            raise

    async def _store(self, batch: Sequence[FileRecord], folder: Path) -> dict[int, FileFacts]:
        """sealed -> written; returns the facts of those that were."""
        sealed = [file for file in batch if file.state == ArchiveState.SEALED]
        paths = {file.id: folder / f"{file.id}.parquet" for file in sealed}
        facts: dict[int, FileFacts] = {}
        url = await self.database.libpq_url()
        for file in sealed:
            facts[file.id] = await offload(self._export, file, paths[file.id], url)
            log.debug("archive_exported", key=file.object_key, rows=facts[file.id].row_count)
        await self.steps.put([(file, paths[file.id]) for file in sealed])
        for file in sealed:
            paths[file.id].unlink()
            await self.steps.written(file, facts[file.id])
        return facts

    async def _finish(self, file: FileRecord, facts: FileFacts, folder: Path) -> Done:
        """written or verified -> live.

        An object that is not what it must be is replaced once, under a new name: names are create-only.
        """
        try:
            return await self._prove(file, facts, folder)
        except VerificationFailed as error:
            log.error("archive_object_differs", key=file.object_key, error=str(error))
        again = await self.steps.send_back(file)
        facts = (await self._store([again], folder))[again.id]
        return await self._prove(again, facts, folder)

    async def _prove(self, file: FileRecord, facts: FileFacts, folder: Path) -> Done:
        # one that another process verified, too: the database may have gone back since, and its object be
        # gone
        await offload(verify_samples, self.store, file.object_key, facts, file.seq, folder)
        if file.state != ArchiveState.VERIFIED:
            await self.steps.verified(file, facts)
        await self.steps.live(file)
        return file, facts

    def _export(self, file: FileRecord, path: Path, url: str) -> FileFacts:
        columns = ", ".join(SAMPLE_COLUMNS)
        assert file.relation is not None
        with ArrowConnection(url) as connection:
            batches = connection.batches(
                f"SELECT {columns} FROM {identifier(file.relation)} WHERE {NOT_FORGOTTEN}"
            )
            return export_samples(batches, path, seq=file.seq, metadata=self.steps.footer(file))


async def _one_ended(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait for one to end, and raise what it failed with; returns those still under way."""
    ended, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return rest
