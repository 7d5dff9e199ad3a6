"""Cold files fetched to this machine and checked: what is read where files are replaced or restored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.samples import RUN_ROWS, Bounds, read_back
from atlas.archive.session import Steps
from atlas.errors import CorruptObject, VerificationFailed
from atlas.reading.cold import as_scalar, conformed, open_cold
from atlas.repositories.erasure import Erasure
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.repositories.ledger.digests import Erased, ErasedDigests
from atlas.repositories.ledger.files import FileFacts, FileRecord
from atlas.repositories.ledger.swap import AppendedFile
from atlas.tables.external_sort import encoded_runs, rechunked
from atlas.tables.fingerprint import Fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS, UNDECODABLE, UNREADABLE
from atlas.tables.sample import SAMPLE_COLUMNS, STATS_SCHEMA, stated_columns
from atlas.tables.sorting import merge_sorted
from atlas.types import ObjectInfo, ObjectStore
from atlas.vault.layout import metrics_hour
from atlas.vault.offload import offload

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Input:
    """A file to be replaced: of the ledger, or an appended one, which the ledger does not know."""

    key: str
    file: FileRecord | None
    hour: datetime
    cold: ColdFile | None = None

    @classmethod
    def appended(cls, cold: ColdFile) -> Input:
        """An appended file, with what bounds the ``seq`` of its rows."""
        return cls(cold.object_key, None, metrics_hour(cold.object_key) or cold.first, cold)

    @classmethod
    def of(cls, file: FileRecord) -> Input:
        """A file of the ledger."""
        return cls(file.object_key, file, file.slice_start)


@dataclass(slots=True)
class Tally:
    """Every row that comes in must be in one of the others: nothing gets lost in the merge."""

    read: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    written: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    superseded: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))
    excluded: Fingerprint = field(default_factory=lambda: Fingerprint(STATS_SCHEMA.names))

    def check(self, what: str) -> None:
        rows = self.written.rows + self.superseded.rows + self.excluded.rows
        value = self.written.value + self.superseded.value + self.excluded.value
        if (rows, value % 2**64) != (self.read.rows, self.read.value):
            raise VerificationFailed(
                f"{what}: {self.read.rows} rows went in and {rows} came out",
                hint="nothing was replaced; this is a defect of Atlas, please report it",
            )


class Source:
    """The rows of cold files, fetched to this machine and checked, by UTC day.

    Without those of ids that are ``excluded`` or ``erased``; ``met`` are the ids found of the latter.
    """

    def __init__(
        self,
        store: ObjectStore,
        inputs: Sequence[Input],
        excluded: frozenset[str],
        erased: Erased,
        folder: Path,
    ) -> None:
        self._store, self._inputs, self._folder = store, inputs, folder
        self._excluded, self._erased = pa.array(sorted(excluded), pa.string()), erased
        self.met = set[str]()
        self.tally = Tally()
        self.appended: list[AppendedFile] = []
        self.byte_size = 0
        self._fetched: list[tuple[Input, Path, set[date]]] = []

    def open(self) -> list[date]:
        """Fetch and check every input; returns the days that they hold rows of."""
        days: set[date] = set()
        for number, one in enumerate(self._inputs):
            folder = self._folder / f"input-{number}"
            folder.mkdir()
            fetched = read_back(self._store, one.key, folder)
            if fetched is None:
                raise CorruptObject(f"{one.key} is not in the vault", path=one.key)
            path, sha256 = fetched
            facts = self._examine(one, path, sha256)
            self.byte_size += facts.byte_size
            held: set[date] = set()
            if facts.min_timestamp is not None and facts.max_timestamp is not None:
                first, last = (
                    moment.astimezone(UTC).date()
                    for moment in (facts.min_timestamp, facts.max_timestamp)
                )
                held = {first + _DAY * step for step in range((last - first).days + 1)}
            self._fetched.append((one, path, held))
            days |= held
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
        samples, bounds = Fingerprint(_stated(one, path)), Bounds()
        for table in self._rows(one, path):
            for batch in table.to_batches():
                self.tally.read.update(batch)
                samples.update(batch)
                bounds.see(batch)
            self._meet(table)
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

    def _meet(self, table: pa.Table) -> None:
        """Exclude the ids in there that are known to be forgotten by their hashes alone."""
        if not self._erased.digests:
            return
        met = self._erased.among(pc.unique(table["video_id"]).to_pylist())
        self.met.update(met)
        both = {*self._excluded.to_pylist(), *met}
        self._excluded = pa.array(sorted(both), pa.string())

    def sorted_rows(self, day: date) -> Iterator[pa.Table]:
        """The rows of one day in order, of each sample the one that counts, as whole row groups."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        since, until = as_scalar(midnight), as_scalar(midnight + _DAY)

        def batches() -> Iterator[pa.RecordBatch]:
            for one, path, held in self._fetched:
                if day not in held:
                    continue
                for table in self._rows(one, path):
                    mask = pc.and_(
                        pc.greater_equal(table["timestamp"], since),
                        pc.less(table["timestamp"], until),
                    )
                    if len(self._excluded):
                        barred = pc.is_in(table["video_id"], value_set=self._excluded)
                        mask = pc.and_not(mask, barred)
                    yield from table.filter(mask).to_batches()

        def superseded(losers: pa.Table) -> None:
            for batch in losers.to_batches():
                self.tally.superseded.update(batch)

        folder = self._folder / day.isoformat()
        folder.mkdir()
        merge = partial(merge_sorted, winner="seq", on_losers=superseded)
        runs = encoded_runs(folder, merge, run_rows=RUN_ROWS)
        for batch in batches():
            runs.add(pa.Table.from_batches([batch]))
        for table in rechunked(runs.merged(), ROW_GROUP_ROWS):
            yield table.select(STATS_SCHEMA.names).cast(STATS_SCHEMA)

    def _rows(self, one: Input, path: Path) -> Iterator[pa.Table]:
        """The rows of a fetched file; of an appended one those that can be samples."""
        names = [*SAMPLE_COLUMNS, "seq"]
        if one.cold is not None:
            file = open_cold(_Fetched(one.key, path), one.cold, Selection())
            yield from (file.read(part).rename_columns(names) for part in file.parts)
            return
        try:
            with pq.ParquetFile(path) as whole:
                for group in range(whole.num_row_groups):
                    yield conformed(whole.read_row_group(group)).rename_columns(names)
        except UNDECODABLE as error:
            raise CorruptObject(f"{one.key} cannot be decoded: {error}", path=one.key) from error


async def open_source(
    steps: Steps, inputs: Sequence[Input], folder: Path
) -> tuple[Source, list[date]]:
    """Fetch and check the inputs, less rows of forgotten ids; returns also the days that they hold rows of.

    Ids in there that were known to be forgotten by their hashes alone are known by name from then on: the
    next run does their erasure again.
    """
    async with steps.database.transaction(read_only=True) as session:
        # hashes first: an id that is met in between is in both
        erased = Erased(steps.owner, await ErasedDigests(session).all())
        forgotten = frozenset(await Erasure(session).forgotten())
    source = Source(steps.store, inputs, forgotten, erased, folder)
    days = await offload(source.open)
    if source.met:
        async with steps.database.transaction() as session:
            await steps.ledger(session)
            await ErasedDigests(session).met(source.met)
    return source, days


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An object on this machine's disk, in place of the store that it came from."""

    identity: str
    path: Path

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        return self.path.open("rb")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(())


def _stated(one: Input, path: Path) -> tuple[str, ...]:
    """The columns that the file's fingerprint covers."""
    if one.file is None:
        return SAMPLE_COLUMNS
    try:
        return stated_columns(pq.read_metadata(path).metadata or {})
    except UNREADABLE as error:
        raise CorruptObject(f"{one.key} cannot be rewritten: {error}", path=one.key) from error
