"""Which files of the vault are merged: small ones of a day, and appended metrics of hours that are over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from atlas.archive.maintenance.inputs import Input
from atlas.archive.maintenance.rewrite import Rewritten, rewrite
from atlas.archive.recovery.ownership import SHARED_HINT, is_sole_owner
from atlas.archive.session import Steps
from atlas.db.clock import clock
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.cold import why_left_out
from atlas.repositories.hot.snapshot import ColdFile, Selection, remember_metrics
from atlas.repositories.ledger.files import FileRecord, LedgerReader
from atlas.types import Dataset, ObjectStore, Progress
from atlas.vault.layout import metrics_hour
from atlas.vault.offload import offload

log = get_logger(__name__)

#: What a compacted file grows to: large enough for few requests, small enough to be fetched whole.
TARGET_BYTES = 128 << 20
#: How long after its end an hour of metrics counts as over: slow writers deliver late.
_HOUR_CLOSED = timedelta(hours=1, minutes=15)


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did, or with ``dry_run`` would take; ``failed`` are days it could not read,
    ``left_out`` objects under ``metrics/`` that are not what ``append_metrics`` writes."""

    days: int = 0
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    duplicates: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    failed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


async def compact(
    steps: Steps, target_bytes: int, *, dry_run: bool, progress: Progress | None
) -> CompactionReport:
    """Merge the files of every day that has more small ones than it needs."""
    if not dry_run:
        await notice_metrics(steps)
    async with steps.database.transaction(read_only=True) as session:
        now = await clock(session)
        live = await LedgerReader(session).live_files(Dataset.STATS)
        adopted = await LedgerReader(session).keys(Dataset.METRICS)
    appended, left_out = list[Input](), list[str]()
    if await offload(is_sole_owner, steps.store, steps.owner):
        closed = await offload(lambda: list(closed_metrics(steps.store, now, adopted)))
        appended, left_out = await offload(_examined, steps.store, closed)
    else:
        log.warning("metrics_not_adopted", hint=SHARED_HINT)
    jobs = _jobs(live, appended, target_bytes)
    if dry_run:
        return CompactionReport(len(jobs), sum(map(len, jobs.values())))
    done: list[Rewritten] = []
    failed: list[str] = []

    def reported() -> Iterator[list[Input]]:
        for number, (day, inputs) in enumerate(jobs.items()):
            if progress is not None:
                progress(number, len(jobs), day.isoformat())
            yield inputs

    async for one in rewrite(steps, reported(), target_bytes=target_bytes):
        if isinstance(one, Rewritten):
            done.append(one)
            continue
        # one bad file must not keep the other days from being merged
        day = one.inputs[0].hour.astimezone(UTC).date().isoformat()
        log.error("compaction_failed", day=day, error=str(one.error))
        failed.append(f"{day}: {one.error}")
    report = CompactionReport(
        days=len(done),
        files_before=sum(len(one.inputs) for one in done),
        files_after=sum(len(one.outputs) for one in done),
        rows=sum(one.rows_after for one in done),
        duplicates=sum(one.rows_before - one.rows_after - one.rows_excluded for one in done),
        bytes_before=sum(one.bytes_before for one in done),
        bytes_after=sum(one.bytes_after for one in done),
        failed=tuple(failed),
        left_out=tuple(left_out),
    )
    log.info("compaction", days=report.days, files=report.files_before, into=report.files_after)
    return report


async def notice_metrics(steps: Steps) -> None:
    """Note that the vault holds appended metrics, so that reads of recent samples look there too."""
    if steps.control.metrics_seen:
        return
    listed = await offload(lambda: next(steps.store.list(str(Dataset.METRICS)), None))
    if listed is not None:
        async with steps.database.transaction() as session:
            await remember_metrics(session)


def closed_metrics(
    store: ObjectStore, now: datetime, adopted: frozenset[str]
) -> Iterator[ColdFile]:
    """Appended files of hours that are over, and that the ledger does not know."""
    for cold in appended_files(store, Selection(), adopted, now):
        hour = metrics_hour(cold.object_key)
        if hour is not None and hour + timedelta(hours=1) <= now - _HOUR_CLOSED:
            yield cold


def _examined(store: ObjectStore, files: list[ColdFile]) -> tuple[list[Input], list[str]]:
    """Those that can be adopted, and why others cannot: they stay where they are."""
    taken, left_out = [], []
    for cold in files:
        reason = why_left_out(store, cold)
        if reason is None:
            taken.append(Input.appended(cold))
        else:
            log.warning("metrics_left_out", key=cold.object_key, reason=reason)
            left_out.append(f"{cold.object_key}: {reason}")
    return taken, left_out


def _jobs(
    live: list[FileRecord], appended: list[Input], target_bytes: int
) -> dict[date, list[Input]]:
    """Files to merge, by UTC day: appended ones, and those of the ledger if there are two that are small."""
    days: defaultdict[date, list[Input]] = defaultdict(list)
    for file in live:
        if file.facts.byte_size < target_bytes:
            days[file.slice_start.astimezone(UTC).date()].append(Input.of(file))
    for one in appended:
        days[one.hour.date()].append(one)
    return {
        day: inputs
        for day, inputs in sorted(days.items())
        if len(inputs) > 1 or any(one.file is None for one in inputs)
    }
