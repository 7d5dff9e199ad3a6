"""The janitor: keeps the database small. Removes finished videos, makes partitions ahead, revives search
terms, and sends the oldest samples to the vault where HOT_MAX_BYTES is passed.

Doomed videos take the archive's way: their rows are written to the vault and verified, then deleted by id
and row version in the transaction that makes the file live. A row that changed meanwhile stays.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from atlas.archive.archiver import Archiver
from atlas.archive.budget import HotTier, hot_tier
from atlas.archive.export.videos import verify_videos, write_videos
from atlas.archive.jobs import begin_job
from atlas.archive.session import Steps, object_key
from atlas.config import get_settings
from atlas.db import Database, db
from atlas.db.clock import Session, clock
from atlas.db.locks import retry_when_locked
from atlas.errors import AtlasError
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.notifications import notifier
from atlas.notifications.jobs import note, tracked
from atlas.parsing import parse_age
from atlas.repositories.finished_videos import Doomed, DoomedVideo
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.hot.stats import EARLIEST
from atlas.repositories.ledger.files import FileRecord, NewFile
from atlas.repositories.notifications import ErrorGroups
from atlas.repositories.search_queue import SearchQueue
from atlas.scheduling.calendar import Calendar
from atlas.tables.parquet import VIDEOS_SCHEMA
from atlas.types import Dataset
from atlas.vault import Vault, get_vault
from atlas.vault.layout import transcript_key, visuals_key
from atlas.vault.offload import offload
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: Seconds that the janitor spends on deliveries that are due.
_DELIVERY_SECONDS = 60.0
#: Groups of errors are kept so long after the last of them.
_ERRORS_KEPT_DAYS = 90
#: Partitions are made this far ahead, so that ingest seldom has to.
_AHEAD = timedelta(days=2)


class Janitor:
    """Cleans up after collectors. Never deletes an entry of the watchlist or a sample."""

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self._vault = vault

    @tracked("janitor")
    async def run(self, dry_run: bool = False, retention_days: int | None = None) -> dict[str, Any]:
        """Delete DONE videos discovered before the cutoff; see the keys in ``MaiaDAO.run_janitor``.

        Past HOT_MAX_BYTES the oldest samples are archived too, whatever their age; where that fails (the
        vault is down, another archiver is at work) it is logged, the event ``archive.hot_budget_passed`` is
        emitted if the budget is passed, and the rest is done.
        With JANITOR_SAFETY_CHECK only those with transcript and visuals, and only once their rows were
        read back from the vault. Waits for an archiver at work. Raises as `Archiver.run` does; then
        nothing was deleted.
        """
        settings = get_settings()
        if not settings.janitor_enabled:
            return {"deleted": 0, "reason": "disabled"}
        days = settings.janitor_retention_days if retention_days is None else retention_days
        if dry_run:
            return await self._clean(True, days, settings.janitor_safety_check)
        try:
            result = await self._clean(False, days, settings.janitor_safety_check)
            await bus_of(self.database).emit("janitor.cycle_complete", payload=result)
        finally:
            await self._events()
        return result

    async def _clean(self, dry_run: bool, days: float, safe_only: bool) -> dict[str, Any]:
        age = parse_age(days, field="retention_days")
        if not dry_run:
            await self._partitions_ahead()
            await self._searches()
            await self._schedule()
            await self._errors()
            await self._relieve()
        async with self.database.transaction(read_only=True) as session:
            now = await clock(session)
            cutoff = now - age
            eligible = await _doomed(session, cutoff, safe_only=safe_only).count()
        if not eligible:
            return {"deleted": 0, "reason": "none_eligible"}
        if dry_run:
            return {"deleted": 0, "dry_run": True, "would_delete": eligible}
        if safe_only:
            deleted = await self._archive_and_delete(cutoff)
        else:
            async with self.database.transaction() as session:
                doomed = _doomed(session, cutoff, safe_only=False)
                deleted = await doomed.delete(await doomed.read())
        log.info("janitor_run", deleted=deleted, retention_days=days)
        return {
            "deleted": deleted,
            "cutoff_date": cutoff.isoformat(),
            "retention_days": days,
            "safety_check_enabled": safe_only,
        }

    async def _partitions_ahead(self) -> None:
        hours = get_settings().stats_partition_hours

        @retry_when_locked
        async def make() -> int:
            async with self.database.transaction() as session:
                now = await clock(session)
                slots = int(_AHEAD / timedelta(hours=hours)) + 1
                moments = [now + timedelta(hours=hours * step) for step in range(slots)]
                return await Partitions(session).ensure(moments, hours)

        await make()

    async def _events(self) -> None:
        """Try again what is due for endpoints, and drop the days of the log that are over.

        Bounded, and whatever fails is logged: no webhook is a reason to let the database grow.
        """
        bus = bus_of(self.database)
        try:
            async with asyncio.timeout(_DELIVERY_SECONDS):
                await bus.deliver_pending()
        except Exception as error:
            log.error("event_delivery_left", error=type(error).__name__)
            note(error, "janitor", call="deliver_pending")
        try:
            await bus.retain()
        except AtlasError as error:
            log.error("event_retention_left", error=str(error))
            note(error, "janitor", call="retain")

    async def _searches(self) -> None:
        """New videos are found by old terms too, after a while."""
        days = get_settings().search_revive_days
        async with self.database.transaction() as session:
            revived = await SearchQueue(session).revive(days)
        if revived:
            log.info("search_terms_revived", terms=revived, days=days)

    async def _schedule(self) -> None:
        """Move slow videos out of the rows of the watchlist, and set their intervals by the budget."""
        calendar = Calendar(self.database)
        await calendar.turn()
        await calendar.park()
        await calendar.plan()

    async def _errors(self) -> None:
        """Send the digests of error groups that are due, and forget groups of long ago."""
        await notifier.digests()
        async with self.database.transaction() as session:
            await ErrorGroups(session).delete_old(_ERRORS_KEPT_DAYS)

    async def _relieve(self) -> None:
        """Archive the oldest samples if the byte budget asks for it.

        What fails is no reason to leave the janitor's other work undone: the database grows, and whoever
        watches the log or ``archive.hot_budget_passed`` learns of it.
        """
        hot = await self._hot_tier()
        if not (hot.is_short or hot.is_over):
            return
        try:
            # no sample is that old: the budget alone decides what goes
            await Archiver(self.database, self._vault).run(EARLIEST)
        except AtlasError as error:
            log.warning("hot_budget_relief_failed", hot_bytes=hot.bytes, error=str(error))
        hot = await self._hot_tier()
        if hot.is_over:
            facts = {"hot_bytes": hot.bytes, "hot_max_bytes": hot.max_bytes}
            log.error("hot_budget_passed", **facts)
            bus = bus_of(self.database)
            await bus.emit("archive.hot_budget_passed", payload=facts)
            await bus.drain()

    async def _hot_tier(self) -> HotTier:
        async with self.database.transaction(read_only=True) as session:
            return await hot_tier(session)

    async def _archive_and_delete(self, cutoff: datetime) -> int:
        vault = self._vault or get_vault()
        store = vault.store
        async with begin_job(self.database, store, wait=True) as steps:
            async with self.database.transaction(read_only=True) as session:
                doomed = await _doomed(session, cutoff, safe_only=True).read()
            # marked as safe when it was on this machine's disk: the store has to have it
            waiting = set(await offload(vault.waiting_documents))
            videos = [
                video for video in doomed if waiting.isdisjoint(_documents_of(video.values["id"]))
            ]
            if not videos:
                return 0
            file = await self._announce(steps)
            with workdir() as folder:
                path = folder / "videos.parquet"
                table = _table(videos, file.seq)
                facts = await offload(write_videos, table, path, steps.footer(file))
                await steps.put([(file, path)])
                await steps.written(file, facts)
                await offload(verify_videos, store, file, facts, folder)
                await steps.verified(file, facts)

            async def delete(session: Session) -> int:
                return await _doomed(session, cutoff, safe_only=True).delete(videos)

            return await steps.live(file, delete) or 0

    async def _announce(self, steps: Steps) -> FileRecord:
        async with self.database.transaction() as session:
            ledger = await steps.ledger(session)
            now = await clock(session)
            day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            seq = await ledger.next_seq(Dataset.VIDEOS)
            key = object_key(Dataset.VIDEOS, now, seq)
            return await ledger.add(
                NewFile(
                    Dataset.VIDEOS,
                    key,
                    steps.store.identity,
                    seq,
                    day,
                    day + timedelta(days=1),
                )
            )


def _doomed(session: Session, cutoff: datetime, *, safe_only: bool) -> Doomed:
    days = get_settings().janitor_unfinished_days
    return Doomed(session, cutoff, safe_only=safe_only, unfinished_days=days)


def _documents_of(video_id: str) -> tuple[str, str]:
    """Where its transcript and its visuals lie."""
    return transcript_key(video_id), visuals_key(video_id)


def _table(videos: list[DoomedVideo], seq: int) -> pa.Table:
    """The rows, in order of id."""
    return pa.Table.from_pylist([{**video.values, "seq": seq} for video in videos], VIDEOS_SCHEMA)
