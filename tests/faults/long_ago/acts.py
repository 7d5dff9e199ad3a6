"""Random histories of a watchlist of which a part lies in the vault, and what has to hold of them.

What a history does is drawn from its seed; how tasks of one step mix is not.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from atlas.archive import Archiver
from atlas.archive.export.finished import move_finished
from atlas.archive.jobs import begin_job
from atlas.config import get_settings
from atlas.errors import VaultUnavailable
from atlas.importing.videos import VideoLoader
from atlas.repositories.finished import FINISHED
from atlas.scheduling.calendar import Calendar
from atlas.tables.sample import MOMENT
from tests.faults.long_ago.past import DAY, Backup, Past
from tests.faults.long_ago.whole import check, check_outside, check_rounds
from tests.support.servers.postgres import name_of
from tests.support.sql import execute, fetch

#: A statement that no job reaches.
_NEVER = 10**9
#: Years since publication, by the id's first character.
_YEARS = (3, 3, 3, 5, 5, 0.2)


class History(Past):
    """One random history. ``trace`` says what it did."""

    async def undergo(self, steps: int) -> None:
        """So many steps, each checked."""
        try:
            await self.add(self.new(30))
            await self.park()
            await self.move()
            for _ in range(steps):
                await self.step()
            await self.settle()
            await self.look_from_outside()
            await self.play_rounds()
            assert await Archiver(self.database, self.vault).fsck(deep=True) == []
        except BaseException as error:
            error.add_note(f"history {self.seed} (ATLAS_CHAOS_SEED={self.seed} replays it):")
            for line in self.trace:
                error.add_note("  " + line)
            raise

    async def step(self) -> None:
        """One act, or several at once, and a look at everything."""
        self.now += timedelta(hours=self.random.randint(1, 12))
        await execute(
            self.database,
            "UPDATE watchlist_cohorts SET turned_at = least(turned_at, :now), "
            "interval = CASE WHEN cohort > 0 THEN interval '1 day' ELSE interval END",
            now=self.now - timedelta(minutes=11),
        )
        draw = self.random.random()
        if draw < 0.07:
            await self.back_up()
        elif draw < 0.14:
            await self.go_back()
        elif draw < 0.17:
            await self.rebuild()
        elif draw < 0.25:
            with self.away():
                await self.at_once(
                    self.random.sample([self.add_some, self.ingest, self.turn, self.park], 2)
                )
        else:
            archive = self.random.choices(
                [self.move, self.erase, self.restore, self.clean_up, self.collect],
                [6, 2, 1, 1, 3],
            )
            others = [self.add_some, self.ingest, self.load, self.turn, self.park, self.report]
            acts = self.random.sample(others, self.random.randint(0, 3))
            await self.at_once(
                [*archive, *acts] if self.random.random() < 0.6 or not acts else acts
            )
        self.truth.listed -= self.truth.forgotten
        await check(self.database, self.vault, self.truth, doubled=self.adoptions > 0)
        if self.random.random() < 0.2:
            await self.look_from_outside()
        if self.random.random() < 0.08:
            await self.settle()
            await self.play_rounds()

    async def add_some(self) -> None:
        """New ids and others, by MaiaDAO, each a call."""
        await self.add(self.mixed())

    async def add(self, ids: list[str]) -> None:
        """Add ids, with or without when they were published."""
        dao = self.dao

        async def one(video_id: str, published: datetime | None) -> None:
            try:
                await dao.add_to_watchlist(video_id, published_at=published)
            except VaultUnavailable:
                assert self._is_away, f"{video_id} was refused"
            else:
                if video_id not in self.truth.forgotten | self.truth.leaving:
                    self.truth.listed.add(video_id)

        ages = [self.published(x) if self.random.random() < 0.5 else None for x in ids]
        await asyncio.gather(*(one(*both) for both in zip(ids, ages, strict=True)))

    async def ingest(self) -> None:
        """Discover videos: new ones come in, what was collected does not."""
        ids = self.mixed()
        new = {one for one in ids if not self.is_known(one)}
        items = [{"id": one, "snippet": {"title": "t"}} for one in ids]
        await self.dao.ingest_videos(items)
        here = await self.ids_of("SELECT id FROM videos")
        assert self._is_away or new <= here | self.truth.collected, f"refused: {new - here}"
        if get_settings().watchlist_on_ingest:
            self.truth.listed |= ({*ids} & here) - self.truth.forgotten - self.truth.leaving

    async def load(self) -> None:
        """Import facts of videos."""
        ids = sorted(set(self.mixed()))
        facts = pa.table(
            {
                "video_id": ids,
                "born": pa.array([self.published(one) for one in ids], MOMENT),
                "published_at": pa.array([self.published(one) for one in ids], MOMENT),
            }
        )
        loader = VideoLoader(self.database, lambda: self.vault.store)
        await loader.load(facts, ",")
        assert self._is_away or not loader.undecided
        self.truth.listed |= {*ids} - self.truth.forgotten - self.truth.leaving

    async def park(self) -> None:
        """Ordinary rows turn slow, some DORMANT, and go to the ring with ids of collected videos."""
        rows = await fetch(
            self.database,
            "SELECT video_id, woken_at IS NULL AS is_new FROM watchlist "
            "WHERE woken_at IS NULL OR woken_at = '-infinity'",
        )
        for row in rows:
            video_id = row["video_id"]
            if self.random.random() < 0.25:
                continue
            is_dormant = self.random.random() < 0.1
            await execute(
                self.database,
                "UPDATE watchlist SET tracking_tier = :tier, last_tracked_at = :sampled, "
                "next_track_at = :due, omissions = :omissions, "
                "published_at = coalesce(published_at, :published) WHERE video_id = :id",
                id=video_id,
                tier="DORMANT" if is_dormant else "WEEKLY",
                omissions=3 if is_dormant else 0,
                sampled=self.now - DAY,
                due=self.now + 6 * DAY,
                published=self.published(video_id) if row["is_new"] else None,
            )
        if self._is_away or self.random.random() < 0.5:
            await Calendar(self.database).park(self.now)
        else:
            await self.fork("park")

    async def turn(self) -> None:
        """The calendar moves, here or in a process that may die."""
        if self._is_away or self.random.random() < 0.5:
            await Calendar(self.database, lambda: self.vault.store).turn(self.now)
        else:
            await self.fork("turn_files", self.where)

    async def report(self) -> None:
        """Reports of what is awake, in the same tier or not, today or not, and of what is not awake."""
        awake = await self.ids_of("SELECT video_id FROM watchlist WHERE woken_at > '-infinity'")
        updates = []
        for video_id in {*awake, *self.some(self.truth.listed, 5)}:
            if self.random.random() < 0.3:
                continue
            sampled = self.now + self.random.choice([0, 0, 0, 1]) * DAY
            tier = self.random.choice(["WEEKLY", "WEEKLY", "WEEKLY", "DAILY"])
            updates.append(
                {
                    "video_id": video_id,
                    "tracking_tier": tier,
                    "last_tracked_at": sampled,
                    "next_track_at": sampled + (7 * DAY if tier == "WEEKLY" else DAY),
                }
            )
        await self.dao.update_watchlist_schedule(updates)

    async def move(self) -> None:
        """What was published long ago goes to the vault."""
        await self.fork("move", self.where)

    async def restore(self) -> None:
        """It comes back."""
        for backup in self.backups:
            backup.is_outdated = True
        await self.fork("restore", self.where)

    async def clean_up(self) -> None:
        """What was replaced is deleted at once."""
        self.backups = [one for one in self.backups if not one.is_outdated]
        await self.fork("clean_up", self.where)

    async def erase(self) -> None:
        """Some ids are forgotten, or begin to be."""
        ids = self.some(self.truth.listed | self.truth.collected, 3) + self.new(1)
        # it deletes replaced files at once
        self.backups = [one for one in self.backups if not one.is_outdated]
        self.truth.leaving |= {*ids}
        if await self.fork("erase", self.where, *ids):
            self.truth.forgotten |= {*ids}
            self.truth.leaving -= {*ids}

    async def collect(self) -> None:
        """Some videos are done with, and go to the vault."""
        await execute(
            self.database,
            "UPDATE videos SET status = 'DONE', has_transcript = true, has_visuals = true "
            "WHERE random() < 0.5",
        )
        async with begin_job(self.database, self.vault.store, wait=True) as steps:
            for kind in FINISHED.values():
                soon = datetime.now(UTC) + DAY
                await move_finished(steps, self.vault, kind, soon, get_settings())
        gone = await self.ids_of("SELECT video_id FROM video_tombstones WHERE reason = 'collected'")
        self.truth.collected |= gone

    async def back_up(self) -> None:
        """Copy the database as it is, in the middle of whatever."""
        if self.truth.leaving:
            await self.settle()
        self.trace.append(f"backup {len(self.backups)}")
        await self.database.close()
        copy = await asyncio.to_thread(self._create, name_of(self.url))
        self.backups.append(Backup(copy, {*self.truth.listed}, {*self.truth.collected}))

    async def go_back(self) -> None:
        """Put a backup in the place of the database."""
        if not self.backups:
            return
        await self.settle()
        backup = self.random.choice(self.backups)
        self.trace.append(f"back to {self.backups.index(backup)}, of {len(self.backups)}")
        before = await self.filed()
        await self.replace(backup.url)
        await self.until_done("adopt")
        await self.settle()
        after = await self.filed()
        assert before - self.truth.forgotten <= after, "files were not taken in"
        self.truth.listed = (backup.listed | after) - self.truth.forgotten
        self.truth.collected = backup.collected | await self.in_files("videos")
        self.truth.collected -= await self.ids_of("SELECT id FROM videos")

    async def rebuild(self) -> None:
        """The database is lost, and made anew from the vault."""
        await self.settle()
        self.trace.append("rebuild")
        if not await fetch(self.database, "SELECT id FROM archive_files LIMIT 1"):
            return
        before, collected = await self.filed(), await self.in_files("videos")
        await self.replace(self.template)
        await self.until_done("rebuild")
        await self.settle()
        after = await self.filed()
        assert before - self.truth.forgotten <= after, "files were not taken in"
        self.truth.listed = after - self.truth.forgotten
        self.truth.collected = await self.in_files("videos")
        assert collected <= self.truth.collected | self.truth.forgotten

    async def look_from_outside(self) -> None:
        """Adding what is there adds nothing."""
        self.trace.append("look from outside")
        await check_outside(self.database, self.vault, self.truth)

    async def play_rounds(self) -> None:
        """Two rounds of the calendar."""
        self.trace.append("two rounds")
        self.now = await check_rounds(self.database, self.vault, self.truth, self.now)
