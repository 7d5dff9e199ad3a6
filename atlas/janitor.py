"""The janitor: keeps the database small. Removes finished videos, makes partitions ahead, revives search
terms, and sends the oldest samples to the vault where HOT_MAX_BYTES is passed.

Finished rows take the archive's way: they are written to the vault and verified, then deleted by key and row
version in the transaction that makes the file live. A row that changed meanwhile stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from atlas.archive.archiver import Archiver
from atlas.archive.budget import HotTier, hot_tier
from atlas.archive.export.finished import move_finished
from atlas.archive.export.schedule import cohorts_to_move, move_schedule
from atlas.archive.jobs import begin_job
from atlas.config import get_settings
from atlas.db import Database, db
from atlas.db.clock import clock
from atlas.db.locks import retry_when_locked
from atlas.errors import AtlasError
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.notifications import notifier
from atlas.notifications.jobs import note, tracked
from atlas.parsing import parse_age
from atlas.repositories.finished import FINISHED, FinishedRows
from atlas.repositories.hot.partitions import Partitions
from atlas.repositories.hot.stats import EARLIEST
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.notifications import ErrorGroups
from atlas.repositories.search_queue import SearchQueue
from atlas.scheduling.calendar import Calendar
from atlas.types import ObjectStore
from atlas.vault import Vault, get_vault

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
            await self._old_schedule()
            await self._errors()
            await self._relieve()
        settings = get_settings()
        async with self.database.transaction(read_only=True) as session:
            cutoff = await clock(session) - age
            eligible = {
                kind: await rows.count(rows.finished(cutoff, settings))
                for kind in FINISHED.values()
                for rows in [kind(session)]
            }
        kinds = [kind for kind, rows in eligible.items() if rows]
        if not kinds:
            return {"deleted": 0, "reason": "none_eligible"}
        if dry_run:
            return {"deleted": 0, "dry_run": True, "would_delete": sum(eligible.values())}
        remove = self._archive_and_delete if safe_only else self._delete
        deleted = await remove(kinds, cutoff)
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
                facts = {"terms": revived}
                await bus_of(self.database).emit("search.revived", payload=facts, session=session)
        if revived:
            log.info("search_terms_revived", terms=revived, days=days)

    async def _schedule(self) -> None:
        """Move slow videos out of the rows of the watchlist, and set their intervals by the budget."""
        calendar = Calendar(self.database, lambda: self._store)
        await calendar.turn()
        await calendar.park()
        await calendar.plan()

    async def _old_schedule(self) -> None:
        """Move slow videos of long ago to the vault, and settle what an earlier run or an adoption left.

        What fails is tried again by the next run: until then PostgreSQL has them, and grows.
        """
        async with self.database.transaction(read_only=True) as session:
            cohorts = await cohorts_to_move(session)
            unsettled = await ScheduleFiles(session).unsettled()
        if not (cohorts or unsettled):
            return
        try:
            async with begin_job(self.database, self._store, wait=True) as steps:
                moved = await move_schedule(steps, cohorts)
        except AtlasError as error:
            log.warning("schedule_not_moved", cohorts=len(cohorts), error=str(error))
            note(error, "janitor", call="move_schedule")
            return
        if moved:
            facts = {"videos": moved, "months": len(cohorts)}
            await bus_of(self.database).emit("watchlist.archived", payload=facts)

    @property
    def _store(self) -> ObjectStore:
        return (self._vault or get_vault()).store

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

    async def _archive_and_delete(
        self, kinds: Sequence[type[FinishedRows]], cutoff: datetime
    ) -> int:
        vault, settings = self._vault or get_vault(), get_settings()
        async with begin_job(self.database, vault.store, wait=True) as steps:
            return sum(
                [await move_finished(steps, vault, kind, cutoff, settings) for kind in kinds]
            )

    async def _delete(self, kinds: Sequence[type[FinishedRows]], cutoff: datetime) -> int:
        deleted, settings = 0, get_settings()
        for kind in kinds:
            async with self.database.transaction() as session:
                rows = kind(session)
                deleted += await rows.delete(await rows.read(rows.finished(cutoff, settings)))
        return deleted
