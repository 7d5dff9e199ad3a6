"""Bringing cold samples back to PostgreSQL for a while, and letting them go again.

A restored sample is a copy: the cold files stay, and the hot row keeps the ``seq`` of the cold one, by which
it competes with what is appended later. The pin is written before the first row, so that no run archives
what is being restored. A write takes the ``seq`` from a row. Letting go removes the rows that still have
one; what was written meanwhile stays hot and takes the way of every late sample.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from atlas.archive.export.slices import Run
from atlas.archive.maintenance.inputs import Input, open_source
from atlas.archive.session import Steps
from atlas.config import get_settings
from atlas.db.clock import Session, clock
from atlas.db.locks import retry_when_locked
from atlas.errors import InvalidInput, VerificationFailed
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.cold import as_scalar, why_left_out
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.hot.restored import Pin, Pins, RestoredSamples, StagedSamples
from atlas.repositories.hot.snapshot import Selection
from atlas.repositories.ledger.files import LedgerReader
from atlas.types import Dataset, Progress, utc
from atlas.vault.offload import offload
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: Bytes of a hot row with its index entry, measured (docs/sizing.md).
_HOT_ROW_BYTES = 129


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What is hot again: ``rows`` samples, ``restored`` of them by this call; the whole pinned span."""

    rows: int
    restored: int
    pinned_from: datetime
    pinned_until: datetime


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """What was let go: pins, and the hot rows that were removed; ``kept`` had been written meanwhile."""

    pins: int = 0
    rows: int = 0
    kept: int = 0


async def restore(
    steps: Steps, since: datetime, until: datetime, progress: Progress | None
) -> RestoreReport:
    """Copy the cold samples of a span back to the hot tier and pin the span."""
    if utc(since, field="since") >= utc(until, field="until"):
        raise InvalidInput(
            f"nothing lies between {since.isoformat()} and {until.isoformat()}", field="since"
        )
    # a sealed row is newer than a cold one, and must not be superseded by its restored copy
    await Run(steps, since, None).finish_left()
    span = Pin(since, until)
    inputs = await _inputs(steps, span)
    await _check_budget(steps, inputs)
    async with steps.database.transaction() as session:
        await steps.ledger(session)
        pinned = await Pins(session).add(span)
    rows = restored = 0
    async for table in _samples(steps, inputs, span):
        restored += await _write(steps, table)
        rows += table.num_rows
        if progress is not None:
            progress(rows, None, f"{table['timestamp'][0].as_py():%Y-%m-%d}")
        log.debug("archive_restored", rows=table.num_rows)
    log.info("restored", rows=rows, written=restored)
    return RestoreReport(rows, restored, pinned.since, pinned.until)


async def release(steps: Steps, since: datetime | None, until: datetime | None) -> ReleaseReport:
    """Let go of the pins that lie in a span (None: without end)."""
    async with steps.database.transaction(read_only=True) as session:
        pins = [
            pin
            for pin in await Pins(session).all()
            if (since is None or since <= pin.since) and (until is None or pin.until <= until)
        ]
    rows = kept = 0
    for pin in pins:
        for day in pin.days():
            async with steps.database.transaction() as session:
                await steps.ledger(session)
                rows += await RestoredSamples(session).delete(day)
        async with steps.database.transaction() as session:
            await steps.ledger(session)
            restored = RestoredSamples(session)
            kept += await restored.count_written(pin)
            await Pins(session).remove(pin)
    log.info("released", pins=len(pins), rows=rows, kept=kept)
    return ReleaseReport(len(pins), rows, kept)


async def _inputs(steps: Steps, span: Pin) -> list[Input]:
    """Every cold file that can hold samples of the span."""
    selection = Selection.of(None, span.since, span.until)
    async with steps.database.transaction(read_only=True) as session:
        ledger = LedgerReader(session)
        live = await ledger.live_files(Dataset.STATS)
        adopted = await ledger.keys(Dataset.METRICS)
        now = await clock(session)
    appended = await offload(
        lambda: [
            file
            for file in appended_files(steps.store, selection, adopted, now)
            if why_left_out(steps.store, file) is None
        ]
    )
    return [
        Input.of(file)
        for file in live
        if file.min_timestamp is not None
        and file.max_timestamp is not None
        and selection.may_touch(file.min_timestamp, file.max_timestamp)
    ] + [Input.appended(file) for file in appended]


async def _check_budget(steps: Steps, inputs: Iterable[Input]) -> None:
    """Refuse what would push the hot tier past its budget: pinned rows cannot make room."""
    async with steps.database.transaction(read_only=True) as session:
        hot = sum(partition.byte_size for partition in await Partitions(session).attached())
    rows = sum(one.file.facts.row_count for one in inputs if one.file is not None)
    budget = get_settings().hot_max_bytes
    if hot + rows * _HOT_ROW_BYTES > budget:
        raise InvalidInput(
            f"up to {rows:,} samples would come back, about {rows * _HOT_ROW_BYTES:,} bytes; "
            f"{hot:,} of HOT_MAX_BYTES {budget:,} are in use",
            field="since",
            hint="restore a shorter span, release another one, or raise HOT_MAX_BYTES",
        )


async def _samples(steps: Steps, inputs: list[Input], span: Pin) -> AsyncIterator[pa.Table]:
    """The cold samples of a span, each once as it counts, in tables of a row group at most."""
    since, until = as_scalar(span.since), as_scalar(span.until)
    with workdir() as folder:
        source, days = await open_source(steps, inputs, folder)
        for day in days:
            tables = source.sorted_rows(day)
            while (table := await offload(next, tables, None)) is not None:
                inside = pc.and_(
                    pc.greater_equal(table["timestamp"], since),
                    pc.less(table["timestamp"], until),
                )
                if (table := table.filter(inside)).num_rows:
                    yield table


async def _write(steps: Steps, samples: pa.Table) -> int:
    """Write what is not hot, and prove that all of it is; returns how many were missing."""
    hours = get_settings().stats_partition_hours
    # partitions begin and end on whole hours: one moment of each hour finds every one of them
    moments = pc.unique(pc.floor_temporal(samples["timestamp"], unit="hour")).to_pylist()

    @retry_when_locked
    async def make_partitions() -> None:
        async with steps.database.transaction() as session:
            await Partitions(session).ensure(moments, hours)

    @retry_when_locked
    async def write() -> int:
        async with steps.database.transaction() as session:
            await steps.ledger(session)
            return await _insert(session, samples)

    await make_partitions()
    return await write()


async def _insert(session: Session, samples: pa.Table) -> int:
    staged = StagedSamples(session)
    await staged.load(samples)
    inserted = await staged.insert_missing()
    hot = await staged.count_hot()
    if hot != samples.num_rows:
        raise VerificationFailed(
            f"{samples.num_rows} samples were to be restored, {hot} of them are in the database",
            hint="nothing of this part was kept; restore again",
        )
    return inserted
