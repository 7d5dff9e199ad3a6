"""Replacing cold files by others that hold the same rows, or fewer: what compaction and erasure share.

The rows of the inputs are read from the store, checked against the ledger, merged, written to new objects and
read back; then one transaction makes the outputs count and the inputs not. Until then nothing has
changed for readers, and a run that dies leaves outputs that the next one throws away.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from atlas.archive.cold import as_scalar, conformed
from atlas.archive.export import (
    SAMPLE_COLUMNS,
    Bounds,
    file_sha256,
    read_back,
    rechunked,
    sorted_runs,
    verify_samples,
)
from atlas.archive.fingerprint import Fingerprint
from atlas.archive.sorting import merge_sorted
from atlas.archive.steps import Steps, object_key, workdir
from atlas.errors import CorruptObject, VerificationFailed
from atlas.repositories.archive import FileFacts, FileRecord, NewFile
from atlas.repositories.replacement import AppendedFile, Replacement
from atlas.types import Dataset, ObjectStore
from atlas.vault.metrics import digest_differs
from atlas.vault.offload import offload
from atlas.vault.parquet import ROW_GROUP_ROWS, STATS_SCHEMA, UNDECODABLE, open_writer

log = structlog.get_logger()

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Input:
    """A file to be replaced: of the ledger, or an appended one, which the ledger does not know."""

    key: str
    file: FileRecord | None
    hour: datetime

    @classmethod
    def of(cls, file: FileRecord) -> Input:
        """A file of the ledger."""
        return cls(file.object_key, file, file.slice_start)


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


@dataclass(slots=True)
class _Tally:
    """Every row that comes in must be in one of the others: nothing gets lost in the merge."""

    read: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    written: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    outdone: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    excluded: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))

    def check(self, what: str) -> None:
        rows = self.written.rows + self.outdone.rows + self.excluded.rows
        value = self.written.value + self.outdone.value + self.excluded.value
        if (rows, value % 2**64) != (self.read.rows, self.read.value):
            raise VerificationFailed(
                f"{what}: {self.read.rows} rows went in and {rows} came out",
                hint="nothing was replaced; this is a defect of Atlas, please report it",
            )


async def rewrite(
    steps: Steps,
    inputs: Sequence[Input],
    *,
    target_bytes: int,
    excluded: Collection[str] = (),
) -> Rewritten:
    """Replace ``inputs`` by as few files as ``target_bytes`` allows, without the rows of ``excluded`` ids.

    Of rows with the same (video_id, timestamp) the one with the highest ``seq`` is kept. An output
    holds rows of one UTC day, in order over all outputs of that day. Raises `VerificationFailed` or
    `CorruptObject` when an input is not what the ledger says, and then nothing was replaced.
    """
    batch_id = uuid.uuid4()
    with workdir() as folder:
        source = Source(steps.store, inputs, frozenset(excluded), folder)
        days = await offload(source.open)
        outputs: list[FileRecord] = []
        size = 0
        for day in days:
            async for file, facts in _written(steps, source, day, batch_id, target_bytes, folder):
                outputs.append(file)
                size += facts.byte_size
        tally = source.tally
        tally.check(f"replacing {len(inputs)} files of {days[0] if days else 'no day'}")
        known = [one.file for one in inputs if one.file is not None]

        async with steps.database.transaction() as session:
            replacement = Replacement(session, steps.fence)
            await replacement.hold()
            await replacement.swap(
                outputs,
                known,
                source.appended,
                vault=steps.store.identity,
                batch_id=batch_id,
            )
    log.debug("archive_swapped", inputs=len(inputs), outputs=len(outputs))
    return Rewritten(
        tuple(inputs),
        tuple(outputs),
        tally.read.rows,
        tally.written.rows,
        tally.excluded.rows,
        source.byte_size,
        size,
        tally.read.hex,
        tally.written.hex,
    )


async def abandon_outputs(steps: Steps) -> None:
    """Throw away what a replacement that died has left: its rows still count where they were."""
    async with steps.database.transaction() as session:
        ledger = await steps.ledger(session)
        left = [file for file in await ledger.open_files() if file.merged]
    if left:
        # the objects first: a name that nothing remembers would have to wait for clean-up
        await offload(steps.store.delete, [file.object_key for file in left])
        async with steps.database.transaction() as session:
            ledger = await steps.ledger(session)
            for file in left:
                await ledger.abandon(file.id)
        log.info("archive_outputs_abandoned", files=len(left))


class Source:
    """The rows of cold files, fetched to this machine and checked, by UTC day."""

    def __init__(
        self, store: ObjectStore, inputs: Sequence[Input], excluded: frozenset[str], folder: Path
    ) -> None:
        self._store, self._inputs, self._folder = store, inputs, folder
        self._excluded = pa.array(sorted(excluded), pa.string())
        self.tally = _Tally()
        self.appended: list[AppendedFile] = []
        self.byte_size = 0
        self._paths: list[Path] = []

    def open(self) -> list[date]:
        """Fetch and check every input; gives the days that they hold rows of."""
        days: set[date] = set()
        for number, one in enumerate(self._inputs):
            folder = self._folder / f"input-{number}"
            folder.mkdir()
            fetched = read_back(self._store, one.key, folder)
            if fetched is None:
                raise CorruptObject(f"{one.key} is not in the vault", path=one.key)
            path, sha256 = fetched
            self._paths.append(path)
            facts = self._examine(one, path, sha256)
            self.byte_size += facts.byte_size
            if facts.min_timestamp is not None and facts.max_timestamp is not None:
                first, last = (
                    moment.astimezone(UTC).date()
                    for moment in (facts.min_timestamp, facts.max_timestamp)
                )
                days.update(first + _DAY * step for step in range((last - first).days + 1))
            if one.file is None:
                self.appended.append(AppendedFile(one.key, facts, one.hour))
        return sorted(days)

    def _examine(self, one: Input, path: Path, sha256: str) -> FileFacts:
        """Read a fetched input once, for its facts; a file of the ledger must have those it had."""
        if one.file is not None and sha256 != one.file.sha256:
            raise VerificationFailed(
                f"{one.key} has SHA-256 {sha256}, written was {one.file.sha256}",
                path=one.key,
                hint="run `atlas vault fsck --deep`; nothing was replaced",
            )
        if one.file is None:
            _check_digest(one.key, path)
        samples, bounds = Fingerprint(SAMPLE_COLUMNS), Bounds()
        for table in self._rows(one.key, path):
            for batch in table.to_batches():
                self.tally.read.update(batch)
                samples.update(batch)
                bounds.see(batch)
            if len(self._excluded):
                mask = pc.is_in(table["video_id"], value_set=self._excluded)
                for batch in table.filter(mask).to_batches():
                    self.tally.excluded.update(batch)
        if one.file is not None and samples.hex != one.file.fingerprint:
            raise VerificationFailed(
                f"{one.key} has other rows than were written",
                path=one.key,
                hint="run `atlas vault fsck --deep`; nothing was replaced",
            )
        return FileFacts(
            samples.rows,
            path.stat().st_size,
            sha256,
            samples.hex,
            bounds.min_timestamp,
            bounds.max_timestamp,
            None,
            None,
        )

    def sorted_rows(self, day: date) -> Iterator[pa.Table]:
        """The rows of one day in order, of each sample the one that counts, as whole row groups."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        since, until = as_scalar(midnight), as_scalar(midnight + _DAY)

        def batches() -> Iterator[pa.RecordBatch]:
            for one, path in zip(self._inputs, self._paths, strict=True):
                for table in self._rows(one.key, path):
                    mask = pc.and_(
                        pc.greater_equal(table["timestamp"], since),
                        pc.less(table["timestamp"], until),
                    )
                    if len(self._excluded):
                        barred = pc.is_in(table["video_id"], value_set=self._excluded)
                        mask = pc.and_not(mask, barred)
                    yield from table.filter(mask).to_batches()

        def outdone(losers: pa.Table) -> None:
            for batch in losers.to_batches():
                self.tally.outdone.update(batch)

        folder = self._folder / day.isoformat()
        folder.mkdir()
        runs = list(sorted_runs(batches(), folder))
        for table in rechunked(merge_sorted(runs, winner="seq", on_losers=outdone), ROW_GROUP_ROWS):
            yield table.cast(STATS_SCHEMA)

    def _rows(self, key: str, path: Path) -> Iterator[pa.Table]:
        try:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    table = conformed(file.read_row_group(group))
                    yield table.rename_columns(STATS_SCHEMA.names)
        except UNDECODABLE as error:
            raise CorruptObject(f"{key} cannot be decoded: {error}", path=key) from error


def _check_digest(key: str, path: Path) -> None:
    """An appended file has no ledger row to be compared with, but its name tells its rows' digest."""
    try:
        table = pq.read_table(path, partitioning=None)
    except UNDECODABLE as error:
        raise CorruptObject(f"{key} cannot be decoded: {error}", path=key) from error
    if digest_differs(key.rsplit("/", 1)[-1], table):
        raise VerificationFailed(
            f"{key} has other rows than its name tells",
            path=key,
            hint="restore the object from the store's versions; nothing was replaced",
        )


async def _written(
    steps: Steps, source: Source, day: date, batch_id: uuid.UUID, target_bytes: int, folder: Path
) -> AsyncIterator[tuple[FileRecord, FileFacts]]:
    """Write the rows of one day and prove each file, up to verified."""
    tables = source.sorted_rows(day)
    first = await offload(next, tables, None)
    while first is not None:
        file = await _announce(steps, day, batch_id)
        path = folder / "output.parquet"
        output = _Output(path, steps.footer(file), source.tally.written)
        first = await offload(output.write, first, tables, target_bytes)
        await steps.put(file, path)
        await steps.written(file, output.facts)
        await offload(
            verify_samples,
            steps.store,
            file.object_key,
            output.facts,
            None,
            folder,
            with_seq=output.with_seq.hex,
        )
        await steps.verified(file, output.facts)
        yield file, output.facts
        path.unlink()


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

    def __init__(self, path: Path, footer: dict[str, str], written: Fingerprint) -> None:
        self._path, self._footer, self._written = path, footer, written
        self.with_seq = Fingerprint(STATS_SCHEMA.names)
        self.facts: FileFacts

    def write(
        self, first: pa.Table, rest: Iterator[pa.Table], target_bytes: int
    ) -> pa.Table | None:
        """Write row groups until the file has its size; gives the first one that is left."""
        samples, bounds = Fingerprint(SAMPLE_COLUMNS), Bounds()
        table: pa.Table | None = first
        with (
            self._path.open("wb") as target,
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
                {"atlas.rows": str(samples.rows), "atlas.fingerprint": samples.hex}
            )
        self.facts = FileFacts(
            samples.rows,
            self._path.stat().st_size,
            file_sha256(self._path),
            samples.hex,
            bounds.min_timestamp,
            bounds.max_timestamp,
            bounds.min_video_id,
            bounds.max_video_id,
        )
        return table
