"""Replacing cold files by others that hold the same rows, or fewer: what compaction and erasure share.

The rows of the inputs are read from the store, checked against the ledger, merged, written to new objects and
read back; then one transaction makes the outputs count and the inputs not. Until then nothing has
changed for readers, and a run that dies leaves outputs that the next one abandons.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from atlas.archive.export.samples import Bounds, file_sha256, verify_samples
from atlas.archive.maintenance.inputs import Input, Source, open_source
from atlas.archive.session import Steps, object_key
from atlas.errors import CorruptObject, VerificationFailed
from atlas.logging import get_logger
from atlas.repositories.ledger.files import FileFacts, FileRecord, NewFile
from atlas.repositories.ledger.swap import Replacement
from atlas.tables.fingerprint import Fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS, open_writer
from atlas.tables.sample import SAMPLE_COLUMNS, STATS_SCHEMA, stated_in_footer
from atlas.types import Dataset
from atlas.vault.offload import offload
from atlas.vault.records import BatchRecord, batch_key, check_batch
from atlas.vault.temporary import workdir

log = get_logger(__name__)

_DAY = timedelta(days=1)
#: Bytes of outputs that wait on this machine's disk for others to go in the same put.
_WAITING_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What took the place of what. Fingerprints are those of all rows before and after, with ``seq``."""

    inputs: tuple[Input, ...]
    outputs: tuple[FileRecord, ...]
    rows_before: int
    rows_after: int
    rows_excluded: int
    bytes_before: int
    bytes_after: int
    fingerprint_before: str
    fingerprint_after: str


@dataclass(frozen=True, slots=True)
class NotRewritten:
    """Inputs that were left as they are, and why."""

    inputs: tuple[Input, ...]
    error: CorruptObject | VerificationFailed


@dataclass(frozen=True, slots=True)
class _Job:
    """Inputs whose outputs lie on this machine's disk."""

    source: Source
    inputs: tuple[Input, ...]
    outputs: list[_Output]
    batch_id: uuid.UUID

    @property
    def byte_size(self) -> int:
        return sum(output.facts.byte_size for output in self.outputs)


async def rewrite(
    steps: Steps,
    jobs: Iterable[Sequence[Input]],
    *,
    target_bytes: int,
) -> AsyncIterator[Rewritten | NotRewritten]:
    """Replace the inputs of each job by as few files as ``target_bytes`` allows, without the rows of
    forgotten ids, be they known by name or by their hashes.

    Of rows with the same (video_id, timestamp) the one with the highest ``seq`` is kept. An output
    holds rows of one UTC day, in order over all outputs of that day. Each job is replaced by itself or left
    as it is, but the outputs of several go in one put, where puts are dear.
    """
    batch = steps.store.batch
    with workdir() as folder:
        waiting: list[_Job] = []
        for inputs in jobs:
            try:
                waiting.append(await _prepared(steps, inputs, target_bytes, folder))
            except (CorruptObject, VerificationFailed) as error:
                # what it announced is given up with all that has not been replaced: first the others
                async for done in _replaced(steps, waiting, folder):
                    yield done
                waiting = []
                await steps.give_up_outputs()
                yield NotRewritten(tuple(inputs), error)
            objects = sum(len(job.outputs) + 1 for job in waiting)  # and its record
            if objects >= batch or sum(job.byte_size for job in waiting) >= _WAITING_BYTES:
                async for done in _replaced(steps, waiting, folder):
                    yield done
                waiting = []
        async for done in _replaced(steps, waiting, folder):
            yield done


async def _prepared(
    steps: Steps,
    inputs: Sequence[Input],
    target_bytes: int,
    folder: Path,
) -> _Job:
    """Write the outputs of a job to files on this machine."""
    batch_id = uuid.uuid4()
    with workdir() as fetched:
        source, days = await open_source(steps, inputs, fetched)
        outputs = [
            output
            for day in days
            async for output in _outputs(steps, source, day, batch_id, target_bytes, folder)
        ]
    source.tally.check(f"replacing {len(inputs)} files of {days[0] if days else 'no day'}")
    return _Job(source, tuple(inputs), outputs, batch_id)


async def _replaced(
    steps: Steps, jobs: Sequence[_Job], folder: Path
) -> AsyncIterator[Rewritten | NotRewritten]:
    """Put the outputs of all by one put, then prove and swap job by job."""
    outputs = [output for job in jobs for output in job.outputs]
    records = [record_file(steps, _record(job), folder) for job in jobs]
    await steps.put([(output.file, output.path) for output in outputs], records)
    for _, path in records:
        path.unlink()
    for output in outputs:
        output.path.unlink()
        await steps.written(output.file, output.facts)
    failed = False
    for job in jobs:
        try:
            await offload(check_batch, steps.store, steps.owner, _record(job))
            for output in job.outputs:
                await _prove(steps, output, folder)
        except VerificationFailed as error:
            failed = True
            yield NotRewritten(job.inputs, error)
            continue
        yield await _swap(steps, job)
    if failed:
        await steps.give_up_outputs()


def _record(job: _Job) -> BatchRecord:
    """The record written to the vault before the outputs: what they will replace."""
    known = [one.file for one in job.inputs if one.file is not None]
    return BatchRecord(
        job.batch_id,
        tuple(file.object_key for file in known),
        tuple(output.file.object_key for output in job.outputs),
        tuple(file.seq for file in known if not file.merged),
    )


def record_file(steps: Steps, record: BatchRecord, folder: Path) -> tuple[str, Path]:
    """A batch record as a file on this machine, and its place in the vault."""
    path = folder / f"batch-{record.batch_id}.json"
    path.write_bytes(record.encode())
    return batch_key(steps.owner, record.batch_id), path


async def _prove(steps: Steps, output: _Output, folder: Path) -> None:
    """written -> verified."""
    await offload(
        verify_samples,
        steps.store,
        output.file.object_key,
        output.facts,
        None,
        folder,
        with_seq=output.with_seq.hex,
    )
    await steps.verified(output.file, output.facts)


async def _swap(steps: Steps, job: _Job) -> Rewritten:
    """The outputs count and the inputs do not, in one transaction."""
    files = [output.file for output in job.outputs]
    known = [one.file for one in job.inputs if one.file is not None]
    async with steps.database.transaction() as session:
        replacement = Replacement(session, steps.fence)
        await replacement.hold()
        await replacement.swap(
            files,
            known,
            job.source.appended,
            vault=steps.store.identity,
            batch_id=job.batch_id,
        )
    log.debug("archive_swapped", inputs=len(job.inputs), outputs=len(files))
    tally = job.source.tally
    return Rewritten(
        job.inputs,
        tuple(files),
        tally.read.rows,
        tally.written.rows,
        tally.excluded.rows,
        job.source.byte_size,
        job.byte_size,
        tally.read.hex,
        tally.written.hex,
    )


async def _outputs(
    steps: Steps, source: Source, day: date, batch_id: uuid.UUID, target_bytes: int, folder: Path
) -> AsyncIterator[_Output]:
    """Write the rows of one day to files on this machine."""
    tables = source.sorted_rows(day)
    first = await offload(next, tables, None)
    while first is not None:
        file = await _announce(steps, day, batch_id)
        path = folder / f"output-{file.id}.parquet"
        output = _Output(file, path, steps.footer(file), source.tally.written)
        first = await offload(output.write, first, tables, target_bytes)
        yield output


async def _announce(steps: Steps, day: date, batch_id: uuid.UUID) -> FileRecord:
    """The ledger names an object before it is made, so that clean-up never takes it for garbage."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    async with steps.database.transaction() as session:
        ledger = await steps.ledger(session)
        seq = await ledger.next_seq(Dataset.STATS)
        key = object_key(Dataset.STATS, start, seq)
        vault = steps.store.identity
        return await ledger.add(
            NewFile(Dataset.STATS, key, vault, seq, start, start + _DAY, batch_id, merged=True)
        )


class _Output:
    """A file in the making."""

    def __init__(
        self, file: FileRecord, path: Path, footer: dict[str, str], written: Fingerprint
    ) -> None:
        self.file, self.path = file, path
        self._footer, self._written = footer, written
        self.with_seq = Fingerprint(STATS_SCHEMA.names)
        self.facts: FileFacts

    def write(
        self, first: pa.Table, rest: Iterator[pa.Table], target_bytes: int
    ) -> pa.Table | None:
        """Write row groups until the file has its size; returns the first one that is left."""
        samples, bounds = Fingerprint(SAMPLE_COLUMNS), Bounds()
        table: pa.Table | None = first
        with (
            self.path.open("wb") as target,
            open_writer(target, STATS_SCHEMA, self._footer) as writer,
        ):
            while table is not None and target.tell() < target_bytes:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                for batch in table.to_batches():
                    for fingerprint in (samples, self.with_seq, self._written):
                        fingerprint.update(batch)
                    bounds.see(batch)
                bounds.see_sorted(table)
                table = next(rest, None)
            writer.add_key_value_metadata(
                {
                    **stated_in_footer(),
                    "atlas.rows": str(samples.rows),
                    "atlas.fingerprint": samples.hex,
                }
            )
        self.facts = FileFacts(
            samples.rows,
            self.path.stat().st_size,
            file_sha256(self.path),
            samples.hex,
            bounds.min_timestamp,
            bounds.max_timestamp,
            bounds.min_video_id,
            bounds.max_video_id,
        )
        return table
