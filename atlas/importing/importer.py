"""Taking in exports of videos and counters, of any shape and as dirty as real ones are; see docs/import.md.

Every row is read before the first is understood (formats are decided from whole columns), and every row is
understood before the first is written. All of it lies in temporary files: memory is bounded.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from atlas.db import Database
from atlas.db.clock import clock
from atlas.errors import InvalidInput
from atlas.importing.columns.fields import FLAGS
from atlas.importing.columns.rows import SAMPLES, Fault, understand
from atlas.importing.columns.surveying import Group, Surveyed, survey
from atlas.importing.files.columnar import read_parquet
from atlas.importing.files.delimited import read_delimited
from atlas.importing.files.dialect import Head
from atlas.importing.files.documents import is_json, values
from atlas.importing.files.payloads import records
from atlas.importing.files.sources import (
    NoTable,
    Source,
    broken_as_input,
    files_of,
    opened,
    total_size,
)
from atlas.importing.files.spool import LINE, SOURCE, Rows, Spool
from atlas.importing.files.text import Decoded, printable
from atlas.importing.loading import (
    Buckets,
    Distinct,
    Loaded,
    VideoLoader,
    distinct,
    load_samples,
    together,
)
from atlas.importing.options import Options
from atlas.importing.report import (
    LEADING,
    ImportReport,
    ReportFile,
    as_it_was,
    check_place,
)
from atlas.ingest import AHEAD
from atlas.reader import StatsReader
from atlas.types import Progress
from atlas.vault import Vault
from atlas.vault.temporary import workdir

__all__ = ["ImportReport", "Options", "import_files", "read_samples"]

#: Notes on sources that are shown; a folder may have thousands.
_NOTES = 12


async def import_files(
    database: Database,
    paths: Sequence[Path],
    options: Options | None = None,
    *,
    vault: Vault | None = None,
    progress: Progress | None = None,
    report: ImportReport | None = None,
) -> ImportReport:
    """Import files, folders or standard input (``-``): videos, their channels and schedule, and samples.

    Can be repeated: what is there already is left as it is. Nothing is written before every row is
    understood; a failure after that leaves whole batches. ``report`` is filled in as the work goes on, for
    those who interrupt it. Raises `InvalidInput` for what is no table and for
    what only a person can say, `AtlasError` where the report cannot be written, and `DatabaseError`.
    """
    options = options or Options()
    async with database.transaction(read_only=True) as session:
        latest = await clock(session) + AHEAD
    with workdir("import") as folder:
        report_progress = progress or (lambda done, total, what: None)
        job = Job(folder, paths, options, latest, report_progress, report)
        try:
            await asyncio.to_thread(job.prepare)
        except asyncio.CancelledError:
            job.stopped = True  # the thread ends at its next look
            raise
        if job.report.good:
            await job.load(database, StatsReader(database, vault))
        return job.report


def read_samples(paths: Sequence[Path], options: Options | None = None) -> pa.Table:
    """The samples of files as an import would write them; nothing is written."""
    with workdir("import") as folder:
        made = dataclasses.replace(options or Options(), report=folder / "report.csv")
        latest = datetime.now(UTC) + AHEAD
        job = Job(folder, paths, made, latest, lambda done, total, what: None)
        job.prepare()
        return pa.concat_tables([SAMPLES.empty_table(), *job.samples])


class _Stopped(Exception):
    """Nobody waits for the work any more."""


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    spool: Spool
    names: list[str] = field(default_factory=list)
    groups: dict[int, Group] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    records: dict[str, Rows] = field(default_factory=dict)

    def add(self, name: str, batch: pa.Table) -> None:
        """Put a batch of a group into the spool."""
        number = self.by_name.setdefault(name, len(self.by_name))
        group = self.groups.setdefault(number, Group(name))
        group.see(batch)
        self.spool.add(batch, number)


class Job:
    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        options: Options,
        latest: datetime,
        progress: Progress,
        report: ImportReport | None = None,
    ) -> None:
        self.report = report if report is not None else ImportReport()
        self.stopped = False
        self.samples: Buckets
        self._folder, self._options, self._latest = folder, options, latest
        self._paths = paths
        self._files = files_of(paths)
        self._progress = progress
        self._size = total_size(paths)
        self._read_bytes = 0
        self.facts = Spool(folder / "facts")
        self._videos = Distinct(folder)
        self._surveyed: Surveyed
        if not self._files:
            raise InvalidInput("there is no file to import", field="file")
        first = "stdin" if str(paths[0]) == "-" else paths[0].resolve().name
        self._place = options.report or Path(f"{first.removesuffix('.gz')}.rejected.csv")

    def prepare(self) -> None:
        """Read and understand everything; nothing is written but the report."""
        check_place(self._place, [one for one in self._files if str(one) != "-"])
        reading = _Reading(Spool(self._folder / "rows"))
        several = len(self._files) > 1
        for path in self._files:
            self._read(path, reading, lenient=several)
        for name, rows in reading.records.items():
            if rows.lines:
                reading.add(name, rows.batch())
        self.report.notes = reading.notes[:_NOTES]
        if len(reading.notes) > _NOTES:
            self.report.notes.append(f"and {len(reading.notes) - _NOTES} more files")
        if not reading.groups:
            raise InvalidInput(
                "there is no row to import", field="file", hint="; ".join(self.report.notes) or None
            )
        self._surveyed = survey(reading.groups, lambda: reading.spool, self._options, self._latest)
        self._describe(reading)
        self._understand(reading)

    def _report(self, done: int, total: int | None, what: str) -> None:
        if self.stopped:
            raise _Stopped
        self._progress(done, total, what)

    # --- reading

    def _read(self, path: Path, reading: _Reading, *, lenient: bool) -> None:
        try:
            with opened(path, self._count(reading), lenient=lenient) as sources:
                for source in sources:
                    try:
                        self._read_source(source, reading)
                    except NoTable as error:
                        if not source.lenient:
                            raise
                        reading.notes.append(f"left out: {error.message}")
        except NoTable as error:
            if not lenient:
                raise
            reading.notes.append(f"left out: {error.message}")

    def _count(self, reading: _Reading) -> Callable[[int], None]:
        def count(read: int) -> None:
            self._read_bytes += read
            self._report(self._read_bytes, self._size, f"reading, {reading.spool.rows:,} rows")

        return count

    def _read_source(self, source: Source, reading: _Reading) -> None:
        number = len(reading.names)
        reading.names.append(source.name)
        if source.refused is not None:
            raise source.refused
        head = source.head()
        with broken_as_input(source.name):
            if head.startswith(b"PAR1"):
                for batch in read_parquet(source.content, number):
                    reading.add(",".join(batch.column_names), batch)
                reading.notes.append(f"{printable(source.name)}: Parquet")
                return
            text = Decoded(source.content, self._options.encoding)
            blocks = iter(text)
            first = next((block for block in blocks if block.strip()), "")
            if not first:
                raise NoTable(
                    f"{printable(source.name)} has no text", field="file", value=source.name
                )
            chained = itertools.chain((first,), blocks)
            if is_json(first):
                self._read_json(chained, number, reading)
                shape = "JSON"
            else:
                shape = self._read_text(chained, number, reading)
        reading.notes.append(f"{printable(source.name)}: {shape}, {text.encoding}")

    def _read_json(self, blocks: Iterator[str], number: int, reading: _Reading) -> None:
        for value in values(blocks):
            if value.reason is not None:
                rows = reading.records.setdefault("json", Rows())
                rows.source = number
                rows.broken(value.line, value.reason, [value.text])
                continue
            for record in records(value.value):
                name = "yt-dlp" if "extractor" in record.cells else "json"
                rows = reading.records.setdefault(name, Rows())
                rows.source = number
                if record.reason is not None:
                    rows.odd(value.line, record.cells, record.reason, skipped=record.skipped)
                else:
                    rows.add(value.line, record.cells)
                if rows.is_full():
                    reading.add(name, rows.batch())

    def _read_text(self, blocks: Iterator[str], number: int, reading: _Reading) -> str:
        heads: list[Head] = []
        batches = read_delimited(
            blocks,
            delimiter=self._options.delimiter,
            columns=self._options.columns,
            found=heads.append,
            source=number,
        )
        for batch in batches:
            is_report = heads[0].header[:4] == LEADING
            if is_report:
                batch = as_it_was(batch)
            reading.add("\0".join(map(str, (*heads[0].header, is_report))), batch)
        (head,) = heads
        return f"text, {head.dialect.described()}"

    # --- understanding

    def _describe(self, reading: _Reading) -> None:
        ignored: dict[str, None] = {}
        for number in reading.groups:
            mapping = self._surveyed.plans[number].mapping
            used = {
                field: printable(column)
                for field, column in mapping.columns.items()
                if field not in FLAGS
            }
            if used not in self.report.mapping:
                self.report.mapping.append(used)
            ignored.update(dict.fromkeys(printable(one)[:80] for one in mapping.ignored))
        self.report.ignored = list(ignored)[:200]

    def _understand(self, reading: _Reading) -> None:
        header = list(
            dict.fromkeys(one for group in reading.groups.values() for one in group.header)
        )
        bad_rows = ReportFile(self._place, header, with_file=len(reading.names) > 1)
        self.samples = Buckets(self._folder, reading.spool.rows, self._surveyed.moments)
        kept = False
        try:
            for number, batch in reading.spool:
                self._understand_batch(batch, number, bad_rows, header, reading.names)
            kept = True
        finally:
            if bad_rows.close(keep=kept):
                self.report.rejected = str(self._place)
        self.report.videos = self._videos.total()
        report, options = self.report, self._options
        if not options.allows(report.bad, report.rows - report.skipped):
            raise InvalidInput(
                f"{report.bad:,} of {report.rows:,} rows are bad, more than --max-bad {options.max_bad}",
                field="max-bad",
                value=report.bad,
                hint=f"nothing was imported; they are listed in {self._place}",
            )

    def _understand_batch(
        self,
        batch: pa.Table,
        number: int,
        bad_rows: ReportFile,
        header: list[str],
        names: list[str],
    ) -> None:
        report = self.report
        found = understand(batch, self._surveyed.plans[number])
        report.rows += batch.num_rows
        report.good += found.good
        report.without_counters += found.good - found.samples.num_rows
        self.samples.add(found.samples)
        if found.facts.num_rows:
            facts = distinct(found.facts)
            self._videos.add(facts["video_id"])
            self.facts.add(facts, number)
        last_partial = -1
        for fault in found.faults:
            tally = {
                "bad": report.reasons,
                "partial": report.lost,
                "skipped": report.skipped_reasons,
            }
            reasons = tally[fault.kind]
            reason = (
                f"{printable(fault.column)}: {fault.reason}"
                if fault.kind == "partial"
                else fault.reason
            )
            if reason in reasons or len(reasons) < 1000:
                reasons[reason] = reasons.get(reason, 0) + 1
            if fault.kind == "skipped":
                report.skipped += 1
                continue
            if fault.kind == "bad":
                report.bad += 1
            elif fault.row != last_partial:
                report.partial += 1
            if fault.row != last_partial:
                self._put(bad_rows, batch, fault, header, names)
            last_partial = fault.row
        self._report(self._read_bytes, self._size, f"checking, {report.rows:,} rows")

    def _put(
        self,
        bad_rows: ReportFile,
        batch: pa.Table,
        fault: Fault,
        header: list[str],
        names: list[str],
    ) -> None:
        row = {name: batch[name][fault.row].as_py() for name in batch.column_names}
        reason = fault.reason
        if fault.kind == "partial":
            reason = f"imported without this field: {reason}"
        name = names[row[SOURCE]]
        cells = [row.get(one) for one in header]
        bad_rows.add(row[LINE], fault.column, fault.value, reason, name, cells)

    # --- loading

    async def load(self, database: Database, reader: StatsReader) -> None:
        """Write videos, then samples; what was written is in the report, whatever happens."""
        rows, done = max(1, self.report.good), 0
        size = self._size or self._read_bytes
        report = self.report

        def advance(more: int, what: str) -> None:
            nonlocal done
            done += more
            share = min(1.0, done / (2 * rows))
            self._report(int(size * share), size, f"{what}, {done:,} rows")

        loader = VideoLoader(database)
        for number, facts, read in together(self.facts):
            await loader.load(facts, self._surveyed.plans[number].tag_separator)
            advance(read, "loading videos")
        done = rows
        counts = Loaded()
        async for more in load_samples(database, reader, self.samples, counts):
            report.new, report.replaced = counts.new, counts.replaced
            report.unchanged, report.forgotten = counts.unchanged, counts.forgotten
            report.samples = counts.new + counts.replaced + counts.unchanged
            advance(more, "loading samples")
        report.notes += counts.remarks
