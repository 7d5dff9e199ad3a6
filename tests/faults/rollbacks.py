"""Random schedules in which the database goes back, is copied, moved and lost, beside a vault that goes on.

A step is a job of the archive, with what befalls it at one call of its store: the process dies, the database
is copied, a copy of it adopts. Backups, copies and losses come in between; afterwards only what is advised is
done: `Archiver.adopt`, or `rebuild`. Everything runs in this process, one thing at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import (
    AtlasError,
    EpochBehind,
    LeaseLost,
    WrongVault,
)
from atlas.ingest import record_samples
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.faults.disturbance import (
    JOBS,
    STEPS,
    STORE_ERRORS,
    STORE_FAULTS,
    Copy,
    Died,
    Disturbed,
    run_job,
)
from tests.faults.knowledge import IDS, Knowledge, counters_of, hot_rows, key_of, name_of_sample
from tests.support.faulty_store import Fault, Faults
from tests.support.samples import OLD, Counters, Key
from tests.support.servers.postgres import name_of
from tests.support.sql import execute, fetch, scalar

#: Few hours, so that samples meet.
HOURS = (1, 30)

#: What a job is told that another history has overtaken.
_OVERTAKEN = (EpochBehind, LeaseLost)


@dataclass
class Wandering(Knowledge):
    """A history on its way through a schedule; ``steps`` are those so far."""

    seed: int = 0
    steps: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    #: Whether database and vault may be at odds: nothing is promised before somebody adopts.
    at_odds: bool = False
    views: int = 0
    moves: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(f"{self.seed} rollbacks")
        self.history.vault = self._vault()

    async def undergo(self) -> None:
        """The whole of it; a failure tells the steps."""
        try:
            await self._undergo()
        except BaseException as error:
            error.add_note(f"schedule {self.seed} (ATLAS_CHAOS_SEED={self.seed} replays it):")
            error.add_note("\n".join(self.steps))
            raise

    async def _undergo(self) -> None:
        await self.write()
        if self.dice.random() < 0.2:
            await self.backup()
        await self.job("archive")
        for _ in range(self.dice.choice((2, 2, 3, 3, 4, 6))):
            (step,) = self.dice.choices(list(STEPS), list(STEPS.values()))
            if step in JOBS:
                await self.disturbed(step)
            else:
                await getattr(self, step)()
            await self.check()
        if self.dice.random() < 0.5:
            await self.go_back()
        await self.finish()

    # what happens to the database

    async def write(self, database: Database | None = None) -> None:
        """Samples, logged."""
        rows = [self._sample() for _ in range(self.dice.randint(1, 4))]
        self._tell_of("write", rows)
        await record_samples(database or self.history.database, rows)
        if database is None:
            barred = await self.barred()
            self.hot |= {
                key_of(row): counters_of(row) for row in rows if row.video_id not in barred
            }

    async def append(self) -> None:
        """Samples, appended."""
        rows = [self._sample() for _ in range(self.dice.randint(1, 3))]
        self._tell_of("append", rows)
        self.history.vault.append_metrics(
            {"video_id": row.video_id, "timestamp": row.timestamp, "views": row.views}
            for row in rows
        )

    async def backup(self) -> None:
        """A backup of this moment."""
        self.copies.append(await self._copied())
        self._tell("backup", str(len(self.copies) - 1))

    async def go_back(self) -> None:
        """A backup takes the database's place, or a standby with a lost tail."""
        if not self.copies:
            return
        number = self.dice.randrange(len(self.copies))
        self._tell("go back to", str(number))
        await self._put_back(self.copies[number])
        await self.recover()

    async def lose(self) -> None:
        """The database is lost with all that was hot."""
        self._tell("lose")
        await self.history.lose()
        self.hot, self.at_odds = {}, True
        if self.dice.random() < 0.3:
            with pytest.raises(WrongVault):
                await self._run("archive", self.history.archiver)
        if self.dice.random() < 0.4:
            await self._dies_in("rebuild", lambda archiver: archiver.rebuild())
        # one that died after its last step is done
        with contextlib.suppress(AtlasError):
            await self.history.archiver.rebuild()
        assert await scalar(self.history.database, "SELECT nonce FROM archive_control")
        await self._adopted()

    async def copy(self) -> None:
        """A copy beside the original, which runs a job as well."""
        copy = await self._copied()
        other = Database(copy.url)
        try:
            await self.write(other)
            if self.dice.random() < 0.5:
                await self.disturbed(self._any_job())
            archiver = Archiver(other, self.history.vault)
            job = self._any_job()
            self._tell("copy runs", job)
            try:
                await self._run(job, archiver)
            except (EpochBehind, WrongVault) as error:
                self._tell("  refused", type(error).__name__)
                if self.dice.random() < 0.5:
                    self._tell("  copy adopts")
                    await archiver.adopt()
                    job = self._any_job()
                    self._tell("  copy runs", job)
                    await self._run(job, archiver)
                    self.at_odds = True
            else:
                self.at_odds = True
            copy.hot = await hot_rows(other)
        finally:
            await other.close()
        self.observe()
        self.copies.append(copy)
        if self.at_odds:
            with pytest.raises((EpochBehind, WrongVault)):
                await self._run("archive", self.history.archiver)
            await self.recover(may_set_aside=True)

    async def move(self) -> None:
        """The vault goes elsewhere."""
        self.moves += 1
        target = self._vault()
        self._tell("move")
        if self.dice.random() < 0.5:
            await self._dies_in("move", lambda archiver: archiver.move(target))
        await self.history.archiver.move(target)
        self.history.vault = target

    async def job(self, job: str) -> None:
        """A job that nothing befalls."""
        self._tell(job)
        await self._run(job, self.history.archiver)

    async def disturbed(self, job: str) -> None:
        """A job and what befalls it."""
        what = self.dice.choice(
            ("nothing", "nothing", "death", "death", "ill", "backup", "adoption")
        )
        if what == "nothing":
            await self.job(job)
        elif what == "death":
            await self._dies_in(job, lambda archiver: self._run(job, archiver))
        elif what == "ill":
            await self._ill(job)
        elif what == "backup":
            await self._during(job, self._backup_taken)
        else:
            await self._overtaken(job)
        self.observe()

    async def _ill(self, job: str) -> None:
        kinds = tuple(self.dice.sample(STORE_FAULTS, 2))
        faults = Faults(kinds, self.dice.randrange(10**6), self.dice.choice((0.05, 0.2)))
        self._tell(job, f"with {[str(kind) for kind in kinds]}, seed {faults.seed}, {faults.rate}")
        vault = self._vault()
        vault.store = Disturbed(self.history.vault, faults, 0, lambda: None, after=False)
        try:
            await self._run(job, Archiver(self.history.database, vault))
        except STORE_ERRORS as error:
            self._tell("  ended with", type(error).__name__)
        await asyncio.sleep(0.06 if Fault.LATE in kinds else 0)  # what is late has come by then

    async def _dies_in(self, what: str, work: Callable[[Archiver], Awaitable[Any]]) -> None:
        """Run ``work`` and die at one of its calls of the store."""

        def die() -> None:
            raise Died

        archiver = self._disturbed_archiver(die, what, "dies")
        try:
            await work(archiver)
        except Died:
            self._tell("  died")

    async def _during(self, job: str, callback: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()

        def happens() -> None:
            asyncio.run_coroutine_threadsafe(callback(), loop).result()

        await self._run(job, self._disturbed_archiver(happens, job, callback.__name__))

    async def _backup_taken(self) -> None:
        await (await self.history.database.engine()).dispose()
        with contextlib.suppress(asyncpg.ObjectInUseError):
            url = await asyncio.to_thread(self.history.create, name_of(self.history.current))
            other = Database(url)
            # by the time when it is put back the lease that was held is over
            await execute(other, "UPDATE archive_control SET holder = NULL, held_until = NULL")
            self.copies.append(Copy(url, await hot_rows(other)))
            await other.close()
            self._tell("  backup", str(len(self.copies) - 1))

    async def _overtaken(self, job: str) -> None:
        """A copy adopts the vault while the job is at it, and runs one as well."""
        copy = await self._copied()
        other, adopted = Database(copy.url), list[str]()
        its_job = self._any_job()

        async def a_copy_adopts() -> None:
            archiver = Archiver(other, self.history.vault)
            await archiver.adopt()
            adopted.append(its_job)
            self._tell("  the copy adopts, and runs", its_job)
            await self._run(its_job, archiver)
            self.observe()

        try:
            await self._during(job, a_copy_adopts)
        except (*_OVERTAKEN, *STORE_ERRORS) as error:
            self._tell("  ended with", type(error).__name__)
            if not adopted:
                raise
        copy.hot = await hot_rows(other)
        await other.close()
        self.observe()
        self.copies.append(copy)
        if adopted:
            self.at_odds = True
            if self.dice.random() < 0.5:
                self._tell("the copy takes the database's place")
                await self._put_back(copy)
            await self.recover()

    def _vault(self) -> LocalVault:
        folder = self.history.folder
        return LocalVault(folder / str(self.moves), home=folder.parent / "home")

    def _disturbed_archiver(self, happens: Callable[[], None], what: str, how: str) -> Archiver:
        at, after = self.dice.randint(1, 25), self.dice.random() < 0.5
        self._tell(what, f"{how} {'after' if after else 'before'} call {at}")
        vault = self._vault()
        vault.store = Disturbed(self.history.vault, Faults(), at, happens, after=after)
        return Archiver(self.history.database, vault)

    # what is advised

    async def recover(self, *, may_set_aside: bool = False) -> None:
        """Adopt, or begin a job, which says whether to adopt."""
        self.at_odds = True
        if not may_set_aside and self.dice.random() < 0.3:
            since = await self.highest()
            self.observe()
            later = {seq for found in self.slices.values() for seq in found if seq > since}
            try:
                await self.job("archive")
            except (EpochBehind, WrongVault) as error:
                self._tell("  refused", type(error).__name__)
                if "atlas vault adopt" not in str(error):
                    raise
            else:
                assert not later, "slices of the database's future were not noticed"
                self.at_odds = False
                return
        set_aside = may_set_aside and self.dice.random() < 0.3
        since = await self.highest()
        before = await hot_rows(self.history.database)
        if self.dice.random() < 0.4:
            await self._dies_in("adopt", lambda archiver: archiver.adopt(set_aside=set_aside))
        self._tell("adopt", "set aside" if set_aside else "")
        await self.history.archiver.adopt(set_aside=set_aside)
        await self._adopted(since, before)

    async def _adopted(self, since: int = 0, before: dict[Key, Counters] | None = None) -> None:
        self.observe()
        aside = await self.aside()
        left = await hot_rows(self.history.database)
        gone = await self.barred()
        for key, values in (before or {}).items():
            if key[0] in gone:
                continue
            later = {
                seq for seq in self.slices.get(key, ()) if seq > since and (key, seq) not in aside
            }
            if key in left:
                assert not later, f"{name_of_sample(*key)} is hot, and older than {later}"
            elif values not in self.cold.get(key, {}).values():
                assert later, f"{name_of_sample(*key)} is hot no more"
        self.hot = left
        self.at_odds = False

    # what must hold

    async def finish(self) -> None:
        """Everything in order, with no hand, and nothing lost when all that is dead is deleted."""
        self._tell("finish")
        archiver = self.history.archiver
        for job in ("release", "archive", "compact", "gc"):
            await self._run(job, archiver)
        await self.check()
        assert {one.kind for one in await archiver.fsck(deep=True)} <= {"aside", "unreadable"}
        gone = await self.barred()
        live = await fetch(
            self.history.database,
            "SELECT object_key FROM archive_files WHERE dataset = 'video_stats' AND state = 'live'",
        )
        for file in live:
            ids = {key[0] for key, _ in self.rows_of[file["object_key"]]}
            assert not ids & gone, f"{ids & gone} are still in {file['object_key']}"

    async def _copied(self) -> Copy:
        hot = await hot_rows(self.history.database)
        return Copy(await self.history.backup(), hot)

    async def _put_back(self, copy: Copy) -> None:
        await self.history.put_back(copy.url)
        self.hot = copy.hot
        self.at_odds = True

    def _any_job(self) -> str:
        return self.dice.choices(JOBS, [STEPS[job] for job in JOBS])[0]

    async def _run(self, job: str, archiver: Archiver) -> None:
        victim = self.dice.choice(IDS) if job == "forget" else ""
        if victim:
            self._tell("  forgets", victim)
        await run_job(job, archiver, victim, len(self.steps))

    def _sample(self) -> Sample:
        # a number of its own for every version, so that it is known which one is shown
        self.views += 1
        hour = timedelta(hours=self.dice.choice(HOURS))
        return Sample(self.dice.choice(IDS), OLD + hour, self.views)

    def _tell_of(self, what: str, rows: list[Sample]) -> None:
        self._tell(what, ", ".join(f"{name_of_sample(*key_of(row))}={row.views}" for row in rows))

    def _tell(self, what: str, how: str = "") -> None:
        self.steps.append(f"  {what} {how}".rstrip())
