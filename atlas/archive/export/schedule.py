"""Slow videos of long ago on their way to the vault, and back; docs/forever.md is the protocol.

A file of one month's entries becomes live while the ring still has all of them; then it is settled, slice by
slice. Whatever dies in between is done again, with the same result.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas.archive.export.finished import announce, export_rows
from atlas.archive.session import Steps
from atlas.config import get_settings
from atlas.db.clock import Session, clock
from atlas.db.locks import retry_when_locked
from atlas.logging import get_logger
from atlas.reading.schedule import ScheduleReader, passing_over
from atlas.repositories.erasure import Erasure
from atlas.repositories.ledger.files import FileRecord
from atlas.repositories.ledger.schedule import ScheduleFile, ScheduleFiles
from atlas.repositories.ledger.swap import Replacement
from atlas.repositories.ring.cohorts import (
    ROUND,
    CohortReader,
    Cohorts,
    month_of,
)
from atlas.repositories.ring.filter import (
    Filter,
    FilterReader,
    Pairs,
    counting,
    prefixes_of,
    settle,
)
from atlas.repositories.ring.page import KNOWN, Entries, in_order, joined
from atlas.repositories.ring.page_table import PATIENCE
from atlas.repositories.ring.pages import Ring, RingReader
from atlas.repositories.ring.parking import Parking
from atlas.repositories.ring.positions import Positions, ids_of, is_canonical, positions_of
from atlas.tables.archived import ARCHIVED
from atlas.types import Dataset, Progress
from atlas.vault.offload import offload
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: Entries of a month that are worth a file, and the part of what its files have that is worth a further one.
LEAST, PART = 100_000, 0.25
#: Cohorts that are collected in one pass over the ring: 14 bytes an entry.
COHORTS_AT_ONCE = 12
#: Slices of the positions of which one is settled in a transaction, where there are that many pages.
SLICES, PAGES_A_SLICE = 64, 50

_TABLE = ARCHIVED[Dataset.SCHEDULE]


async def cohorts_to_move(session: Session, least: int = LEAST) -> list[int]:
    """The cohorts of long ago, that of DORMANT videos included, of which the ring has enough entries."""
    months = get_settings().watchlist_vault_months
    if not months:
        return []
    now = await clock(session)
    return [
        cohort.number
        for cohort in await CohortReader(session).all()
        if cohort.number != KNOWN
        and _months_since(month_of(cohort.number)[0], now) >= months
        and cohort.in_ring >= max(least, PART * cohort.in_files)
    ]


async def move_schedule(
    steps: Steps, cohorts: Iterable[int], least: int = LEAST, progress: Progress | None = None
) -> int:
    """Write a file for each of the cohorts, and settle what is not settled; returns how many videos moved."""
    moved, left = 0, list(cohorts)
    while left:
        some, left = left[:COHORTS_AT_ONCE], left[COHORTS_AT_ONCE:]
        for cohort, entries in (await _collected(steps, some)).items():
            if len(entries) >= least:  # else they were parked elsewhere meanwhile, or barred
                moved += await _move(steps, cohort, entries)
    await settle_files(steps, progress)
    return moved


async def _collected(steps: Steps, cohorts: Sequence[int]) -> dict[int, Entries]:
    """What the ring has of cohorts, but barred ids."""
    parts: dict[int, list[Entries]] = {cohort: [] for cohort in cohorts}
    async with steps.database.transaction(read_only=True) as session:
        barred = await _barred(session)
        async for entries in RingReader(session).runs():
            free = entries.taken(~np.isin(entries.positions, barred))
            for cohort, part in parts.items():
                part.append(free.taken(free.cohorts == cohort))
    return {cohort: joined(part) for cohort, part in parts.items()}


async def _move(steps: Steps, cohort: int, entries: Entries) -> int:
    """ring -> live file."""
    month = month_of(cohort)
    file = await announce(steps, _TABLE, month[0], month)
    with workdir() as folder:
        await export_rows(steps, file, await offload(table_of, entries, file.seq), folder)
    await steps.live(file)
    log.info("schedule_moved", cohort=cohort, key=file.object_key, videos=len(entries))
    return len(entries)


async def settle_files(steps: Steps, progress: Progress | None = None) -> int:
    """Let live files that are not settled take the place of what the ring has of them; returns how many.

    Each slice is a transaction under the fence. Raises `LeaseLost`, `VaultError`.
    """
    async with steps.database.transaction(read_only=True) as session:
        files = await ScheduleFiles(session).unsettled()
    files = [file for file in files if await offload(_is_readable, steps, file)]
    if not files:
        return 0
    until = time.monotonic() + PATIENCE
    async for first, last in _slices(steps, files):
        if progress is not None:
            progress(first * SLICES // ROUND, SLICES, "schedule")
        spans = await _read(steps, files, first, last)
        if any(map(len, spans)):
            await _settle_slice(steps, first, last, spans)
            await _reclaim(steps, until)
    async with steps.database.transaction() as session:
        await steps.ledger(session)
        await ScheduleFiles(session).mark_settled([file.id for file in files])
        await Cohorts(session).ensure({file.cohort for file in files})
    log.info("schedule_settled", files=len(files), videos=sum(file.rows for file in files))
    return len(files)


async def restore_schedule(steps: Steps, progress: Progress | None = None) -> int:
    """Put all rows of the files back into the ring, and retire the files; returns how many there were.

    May be stopped and called again. Nothing is deleted: clean-up does it, after the grace period. A file that
    cannot be read stops it.
    """
    # of one that is not settled no row would count
    await settle_files(steps)
    async with steps.database.transaction(read_only=True) as session:
        files = await ScheduleFiles(session).live()
    until = time.monotonic() + PATIENCE
    async for first, last in _slices(steps, files):
        if progress is not None:
            progress(first * SLICES // ROUND, SLICES, "schedule")
        await _restore_slice(steps, first, last, await _read(steps, files, first, last))
        await _reclaim(steps, until)
    async with steps.database.transaction() as session:
        replacement = Replacement(session, steps.fence)
        await replacement.hold()
        records = [await replacement.get(file.id) for file in files]
        await Filter(session).empty()
        await replacement.swap([], records, [], vault=steps.store.identity, batch_id=uuid.uuid4())
    await _reclaim(steps, until)
    log.info("schedule_restored", files=len(files))
    return sum(file.rows for file in files)


def table_of(entries: Entries, seq: int) -> pa.Table:
    """Entries as rows of a file of the schedule."""
    count = len(entries)
    return pa.table(
        [
            pa.array(ids_of(entries.positions), pa.string()),
            pa.array((entries.positions ^ np.uint64(2**63)).view(np.int64)),
            _dates(entries.days),
            _dates(entries.parked),
            pa.array(np.full(count, seq, np.int64)),
        ],
        schema=_TABLE.schema,
    )


def schedule_has(steps: Steps, file: FileRecord, video_ids: Iterable[str]) -> bool:
    """Whether a live file of the schedule has one of these videos; one that is not there has none."""
    if steps.store.stat(file.object_key) is None:
        return False
    wanted = positions_of([one for one in video_ids if is_canonical(one)])
    return bool(ScheduleReader(steps.store).has(ScheduleFile.of(file), wanted).any())


async def _slices(steps: Steps, files: Sequence[ScheduleFile]) -> AsyncIterator[tuple[int, int]]:
    """Spans of the positions, first and last, that are settled in a transaction each."""
    async with steps.database.transaction(read_only=True) as session:
        pages = await RingReader(session).pages() + await FilterReader(session).pages()
    pages += sum(file.rows for file in files) // 1_000
    count = min(SLICES, 1 + pages // PAGES_A_SLICE)
    for number in range(count):
        yield ROUND * number // count, ROUND * (number + 1) // count - 1


def _is_readable(steps: Steps, file: ScheduleFile) -> bool:
    """Whether a file can be read; one that is lost or damaged must not keep the others from being settled."""
    with passing_over(file):
        ScheduleReader(steps.store).between(file, 0, ROUND - 1)
        return True
    return False


async def _read(
    steps: Steps, files: Sequence[ScheduleFile], first: int, last: int
) -> list[Entries]:
    reader = ScheduleReader(steps.store)
    return [await offload(reader.between, file, first, last) for file in files]


@retry_when_locked
async def _settle_slice(steps: Steps, first: int, last: int, spans: Sequence[Entries]) -> None:
    rows = in_order(joined(spans))
    changes: Counter[int] = Counter()
    added: list[Entries] = []

    def take_out(lower: int, upper: int, before: Entries) -> Entries | None:
        settled = settle(before, rows.between(lower, upper), barred)
        added.append(settled.added)
        _count(changes, before, settled.ring)
        return settled.ring if len(settled.ring) < len(before) else None

    def put_in(lower: int, upper: int, before: Pairs) -> Pairs | None:
        some = new.between(lower, upper)
        after = before.union(Pairs.of(prefixes_of(some.positions), some.cohorts))
        return after if len(after) > len(before) else None

    async with steps.database.transaction() as session:
        await steps.ledger(session)
        # who turns the calendar looks at ring and filter, one after the other
        await Cohorts(session).lock()
        barred = await _barred(session)
        # a rebuilt database has one of every video that was ever collected
        await Parking(session).drop_tombstones(ids_of(rows.positions))
        await Ring(session).rewrite(first, last, take_out)
        new = joined(added)
        await Filter(session).rewrite(first, last, put_in)
        await Cohorts(session).count(changes)


@retry_when_locked
async def _restore_slice(steps: Steps, first: int, last: int, spans: Sequence[Entries]) -> None:
    changes: Counter[int] = Counter()

    def put_back(lower: int, upper: int, before: Entries) -> Entries | None:
        ring, is_changed = before, False
        for rows in spans:
            back = counting(rows.between(lower, upper), ring, pairs)
            back = back.taken(~np.isin(back.positions, barred))
            ring, is_changed = ring.merged(back), is_changed or len(back) > 0
        _count(changes, before, ring)
        return ring if is_changed else None

    async with steps.database.transaction() as session:
        await steps.ledger(session)
        await Cohorts(session).lock()
        barred = await _barred(session)
        pairs = await FilterReader(session).between(first, last)
        await Ring(session).rewrite(first, last, put_back)
        await Cohorts(session).count(changes)


def _count(changes: Counter[int], before: Entries, after: Entries) -> None:
    for entries, sign in (after, 1), (before, -1):
        cohorts, counts = np.unique(entries.cohorts, return_counts=True)
        for cohort, count in zip(cohorts.tolist(), counts.tolist(), strict=True):
            changes[cohort] += sign * count


async def _reclaim(steps: Steps, until: float) -> None:
    """Give the room of pages that were packed anew to the next ones."""
    if get_settings().database_pool_mode == "transaction":
        return
    async with steps.database.autocommit() as session:
        await Ring(session).vacuum(until)
        await Filter(session).vacuum(until)


async def _barred(session: Session) -> Positions:
    """Of ids that were forgotten, or are about to be."""
    ids = await Erasure(session).forgotten()
    return positions_of([one for one in ids if is_canonical(one)])


def _months_since(month: datetime, now: datetime) -> int:
    return (now.year - month.year) * 12 + now.month - month.month


def _dates(days: npt.NDArray[np.uint16]) -> pa.Array:
    return pa.array(days.astype(np.int32), mask=days == 0).cast(pa.date32())
