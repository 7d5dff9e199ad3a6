"""Taking in exports of videos and counters, of any shape and as dirty as real ones are; see docs/import.md.

Every row is read before the first is understood (formats are decided from whole columns), and every row is
understood before the first is written. All of it lies in temporary files: memory is bounded.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from atlas.db import Database
from atlas.db.clock import clock
from atlas.errors import InvalidInput
from atlas.importing.columns.fields import FLAGS, listed
from atlas.importing.columns.rows import SAMPLES, Fault, understand
from atlas.importing.columns.surveying import Surveyed, survey
from atlas.importing.files.sources import files_of, total_size
from atlas.importing.files.spool import LINE, SOURCE, Spool
from atlas.importing.files.text import printable
from atlas.importing.loading import Buckets, Loaded, load_samples
from atlas.importing.options import Options
from atlas.importing.reading import Reading
from atlas.importing.report import ImportReport, ReportFile, check_place
from atlas.importing.stored import StoredSamples
from atlas.importing.videos import Facts, VideoLoader
from atlas.ingest import AHEAD
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
            await job.load(database, StoredSamples(database, vault))
        return job.report


def read_samples(paths: Sequence[Path], options: Options | None = None) -> pa.Table:
    """The samples of files as an import would write them; nothing is written."""
    with workdir("import") as folder:
        made = dataclasses.replace(options or Options(), report=folder / "report.csv")
        latest = datetime.now(UTC) + AHEAD
        job = Job(folder, paths, made, latest, lambda done, total, what: None)
        job.prepare()
        return pa.concat_tables([SAMPLES.empty_table(), *job.samples])


def _few(notes: list[str]) -> list[str]:
    more = len(notes) - _NOTES
    return [*notes[:_NOTES], *([f"and {more} more files"] if more > 0 else [])]


class _Stopped(Exception):
    """Nobody waits for the work any more."""


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
        self.facts = Facts(folder)
        self._surveyed: Surveyed
        if not self._files:
            raise InvalidInput("there is no file to import", field="file")
        first = "stdin" if str(paths[0]) == "-" else paths[0].resolve().name
        self._place = options.report or Path(f"{first.removesuffix('.gz')}.rejected.csv")

    def prepare(self) -> None:
        """Read and understand everything; nothing is written but the report."""
        check_place(self._place, [one for one in self._files if str(one) != "-"])
        spool = Spool(self._folder / "rows")
        reading = Reading(spool, self._options, lambda read: self._count(read, spool))
        several = len(self._files) > 1
        for path in self._files:
            reading.read(path, lenient=several)
        reading.finish()
        self.report.notes = _few(reading.notes)
        if not reading.groups:
            raise InvalidInput(
                "there is no row to import", field="file", hint="; ".join(self.report.notes) or None
            )
        self._surveyed = survey(reading.groups, lambda: reading.spool, self._options, self._latest)
        foreign = [
            f"left out: no column has a video's id or a counter: {listed(group.header)}"
            for number, group in reading.groups.items()
            if number not in self._surveyed.plans
        ]
        self.report.notes = _few([*foreign, *reading.notes])
        self._describe()
        self._understand(reading)

    def _count(self, read: int, spool: Spool) -> None:
        self._read_bytes += read
        self._report(self._read_bytes, self._size, f"reading, {spool.rows:,} rows")

    def _report(self, done: int, total: int | None, what: str) -> None:
        if self.stopped:
            raise _Stopped
        self._progress(done, total, what)

    # --- understanding

    def _describe(self) -> None:
        ignored: dict[str, None] = {}
        for plan in self._surveyed.plans.values():
            mapping = plan.mapping
            used = {
                field: printable(column)
                for field, column in mapping.columns.items()
                if field not in FLAGS
            }
            if used and used not in self.report.mapping:
                self.report.mapping.append(used)
            ignored.update(dict.fromkeys(printable(one)[:80] for one in mapping.ignored))
        self.report.ignored = list(ignored)[:200]

    def _understand(self, reading: Reading) -> None:
        header = list(
            dict.fromkeys(
                one for number in self._surveyed.plans for one in reading.groups[number].header
            )
        )
        bad_rows = ReportFile(self._place, header, with_file=len(reading.names) > 1)
        self.samples = Buckets(self._folder, reading.spool.rows, self._surveyed.moments)
        kept = False
        try:
            for number, batch in reading.spool:
                if number not in self._surveyed.plans:
                    continue
                self._understand_batch(batch, number, bad_rows, header, reading.names)
            kept = True
        finally:
            if bad_rows.close(keep=kept):
                self.report.rejected = str(self._place)
        self.report.videos = self.facts.videos()
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
            self.facts.add(found.facts, number)
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

    async def load(self, database: Database, stored: StoredSamples) -> None:
        """Write videos and samples, at once; what was written is in the report, whatever happens."""
        done = {"videos": 0, "samples": 0}
        wanted = max(1, self.report.videos + self.report.good)
        size = self._size or self._read_bytes

        def advance(what: str, more: int) -> None:
            done[what] += more
            share = min(1.0, sum(done.values()) / wanted)
            shown = ", ".join(f"{count:,} {name}" for name, count in done.items())
            self._report(int(size * share), size, f"loading, {shown}")

        loads = [
            asyncio.create_task(self._load_videos(database, stored, advance)),
            asyncio.create_task(self._load_samples(database, stored, advance)),
        ]
        try:
            await asyncio.gather(*loads)
        finally:
            for one in loads:
                one.cancel()
            await asyncio.wait(loads)

    async def _load_videos(
        self, database: Database, stored: StoredSamples, advance: Callable[[str, int], None]
    ) -> None:
        loader = VideoLoader(database, lambda: stored.store)
        for number, facts in self.facts:
            await loader.load(facts, self._surveyed.plans[number].tag_separator)
            advance("videos", facts.num_rows)
        if loader.undecided:
            self.report.notes.append(
                f"{loader.undecided} videos were left out: only files in the vault, which cannot be read, "
                "say whether they are known; import them again"
            )

    async def _load_samples(
        self, database: Database, stored: StoredSamples, advance: Callable[[str, int], None]
    ) -> None:
        report, counts = self.report, Loaded()
        async for more in load_samples(database, stored, self.samples, counts):
            report.new, report.replaced = counts.new, counts.replaced
            report.unchanged, report.forgotten = counts.unchanged, counts.forgotten
            report.samples = counts.new + counts.replaced + counts.unchanged
            advance("samples", more)
        report.notes += counts.remarks
